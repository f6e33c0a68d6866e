//! Errors pixel by pixel: mean absolute, mean squared, peak signal-to-noise ratio.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_core::Distance;

use crate::pair::{Pair, PairMetric, check_data_range, mean};
use crate::{Error, Result};

/// Mean squared error, Σ(a−b)²/N over the channels and pixels of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mse {}

/// Mean absolute error, Σ|a−b|/N over the channels and pixels of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mae {}

/// Peak signal-to-noise ratio in dB, 10·log₁₀(L²/MSE), with the MSE over the channels and pixels of
/// an image. Identical images have +∞.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_metrics::{PairMetric, Psnr};
///
/// let a = Tensor::zeros((1, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let b = (&a + 0.1)?;
/// let psnr = Psnr::new(1.0)?;
/// assert!((psnr.values(&a, &b)?[0] - 20.0).abs() < 1e-5);
/// assert_eq!(psnr.values(&a, &a)?[0], f64::INFINITY);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Psnr {
    /// L, the span of the values that an image can take: 1 for [0, 1], 2 for [−1, 1].
    pub data_range: f64,
}

impl Psnr {
    /// # Errors
    /// When the data range is not finite and above zero.
    pub fn new(data_range: f64) -> Result<Self> {
        check_data_range(data_range)?;
        Ok(Self { data_range })
    }

    /// The ratio for two images or channels given as slices.
    ///
    /// # Errors
    /// When the lengths differ, there is no pixel, a pixel is not finite, or the data range cannot
    /// be used.
    pub fn of_slices(&self, a: &[f64], b: &[f64]) -> Result<f64> {
        check_data_range(self.data_range)?;
        Ok(self.decibel(mse(a, b)?))
    }

    fn decibel(&self, mse: f64) -> f64 {
        if mse == 0.0 { f64::INFINITY } else { 20.0 * self.data_range.log10() - 10.0 * mse.log10() }
    }
}

/// The mean squared error of two slices.
///
/// # Errors
/// When the lengths differ, are zero, or a value is not finite.
pub fn mse(a: &[f64], b: &[f64]) -> Result<f64> {
    check_slices("MSE", a, b)?;
    Ok(squared(a, b))
}

/// The mean absolute error of two slices.
///
/// # Errors
/// When the lengths differ, are zero, or a value is not finite.
pub fn mae(a: &[f64], b: &[f64]) -> Result<f64> {
    check_slices("MAE", a, b)?;
    Ok(absolute(a, b))
}

fn check_slices(metric: &'static str, a: &[f64], b: &[f64]) -> Result<()> {
    if a.len() != b.len() {
        return Err(Error::Mismatch { metric, a: vec![a.len()], b: vec![b.len()] });
    }
    if a.is_empty() {
        return Err(Error::TooFew { metric, unit: "values", need: 1, got: 0 });
    }
    crate::error::check_finite(metric, "the first slice", a)?;
    crate::error::check_finite(metric, "the second slice", b)
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>() / a.len() as f64
}

fn absolute(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum::<f64>() / a.len() as f64
}

impl PairMetric for Mse {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        Pair::new("MSE", a, b)?.map(|a, b, _: &mut ()| squared(a, b), mean)
    }

    fn name(&self) -> String {
        "MSE".into()
    }
}

impl PairMetric for Mae {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        Pair::new("MAE", a, b)?.map(|a, b, _: &mut ()| absolute(a, b), mean)
    }

    fn name(&self) -> String {
        "MAE".into()
    }
}

impl PairMetric for Psnr {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        check_data_range(self.data_range)?;
        Pair::new("PSNR", a, b)?
            .map(|a, b, _: &mut ()| squared(a, b), |channels| self.decibel(mean(channels)))
    }

    fn name(&self) -> String {
        format!("PSNR in dB (data range {})", self.data_range)
    }
}

impl Distance for Mse {
    fn distance(&self, a: &Tensor, b: &Tensor) -> xdiff_core::Result<Vec<f64>> {
        Ok(self.values(a, b)?)
    }
}

impl Distance for Mae {
    fn distance(&self, a: &Tensor, b: &Tensor) -> xdiff_core::Result<Vec<f64>> {
        Ok(self.values(a, b)?)
    }
}
