//! Training of prototype networks by a [`Schedule`](crate::stage::Schedule).
//!
//! A [`Trainer`] takes the stages one after another on the batches of a [`TrainData`], projects the
//! prototypes where a stage ends with a push, and writes two files into a folder: [`LAST`], from which
//! an interrupted training goes on to the same bits, and [`PROTOTYPES`], the newest projection.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use xdiff_core::cancel::CancelToken;
//! use xdiff_core::FeatureExtractor;
//! use xdiff_nn::{Params, Tap};
//! use xdiff_proto::stage::{Parts, Push, Rate, Schedule, Stage};
//! use xdiff_proto::train::{Batches, TrainConfig, TrainData, Trainer};
//! use xdiff_proto::{AddOn, Batch, PrototypeConfig, PrototypeNetwork, ppnet};
//!
//! /// Each pixel is its own feature.
//! struct Pixels;
//! impl FeatureExtractor for Pixels {
//!     fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
//!         Ok(images.clone())
//!     }
//!     fn identity(&self) -> String {
//!         "pixels".to_owned()
//!     }
//! }
//!
//! let device = Device::Cpu;
//! // Dark and bright images.
//! let dark = Tensor::zeros((2, 1, 3, 3), DType::F32, &device)?;
//! let bright = Tensor::ones((2, 1, 3, 3), DType::F32, &device)?;
//! let names = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
//! let batch = Batch::new(Tensor::cat(&[&dark, &bright], 0)?, names, vec![0, 0, 1, 1])?;
//! let data = TrainData::new(Batches::fixed(vec![batch.clone()]))
//!     .validated_on(Batches::fixed(vec![batch.clone()]))
//!     .pushed_onto(Batches::fixed(vec![batch]));
//!
//! let config = PrototypeConfig { prototypes: 4, width: 1, add_on: AddOn::None, ..ppnet(1, 2) };
//! let params = Params::fresh(0, &device);
//! let network = PrototypeNetwork::new(&config, Pixels, &params)?;
//! let stage = Stage {
//!     name: "prototypes".to_owned(),
//!     epochs: 40,
//!     train: Parts { prototypes: Some(Rate::new(0.05)), ..Default::default() },
//!     decay: Default::default(),
//!     losses: Default::default(),
//!     statistics: Default::default(),
//!     push: Some(Push::default()),
//! };
//! let config = TrainConfig::new(Schedule { stages: vec![stage] }, 0);
//! let mut trainer = Trainer::new(network, params.finish()?, config, serde_json::json!({}))?;
//! trainer.run(&data, None, &CancelToken::new(), &mut ())?;
//!
//! let epoch = &trainer.history().epochs[39];
//! assert_eq!(epoch.pushed.as_ref().and_then(|pushed| pushed.validation).map(|v| v.accuracy), Some(1.0));
//! // Each prototype is a pixel now, and it is known which.
//! let projected = trainer.projected().ok_or("no push")?;
//! assert_eq!(projected.projection.sources[0].image, "a");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod checkpoint;
mod config;
mod data;
mod history;
mod observer;
mod rule;
mod step;
#[cfg(test)]
mod tests;
mod trainer;

pub use config::TrainConfig;
pub use data::{Batches, TrainData};
pub use history::{EpochReport, History, Pushed, Validation};
pub use observer::StageObserver;
pub use trainer::{LAST, PROTOTYPES, Trainer};
pub use xdiff_core::train::{Outcome, Progress, StepReport, TrainObserver};
