//! What a classifier said about each sample, gathered batch by batch.

use std::cmp::Ordering;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_core::Metric;

use super::ConfusionMatrix;
use super::confusion::check_classes;
use super::probability::{check_rows, check_scores, softmax};
use super::report::{class_indices, first_highest};
use crate::{BootstrapConfig, Design, Error, ResamplingUnit, Result};

const METRIC: &str = "predictions";

/// What the scores of a classifier are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// In 0..=1, each row with the sum 1 (within 1e-4).
    #[default]
    Probabilities,
    /// Any finite numbers, which the softmax turns into probabilities.
    Logits,
}

/// The probabilities of a classifier and the labels of the samples, with the names of the samples and
/// the groups (patients) that they belong to where there are some.
///
/// It keeps every sample: (n, k) f64. [`compute`](Metric::compute) puts the samples in an order that
/// follows from them alone (by name, then by value), so that everything computed from it is the same,
/// bit for bit, however the samples were sharded.
///
/// ```
/// use xdiff_core::Metric;
/// use xdiff_metrics::{PredictionBatch, Predictions};
///
/// let mut first = Predictions::new(2)?;
/// first.update(PredictionBatch::probabilities(&[0.9, 0.1, 0.3, 0.7], &[0, 1]))?;
/// let mut second = Predictions::new(2)?;
/// second.update(PredictionBatch::logits(&[0.0, 2.0], &[0]))?;
/// first.merge(&second)?;
/// assert_eq!((first.n(), first.confusion()?.row(0)), (3, &[1, 1][..]));
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predictions {
    classes: usize,
    probabilities: Vec<f64>,
    labels: Vec<usize>,
    /// One a sample, or none at all.
    ids: Vec<String>,
    /// One a sample, or none at all.
    groups: Vec<String>,
}

/// Samples that [`Predictions`] gathers.
#[derive(Clone, Copy, Debug)]
pub struct PredictionBatch<'a> {
    /// What the scores are.
    pub kind: ScoreKind,
    /// One row of as many scores as there are classes for each label.
    pub scores: &'a [f64],
    /// The class of each sample.
    pub labels: &'a [usize],
    /// The name of each sample; empty when they have none. A name must not come twice.
    pub ids: &'a [String],
    /// The group of each sample, such as its patient; empty when they have none.
    pub groups: &'a [String],
}

impl<'a> PredictionBatch<'a> {
    /// Probabilities of samples without names and groups.
    pub fn probabilities(scores: &'a [f64], labels: &'a [usize]) -> Self {
        Self { kind: ScoreKind::Probabilities, scores, labels, ids: &[], groups: &[] }
    }

    /// Logits of samples without names and groups.
    pub fn logits(scores: &'a [f64], labels: &'a [usize]) -> Self {
        Self { kind: ScoreKind::Logits, ..Self::probabilities(scores, labels) }
    }
}

impl Predictions {
    /// An empty accumulator.
    ///
    /// # Errors
    /// When there are fewer than two classes, or more than 16384.
    pub fn new(classes: usize) -> Result<Self> {
        ConfusionMatrix::check_count(classes)?;
        Ok(Self {
            classes,
            probabilities: Vec::new(),
            labels: Vec::new(),
            ids: Vec::new(),
            groups: Vec::new(),
        })
    }

    /// Adds a batch of tensors: `scores` (n, k), `labels` (n) of whole numbers of any type.
    ///
    /// # Errors
    /// When shapes do not fit, or those of [`update`](Metric::update).
    pub fn add(
        &mut self,
        kind: ScoreKind,
        scores: &Tensor,
        labels: &Tensor,
        groups: &[String],
    ) -> Result<()> {
        match (scores.dims(), labels.dims()) {
            ([n, k], [m]) if n == m && *k == self.classes => {}
            _ => {
                let expected =
                    format!("scores (n, {}) and labels (n), here {:?}", self.classes, labels.dims());
                return Err(Error::shape(METRIC, expected, scores.dims()));
            }
        }
        let host = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1();
        let scores: Vec<f64> = host(scores)?;
        let labels = class_indices(METRIC, &host(labels)?)?;
        self.update(PredictionBatch { kind, scores: &scores, labels: &labels, ids: &[], groups })
    }

