//! The confusion matrix and the rates that follow from it.

use serde::{Deserialize, Serialize};
use xdiff_core::Metric;

use crate::{Error, Result};

const METRIC: &str = "confusion matrix";

/// How the rates of several classes become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// The plain mean over the classes that occur among the labels or the predictions.
    #[default]
    Macro,
    /// The rate of the counts summed over the classes.
    Micro,
    /// The mean weighted by how often a class occurs among the labels.
    Weighted,
    /// The rate of class 1 of two classes.
    Binary,
}

/// Labels against predictions, counted.
///
/// ```
/// use xdiff_core::Metric;
/// use xdiff_metrics::{Average, ConfusionMatrix};
///
/// let mut matrix = ConfusionMatrix::new(2)?;
/// matrix.update((&[0, 1, 1, 1], &[0, 1, 0, 1]))?;
/// assert_eq!(matrix.accuracy()?, 0.75);
/// assert_eq!(matrix.precision(Average::Binary)?, 1.0);
/// assert_eq!(matrix.row(1), [1, 2]);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfusionMatrix {
    classes: usize,
    /// Labels down, predictions across.
    counts: Vec<u64>,
}

/// One class against all others. A rate without a denominator is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// Of the class and predicted so.
    pub true_positive: u64,
    /// Of another class and predicted as this.
    pub false_positive: u64,
    /// Of the class and predicted as another.
    pub false_negative: u64,
    /// Of another class and predicted as another.
    pub true_negative: u64,
}

impl ClassCounts {
    /// TP / (TP + FP).
    pub fn precision(self) -> f64 {
        ratio(self.true_positive, self.true_positive + self.false_positive)
    }

    /// TP / (TP + FN), also called sensitivity.
    pub fn recall(self) -> f64 {
        ratio(self.true_positive, self.support())
    }

    /// 2·TP / (2·TP + FP + FN).
    pub fn f1(self) -> f64 {
        let twice = 2 * self.true_positive;
        ratio(twice, twice + self.false_positive + self.false_negative)
    }

    /// TN / (TN + FP).
    pub fn specificity(self) -> f64 {
        ratio(self.true_negative, self.true_negative + self.false_positive)
    }

    /// How often the class occurs among the labels.
    pub fn support(self) -> u64 {
        self.true_positive + self.false_negative
    }

    fn occurs(self) -> bool {
        self.support() + self.false_positive > 0
    }

    fn plus(self, other: Self) -> Self {
        Self {
            true_positive: self.true_positive + other.true_positive,
            false_positive: self.false_positive + other.false_positive,
            false_negative: self.false_negative + other.false_negative,
            true_negative: self.true_negative + other.true_negative,
        }
    }
}

fn ratio(numerator: u64, denominator: u64) -> f64 {
    if denominator == 0 { 0.0 } else { numerator as f64 / denominator as f64 }
}

impl ConfusionMatrix {
    /// An empty matrix.
    ///
    /// # Errors
    /// When there are fewer than two classes, or more than a matrix can be made for.
    pub fn new(classes: usize) -> Result<Self> {
        Self::check_count(classes)?;
        Ok(Self { classes, counts: vec![0; classes * classes] })
    }

    pub(super) fn check_count(classes: usize) -> Result<()> {
        if (2..=1 << 14).contains(&classes) {
            return Ok(());
        }
        Err(Error::config("classes", format!("must be 2 to 16384, got {classes}")))
    }

    /// Counts samples ((label, prediction), how often) whose classes were checked.
    pub(super) fn of_weighted<'a>(
        classes: usize,
        samples: impl Iterator<Item = ((&'a usize, &'a usize), &'a u32)>,
    ) -> Result<Self> {
        let mut matrix = Self::new(classes)?;
        for ((label, predicted), count) in samples {
            matrix.counts[label * classes + predicted] += u64::from(*count);
        }
        Ok(matrix)
    }

    /// How the samples with a label were predicted; empty when there is no such class.
    pub fn row(&self, label: usize) -> &[u64] {
        self.counts.chunks(self.classes).nth(label).unwrap_or_default()
    }

