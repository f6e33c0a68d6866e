//! Prototype networks: which patches of which training images an image looks like, how much each of
//! them weighs, and how far that answer can be trusted.

mod batch;
pub mod diffusion;
mod distance;
pub mod error;
mod prototypes;
mod similarity;

pub use batch::Batch;
pub use distance::{Nearest, nearest, squared_distances};
pub use error::{Error, Result};
pub use prototypes::Prototypes;
pub use similarity::Similarity;
