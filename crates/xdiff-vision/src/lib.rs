//! Classifiers, feature extractors and segmentation networks with torchvision's names and numbers,
//! and their training.
//!
//! Errors are those of [`xdiff_core::Error`]: the networks here implement that crate's traits.

mod backbone;
mod block;
mod network;
mod pass;
pub mod segment;
pub mod train;

pub use backbone::{Backbone, Description, Head, Maps, Output};
pub use network::Network;
pub use pass::Pass;
pub use xdiff_core::{Error, Result};
