//! Layers over candle tensors for models that must be explained: gradients that are right on every
//! size, fast CPU kernels, seeded randomness, taps on every activation, weights in and out, and
//! optimisers whose state can be saved.

mod checkpoint;
pub mod compute;
pub mod error;
mod grad;
pub mod gradcheck;
mod kernels;
pub mod layers;
pub mod optim;
pub mod params;
mod prepared;
pub mod rng;
pub mod tap;
pub mod weights;

pub use checkpoint::checkpoint;
pub use error::{Error, Result};
pub use grad::Gradients;
pub use params::{Init, ParamSet, Params};
pub use rng::{Rng, TorchRng};
pub use tap::Tap;
