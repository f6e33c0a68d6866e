//! Networks for images under torchvision's names and with torchvision's numbers (classifiers, feature
//! extractors, segmentation), and their training.
//!
//! - [`Architecture`] names the networks. Each has a configuration of torchvision's keyword arguments,
//!   such as [`ResNetConfig`], behind the trait [`BackboneConfig`].
//! - A [`Backbone`] is one network in two parts: images to feature maps, and maps to logits. A [`Pass`]
//!   goes with each run; its tap sees, and may replace, the activation of every module.
//! - [`Pretrained`] reads trained weights and adapts them to other channels and classes;
//!   [`Normalise`] brings pixels to the range that such weights ask for.
//! - [`Network`] is a backbone behind the traits through which the crates compose
//!   ([`Classifier`](xdiff_core::Classifier), [`FeatureExtractor`](xdiff_core::FeatureExtractor)), and
//!   [`FidInception`] the extractor of the Fréchet Inception distance.
//! - [`train`] trains classifiers, [`segment`] has networks and losses for masks.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use xdiff_core::cancel::CancelToken;
//! use xdiff_core::{Classifier, FeatureExtractor};
//! use xdiff_nn::Params;
//! use xdiff_nn::tap::{Recorder, Sites};
//! use xdiff_vision::train::{Classification, CrossEntropy, Feed, Fit, FitConfig, FitData, Labelled, Measure};
//! use xdiff_vision::{Architecture, top_k};
//!
//! // A network with fresh weights, for one channel and two classes. With trained weights:
//! // Pretrained::read("resnet18-f37072fd.pth")?.adapt(…).
//! let device = Device::Cpu;
//! let params = Params::fresh(0, &device);
//! let network = Architecture::SmallCnn.build(1, 2, &params)?;
//!
//! // It learns to tell dark images from bright ones.
//! let dark = Tensor::zeros((4, 1, 8, 8), DType::F32, &device)?;
//! let images = Tensor::cat(&[&dark, &(&dark + 1.0)?], 0)?;
//! let batch = Labelled::new(images.clone(), vec![0, 0, 0, 0, 1, 1, 1, 1], vec![])?;
//! let objective = Classification::from_box(network, CrossEntropy::default())?;
//! let config = FitConfig { epochs: 30, monitor: Measure::Accuracy, ..Default::default() };
//! let mut fit = Fit::new(objective, params.finish()?, config, serde_json::json!({}))?;
//! let feed = || Feed::fixed(vec![vec![batch.clone()]]);
//! let data = FitData::new(feed()).validated_on(feed());
//! fit.run(&data, None, &CancelToken::new(), &mut ())?;
//! let network = fit.into_best()?.objective.into_network("dark and bright, seed 0");
//! assert_eq!(network.identity(), "small_cnn (dark and bright, seed 0)");
//!
//! // It classifies,
//! let (logits, _) = network.classify(&images, &mut ())?;
//! let answers: Vec<usize> = top_k(&logits, 1)?.iter().map(|ranked| ranked[0].class).collect();
//! assert_eq!(answers, [0, 0, 0, 0, 1, 1, 1, 1]);
//!
//! // and gives feature maps, the last and those of any module.
//! let mut tap = Recorder::new(Sites::named(["layer2"]));
//! assert_eq!(network.features(&images, &mut tap)?.dims(), [8, 128, 2, 2]);
//! assert_eq!(tap.seen()["layer2"].dims(), [8, 64, 4, 4]);
//! # Ok::<(), xdiff_vision::Error>(())
//! ```
//!
//! Errors are those of [`xdiff_core::Error`]: the networks here implement that crate's traits.

mod alexnet;
mod architecture;
mod backbone;
mod check;
mod class_names;
mod densenet;
mod fid;
mod googlenet;
mod inception;
mod mobilenet;
mod network;
mod normalise;
mod parts;
mod pass;
mod pretrained;
mod ranking;
mod resnet;
pub mod segment;
mod small_cnn;
mod squeezenet;
#[cfg(test)]
mod testing;
pub mod train;
mod vgg;

// What all networks have in common.
pub use architecture::Architecture;
pub use backbone::{Backbone, BackboneConfig, Description, Head, Maps, Output};
pub use network::Network;
pub use pass::{Pass, is_below};
pub use xdiff_core::{Error, Result};

// The networks.
pub use alexnet::{AlexNet, AlexNetConfig};
pub use densenet::{DenseNet, DenseNetConfig};
pub use googlenet::{GoogLeNet, GoogLeNetConfig};
pub use inception::{InceptionConfig, InceptionPooling, InceptionV3};
pub use mobilenet::{InvertedResiduals, MobileNetV2, MobileNetV2Config};
pub use resnet::{ResNet, ResNetBlock, ResNetConfig};
pub use small_cnn::{SmallCnn, SmallCnnConfig};
pub use squeezenet::{SqueezeNet, SqueezeNetConfig, SqueezeNetVersion};
pub use vgg::{Vgg, VggConfig};

// Before and behind them.
pub use class_names::ClassNames;
pub use fid::{FidInception, FidInput, FidLevels, FidResize, FidWeights};
pub use normalise::Normalise;
pub use pretrained::{Adaptation, Adapted, Pretrained, StemWeights};
pub use ranking::{Ranked, top_k};
