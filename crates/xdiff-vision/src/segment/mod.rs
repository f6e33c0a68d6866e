//! Segmentation: a label for each pixel.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use xdiff_core::cancel::CancelToken;
//! use xdiff_nn::{Params, Rng};
//! use xdiff_vision::segment::{Decision, Masked, SegUNet, SegUNetConfig, Segmentation, SegmentationLoss, predict};
//! use xdiff_vision::train::{Feed, Fit, FitConfig, FitData, Measure};
//!
//! // Noise, of which what is above 0 is to be found.
//! let images = Rng::new(1).randn((2, 1, 9, 8), &Device::Cpu)?;
//! let batch = Masked::new(images.clone(), &images.gt(0f32)?, vec![])?;
//! let feed = || Feed::fixed(vec![vec![batch.clone()]]);
//! let data = FitData::new(feed()).validated_on(feed());
//!
//! let params = Params::fresh(0, &Device::Cpu);
//! let network = SegUNet::new(SegUNetConfig { widths: vec![8, 16], ..Default::default() }, &params)?;
//! let objective = Segmentation::new(network, SegmentationLoss::default())?;
//! let config = FitConfig { epochs: 3, monitor: Measure::Dice, ..Default::default() };
//! let mut fit = Fit::new(objective, params.finish()?, config, serde_json::json!({}))?;
//! fit.run(&data, None, &CancelToken::new(), &mut ())?;
//! let network = fit.into_best()?.objective.into_network();
//! let masks = predict(&network, &images, Decision::MostProbable)?;
//! assert_eq!(masks.dims(), [2, 9, 8]);
//! # Ok::<(), xdiff_vision::Error>(())
//! ```

mod loss;
mod objective;
mod predict;
#[cfg(test)]
mod tests;
mod unet;

use std::fmt::Debug;

use candle_core::Tensor;

use crate::{Pass, Result};
pub use loss::SegmentationLoss;
pub use objective::{Masked, Overlaps, Segmentation};
pub use predict::{Decision, predict, probabilities};
pub use unet::{SegNorm, SegUNet, SegUNetConfig};

/// A network that gives each pixel logits of classes.
pub trait Segmenter: Debug + Send + Sync {
    /// How many classes it tells apart, the background (0) among them; 1 when there is one logit for
    /// foreground against background.
    fn classes(&self) -> usize;

    /// The logits of each pixel.
    ///
    /// # Shapes
    /// (B, C, H, W) → (B, K, H, W).
    ///
    /// # Errors
    /// When the images do not have the shape that the network takes, or the tap reports an error.
    fn logits(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor>;
}

/// Logits of at least two classes, (B, K, pixels): one logit x becomes (0, x), of which the softmax
/// is (1 − σ(x), σ(x)).
fn by_class(logits: &Tensor) -> Result<Tensor> {
    let logits = logits.flatten_from(2)?;
    Ok(if logits.dim(1)? == 1 { Tensor::cat(&[logits.zeros_like()?, logits], 1)? } else { logits })
}
