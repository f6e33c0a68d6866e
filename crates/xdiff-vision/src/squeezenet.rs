//! SqueezeNet.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::layers::{Conv2dConfig, Pool2d, adaptive_avg_pool2d};
use xdiff_nn::{Init, Params};

use crate::backbone::{changed, positive, probability};
use crate::block::{Conv, relu};
use crate::sequence::{Plan, Sequence};
use crate::{Backbone, BackboneConfig, Description, Head, Maps, Pass, Result};

/// Which SqueezeNet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SqueezeNetVersion {
    /// As in the paper.
    #[default]
    #[serde(rename = "1_0")]
    V1_0,
    /// The authors' later one, with 2.4 times less computation.
    #[serde(rename = "1_1")]
    V1_1,
}

/// What a [`SqueezeNet`] is made of, under torchvision's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqueezeNetConfig {
    /// Which one.
    pub version: SqueezeNetVersion,
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart.
    pub num_classes: usize,
    /// Share of the numbers dropped before the last convolution in training.
    pub dropout: f64,
}

impl Default for SqueezeNetConfig {
    fn default() -> Self {
        Self::new(SqueezeNetVersion::V1_0, 3, 1000)
    }
}

impl SqueezeNetConfig {
    /// torchvision's network.
    pub fn new(version: SqueezeNetVersion, in_channels: usize, num_classes: usize) -> Self {
        Self { version, in_channels, num_classes, dropout: 0.5 }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        probability("dropout", self.dropout)
    }
}

impl BackboneConfig for SqueezeNetConfig {
    fn describe(&self) -> Description {
        let (name, least_side) = match self.version {
            SqueezeNetVersion::V1_0 => ("squeezenet1_0", 21),
            SqueezeNetVersion::V1_1 => ("squeezenet1_1", 17),
        };
        Description {
            name: name.to_owned(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            least_side,
            head: "classifier.1".to_owned(),
            auxiliary_heads: Vec::new(),
            stem: "features.0".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(SqueezeNet::new(self, params)?))
    }
}

/// SqueezeNet (Iandola et al., *SqueezeNet: AlexNet-level accuracy with 50x fewer parameters*, 2016)
/// with torchvision's modules.
///
/// The last convolution gives a map for each class, and the logits are the means of the maps after
/// ReLU, so they are never negative. The penultimate features are the means of the maps that this
/// convolution takes.
///
/// Sites: `features.0` …, the layers of a fire module (`features.3.squeeze`), `features`,
/// `classifier.0` … `classifier.3`, `classifier`.
#[derive(Debug)]
pub struct SqueezeNet {
    description: Description,
    features: Sequence,
    classifier: Sequence,
}

impl SqueezeNet {
    /// A network with torchvision's initialisation.
    ///
    /// # Errors
    /// Those of [`SqueezeNetConfig::validate`] and [`Params::weight`].
    pub fn new(config: &SqueezeNetConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        let last = Conv2dConfig::new(512, config.num_classes, 1);
        let classifier = [
            Plan::Dropout(config.dropout),
            Plan::Conv(last, (Init::Normal(0.01), Init::ZEROS)),
            Plan::Relu,
            Plan::MeanPool(1),
        ];
        Ok(Self {
            description: config.describe(),
            features: Sequence::new(features(config), &params.at("features"))?,
            classifier: Sequence::new(classifier, &params.at("classifier"))?,
        })
    }
}

fn features(config: &SqueezeNetConfig) -> Vec<Plan> {
    let stem = |width, kernel| {
        let conv = Conv2dConfig::new(config.in_channels, width, kernel).stride(2);
        Plan::Conv(conv, drawn(&conv))
    };
    let pool = Plan::MaxPool(Pool2d { ceil_mode: true, ..Pool2d::new(3, 2) });
    let fire = |inputs, squeeze, expand| Plan::Fire(FireWidths { inputs, squeeze, expand });
    match config.version {
        SqueezeNetVersion::V1_0 => vec![
            stem(96, 7),
            Plan::Relu,
            pool,
            fire(96, 16, 64),
            fire(128, 16, 64),
            fire(128, 32, 128),
            pool,
            fire(256, 32, 128),
            fire(256, 48, 192),
            fire(384, 48, 192),
            fire(384, 64, 256),
            pool,
            fire(512, 64, 256),
        ],
        SqueezeNetVersion::V1_1 => vec![
            stem(64, 3),
            Plan::Relu,
            pool,
            fire(64, 16, 64),
            fire(128, 16, 64),
            pool,
            fire(128, 32, 128),
            fire(256, 32, 128),
            pool,
            fire(256, 48, 192),
            fire(384, 48, 192),
            fire(384, 64, 256),
            fire(512, 64, 256),
        ],
    }
}

/// How weight and bias of all convolutions but the last are drawn.
fn drawn(conv: &Conv2dConfig) -> (Init, Init) {
    (Init::kaiming_uniform(conv.fan_in()), Init::ZEROS)
}

impl Backbone for SqueezeNet {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        Ok(Maps { maps: self.features.forward(images, pass)?.output, auxiliary: Vec::new() })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let logits = self.classifier.forward(maps, pass)?.output.flatten_from(1)?;
        let features = adaptive_avg_pool2d(maps, (1, 1))?.flatten_from(1)?;
        Ok(Head { logits, features })
    }
}

/// Channels of a [`Fire`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FireWidths {
    inputs: usize,
    squeeze: usize,
    /// Of each of the two expanding convolutions.
    expand: usize,
}

/// A fire module: 1×1 to few channels, then 1×1 and 3×3 side by side to many, ReLU after each.
#[derive(Debug)]
pub(crate) struct Fire {
    squeeze: (Conv, String),
    expand: [(Conv, String); 2],
}

impl Fire {
    pub(crate) fn new(widths: FireWidths, params: &Params) -> Result<Self> {
        let FireWidths { inputs, squeeze, expand } = widths;
        let conv = |config: Conv2dConfig, name: &str| -> Result<_> {
            let conv = Conv::new(config, drawn(&config), &params.at(name))?;
            Ok((conv, params.full(format!("{name}_activation"))))
        };
        Ok(Self {
            squeeze: conv(Conv2dConfig::new(inputs, squeeze, 1), "squeeze")?,
            expand: [
                conv(Conv2dConfig::new(squeeze, expand, 1), "expand1x1")?,
                conv(Conv2dConfig::new(squeeze, expand, 3).padding(1), "expand3x3")?,
            ],
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut run = |(conv, activation): &(Conv, String), x: &Tensor| {
            let y = conv.forward(x, pass)?;
            relu(&y, activation, pass)
        };
        let x = run(&self.squeeze, x)?;
        let parts = [run(&self.expand[0], &x)?, run(&self.expand[1], &x)?];
        Ok(Tensor::cat(&parts, 1)?)
    }
}
