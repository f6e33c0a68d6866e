//! Cross-entropy.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_nn::layers::log_softmax;

use super::objective::LossParts;
use crate::{Error, Result};

/// Cross-entropy between logits and labels, as `torch.nn.functional.cross_entropy` defines it.
///
/// With p = softmax(logits), class weights w and label smoothing ε over K classes,
///
/// loss = Σᵢ [ (1 − ε) · w(yᵢ) · (−ln p(i, yᵢ)) + ε/K · Σ_c w(c) · (−ln p(i, c)) ] / Σᵢ w(yᵢ):
///
/// a mean weighted by the classes of the labels. Without weights, w = 1.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_vision::train::CrossEntropy;
///
/// let logits = Tensor::new(&[[2f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
/// let loss = CrossEntropy::default().parts(&logits, &[0, 1])?.value()?.to_scalar::<f32>()?;
/// assert!((loss - 0.22009).abs() < 1e-5);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossEntropy {
    /// One weight a class, at least 0; all alike without. [`balanced_weights`] makes rare classes
    /// count as much as frequent ones.
    pub class_weights: Option<Vec<f64>>,
    /// ε, in [0, 1): the share of the target that is spread over all classes.
    pub label_smoothing: f64,
}

impl CrossEntropy {
    /// Checks the values for a network of that many classes.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self, classes: usize) -> Result<()> {
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let reason = format!("is {}, must lie in [0, 1)", self.label_smoothing);
            return Err(Error::config("label_smoothing", reason));
        }
        let Some(weights) = &self.class_weights else { return Ok(()) };
        if weights.len() != classes {
            let reason = format!("holds {} weights for {classes} classes", weights.len());
            return Err(Error::config("class_weights", reason));
        }
        if weights.iter().any(|w| !(w.is_finite() && *w >= 0.0)) || weights.iter().all(|w| *w == 0.0) {
            let reason = format!("is {weights:?}, must be finite, at least 0 and not all 0");
            return Err(Error::config("class_weights", reason));
        }
        Ok(())
    }

    /// The loss as a weighted mean.
    ///
    /// # Shapes
    /// `logits` (B, K), `labels` B indices below K.
    ///
    /// # Errors
    /// [`Error::Input`] when shapes do not fit or a label is not below K, those of
    /// [`validate`](Self::validate).
    pub fn parts(&self, logits: &Tensor, labels: &[u32]) -> Result<LossParts> {
        let classes = match *logits.dims() {
            [b, k] if b == labels.len() && b > 0 && k > 0 => k,
            _ => {
                let reason = format!("shape {:?} for {} labels; must be (B, K)", logits.dims(), labels.len());
                return Err(Error::input("logits", reason));
            }
        };
        self.validate(classes)?;
        let (targets, weight) = targets(self, labels, (classes, 1), None)?;
        let targets = Tensor::from_vec(targets, logits.shape(), logits.device())?;
        let log = log_softmax(logits, 1)?;
        Ok(LossParts::mean((log * targets)?.sum_all()?.neg()?, weight))
    }
}

/// What each −ln p is multiplied by, in the order (image, class, place), and Σ w(y). `size` is
/// (classes, places of an image); places whose label is `ignore` get nothing.
///
/// # Errors
/// [`Error::Input`] when a label is not below the number of classes.
pub(crate) fn targets(
    loss: &CrossEntropy,
    labels: &[u32],
    (classes, places): (usize, usize),
    ignore: Option<u32>,
) -> Result<(Vec<f32>, f64)> {
    let weights = loss.class_weights.clone().unwrap_or_else(|| vec![1.0; classes]);
    let smooth: Vec<f32> =
        weights.iter().map(|w| (loss.label_smoothing / classes as f64 * w) as f32).collect();
    let sharp: Vec<f32> =
        (weights.iter().zip(&smooth)).map(|(w, s)| ((1.0 - loss.label_smoothing) * w) as f32 + s).collect();
    let mut targets = vec![0f32; labels.len() * classes];
    let mut total = 0.0;
    for (i, label) in labels.iter().enumerate() {
        if ignore == Some(*label) {
            continue;
        }
        let class = *label as usize;
        check_label(*label, classes)?;
        total += weights[class];
        let first = i / places * places * classes + i % places;
        for c in 0..classes {
            targets[first + c * places] = if c == class { sharp[c] } else { smooth[c] };
        }
    }
    Ok((targets, total))
}

pub(super) fn check_label(label: u32, classes: usize) -> Result<()> {
    if (label as usize) < classes {
        return Ok(());
    }
    if classes == 0 {
        let reason = "there are no classes; a network that was built without a head has none";
        return Err(Error::input("labels", reason));
    }
    let reason =
        format!("a label is {label}, the network tells {classes} classes apart: 0 to {}", classes - 1);
    Err(Error::input("labels", reason))
}

/// The weights with which every class counts alike: n / (K · n_c), scikit-learn's `balanced`.
///
/// # Errors
/// [`Error::Input`] when there is no label, a label is not below `classes`, or a class has no sample.
pub fn balanced_weights(labels: &[u32], classes: usize) -> Result<Vec<f64>> {
    let mut counts = vec![0usize; classes];
    for label in labels {
        check_label(*label, classes)?;
        counts[*label as usize] += 1;
    }
    if let Some(empty) = counts.iter().position(|n| *n == 0) {
        let reason = format!(
            "class {empty} has no sample, so that it has no balanced weight; add samples, leave the class \
             out, or give weights of your own"
        );
        return Err(Error::input("labels", reason));
    }
    Ok(counts.iter().map(|n| labels.len() as f64 / (classes * n) as f64).collect())
}
