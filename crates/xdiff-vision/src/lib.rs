//! Classifiers, feature extractors and segmentation networks with torchvision's names and numbers,
//! and their training.
//!
//! Errors are those of [`xdiff_core::Error`]: the networks here implement that crate's traits.

mod alexnet;
mod architecture;
mod backbone;
mod check;
mod densenet;
mod fid;
mod googlenet;
mod inception;
mod labels;
mod mobilenet;
mod network;
mod normalise;
mod parts;
mod pass;
mod resnet;
pub mod segment;
mod small;
mod squeezenet;
#[cfg(test)]
mod testing;
pub mod train;
mod vgg;
mod weights;

pub use alexnet::{AlexNet, AlexNetConfig};
pub use architecture::Architecture;
pub use backbone::{Backbone, BackboneConfig, Description, Head, Maps, Output};
pub use densenet::{DenseNet, DenseNetConfig};
pub use fid::{FidInception, FidInput, FidLevels, FidResize, FidWeights};
pub use googlenet::{GoogLeNet, GoogLeNetConfig};
pub use inception::{InceptionConfig, InceptionPooling, InceptionV3};
pub use labels::{ClassNames, Ranked, top_k};
pub use mobilenet::{InvertedResiduals, MobileNetV2, MobileNetV2Config};
pub use network::Network;
pub use normalise::Normalise;
pub use pass::{Pass, is_below};
pub use resnet::{ResNet, ResNetBlock, ResNetConfig};
pub use small::{SmallCnn, SmallCnnConfig};
pub use squeezenet::{SqueezeNet, SqueezeNetConfig, SqueezeNetVersion};
pub use vgg::{Vgg, VggConfig};
pub use weights::{Fitted, Fitting, Pretrained, Stem};
pub use xdiff_core::{Error, Result};
