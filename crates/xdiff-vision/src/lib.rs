//! Classifiers, feature extractors and segmentation networks with torchvision's names and numbers,
//! and their training.
//!
//! Errors are those of [`xdiff_core::Error`]: the networks here implement that crate's traits.

mod averaged_head;
mod backbone;
mod block;
mod checks;
mod conv_norm;
mod fid;
mod googlenet;
mod inception;
mod mixed;
mod mobilenet;
mod network;
mod pass;
#[cfg(test)]
mod testing;
mod transform_input;

pub use backbone::{Backbone, Description, Head, Maps, Output};
pub use fid::{FidInception, FidInput, FidLevels, FidResize, FidWeights};
pub use googlenet::{GoogLeNet, GoogLeNetConfig};
pub use inception::{InceptionConfig, InceptionPooling, InceptionV3};
pub use mobilenet::{InvertedResiduals, MobileNetV2, MobileNetV2Config};
pub use network::Network;
pub use pass::Pass;
pub use xdiff_core::{Error, Result};
