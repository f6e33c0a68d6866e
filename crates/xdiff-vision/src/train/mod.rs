//! Training of networks for supervised image tasks: one loop for classification and segmentation.
//!
//! A [`Fit`] trains an [`Objective`] ([`Classification`], or that of
//! [`segment`](crate::segment)) on the batches of a [`Feed`], validates after each epoch, keeps the
//! best weights, and writes two files into a folder: [`LAST`], from which an interrupted training
//! goes on to the same bits, and [`BEST`], plain weights under their own names.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use xdiff_core::cancel::CancelToken;
//! use xdiff_nn::Params;
//! use xdiff_nn::optim::AdamWConfig;
//! use xdiff_vision::train::{Classification, CrossEntropy, Feed, Fit, FitConfig, FitData, Labelled, Measure};
//! use xdiff_vision::{SmallCnn, SmallCnnConfig};
//!
//! let device = Device::Cpu;
//! // Dark and bright images.
//! let images = Tensor::cat(&[
//!     Tensor::zeros((4, 1, 4, 4), DType::F32, &device)?,
//!     Tensor::ones((4, 1, 4, 4), DType::F32, &device)?,
//! ], 0)?;
//! let batch = Labelled::new(images, vec![0, 0, 0, 0, 1, 1, 1, 1], vec![])?;
//! let feed = || Feed::fixed(vec![vec![batch.clone()]]);
//! let data = FitData::new(feed()).validated_on(feed());
//!
//! let params = Params::fresh(0, &device);
//! let network = SmallCnn::new(&SmallCnnConfig { widths: vec![4], ..SmallCnnConfig::new(1, 2) }, &params)?;
//! let adamw = AdamWConfig { lr: 0.05, ..Default::default() };
//! let config = FitConfig { epochs: 60, adamw, monitor: Measure::Accuracy, ..Default::default() };
//! let objective = Classification::new(network, CrossEntropy::default())?;
//! let mut fit = Fit::new(objective, params.finish()?, config, serde_json::json!({}))?;
//! fit.run(&data, None, &CancelToken::new(), &mut ())?;
//! let fitted = fit.into_best()?;
//! assert_eq!(fitted.best.map(|b| b.value), Some(1.0));
//! # Ok::<(), xdiff_vision::Error>(())
//! ```

mod classification;
mod config;
mod cross;
mod cross_entropy;
mod feed;
mod fit;
mod history;
mod objective;
mod observer;
mod predictions;
#[cfg(test)]
mod tests;

pub use classification::{Classification, Labelled, predict};
pub use config::{EarlyStopping, FitConfig, Measure, Schedule};
pub use cross::{CrossConfig, CrossValidation, Fold, FoldData, FoldRun, cross_validate};
pub(crate) use cross_entropy::targets;
pub use cross_entropy::{CrossEntropy, balanced_weights};
pub use feed::{Feed, FitData};
pub use fit::{BEST, Best, Fit, FitOutcome, Fitted, LAST};
pub use history::{EpochReport, History};
pub use objective::{Findings, LossParts, Objective};
pub(crate) use objective::{check_finite, push_names};
pub use observer::FitObserver;
pub use predictions::Predictions;
pub use xdiff_core::train::{Decay, Progress, StepReport, TrainObserver};
