//! Prototype networks: which patches of which training images an image looks like, how much each of
//! them weighs, and how far that answer can be trusted.
//!
//! - A [`PrototypeNetwork`] is features, [`AddOn`] layers, [`Prototypes`], a [`Similarity`], an
//!   [`Assignment`] and a [`Head`]: [`ppnet`], [`eppnet`], [`protopool`] and [`soft_codebook`] are four
//!   configurations of it. [`StateDict`] reads the published weights. Features come from any
//!   [`FeatureExtractor`](xdiff_core::FeatureExtractor), such as a frozen denoiser ([`diffusion`]).
//! - It is trained by a [`train::Trainer`] through [`stage`]s under [`loss`]es; images of one class have a
//!   way of their own ([`single_class`]).
//! - [`projection::project`] makes every prototype a patch of a training image and records which;
//!   [`prune`] finds those that mean nothing.
//! - [`influence`], [`correlation`] and [`faithfulness`] say how much each prototype weighs for an image
//!   and whether that can be believed, [`diffusion::InfluenceOverTime`] how it comes about while the image
//!   is drawn, [`provenance`] whether it is true where the truth is known, [`evaluation`] what the
//!   published scores of prototypes say.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use xdiff_core::FeatureExtractor;
//! use xdiff_nn::{Rng, Tap};
//! use xdiff_proto::correlation::{Correlation, Queries};
//! use xdiff_proto::faithfulness::{Definition, Evidence};
//! use xdiff_proto::projection::{ProjectionConfig, project};
//! use xdiff_proto::{Batch, Error, Prototypes, Similarity};
//!
//! /// Each pixel is its own feature; in earnest a backbone, or a denoiser.
//! struct Pixels;
//! impl FeatureExtractor for Pixels {
//!     fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
//!         Ok(images.clone())
//!     }
//!     fn identity(&self) -> String {
//!         "pixels".to_owned()
//!     }
//! }
//!
//! // Three prototypes become patches of the training images.
//! let training = Rng::new(0).randn((4, 2, 6, 6), &Device::Cpu)?;
//! let ids = (0..4).map(|i| format!("patient {i}")).collect();
//! let prototypes = Prototypes::from_vectors(&Rng::new(1).randn((3, 2), &Device::Cpu)?)?;
//! let config = ProjectionConfig { similarity: Similarity::Linear, ..Default::default() };
//! let stream = [Ok::<_, Error>(Batch::unlabelled(training, ids)?)];
//! let projected = project(&Pixels, &prototypes, stream, &config)?;
//!
//! // Which of them a new image looks like, and how faithful that is.
//! let images = Rng::new(2).randn((2, 2, 6, 6), &Device::Cpu)?;
//! let queries = Queries::new(&images, &Pixels.features(&images, &mut ())?, &projected, &config)?;
//! let evidence = Evidence::from_similarity(&queries.similarity()?)?
//!     .with_correlations(Correlation::Latent, queries.correlation(Correlation::Latent)?)?;
//! println!("{:?} by {:?}", evidence.influence()[0], projected.projection.sources);
//! assert!(evidence.score(Definition::Eq14)?[0].is_some_and(|f| f.abs() <= 1.0 / 3.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod add_on;
mod assignment;
mod batch;
mod codebook;
pub mod correlation;
pub mod diffusion;
mod distance;
mod eppnet;
pub mod error;
pub mod evaluation;
pub mod faithfulness;
mod head;
mod host;
pub mod influence;
pub mod loss;
mod network;
mod ppnet;
pub mod projection;
mod protopool;
mod prototypes;
pub mod provenance;
mod pruning;
mod similarity;
pub mod single_class;
mod slots;
mod soft_codebook;
pub mod stage;
mod state_dict;
#[cfg(test)]
mod testing;
pub mod train;
pub mod window;

pub use add_on::AddOn;
pub use assignment::{Assignment, Mixing};
pub use batch::Batch;
pub use codebook::Codes;
pub use distance::{Nearest, nearest, squared_distances};
pub use eppnet::eppnet;
pub use error::{Error, Result};
pub use head::Head;
pub use network::{PrototypeConfig, PrototypeNetwork, Reading};
pub use ppnet::ppnet;
pub use protopool::{Preset, protopool};
pub use prototypes::Prototypes;
pub use pruning::{Neighbour, PruneConfig, Pruned, Pruning, prune};
pub use similarity::Similarity;
pub use slots::{Annealing, Gumbel, OneHot, SlotReading, SlotSampling};
pub use soft_codebook::soft_codebook;
pub use state_dict::StateDict;
