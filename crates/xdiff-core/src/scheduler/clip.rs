//! Keeping a predicted clean image within its range.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, schedule::per_sample};

/// How a predicted x0 is kept within its range.
///
/// Latents have no fixed range: their schedulers turn both ways off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipConfig {
    /// Clips x0 to ±`clip_sample_range`, unless `thresholding` is on.
    pub clip_sample: bool,
    /// The bound of clipping; above 0.
    pub clip_sample_range: f64,
    /// Dynamic thresholding (Saharia et al. 2022): s is the quantile of |x0| over a sample, held
    /// within [1, `sample_max_value`]; x0 is clipped to ±s and divided by s.
    pub thresholding: bool,
    /// Which quantile; in [0, 1].
    pub dynamic_thresholding_ratio: f64,
    /// The upper bound of s; at 1, thresholding is clipping to ±1.
    pub sample_max_value: f64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            clip_sample: true,
            clip_sample_range: 1.,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.,
        }
    }
}

impl ClipConfig {
    /// No bound at all.
    pub fn off() -> Self {
        Self { clip_sample: false, ..Self::default() }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] that names the first field that cannot be used.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in
            [("clip_sample_range", self.clip_sample_range), ("sample_max_value", self.sample_max_value)]
        {
            if !(value > 0. && value.is_finite()) {
                return Err(Error::config(field, format!("is {value}; it must be above 0")));
            }
        }
        let ratio = self.dynamic_thresholding_ratio;
        if !(0. ..=1.).contains(&ratio) {
            let reason = format!("is {ratio}; it must lie in [0, 1]");
            return Err(Error::config("dynamic_thresholding_ratio", reason));
        }
        Ok(())
    }

    /// x0 within its range. (B, …) → the same.
    pub(super) fn apply(&self, x0: Tensor) -> Result<Tensor> {
        if self.thresholding {
            self.threshold(&x0)
        } else if self.clip_sample {
            Ok(x0.clamp(-self.clip_sample_range, self.clip_sample_range)?)
        } else {
            Ok(x0)
        }
    }

    fn threshold(&self, x0: &Tensor) -> Result<Tensor> {
        let rows = x0.abs()?.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let bounds: Vec<f64> = rows
            .into_iter()
            .map(|row| quantile(row, self.dynamic_thresholding_ratio).max(1.).min(self.sample_max_value))
            .collect();
        let bound = per_sample(&bounds, x0)?;
        let clipped = x0.broadcast_minimum(&bound)?.broadcast_maximum(&bound.neg()?)?;
        Ok(clipped.broadcast_div(&bound)?)
    }
}

/// The quantile, interpolated linearly between order statistics. NaN if a value is.
fn quantile(mut values: Vec<f32>, ratio: f64) -> f64 {
    values.sort_by(f32::total_cmp);
    let place = ratio * values.len().saturating_sub(1) as f64;
    let at = |i: f64| values.get(i as usize).map_or(f64::NAN, |v| f64::from(*v));
    if values.last().is_some_and(|v| v.is_nan()) {
        return f64::NAN;
    }
    at(place.floor()) + place.fract() * (at(place.ceil()) - at(place.floor()))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn thresholding_looks_at_each_sample_alone() {
        let x = Tensor::new(&[[-4f32, 0., 1., 2.], [0.5, -0.5, 0., 3.]], &Device::Cpu).unwrap();
        let config = ClipConfig {
            thresholding: true,
            dynamic_thresholding_ratio: 0.5,
            sample_max_value: 10.,
            ..Default::default()
        };
        // The medians of |x| are 1.5 and 0.5; the second is raised to 1.
        let got = config.apply(x).unwrap().to_vec2::<f32>().unwrap();
        let want = [[-1., 0., 1. / 1.5, 1.], [0.5, -0.5, 0., 1.]];
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn bounds_are_checked() {
        let cases = [
            ClipConfig { clip_sample_range: 0., ..Default::default() },
            ClipConfig { sample_max_value: f64::NAN, ..Default::default() },
            ClipConfig { dynamic_thresholding_ratio: 1.5, ..Default::default() },
        ];
        for config in cases {
            assert!(config.validate().is_err(), "{config:?}");
        }
        assert!(ClipConfig::off().validate().is_ok());
    }

    #[test]
    fn nan_stays_nan() {
        let x = Tensor::new(&[[f32::NAN, 0.]], &Device::Cpu).unwrap();
        let config = ClipConfig { thresholding: true, ..Default::default() };
        assert!(config.apply(x).unwrap().to_vec2::<f32>().unwrap()[0][0].is_nan());
    }
}