    /// How many samples there are.
    pub fn n(&self) -> usize {
        self.labels.len()
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The probabilities, (n, k) in row-major order.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// The class of each sample.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The name of each sample, or nothing.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The group of each sample, or nothing.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The class with the highest probability of each sample, the first of equal ones.
    pub fn predicted(&self) -> Vec<usize> {
        self.probabilities.chunks(self.classes).map(first_highest).collect()
    }

    /// The probability of one class, sample by sample, and whether the label is that class: what
    /// [`roc_curve`](crate::roc_curve) and the like take.
    ///
    /// # Errors
    /// When there is no such class.
    pub fn one_against_rest(&self, class: usize) -> Result<(Vec<bool>, Vec<f64>)> {
        check_classes(METRIC, "the class", &[class], self.classes)?;
        let scores = self.probabilities.iter().skip(class).step_by(self.classes).copied().collect();
        Ok((self.labels.iter().map(|l| *l == class).collect(), scores))
    }

    /// Labels against predictions.
    ///
    /// # Errors
    /// When there are no samples.
    pub fn confusion(&self) -> Result<ConfusionMatrix> {
        self.check_not_empty()?;
        let mut matrix = ConfusionMatrix::new(self.classes)?;
        matrix.update((&self.labels, &self.predicted()))?;
        Ok(matrix)
    }

    /// What a bootstrap draws from these samples: groups when there are some and `config` wants them,
    /// within classes when it stratifies.
    ///
    /// # Errors
    /// When there are fewer than two units, or groups of several classes shall be stratified.
    pub fn design(&self, config: &BootstrapConfig) -> Result<Design> {
        let design = match config.unit {
            ResamplingUnit::Group if !self.groups.is_empty() => Design::groups(&self.groups)?,
            ResamplingUnit::Group | ResamplingUnit::Sample => Design::samples(self.n())?,
        };
        if config.stratify { design.stratified(&self.labels, self.classes) } else { Ok(design) }
    }

    fn check_not_empty(&self) -> Result<()> {
        if self.n() > 0 {
            return Ok(());
        }
        Err(Error::TooFew { metric: METRIC, unit: "samples", need: 1, got: 0 })
    }

    fn row(&self, sample: usize) -> &[f64] {
        &self.probabilities[sample * self.classes..(sample + 1) * self.classes]
    }

    /// The order of samples by what they are.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        let by_row = || {
            let pairs = self.row(a).iter().zip(self.row(b));
            pairs.map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        };
        self.ids
            .get(a)
            .cmp(&self.ids.get(b))
            .then_with(|| self.groups.get(a).cmp(&self.groups.get(b)))
            .then_with(|| self.labels[a].cmp(&self.labels[b]))
            .then_with(by_row)
    }

    /// Fails unless samples with or without names and groups can join these.
    fn check_joins(&self, ids: bool, groups: bool) -> Result<()> {
        let differs = |what, here: bool, there: bool| {
            let say = |given| if given { "given" } else { "not given" }.to_owned();
            Err(Error::Incompatible { metric: METRIC, what, left: say(here), right: say(there) })
        };
        match (!self.ids.is_empty(), !self.groups.is_empty()) {
            _ if self.n() == 0 => Ok(()),
            (here, _) if here != ids => differs("naming the samples", here, ids),
            (_, here) if here != groups => differs("naming the groups", here, groups),
            _ => Ok(()),
        }
    }
}

impl Metric for Predictions {
    type Batch<'a> = PredictionBatch<'a>;
    /// The samples in an order that follows from them alone.
    type Value = Self;
    type Error = Error;

