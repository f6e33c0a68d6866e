//! Every score of a classifier with its interval, over one set of replicates.

use std::fmt;

use serde::Serialize;
use xdiff_core::Metric;

use super::calibration::width_bin;
use super::probability::{squared_error, surprise};
use super::report::first_highest;
use super::{
    Average, BrierScale, CalibrationConfig, CalibrationTarget, ClassCounts, ConfusionMatrix, Predictions,
};
use crate::interval::intervals;
use crate::{BootstrapConfig, Error, Interval, IntervalMethod, Result};

const METRIC: &str = "classification scores";

/// A score of [`classification_scores`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreRow {
    /// What it is, such as `accuracy` or `ROC AUC (macro, one against rest)`.
    pub name: String,
    /// The class that it is of, against all others; `None` for a score of all classes.
    pub class: Option<usize>,
    /// The value over all samples; `None` where it is not defined, as an area without positives.
    pub value: Option<f64>,
    /// The value with its interval; `None` where the value or more than half of the replicates are
    /// not defined.
    pub interval: Option<Interval>,
}

/// What [`classification_scores`] and [`classification_differences`] compute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreTable {
    /// The scores of all classes, then those of each class.
    pub rows: Vec<ScoreRow>,
    /// How many samples there are.
    pub n: usize,
    /// How many groups were drawn, where groups were.
    pub groups: Option<usize>,
    /// How the intervals were computed.
    pub config: BootstrapConfig,
}

/// Every score of a classifier, each with its bootstrap interval over the same replicates.
///
/// Of all classes: accuracy, balanced accuracy, Matthews correlation, Cohen's κ, log loss, the Brier
/// score ([`BrierScale::Auto`]), the expected calibration error (15 bins of equal width, top label).
/// With two classes then precision, sensitivity, specificity, F1, ROC AUC and average precision of
/// class 1; with more their macro averages, and the same of each class against the rest.
///
/// Where the predictions have groups (patients), whole groups are drawn unless `config` says
/// otherwise. In a replicate without labels of a class, its sensitivity and areas are not defined (and
/// are counted so); a precision without predictions is 0.
///
/// ```
/// use xdiff_core::Metric;
/// use xdiff_metrics::{BootstrapConfig, PredictionBatch, Predictions, classification_scores};
///
/// let mut predictions = Predictions::new(2)?;
/// for i in 0..40 {
///     let p = f64::from(i * 7 % 40) / 40.0;
///     let label = usize::from(i * 7 % 40 + i % 9 > 23);
///     predictions.update(PredictionBatch::probabilities(&[1.0 - p, p], &[label]))?;
/// }
/// let table = classification_scores(&predictions, &BootstrapConfig::default())?;
/// let auc = table.get("ROC AUC", Some(1)).and_then(|row| row.interval).expect("both classes occur");
/// assert!(auc.low < auc.value && auc.value <= auc.high);
/// println!("{table}");
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When there are fewer than two samples or groups, two samples have one name, or the options cannot
/// be used.
pub fn classification_scores(predictions: &Predictions, config: &BootstrapConfig) -> Result<ScoreTable> {
    let predictions = predictions.compute()?;
    let scorer = Scorer::new(&predictions);
    table(&predictions, config, |counts| scorer.scores(counts))
}

/// How much better or worse a second classifier is on the same samples: the scores of
/// [`classification_scores`], second − first, each replicate drawn for both.
///
/// Samples are matched by their names, or by their order when they have none.
///
/// # Errors
/// Those of [`classification_scores`], or when the two have different samples, labels, groups or
/// numbers of classes.
pub fn classification_differences(
    first: &Predictions,
    second: &Predictions,
    config: &BootstrapConfig,
) -> Result<ScoreTable> {
    let matched = |p: &Predictions| if p.ids().is_empty() { Ok(p.clone()) } else { p.compute() };
    let (first, second) = (matched(first)?, matched(second)?);
    let differs = |what, left: usize, right: usize| {
        let (left, right) = (left.to_string(), right.to_string());
        Err(Error::Incompatible { metric: METRIC, what, left, right })
    };
    if first.classes() != second.classes() {
        return differs("the number of classes", first.classes(), second.classes());
    }
    if first.n() != second.n() {
        return differs("the number of samples", first.n(), second.n());
    }
    if first.ids() != second.ids() || first.labels() != second.labels() || first.groups() != second.groups() {
        let reason = "the two classifiers saw different samples: names, labels and groups must be the same";
        return Err(Error::Undefined { metric: METRIC, reason });
    }
    let scorers = [Scorer::new(&first), Scorer::new(&second)];
    table(&first, config, |counts| {
        let [first, second] = [scorers[0].scores(counts)?, scorers[1].scores(counts)?];
        Ok(second.iter().zip(first).map(|(b, a)| b - a).collect())
    })
}

