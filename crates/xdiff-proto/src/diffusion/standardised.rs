//! Features on one scale.

use candle_core::{Device, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_nn::{Rng, Tap};

use super::statistics::FeatureStatistics;
use crate::{Error, Result};

/// The features of an extractor with each channel centred and divided by its deviation, and then all
/// scaled alike so that the squared distance of two unrelated patches is, in the mean, as large as asked
/// for:
///
/// z_d = (f_d − μ_d)/σ_d · √(spread/2D), so that E‖z − z′‖² = `spread`.
///
/// Influence (Dey & Saikia 2025, Eq. 7) and diversity (Eq. 8) are exponentials of −‖·‖². Between raw
/// features of a hundred channels they are 0 in f32, and influence is all on one prototype; `spread` is
/// their temperature. A channel that is constant in the statistics becomes 0, and D counts the others.
///
/// The statistics' hash and the spread are part of the [`identity`](FeatureExtractor::identity).
#[derive(Clone, Debug)]
pub struct Standardised<F> {
    features: F,
    scaling: Scaling,
    hash: String,
}

/// What standardising does to a map.
#[derive(Clone, Debug)]
pub(super) struct Scaling {
    mean: Vec<f32>,
    scale: Vec<f32>,
    spread: f64,
}

impl Scaling {
    pub(super) fn new(statistics: &FeatureStatistics, spread: f64) -> Result<Self> {
        if !(spread > 0.0 && spread.is_finite()) {
            return Err(Error::config("spread", format!("is {spread}, must be positive and finite")));
        }
        let varying = statistics.deviation().iter().filter(|d| **d > 0.0).count();
        let all = (spread / (2.0 * varying as f64)).sqrt();
        let scale = |d: &f64| if *d > 0.0 { (all / d) as f32 } else { 0.0 };
        Ok(Self {
            mean: statistics.mean().iter().map(|m| *m as f32).collect(),
            scale: statistics.deviation().iter().map(scale).collect(),
            spread,
        })
    }

    /// (B, D, h, w) to the same shape.
    pub(super) fn apply(&self, features: &Tensor) -> Result<Tensor> {
        let width = features.dims4()?.1;
        if width != self.mean.len() {
            let reason = format!("have {width} channels, their statistics are of {}", self.mean.len());
            return Err(Error::input("features", reason));
        }
        let row = |values: &[f32]| -> Result<Tensor> {
            let row = Tensor::from_slice(values, (1, width, 1, 1), &Device::Cpu)?;
            Ok(row.to_device(features.device())?)
        };
        Ok(features.broadcast_sub(&row(&self.mean)?)?.broadcast_mul(&row(&self.scale)?)?)
    }
}

impl<F: FeatureExtractor> Standardised<F> {
    /// `spread` is the mean squared distance of two unrelated patches; 2 is that of unit Gaussian
    /// features divided by √D.
    ///
    /// # Errors
    /// [`Error::Config`] for a spread that is not positive; [`Error::Stale`] when the statistics are of
    /// another extractor.
    pub fn new(features: F, statistics: &FeatureStatistics, spread: f64) -> Result<Self> {
        if features.identity() != statistics.extractor() {
            return Err(Error::Stale {
                what: "the extractor of the feature statistics",
                recorded: statistics.extractor().to_owned(),
                found: features.identity(),
            });
        }
        Ok(Self { features, scaling: Scaling::new(statistics, spread)?, hash: statistics.hash() })
    }

    /// The extractor beneath.
    pub fn inner(&self) -> &F {
        &self.features
    }
}

impl<F: FeatureExtractor> FeatureExtractor for Standardised<F> {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        Ok(self.scaling.apply(&self.features.features(images, tap)?)?)
    }

    fn features_training(&self, images: &Tensor, rng: &Rng) -> xdiff_core::Result<Tensor> {
        Ok(self.scaling.apply(&self.features.features_training(images, rng)?)?)
    }

    fn identity(&self) -> String {
        let spread = self.scaling.spread;
        format!(
            "{}, standardised to spread {spread} (statistics sha256 {})",
            self.features.identity(),
            &self.hash[..16]
        )
    }
}