    /// # Errors
    /// When lengths do not fit, a label is no class, a probability or logit cannot be used, or names or
    /// groups are given for some samples only.
    fn update(&mut self, batch: PredictionBatch<'_>) -> Result<()> {
        let PredictionBatch { kind, scores, labels, ids, groups } = batch;
        for (unit, names) in [("names", ids), ("groups", groups)] {
            if !names.is_empty() && names.len() != labels.len() {
                let expected = format!("{} {unit} of samples, or none", labels.len());
                return Err(Error::shape(METRIC, expected, &[names.len()]));
            }
        }
        match kind {
            ScoreKind::Probabilities => check_rows(METRIC, scores, self.classes, labels)?,
            ScoreKind::Logits => check_scores(METRIC, scores, self.classes, labels)?,
        }
        self.check_joins(!ids.is_empty(), !groups.is_empty())?;
        let start = self.probabilities.len();
        self.probabilities.extend_from_slice(scores);
        if kind == ScoreKind::Logits {
            self.probabilities[start..].chunks_mut(self.classes).for_each(softmax);
        }
        self.labels.extend_from_slice(labels);
        self.ids.extend_from_slice(ids);
        self.groups.extend_from_slice(groups);
        Ok(())
    }

    /// # Errors
    /// When there are no samples, or two have one name.
    fn compute(&self) -> Result<Self> {
        self.check_not_empty()?;
        let mut order: Vec<usize> = (0..self.n()).collect();
        order.sort_by(|a, b| self.compare(*a, *b));
        let pick = |names: &[String]| -> Vec<String> {
            if names.is_empty() { Vec::new() } else { order.iter().map(|i| names[*i].clone()).collect() }
        };
        let ids = pick(&self.ids);
        if let Some(twice) = ids.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::Duplicate { metric: METRIC, name: twice[0].clone() });
        }
        Ok(Self {
            classes: self.classes,
            probabilities: order.iter().flat_map(|i| self.row(*i)).copied().collect(),
            labels: order.iter().map(|i| self.labels[*i]).collect(),
            ids,
            groups: pick(&self.groups),
        })
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.classes != other.classes {
            let (left, right) = (self.classes.to_string(), other.classes.to_string());
            return Err(Error::Incompatible { metric: METRIC, what: "the number of classes", left, right });
        }
        if other.n() == 0 {
            return Ok(());
        }
        self.check_joins(!other.ids.is_empty(), !other.groups.is_empty())?;
        self.probabilities.extend_from_slice(&other.probabilities);
        self.labels.extend_from_slice(&other.labels);
        self.ids.extend_from_slice(&other.ids);
        self.groups.extend_from_slice(&other.groups);
        Ok(())
    }

    fn reset(&mut self) {
        self.probabilities.clear();
        self.labels.clear();
        self.ids.clear();
        self.groups.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch<'a>(scores: &'a [f64], labels: &'a [usize], ids: &'a [String]) -> PredictionBatch<'a> {
        PredictionBatch { ids, ..PredictionBatch::probabilities(scores, labels) }
    }

    #[test]
    fn what_is_no_probability_is_a_typed_error_and_changes_nothing() {
        let mut all = Predictions::new(2).unwrap();
        all.update(PredictionBatch::probabilities(&[0.25, 0.75], &[1])).unwrap();
        let before = all.clone();
        let rows: [[f64; 2]; 6] =
            [[1.5, -0.5], [0.3, 0.3], [2.0, 3.0], [f64::NAN, 0.5], [f64::INFINITY, 0.0], [-0.1, 1.1]];
        for row in rows {
            let scores = [[0.5, 0.5], row].concat();
            let e = all.update(PredictionBatch::probabilities(&scores, &[0, 1])).unwrap_err();
            assert!(matches!(e, Error::Value { index: 2 | 3, .. }), "{row:?}: {e}");
            assert!(e.to_string().contains("softmax") || row.iter().any(|v| !v.is_finite()), "{e}");
        }
        let names = [String::from("a"), String::from("b")];
        let bad = [
            PredictionBatch::probabilities(&[0.5, 0.5], &[2]),
            PredictionBatch::probabilities(&[0.5, 0.5, 0.0], &[1]),
            PredictionBatch::probabilities(&[], &[]),
            PredictionBatch::logits(&[f64::NAN, 0.0], &[1]),
            batch(&[0.5, 0.5], &[1], &names),
            batch(&[0.5, 0.5], &[1], &names[..1]),
        ];
        for bad in bad {
            assert!(all.update(bad).is_err(), "{bad:?}");
        }
        assert_eq!(all, before);
        assert!(matches!(Predictions::new(1), Err(Error::Config { .. })));
        assert!(matches!(all.merge(&Predictions::new(3).unwrap()), Err(Error::Incompatible { .. })));
        assert!(matches!(all.one_against_rest(2), Err(Error::Value { .. })));
        all.reset();
        assert!(matches!(all.compute(), Err(Error::TooFew { .. })));
        assert!(matches!(all.confusion(), Err(Error::TooFew { .. })));
    }

    #[test]
    fn a_name_that_comes_twice_is_an_error() {
        let names = [String::from("scan 7"), String::from("scan 8")];
        let mut all = Predictions::new(2).unwrap();
        all.update(batch(&[0.5, 0.5, 0.1, 0.9], &[1, 0], &names)).unwrap();
        let mut shard = Predictions::new(2).unwrap();
        shard.update(batch(&[0.4, 0.6], &[1], &names[1..])).unwrap();
        all.merge(&shard).unwrap();
        let e = all.compute().unwrap_err();
        assert!(matches!(&e, Error::Duplicate { name, .. } if name == "scan 8"), "{e}");
    }

    #[test]
    fn tensors_and_logits_give_the_probabilities() {
        let logits = Tensor::new(&[[1000f32, 1000.0, -1000.0], [0.0, 2f32.ln(), 0.0]], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[1u8, 2], &Device::Cpu).unwrap();
        let groups = [String::from("x"), String::from("x")];
        let mut all = Predictions::new(3).unwrap();
        all.add(ScoreKind::Logits, &logits, &labels, &groups).unwrap();
        let want = [0.5, 0.5, 0.0, 0.25, 0.5, 0.25];
        let close = all.probabilities().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-7);
        assert!(close && all.predicted() == [0, 1] && all.groups() == groups, "{all:?}");
        assert!(matches!(all.add(ScoreKind::Logits, &labels, &labels, &[]), Err(Error::Shape { .. })));
        let half = Tensor::new(&[0.5f32, 1.0], &Device::Cpu).unwrap();
        assert!(matches!(all.add(ScoreKind::Logits, &logits, &half, &groups), Err(Error::Value { .. })));
        assert!(matches!(
            all.add(ScoreKind::Probabilities, &logits, &labels, &groups),
            Err(Error::Value { .. })
        ));
        assert!(matches!(all.design(&BootstrapConfig::default()), Err(Error::TooFew { unit: "groups", .. })));
        let by_sample = BootstrapConfig { unit: ResamplingUnit::Sample, ..BootstrapConfig::default() };
        assert_eq!(all.design(&by_sample).unwrap().units(), 2);
    }

    proptest! {
        #[test]
        fn shards_in_any_order_are_one_stream_bit_for_bit(
            samples in prop::collection::vec((0usize..3, 0.0f64..1.0, 0u8..4), 1..30),
            cut in 0usize..30,
        ) {
            let whole_and_parts = |order: &[(usize, f64, u8)]| {
                let mut all = Predictions::new(3).unwrap();
                for (label, p, group) in order {
                    let row = [*p, (1.0 - p) / 3.0, (1.0 - p) * 2.0 / 3.0];
                    let groups = [group.to_string()];
                    let batch = PredictionBatch::probabilities(&row, std::slice::from_ref(label));
                    all.update(PredictionBatch { groups: &groups, ..batch }).unwrap();
                }
                all
            };
            let cut = cut.min(samples.len());
            let whole = whole_and_parts(&samples);
            let mut tail = whole_and_parts(&samples[cut..]);
            tail.merge(&whole_and_parts(&samples[..cut])).unwrap();
            prop_assert_eq!(tail.compute().unwrap(), whole.compute().unwrap());
        }
    }
}