fn table(
    predictions: &Predictions,
    config: &BootstrapConfig,
    scores: impl Fn(&[u32]) -> Result<Vec<f64>> + Sync,
) -> Result<ScoreTable> {
    let design = predictions.design(config)?;
    let intervals = intervals(&design, config, &scores)?;
    let values = scores(&vec![1; predictions.n()])?;
    let rows = names(predictions.classes()).into_iter().zip(values.into_iter().zip(intervals));
    let row = |((name, class), (value, interval)): ((&str, _), (f64, _))| ScoreRow {
        name: name.to_owned(),
        class,
        value: (!value.is_nan()).then_some(value),
        interval,
    };
    Ok(ScoreTable {
        rows: rows.map(row).collect(),
        n: predictions.n(),
        groups: design.group_count(),
        config: config.clone(),
    })
}

/// The names of what [`Scorer::scores`] gives, in its order.
fn names(classes: usize) -> Vec<(&'static str, Option<usize>)> {
    const WHOLE: [&str; 7] = [
        "accuracy",
        "balanced accuracy",
        "Matthews correlation",
        "Cohen's kappa",
        "log loss",
        "Brier score",
        "expected calibration error (15 bins)",
    ];
    const OF_CLASS: [&str; 6] =
        ["precision", "sensitivity", "specificity", "F1", "ROC AUC", "average precision"];
    const MACRO: [&str; 6] = [
        "precision (macro)",
        "sensitivity (macro)",
        "specificity (macro)",
        "F1 (macro)",
        "ROC AUC (macro, one against rest)",
        "average precision (macro, one against rest)",
    ];
    let whole = WHOLE.into_iter().map(|name| (name, None));
    if classes == 2 {
        return whole.chain(OF_CLASS.into_iter().map(|name| (name, Some(1)))).collect();
    }
    let of_classes = (0..classes).flat_map(|class| OF_CLASS.map(|name| (name, Some(class))));
    whole.chain(MACRO.into_iter().map(|name| (name, None))).chain(of_classes).collect()
}

/// What the scores need of each sample, computed once for all replicates.
struct Scorer<'a> {
    predictions: &'a Predictions,
    predicted: Vec<usize>,
    surprise: Vec<f64>,
    squared: Vec<f64>,
    confidence: Vec<f64>,
    /// The bin of the confidence.
    bin: Vec<usize>,
    /// The samples by falling probability of each class whose area is scored.
    rankings: Vec<(usize, Vec<Place>)>,
}

/// A sample in the order of its scores.
struct Place {
    sample: usize,
    positive: bool,
    /// Whether the next sample scores less.
    ends_tie: bool,
}

impl<'a> Scorer<'a> {
    fn new(predictions: &'a Predictions) -> Self {
        let classes = predictions.classes();
        let rows = || predictions.probabilities().chunks(classes).zip(predictions.labels());
        let outcomes = || rows().map(|(row, label)| CalibrationTarget::TopLabel.outcome(row, *label));
        let factor = BrierScale::Auto.factor(classes);
        let bins = CalibrationConfig::default().bins;
        let scored = if classes == 2 { 1..2 } else { 0..classes };
        Self {
            predictions,
            predicted: rows().map(|(row, _)| first_highest(row)).collect(),
            surprise: rows().map(|(row, label)| surprise(row, *label)).collect(),
            squared: rows().map(|(row, label)| factor * squared_error(row, *label)).collect(),
            confidence: outcomes().map(|o| o.0).collect(),
            bin: outcomes().map(|o| width_bin(o.0, bins)).collect(),
            rankings: scored.map(|class| (class, ranking(predictions, class))).collect(),
        }
    }

    /// The scores of a replicate that holds sample i `counts[i]` times; NaN where one is not defined.
    fn scores(&self, counts: &[u32]) -> Result<Vec<f64>> {
        let matrix = self.confusion(counts)?;
        let mut scores = vec![
            matrix.accuracy()?,
            matrix.balanced_accuracy()?,
            matrix.matthews()?,
            defined(matrix.cohen_kappa())?,
            weighted_mean(&self.surprise, counts),
            weighted_mean(&self.squared, counts),
            self.calibration_error(counts),
        ];
        let rates = matrix.class_counts();
        let of_class = |(class, places): &(usize, Vec<Place>)| of_class(rates[*class], places, counts);
        let of_classes: Vec<[f64; 6]> = self.rankings.iter().map(of_class).collect();
        if self.predictions.classes() > 2 {
            let mean =
                |rate: usize| crate::pair::mean(&of_classes.iter().map(|c| c[rate]).collect::<Vec<_>>());
            let average = Average::Macro;
            scores.extend([matrix.precision(average)?, matrix.recall(average)?]);
            scores.extend([matrix.specificity(average)?, matrix.f1(average)?, mean(4), mean(5)]);
        }
        scores.extend(of_classes.iter().flatten());
        Ok(scores)
    }

