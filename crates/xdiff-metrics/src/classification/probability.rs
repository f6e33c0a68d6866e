//! Checks of predicted probabilities, and scores that are proper for them.

use serde::{Deserialize, Serialize};

use super::confusion::check_classes;
use crate::error::check_finite;
use crate::{Error, Result};

/// How far the sum of a distribution may be from 1, which f32 softmax keeps to.
pub(super) const SUM_TOLERANCE: f64 = 1e-4;

const SOFTMAX: &str = "probabilities lie in 0..=1 and each row sums to 1: apply softmax to the logits";

/// What the multi-class Brier score is divided by, on which libraries disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrierScale {
    /// As scikit-learn: the half for two classes, the sum for more.
    #[default]
    Auto,
    /// Brier's own of 1950: the sum over the classes, from 0 to 2.
    Sum,
    /// Half of it, from 0 to 1; for two classes the mean of (p₁−y)².
    Half,
}

/// The Brier score: the mean over the samples of Σₖ (pₖ − yₖ)², where y is 1 for the label's class and
/// 0 for the others. Lower is better; it is proper, so only the true probabilities minimise it.
///
/// # Shapes
/// `probabilities` are rows of `classes` values, one row for each label.
///
/// ```
/// use xdiff_metrics::{BrierScale, brier_score};
///
/// let score = brier_score(&[0.8, 0.2, 0.4, 0.6], 2, &[0, 0], BrierScale::Half)?;
/// assert!((score - 0.2).abs() < 1e-15); // the mean of 0.2² and 0.6²
/// assert!(brier_score(&[2.0, -1.0], 2, &[0], BrierScale::Half).is_err()); // logits
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When there are no samples, lengths do not fit, a label is no class, or a row is no distribution.
pub fn brier_score(
    probabilities: &[f64],
    classes: usize,
    labels: &[usize],
    scale: BrierScale,
) -> Result<f64> {
    check_rows("Brier score", probabilities, classes, labels)?;
    let losses = probabilities.chunks(classes).zip(labels).map(|(row, label)| squared_error(row, *label));
    Ok(scale.factor(classes) * losses.sum::<f64>() / labels.len() as f64)
}

/// The cross-entropy −mean ln p of the label's class, in nats. A probability below the rounding of f64
/// (2.2e-16) counts as that, as in scikit-learn, so that one wrong certainty is not infinite.
///
/// # Shapes
/// `probabilities` are rows of `classes` values, one row for each label.
///
/// # Errors
/// Those of [`brier_score`].
pub fn log_loss(probabilities: &[f64], classes: usize, labels: &[usize]) -> Result<f64> {
    check_rows("log loss", probabilities, classes, labels)?;
    let losses = probabilities.chunks(classes).zip(labels).map(|(row, label)| surprise(row, *label));
    Ok(losses.sum::<f64>() / labels.len() as f64)
}

impl BrierScale {
    pub(super) fn factor(self, classes: usize) -> f64 {
        match self {
            BrierScale::Auto if classes == 2 => 0.5,
            BrierScale::Half => 0.5,
            BrierScale::Auto | BrierScale::Sum => 1.0,
        }
    }
}

pub(super) fn squared_error(row: &[f64], label: usize) -> f64 {
    let error = |(class, p): (usize, &f64)| p - f64::from(u8::from(class == label));
    row.iter().enumerate().map(error).map(|e| e * e).sum()
}

pub(super) fn surprise(row: &[f64], label: usize) -> f64 {
    -row[label].max(f64::EPSILON).ln()
}

/// Fails unless there is a row of `classes` finite scores for each label, of which there is one.
pub(super) fn check_scores(
    metric: &'static str,
    scores: &[f64],
    classes: usize,
    labels: &[usize],
) -> Result<()> {
    if classes < 2 || Some(scores.len()) != labels.len().checked_mul(classes) {
        let expected = format!("{} rows of 2 or more scores", labels.len());
        return Err(Error::shape(metric, expected, &[scores.len(), classes]));
    }
    if labels.is_empty() {
        return Err(Error::TooFew { metric, unit: "samples", need: 1, got: 0 });
    }
    check_finite(metric, "the scores", scores)?;
    check_classes(metric, "the labels", labels, classes)
}

/// The same, where each row must be a distribution.
pub(super) fn check_rows(metric: &'static str, rows: &[f64], classes: usize, labels: &[usize]) -> Result<()> {
    check_scores(metric, rows, classes, labels)?;
    rows.chunks(classes).enumerate().try_for_each(|(i, row)| check_distribution(metric, row, i * classes))
}

/// Fails unless finite values are a distribution; `at` is the index of the first.
pub(super) fn check_distribution(metric: &'static str, row: &[f64], at: usize) -> Result<()> {
    let (what, hint) = ("the probabilities", SOFTMAX);
    let high = 1.0 + SUM_TOLERANCE;
    if let Some(i) = row.iter().position(|p| !(0.0..=high).contains(p)) {
        return Err(Error::Value { metric, what, value: row[i], index: at + i, hint });
    }
    let sum: f64 = row.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        let what = "the sum of the row of probabilities";
        return Err(Error::Value { metric, what, value: sum, index: at, hint });
    }
    Ok(())
}

/// e^(xᵢ−max) / Σ, the probabilities of a row of finite logits.
pub(super) fn softmax(row: &mut [f64]) {
    let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|v| *v = (*v - highest).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}
