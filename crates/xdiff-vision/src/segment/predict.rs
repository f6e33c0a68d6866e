//! From logits to masks.

use candle_core::{Device, Tensor};
use xdiff_nn::layers::log_softmax;

use super::{Segmenter, by_class};
use crate::ranking::argmax;
use crate::{Error, Pass, Result};

/// How probabilities become labels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Decision {
    /// The most probable class, the first of equal ones.
    #[default]
    MostProbable,
    /// The most probable class of the foreground where 1 − p(background) is at least this, in [0, 1];
    /// else background.
    Foreground(f64),
}

/// The probabilities of the classes.
///
/// # Shapes
/// (B, C, H, W) → (B, K, H, W); K is 2 (background and foreground) for a network with one logit.
///
/// # Errors
/// When the images do not have the shape that the network takes.
pub fn probabilities(network: &dyn Segmenter, images: &Tensor) -> Result<Tensor> {
    let logits = network.logits(images, &mut Pass::eval(&mut ()))?.detach();
    let (b, _, h, w) = logits.dims4()?;
    Ok(log_softmax(&by_class(&logits)?, 1)?.exp()?.reshape((b, (), h, w))?)
}

/// Masks of images: 0 for background, else the class.
///
/// # Shapes
/// (B, C, H, W) → (B, H, W), u8, on the CPU.
///
/// # Errors
/// When the images do not have the shape that the network takes, the threshold is out of range, a
/// network has more than 256 classes, or what it gives is not finite.
pub fn predict(network: &dyn Segmenter, images: &Tensor, decision: Decision) -> Result<Tensor> {
    let logits = network.logits(images, &mut Pass::eval(&mut ()))?.detach();
    let (b, _, h, w) = logits.dims4()?;
    Ok(Tensor::from_vec(decide(&logits, decision)?, (b, h, w), &Device::Cpu)?)
}

/// The label of each pixel.
pub(super) fn decide(logits: &Tensor, decision: Decision) -> Result<Vec<u8>> {
    if let Decision::Foreground(threshold) = decision
        && !(0.0..=1.0).contains(&threshold)
    {
        return Err(Error::input("threshold", format!("is {threshold}, must lie in [0, 1]")));
    }
    let p = log_softmax(&by_class(logits)?, 1)?.exp()?.to_device(&Device::Cpu)?;
    let (b, classes, pixels) = p.dims3()?;
    if classes > 256 {
        return Err(Error::input("classes", format!("{classes} do not fit into u8 masks of 256")));
    }
    let p = p.flatten_all()?.to_vec1::<f32>()?;
    if p.iter().any(|v| v.is_nan()) {
        return Err(Error::input("images", "the network gives NaN for them; check images and weights"));
    }
    let label = |i: usize| {
        let of = |c: usize| p[(i / pixels * classes + c) * pixels + i % pixels];
        let label = match decision {
            Decision::MostProbable => argmax(0..classes, of),
            Decision::Foreground(threshold) if 1.0 - f64::from(of(0)) >= threshold => argmax(1..classes, of),
            Decision::Foreground(_) => None,
        };
        label.unwrap_or(0) as u8
    };
    Ok((0..b * pixels).map(label).collect())
}