    fn confusion(&self, counts: &[u32]) -> Result<ConfusionMatrix> {
        let samples = self.predictions.labels().iter().zip(&self.predicted);
        ConfusionMatrix::of_weighted(self.predictions.classes(), samples.zip(counts))
    }

    fn calibration_error(&self, counts: &[u32]) -> f64 {
        // Σ count/n·|accuracy − confidence| is Σ |right − Σ confidence|/n.
        let mut gaps = vec![0.0; CalibrationConfig::default().bins];
        let mut n = 0.0;
        for (i, count) in counts.iter().enumerate() {
            let (count, right) = (f64::from(*count), self.predicted[i] == self.predictions.labels()[i]);
            gaps[self.bin[i]] += count * (f64::from(u8::from(right)) - self.confidence[i]);
            n += count;
        }
        gaps.iter().map(|gap: &f64| gap.abs()).sum::<f64>() / n
    }
}

fn ranking(predictions: &Predictions, class: usize) -> Vec<Place> {
    let score = |i: usize| predictions.probabilities()[i * predictions.classes() + class];
    let mut order: Vec<usize> = (0..predictions.n()).collect();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    let place = |(at, sample): (usize, &usize)| Place {
        sample: *sample,
        positive: predictions.labels()[*sample] == class,
        ends_tie: order.get(at + 1).is_none_or(|next| score(*next) != score(*sample)),
    };
    order.iter().enumerate().map(place).collect()
}

/// Precision, sensitivity, specificity, F1, ROC AUC and average precision of a class.
fn of_class(rates: ClassCounts, places: &[Place], counts: &[u32]) -> [f64; 6] {
    let positives = rates.support() as f64;
    let negatives = (rates.true_negative + rates.false_positive) as f64;
    let where_any = |n: f64, value: f64| if n > 0.0 { value } else { f64::NAN };
    let (mut hits, mut misses, mut area, mut precision) = (0.0, 0.0, 0.0, 0.0);
    let (mut new_hits, mut new_misses) = (0.0, 0.0);
    for place in places {
        let count = f64::from(counts[place.sample]);
        *(if place.positive { &mut new_hits } else { &mut new_misses }) += count;
        if place.ends_tie {
            area += new_hits * (negatives - misses - 0.5 * new_misses);
            hits += new_hits;
            misses += new_misses;
            if new_hits > 0.0 {
                precision += new_hits * hits / (hits + misses);
            }
            (new_hits, new_misses) = (0.0, 0.0);
        }
    }
    [
        rates.precision(),
        where_any(positives, rates.recall()),
        where_any(negatives, rates.specificity()),
        where_any(positives, rates.f1()),
        where_any(positives.min(negatives), area / (positives * negatives)),
        where_any(positives, precision / positives),
    ]
}

fn weighted_mean(values: &[f64], counts: &[u32]) -> f64 {
    let sum: f64 = values.iter().zip(counts).map(|(v, c)| v * f64::from(*c)).sum();
    sum / counts.iter().map(|c| f64::from(*c)).sum::<f64>()
}

/// NaN for a score that is not defined.
fn defined(score: Result<f64>) -> Result<f64> {
    match score {
        Err(Error::Undefined { .. }) => Ok(f64::NAN),
        score => score,
    }
}

impl ScoreTable {
    /// The row of a score.
    pub fn get(&self, name: &str, class: Option<usize>) -> Option<&ScoreRow> {
        self.rows.iter().find(|row| row.name == name && row.class == class)
    }
}

impl fmt::Display for ScoreTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |row: &ScoreRow| match row.class {
            Some(class) => format!("{}, class {class}", row.name),
            None => row.name.clone(),
        };
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            write!(f, "{:width$}", name(row))?;
            match (row.value, row.interval) {
                (None, _) => write!(f, "  not defined")?,
                (Some(value), None) => write!(f, "  {value:7.4}  (no interval)")?,
                (Some(value), Some(i)) => {
                    write!(f, "  {value:7.4}  [{:7.4}, {:7.4}]", i.low, i.high)?;
                    if i.method != self.config.method {
                        write!(f, "  {}", i.method)?;
                    }
                    if i.undefined > 0 {
                        write!(f, "  {} replicates undefined", i.undefined)?;
                    }
                }
            }
            writeln!(f)?;
        }
        let BootstrapConfig { replicates, level, method, seed, .. } = &self.config;
        let method: &IntervalMethod = method;
        write!(f, "n = {}", self.n)?;
        if let Some(groups) = self.groups {
            write!(f, " in {groups} groups")?;
        }
        let percent = (level * 1e6).round() / 1e4;
        write!(f, "; {percent} % {method} intervals, {replicates} replicates, seed {seed}")
    }
}
