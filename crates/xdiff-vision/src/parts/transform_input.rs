//! What torchvision calls `transform_input`.

use candle_core::Tensor;

use crate::{Error, Result};

/// Means and deviations of ImageNet by channel.
const IMAGENET: [(f64, f64); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

/// Images normalised by ImageNet's means and deviations to images normalised by ½ and ½, that is from
/// −1 to 1, which the weights of GoogLeNet and Inception were trained with:
/// x ↦ x · σ/½ + (μ − ½)/½ by channel.
pub(crate) fn transform_input(x: &Tensor) -> Result<Tensor> {
    let of = |f: fn((f64, f64)) -> f64| -> Result<Tensor> {
        let values: Vec<f32> = IMAGENET.map(|channel| f(channel) as f32).to_vec();
        Ok(Tensor::from_vec(values, (1, 3, 1, 1), x.device())?.to_dtype(x.dtype())?)
    };
    let (scale, shift) = (of(|(_, deviation)| deviation / 0.5)?, of(|(mean, _)| (mean - 0.5) / 0.5)?);
    Ok(x.broadcast_mul(&scale)?.broadcast_add(&shift)?)
}

/// Fails when the input of a network is to be transformed and does not have three channels.
pub(crate) fn check(transform_input: bool, in_channels: usize) -> Result<()> {
    if transform_input && in_channels != 3 {
        let reason = format!("takes images of 3 channels, in_channels is {in_channels}; set it to false");
        return Err(Error::config("transform_input", reason));
    }
    Ok(())
}
