//! Cross-entropy.

use candle_core::{Device, Tensor};
use xdiff_nn::layers::log_softmax;

use super::ownership::check_label;
use crate::{Error, Result};

/// Σᵢ w(yᵢ) · (−ln softmax(logitsᵢ)\[yᵢ\]) / Σᵢ w(yᵢ), a mean weighted by the classes of the labels, as
/// PyTorch has it; without weights, w = 1.
///
/// # Shapes
/// `logits` (B, K), `labels` B indices below K, `weights` K → one number. Differentiable.
///
/// # Errors
/// [`Error::Input`] when shapes do not fit, a label is not below K, a weight is negative or not finite,
/// or all labels have weight 0.
pub fn cross_entropy(logits: &Tensor, labels: &[u32], weights: Option<&[f64]>) -> Result<Tensor> {
    let classes = match *logits.dims() {
        [b, k] if b == labels.len() && b > 0 => k,
        _ => {
            let reason =
                format!("have shape {:?} for {} labels, must be (B, K)", logits.dims(), labels.len());
            return Err(Error::input("logits", reason));
        }
    };
    if let Some(weights) = weights {
        check_class_weights(weights)?;
        if weights.len() != classes {
            let reason = format!("are {} for {classes} classes", weights.len());
            return Err(Error::input("class weights", reason));
        }
    }
    let labels = labels.iter().map(|label| check_label(*label, classes)).collect::<Result<Vec<_>>>()?;
    let share = |label: usize| weights.map_or(1.0, |w| w[label]);
    let total: f64 = labels.iter().map(|label| share(*label)).sum();
    if total <= 0.0 {
        let reason = "of this batch all have weight 0; use larger batches or other weights";
        return Err(Error::input("labels", reason));
    }
    let mut targets = vec![0f64; labels.len() * classes];
    for (i, label) in labels.into_iter().enumerate() {
        targets[i * classes + label] = share(label) / total;
    }
    let targets = Tensor::from_vec(targets, logits.shape(), &Device::Cpu)?;
    let targets = targets.to_dtype(logits.dtype())?.to_device(logits.device())?;
    Ok((log_softmax(logits, 1)? * targets)?.sum_all()?.neg()?)
}

/// Fails for a weight that is negative or not finite, and where all are 0.
pub(super) fn check_class_weights(weights: &[f64]) -> Result<()> {
    if weights.iter().all(|w| w.is_finite() && *w >= 0.0) && weights.iter().any(|w| *w > 0.0) {
        return Ok(());
    }
    Err(Error::input("class weights", format!("are {weights:?}, must be finite, at least 0 and not all 0")))
}
