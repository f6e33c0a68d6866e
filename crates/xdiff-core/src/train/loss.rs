//! The denoising loss.

use candle_core::{D, DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::schedule::NoiseSchedule;
use crate::{Error, Prediction, Result};

/// How the time steps are weighted against each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LossWeight {
    /// All alike: L_simple of Ho et al. 2020.
    #[default]
    Simple,
    /// Clipped signal-to-noise weights of Hang et al. 2023: min(snr, γ)/snr for ε,
    /// min(snr, γ)/(snr + 1) for v, min(snr, γ) for x0.
    MinSnr {
        /// γ; the authors use 5.
        gamma: f64,
    },
}

/// The loss of a denoiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// How the time steps are weighted.
    pub weight: LossWeight,
    /// Standard deviation of a noise that is constant over each channel of each sample, added to
    /// the usual one; 0 for none, 0.1 is customary.
    pub offset_noise: f64,
}

impl LossConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if let LossWeight::MinSnr { gamma } = self.weight
            && !(gamma > 0.0 && gamma.is_finite())
        {
            return Err(Error::config("gamma", format!("is {gamma}, must be positive")));
        }
        if !(self.offset_noise >= 0.0 && self.offset_noise.is_finite()) {
            return Err(Error::config(
                "offset_noise",
                format!("is {}, must be 0 or more", self.offset_noise),
            ));
        }
        Ok(())
    }

    /// The weight of time step `t`.
    ///
    /// # Errors
    /// When `t` lies outside the schedule.
    pub fn weight_at(&self, schedule: &NoiseSchedule, t: usize, prediction: Prediction) -> Result<f64> {
        let LossWeight::MinSnr { gamma } = self.weight else {
            return Ok(1.0);
        };
        let snr = schedule.snr(t)?;
        // A terminal step without signal has snr = 0; ε cannot be learnt from it, so its weight is 1.
        Ok(match prediction {
            Prediction::Epsilon if snr > 0.0 => snr.min(gamma) / snr,
            Prediction::Epsilon => 1.0,
            Prediction::Velocity => snr.min(gamma) / (snr + 1.0),
            Prediction::Sample => snr.min(gamma),
        })
    }
}

/// The weighted mean square error between what the network predicted and what it should have.
///
/// # Shapes
/// `predicted` and the sample's images (B, C, H, W); the result is a scalar.
///
/// # Errors
/// When shapes differ or a time step lies outside the schedule.
pub fn diffusion_loss(
    config: &LossConfig,
    schedule: &NoiseSchedule,
    prediction: Prediction,
    predicted: &Tensor,
    sample: &NoisySample<'_>,
) -> Result<Tensor> {
    let target = schedule.target(prediction, sample.x0, sample.noise, sample.t)?;
    if predicted.dims() != target.dims() {
        return Err(Error::input(
            "prediction",
            format!("shape {:?}, the target has {:?}", predicted.dims(), target.dims()),
        ));
    }
    let error = (predicted - target)?.sqr()?.flatten_from(1)?.mean(D::Minus1)?;
    if config.weight == LossWeight::Simple {
        return Ok(error.mean_all()?);
    }
    let weights = sample
        .t
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?
        .into_iter()
        .map(|t| Ok(config.weight_at(schedule, t as usize, prediction)? as f32))
        .collect::<Result<Vec<f32>>>()?;
    let weights = Tensor::from_vec(weights, error.shape(), error.device())?;
    Ok((error * weights)?.mean_all()?)
}

/// A clean image, the noise that was added to it, and how much.
#[derive(Clone, Copy, Debug)]
pub struct NoisySample<'a> {
    /// The clean images (B, C, H, W).
    pub x0: &'a Tensor,
    /// The noise (B, C, H, W).
    pub noise: &'a Tensor,
    /// The time step of each sample (B).
    pub t: &'a Tensor,
}
