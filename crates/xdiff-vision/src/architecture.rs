//! The networks by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xdiff_nn::Params;

use crate::{
    AlexNetConfig, Backbone, BackboneConfig, DenseNetConfig, Error, GoogLeNetConfig, InceptionConfig,
    MobileNetV2Config, ResNetConfig, Result, SmallCnnConfig, SqueezeNetConfig, SqueezeNetVersion, VggConfig,
};

/// A network by torchvision's name.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::Params;
/// use xdiff_vision::Architecture;
///
/// let architecture: Architecture = "resnet18".parse()?;
/// let params = Params::fresh(0, &Device::Cpu);
/// let network = architecture.build(1, 4, &params)?;
/// assert_eq!(network.describe().classifier, "fc");
/// assert!("resnet17".parse::<Architecture>().is_err());
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Architecture {
    /// ResNet-18.
    #[serde(rename = "resnet18")]
    ResNet18,
    /// ResNet-34.
    #[serde(rename = "resnet34")]
    ResNet34,
    /// ResNet-50.
    #[serde(rename = "resnet50")]
    ResNet50,
    /// VGG-16.
    Vgg16,
    /// VGG-16 with batch norm.
    Vgg16Bn,
    /// VGG-19.
    Vgg19,
    /// VGG-19 with batch norm.
    Vgg19Bn,
    /// AlexNet.
    #[serde(rename = "alexnet")]
    AlexNet,
    /// SqueezeNet 1.0.
    #[serde(rename = "squeezenet1_0")]
    SqueezeNet1_0,
    /// SqueezeNet 1.1.
    #[serde(rename = "squeezenet1_1")]
    SqueezeNet1_1,
    /// DenseNet-121.
    #[serde(rename = "densenet121")]
    DenseNet121,
    /// MobileNetV2.
    #[serde(rename = "mobilenet_v2")]
    MobileNetV2,
    /// GoogLeNet.
    #[serde(rename = "googlenet")]
    GoogLeNet,
    /// Inception v3.
    InceptionV3,
    /// The Inception v3 of the Fréchet Inception distance.
    FidInception,
    /// A small residual network for small images; torchvision has none like it.
    SmallCnn,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::Vgg16,
        Self::Vgg16Bn,
        Self::Vgg19,
        Self::Vgg19Bn,
        Self::AlexNet,
        Self::SqueezeNet1_0,
        Self::SqueezeNet1_1,
        Self::DenseNet121,
        Self::MobileNetV2,
        Self::GoogLeNet,
        Self::InceptionV3,
        Self::FidInception,
        Self::SmallCnn,
    ];

    /// torchvision's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::Vgg16 => "vgg16",
            Self::Vgg16Bn => "vgg16_bn",
            Self::Vgg19 => "vgg19",
            Self::Vgg19Bn => "vgg19_bn",
            Self::AlexNet => "alexnet",
            Self::SqueezeNet1_0 => "squeezenet1_0",
            Self::SqueezeNet1_1 => "squeezenet1_1",
            Self::DenseNet121 => "densenet121",
            Self::MobileNetV2 => "mobilenet_v2",
            Self::GoogLeNet => "googlenet",
            Self::InceptionV3 => "inception_v3",
            Self::FidInception => "fid_inception",
            Self::SmallCnn => "small_cnn",
        }
    }

    /// The configuration of the network for images of that many channels and that many
    /// classes.
    pub fn config(self, in_channels: usize, classes: usize) -> Box<dyn BackboneConfig> {
        let squeezenet = |version| SqueezeNetConfig::new(version, in_channels, classes);
        match self {
            Self::ResNet18 => Box::new(ResNetConfig::resnet18(in_channels, classes)),
            Self::ResNet34 => Box::new(ResNetConfig::resnet34(in_channels, classes)),
            Self::ResNet50 => Box::new(ResNetConfig::resnet50(in_channels, classes)),
            Self::Vgg16 => Box::new(VggConfig::vgg16(in_channels, classes)),
            Self::Vgg16Bn => Box::new(VggConfig::vgg16(in_channels, classes).with_batch_norm()),
            Self::Vgg19 => Box::new(VggConfig::vgg19(in_channels, classes)),
            Self::Vgg19Bn => Box::new(VggConfig::vgg19(in_channels, classes).with_batch_norm()),
            Self::AlexNet => Box::new(AlexNetConfig::new(in_channels, classes)),
            Self::SqueezeNet1_0 => Box::new(squeezenet(SqueezeNetVersion::V1_0)),
            Self::SqueezeNet1_1 => Box::new(squeezenet(SqueezeNetVersion::V1_1)),
            Self::DenseNet121 => Box::new(DenseNetConfig::densenet121(in_channels, classes)),
            Self::MobileNetV2 => Box::new(MobileNetV2Config::new(in_channels, classes)),
            Self::GoogLeNet => Box::new(GoogLeNetConfig::new(in_channels, classes)),
            Self::InceptionV3 => Box::new(InceptionConfig::new(in_channels, classes)),
            Self::FidInception => {
                Box::new(InceptionConfig { in_channels, num_classes: classes, ..InceptionConfig::fid() })
            }
            Self::SmallCnn => Box::new(SmallCnnConfig::new(in_channels, classes)),
        }
    }

    /// torchvision's network for images of that many channels and that many classes.
    ///
    /// # Errors
    /// As [`BackboneConfig::build`].
    pub fn build(self, in_channels: usize, classes: usize, params: &Params) -> Result<Box<dyn Backbone>> {
        self.config(in_channels, classes).build(params)
    }

    /// The same without head and auxiliary classifiers, for feature maps alone.
    ///
    /// # Errors
    /// As [`BackboneConfig::build_without_head`].
    pub fn build_without_head(self, in_channels: usize, params: &Params) -> Result<Box<dyn Backbone>> {
        self.config(in_channels, 1).build_without_head(params)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|architecture| architecture.name()).collect();
            Error::input("architecture", format!("`{name}` is not one of {}", known.join(", ")))
        })
    }
}