    /// How many samples were counted.
    pub fn n(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each class against all others.
    pub fn class_counts(&self) -> Vec<ClassCounts> {
        let n = self.n();
        let count = |class: usize| {
            let true_positive = self.row(class)[class];
            let labelled: u64 = self.row(class).iter().sum();
            let predicted: u64 = self.counts.iter().skip(class).step_by(self.classes).sum();
            ClassCounts {
                true_positive,
                false_positive: predicted - true_positive,
                false_negative: labelled - true_positive,
                true_negative: n + true_positive - labelled - predicted,
            }
        };
        (0..self.classes).map(count).collect()
    }

    /// The share of samples whose prediction is their label.
    ///
    /// # Errors
    /// When nothing was counted.
    pub fn accuracy(&self) -> Result<f64> {
        self.check_not_empty()?;
        let right = self.counts.iter().step_by(self.classes + 1).sum();
        Ok(ratio(right, self.n()))
    }

    /// [`ClassCounts::precision`] over the classes.
    ///
    /// # Errors
    /// When nothing was counted, or [`Average::Binary`] meets more than two classes.
    pub fn precision(&self, average: Average) -> Result<f64> {
        self.average(average, ClassCounts::precision)
    }

    /// [`ClassCounts::recall`] over the classes.
    ///
    /// # Errors
    /// Those of [`precision`](Self::precision).
    pub fn recall(&self, average: Average) -> Result<f64> {
        self.average(average, ClassCounts::recall)
    }

    /// [`ClassCounts::f1`] over the classes.
    ///
    /// # Errors
    /// Those of [`precision`](Self::precision).
    pub fn f1(&self, average: Average) -> Result<f64> {
        self.average(average, ClassCounts::f1)
    }

    /// [`ClassCounts::specificity`] over the classes.
    ///
    /// # Errors
    /// Those of [`precision`](Self::precision).
    pub fn specificity(&self, average: Average) -> Result<f64> {
        self.average(average, ClassCounts::specificity)
    }

    fn average(&self, average: Average, rate: fn(ClassCounts) -> f64) -> Result<f64> {
        self.check_not_empty()?;
        let classes = self.class_counts();
        match average {
            Average::Macro => {
                let rates: Vec<f64> = classes.into_iter().filter(|c| c.occurs()).map(rate).collect();
                Ok(crate::pair::mean(&rates))
            }
            Average::Micro => Ok(rate(classes.into_iter().fold(ClassCounts::default(), ClassCounts::plus))),
            Average::Weighted => {
                let sum: f64 = classes.iter().map(|c| c.support() as f64 * rate(*c)).sum();
                Ok(sum / self.n() as f64)
            }
            Average::Binary => match classes[..] {
                [_, positive] => Ok(rate(positive)),
                _ => Err(Error::config(
                    "average",
                    format!("`binary` needs 2 classes, got {}; use `macro`", self.classes),
                )),
            },
        }
    }

    pub(super) fn check_not_empty(&self) -> Result<()> {
        if self.n() > 0 {
            return Ok(());
        }
        Err(Error::TooFew { metric: METRIC, unit: "samples", need: 1, got: 0 })
    }
}

impl Metric for ConfusionMatrix {
    /// Labels and predictions, as indices of classes.
    type Batch<'a> = (&'a [usize], &'a [usize]);
    type Value = Vec<ClassCounts>;
    type Error = Error;

    fn update(&mut self, (labels, predicted): (&[usize], &[usize])) -> Result<()> {
        if labels.len() != predicted.len() {
            let (a, b) = (vec![labels.len()], vec![predicted.len()]);
            return Err(Error::Mismatch { metric: METRIC, a, b });
        }
        check_classes(METRIC, "the labels", labels, self.classes)?;
        check_classes(METRIC, "the predictions", predicted, self.classes)?;
        for (label, predicted) in labels.iter().zip(predicted) {
            self.counts[label * self.classes + predicted] += 1;
        }
        Ok(())
    }

