//! Diffusion for images that must be explained: schedulers, samplers, U-Nets, training, and the
//! traits through which the xdiff crates compose.

pub mod cancel;
mod cond;
pub mod error;
pub mod guidance;
mod lenient;
mod range;
pub mod sample;
pub mod schedule;
pub mod scheduler;
pub mod spacing;
pub mod statistics;
pub mod train;
pub mod traits;
pub mod unet;

pub use error::{Error, Result};
pub use range::PixelRange;
pub use traits::*;
