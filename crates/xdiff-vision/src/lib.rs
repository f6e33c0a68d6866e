//! Classifiers, feature extractors and segmentation networks with torchvision's names and numbers,
//! and their training.
//!
//! Errors are those of [`xdiff_core::Error`]: the networks here implement that crate's traits.

mod alexnet;
mod architecture;
mod backbone;
mod block;
mod densenet;
mod network;
mod pass;
mod plain;
mod resnet;
pub mod segment;
mod sequence;
mod squeezenet;
pub mod train;
mod vgg;

pub use alexnet::{AlexNet, AlexNetConfig};
pub use architecture::Architecture;
pub use backbone::{Backbone, BackboneConfig, Description, Head, Maps, Output};
pub use densenet::{DenseNet, DenseNetConfig};
pub use network::Network;
pub use pass::{Pass, is_below};
pub use resnet::{ResNet, ResNetBlock, ResNetConfig};
pub use squeezenet::{SqueezeNet, SqueezeNetConfig, SqueezeNetVersion};
pub use vgg::{Vgg, VggConfig};
pub use xdiff_core::{Error, Result};
