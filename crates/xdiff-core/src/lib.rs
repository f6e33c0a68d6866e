//! Diffusion for images that must be explained: schedulers, samplers, U-Nets, training, and the
//! traits through which the xdiff crates compose.

pub mod error;
pub mod traits;

pub use error::{Error, Result};
pub use traits::*;