    fn compute(&self) -> Result<Vec<ClassCounts>> {
        self.check_not_empty()?;
        Ok(self.class_counts())
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.classes != other.classes {
            return Err(Error::Incompatible {
                metric: METRIC,
                what: "the number of classes",
                left: self.classes.to_string(),
                right: other.classes.to_string(),
            });
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        Ok(())
    }

    fn reset(&mut self) {
        self.counts.fill(0);
    }
}

/// Fails on the first index that is no class.
pub(crate) fn check_classes(
    metric: &'static str,
    what: &'static str,
    indices: &[usize],
    classes: usize,
) -> Result<()> {
    match indices.iter().position(|i| *i >= classes) {
        None => Ok(()),
        Some(index) => Err(Error::Value {
            metric,
            what,
            value: indices[index] as f64,
            index,
            hint: "classes are numbered from 0 to one less than their number",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [usize; 10] = [0, 0, 0, 1, 1, 2, 2, 2, 2, 0];
    const PREDICTED: [usize; 10] = [0, 1, 0, 1, 1, 2, 0, 2, 1, 4];

    #[test]
    fn rates_agree_with_scikit_learn() {
        let mut m = ConfusionMatrix::new(5).unwrap();
        m.update((&LABELS, &PREDICTED)).unwrap();
        // scikit-learn 1.9, zero_division=0; class 3 occurs nowhere and is left out of the mean.
        let table = [
            ("macro precision", m.precision(Average::Macro), 0.5416666666666666),
            ("macro recall", m.recall(Average::Macro), 0.5),
            ("macro f1", m.f1(Average::Macro), 0.47619047619047616),
            ("micro precision", m.precision(Average::Micro), 0.6),
            ("micro f1", m.f1(Average::Micro), 0.6),
            ("weighted precision", m.precision(Average::Weighted), 0.7666666666666666),
            ("weighted recall", m.recall(Average::Weighted), 0.6),
            ("weighted f1", m.f1(Average::Weighted), 0.6285714285714284),
            ("accuracy", m.accuracy(), 0.6),
        ];
        let mut wrong = Vec::new();
        for (name, got, want) in table {
            let got = got.unwrap();
            if (got - want).abs() > 1e-15 {
                wrong.push((name, got, want));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(m.row(2), [1, 1, 2, 0, 0]);
        assert!(m.row(5).is_empty());
        assert!(matches!(m.f1(Average::Binary), Err(Error::Config { .. })));
    }

    #[test]
    fn shards_equal_one_stream_and_bad_batches_change_nothing() {
        let mut whole = ConfusionMatrix::new(5).unwrap();
        assert!(matches!(whole.accuracy(), Err(Error::TooFew { .. })));
        whole.update((&LABELS, &PREDICTED)).unwrap();
        let mut tail = ConfusionMatrix::new(5).unwrap();
        tail.update((&LABELS[4..], &PREDICTED[4..])).unwrap();
        let mut head = ConfusionMatrix::new(5).unwrap();
        head.update((&LABELS[..4], &PREDICTED[..4])).unwrap();
        tail.merge(&head).unwrap();
        assert_eq!(tail, whole);
        assert!(matches!(whole.update((&[0, 5], &[0, 0])), Err(Error::Value { index: 1, .. })));
        assert!(matches!(whole.update((&[0], &[0, 0])), Err(Error::Mismatch { .. })));
        assert_eq!(tail, whole);
        assert!(whole.merge(&ConfusionMatrix::new(2).unwrap()).is_err());
        whole.reset();
        assert_eq!(whole, ConfusionMatrix::new(5).unwrap());
        assert!(ConfusionMatrix::new(1).is_err() && ConfusionMatrix::new(usize::MAX).is_err());
    }

    #[test]
    fn sensitivity_and_specificity_of_a_binary_test() {
        let mut m = ConfusionMatrix::new(2).unwrap();
        m.update((&[1, 1, 1, 1, 0, 0, 0, 0, 0], &[1, 1, 1, 0, 0, 0, 0, 0, 1])).unwrap();
        assert_eq!(m.recall(Average::Binary).unwrap(), 0.75);
        assert_eq!(m.specificity(Average::Binary).unwrap(), 0.8);
        let counts = m.compute().unwrap()[1];
        assert_eq!(counts.support() + counts.true_negative + counts.false_positive, 9);
    }
}
