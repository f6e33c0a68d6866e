//! SqueezeNet.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::layers::{Conv2dConfig, Pool2d, adaptive_avg_pool2d};
use xdiff_nn::{Init, Params};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::{FireWidths, Layer, Sequence, head_of, kaiming_uniform};
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
            classifier: "classifier.1".to_owned(),
            auxiliary_classifiers: Vec::new(),
            stem: "features.0".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(SqueezeNet::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(SqueezeNet::without_head(self, params)?))
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
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Backbone, Pass, SqueezeNet, SqueezeNetConfig, SqueezeNetVersion};
///
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = SqueezeNet::new(&SqueezeNetConfig::new(SqueezeNetVersion::V1_1, 1, 4), &params)?;
/// let images = Rng::new(1).randn((2, 1, 40, 33), &Device::Cpu)?;
/// let output = net.forward(&images, &mut Pass::eval(&mut ()))?;
/// assert_eq!((output.logits.dims(), output.features.dims()), (&[2, 4][..], &[2, 512][..]));
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct SqueezeNet {
    description: Description,
    features: Sequence,
    classifier: Option<Sequence>,
}

impl SqueezeNet {
    /// A network with torchvision's initialisation.
    ///
    /// # Errors
    /// Those of [`SqueezeNetConfig::validate`] and [`Params::weight`].
    pub fn new(config: &SqueezeNetConfig, params: &Params) -> Result<Self> {
        let network = Self::without_head(config, params)?;
        let last = Conv2dConfig::new(512, config.num_classes, 1);
        let classifier = [
            Layer::Dropout(config.dropout),
            Layer::Conv(last, (Init::Normal(0.01), Init::ZEROS)),
            Layer::Relu,
            Layer::MeanPool(1),
        ];
        let classifier = Some(Sequence::new(classifier, &params.at("classifier"))?);
        Ok(Self { description: config.describe(), classifier, ..network })
    }

    fn without_head(config: &SqueezeNetConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            description: config.describe().without_head(),
            features: Sequence::new(features(config), &params.at("features"))?,
            classifier: None,
        })
    }
}

fn features(config: &SqueezeNetConfig) -> Vec<Layer> {
    let stem = |width, kernel| {
        let conv = Conv2dConfig::new(config.in_channels, width, kernel).stride(2);
        Layer::Conv(conv, kaiming_uniform(conv.fan_in()))
    };
    let pool = Layer::MaxPool(Pool2d { ceil_mode: true, ..Pool2d::new(3, 2) });
    let fire = |inputs, squeeze, expand| Layer::Fire(FireWidths { inputs, squeeze, expand });
    match config.version {
        SqueezeNetVersion::V1_0 => vec![
            stem(96, 7),
            Layer::Relu,
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
            Layer::Relu,
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

impl Backbone for SqueezeNet {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        Ok(Maps { maps: self.features.forward(images, pass)?.output, auxiliary: Vec::new() })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let logits = head_of(&self.classifier)?.forward(maps, pass)?.output.flatten_from(1)?;
        let features = adaptive_avg_pool2d(maps, (1, 1))?.flatten_from(1)?;
        Ok(Head { logits, features })
    }
}
