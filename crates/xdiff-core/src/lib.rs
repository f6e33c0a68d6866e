//! Diffusion for images that must be explained: schedulers, samplers, U-Nets, training, and the
//! traits through which the xdiff crates compose.

pub mod cancel;
pub mod error;
pub mod train;
pub mod traits;
pub mod unet;

pub use error::{Error, Result};
pub use traits::*;
