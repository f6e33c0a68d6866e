//! AlexNet.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::Params;
use xdiff_nn::layers::{Conv2dConfig, Pool2d};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::{Layer, Sequence, SequenceHead, head_of, torch_default};
use crate::{Backbone, BackboneConfig, Description, Head, Maps, Pass, Result};

/// What an [`AlexNet`] is made of, under torchvision's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlexNetConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart.
    pub num_classes: usize,
    /// Share of the numbers dropped before the first two linear layers in training.
    pub dropout: f64,
}

impl Default for AlexNetConfig {
    fn default() -> Self {
        Self::new(3, 1000)
    }
}

impl AlexNetConfig {
    /// torchvision's network.
    pub fn new(in_channels: usize, num_classes: usize) -> Self {
        Self { in_channels, num_classes, dropout: 0.5 }
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

impl BackboneConfig for AlexNetConfig {
    fn describe(&self) -> Description {
        Description {
            name: "alexnet".to_owned(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            least_side: 63,
            classifier: "classifier.6".to_owned(),
            auxiliary_classifiers: Vec::new(),
            stem: "features.0".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(AlexNet::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(AlexNet::without_head(self, params)?))
    }
}

/// AlexNet in the form of Krizhevsky, *One weird trick for parallelizing convolutional neural
/// networks* (2014), with torchvision's modules.
///
/// Sites: `features.0` … `features.12`, `features`, `avgpool`, `classifier.0` … `classifier.6`,
/// `classifier`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{BackboneConfig, Pass, AlexNetConfig};
///
/// // For feature maps alone; `AlexNet::new` asks for the weights of the large linear layers too.
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = AlexNetConfig::new(1, 4).build_without_head(&params)?;
/// let images = Rng::new(1).randn((2, 1, 64, 70), &Device::Cpu)?;
/// assert_eq!(net.maps(&images, &mut Pass::eval(&mut ()))?.maps.dims(), [2, 256, 1, 1]);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct AlexNet {
    description: Description,
    features: Sequence,
    head: Option<SequenceHead>,
}

impl AlexNet {
    /// A network with torchvision's initialisation: PyTorch's defaults.
    ///
    /// # Errors
    /// Those of [`AlexNetConfig::validate`] and [`Params::weight`].
    pub fn new(config: &AlexNetConfig, params: &Params) -> Result<Self> {
        let network = Self::without_head(config, params)?;
        let linear = |inputs, outputs| Layer::Linear((inputs, outputs), torch_default(inputs));
        let classifier = [
            Layer::Dropout(config.dropout),
            linear(256 * 6 * 6, 4096),
            Layer::Relu,
            Layer::Dropout(config.dropout),
            linear(4096, 4096),
            Layer::Relu,
            linear(4096, config.num_classes),
        ];
        let head = Some(SequenceHead::new(6, classifier, params)?);
        Ok(Self { description: config.describe(), head, ..network })
    }

    fn without_head(config: &AlexNetConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        let conv = |config: Conv2dConfig| Layer::Conv(config, torch_default(config.fan_in()));
        let pool = Layer::MaxPool(Pool2d::new(3, 2));
        let features = [
            conv(Conv2dConfig::new(config.in_channels, 64, 11).stride(4).padding(2)),
            Layer::Relu,
            pool,
            conv(Conv2dConfig::new(64, 192, 5).padding(2)),
            Layer::Relu,
            pool,
            conv(Conv2dConfig::new(192, 384, 3).padding(1)),
            Layer::Relu,
            conv(Conv2dConfig::new(384, 256, 3).padding(1)),
            Layer::Relu,
            conv(Conv2dConfig::new(256, 256, 3).padding(1)),
            Layer::Relu,
            pool,
        ];
        Ok(Self {
            description: config.describe().without_head(),
            features: Sequence::new(features, &params.at("features"))?,
            head: None,
        })
    }
}

impl Backbone for AlexNet {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        Ok(Maps { maps: self.features.forward(images, pass)?.output, auxiliary: Vec::new() })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        head_of(&self.head)?.forward(maps, pass)
    }
}
