//! The traits through which the xdiff crates compose.

use candle_core::Tensor;
use xdiff_nn::{Rng, Tap};

use crate::Result;

/// What a diffusion network predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Prediction {
    /// The noise ε.
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// The clean image x0.
    #[serde(rename = "sample")]
    Sample,
    /// The velocity v = √ᾱ·ε − √(1−ᾱ)·x0.
    #[serde(rename = "v_prediction")]
    Velocity,
}

/// What a prediction is conditioned on. Every field has the batch of the noisy image.
#[derive(Clone, Debug, Default)]
pub struct Cond {
    /// Clean images joined to the noisy one along the channels (B, C, H, W), for example a mask.
    pub image: Option<Tensor>,
    /// Class indices (B), u32.
    pub class: Option<Tensor>,
    /// Text states (B, tokens, width).
    pub text: Option<Tensor>,
}

/// A network that predicts, from a noisy image and its time step, what its [`Prediction`] says.
pub trait Denoiser {
    /// # Shapes
    /// `x_t` (B, C, H, W); `t` (B) f32, one time step for each sample; the result is shaped like
    /// the image that is denoised.
    ///
    /// # Errors
    /// When shapes do not fit or the tap reports an error.
    fn predict(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, tap: &mut dyn Tap) -> Result<Tensor>;

    /// The same in training, with dropout drawn from `rng` where the network has it.
    ///
    /// # Errors
    /// As [`predict`](Denoiser::predict).
    fn predict_training(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, _rng: &mut Rng) -> Result<Tensor> {
        self.predict(x_t, t, cond, &mut ())
    }

    /// What [`predict`](Denoiser::predict) returns.
    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }
}

macro_rules! denoise_through {
    ($($pointer:ty),*) => {$(
        impl<D: Denoiser + ?Sized> Denoiser for $pointer {
            fn predict(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, tap: &mut dyn Tap) -> Result<Tensor> {
                (**self).predict(x_t, t, cond, tap)
            }

            fn predict_training(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, rng: &mut Rng) -> Result<Tensor> {
                (**self).predict_training(x_t, t, cond, rng)
            }

            fn prediction(&self) -> Prediction {
                (**self).prediction()
            }
        }
    )*};
}

denoise_through!(&D, Box<D>, std::sync::Arc<D>);

/// Turns images (B, C, H, W) into feature maps (B, D, h, w).
pub trait FeatureExtractor {
    /// # Errors
    /// When the images do not have the shape or range that the extractor takes.
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<Tensor>;

    /// The same in training, with statistics of the batch and dropout drawn from `rng` where the
    /// extractor has them.
    ///
    /// # Errors
    /// As [`features`](FeatureExtractor::features).
    fn features_training(&self, images: &Tensor, _rng: &Rng) -> Result<Tensor> {
        self.features(images, &mut ())
    }

    /// A name with which a score can be printed: architecture, weights, resize.
    fn identity(&self) -> String;
}

macro_rules! extract_through {
    ($($pointer:ty),*) => {$(
        impl<F: FeatureExtractor + ?Sized> FeatureExtractor for $pointer {
            fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
                (**self).features(images, tap)
            }

            fn features_training(&self, images: &Tensor, rng: &Rng) -> Result<Tensor> {
                (**self).features_training(images, rng)
            }

            fn identity(&self) -> String {
                (**self).identity()
            }
        }
    )*};
}

extract_through!(&F, Box<F>, std::sync::Arc<F>);

/// Turns images (B, C, H, W) into logits (B, K) and penultimate features (B, D).
pub trait Classifier {
    /// # Errors
    /// When the images do not have the shape or range that the classifier takes.
    fn classify(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<(Tensor, Tensor)>;
}

/// A number for each image: whatever an attribution explains.
pub trait Score {
    /// (B, C, H, W) → (B).
    ///
    /// # Errors
    /// When the images do not have the shape that the score takes.
    fn score(&self, images: &Tensor) -> Result<Tensor>;
}

/// A distance between two batches of images, image by image.
pub trait Distance {
    /// Two (B, C, H, W) → B distances.
    ///
    /// # Errors
    /// When shapes differ or values lie outside the stated range.
    fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>>;
}

/// A statistic that is gathered batch by batch, on one machine or on many.
///
/// `merge` of two accumulators equals one accumulator that saw both streams.
pub trait Metric {
    /// What one update takes.
    type Batch<'a>;
    /// What is computed in the end.
    type Value;
    /// The error of the crate that implements the metric.
    type Error;

    /// Adds a batch.
    ///
    /// # Errors
    /// When the batch has a shape, range or value that the metric cannot take; the accumulator is
    /// then as it was before.
    fn update(&mut self, batch: Self::Batch<'_>) -> std::result::Result<(), Self::Error>;

    /// The value over everything that was added.
    ///
    /// # Errors
    /// When too little was added for the value to be defined.
    fn compute(&self) -> std::result::Result<Self::Value, Self::Error>;

    /// Adds everything that another accumulator saw.
    ///
    /// # Errors
    /// When the two were configured differently.
    fn merge(&mut self, other: &Self) -> std::result::Result<(), Self::Error>;

    /// Forgets everything.
    fn reset(&mut self);
}
