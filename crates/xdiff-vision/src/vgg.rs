//! VGG networks.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::layers::{Conv2dConfig, Pool2d};
use xdiff_nn::{Init, Params};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::{Layer, Sequence, SequenceHead, head_of, torch_default};
use crate::{Backbone, BackboneConfig, Description, Head, Maps, Pass, Result};

/// Channels of the five stages.
const WIDTHS: [usize; 5] = [64, 128, 256, 512, 512];

/// What a [`Vgg`] is made of; VGG-16 for three channels and 1000 classes by default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VggConfig {
    /// How many convolutions each of the five stages has.
    pub layers: [usize; 5],
    /// Whether each convolution is followed by batch norm.
    pub batch_norm: bool,
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart.
    pub num_classes: usize,
    /// Whether fresh weights are drawn as torchvision draws them (Kaiming normal by the outputs for
    /// convolutions, deviation 0.01 for linear layers, biases 0) or by PyTorch's defaults.
    pub init_weights: bool,
    /// Share of the numbers dropped after the first two linear layers in training.
    pub dropout: f64,
}

impl Default for VggConfig {
    fn default() -> Self {
        Self::vgg16(3, 1000)
    }
}

impl VggConfig {
    fn of(layers: [usize; 5], in_channels: usize, num_classes: usize) -> Self {
        Self { layers, batch_norm: false, in_channels, num_classes, init_weights: true, dropout: 0.5 }
    }

    /// VGG-11, configuration A of the paper.
    pub fn vgg11(in_channels: usize, num_classes: usize) -> Self {
        Self::of([1, 1, 2, 2, 2], in_channels, num_classes)
    }

    /// VGG-13, configuration B of the paper.
    pub fn vgg13(in_channels: usize, num_classes: usize) -> Self {
        Self::of([2, 2, 2, 2, 2], in_channels, num_classes)
    }

    /// VGG-16, configuration D of the paper.
    pub fn vgg16(in_channels: usize, num_classes: usize) -> Self {
        Self::of([2, 2, 3, 3, 3], in_channels, num_classes)
    }

    /// VGG-19, configuration E of the paper.
    pub fn vgg19(in_channels: usize, num_classes: usize) -> Self {
        Self::of([2, 2, 4, 4, 4], in_channels, num_classes)
    }

    /// The same with batch norm.
    #[must_use]
    pub fn with_batch_norm(self) -> Self {
        Self { batch_norm: true, ..self }
    }

    fn name(&self) -> String {
        let name = match self.layers {
            [1, 1, 2, 2, 2] => "vgg11",
            [2, 2, 2, 2, 2] => "vgg13",
            [2, 2, 3, 3, 3] => "vgg16",
            [2, 2, 4, 4, 4] => "vgg19",
            _ => "vgg",
        };
        if self.batch_norm { format!("{name}_bn") } else { name.to_owned() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        for convolutions in self.layers {
            positive("layers", convolutions)?;
        }
        probability("dropout", self.dropout)
    }

    /// How a convolution is drawn.
    fn conv(&self, config: Conv2dConfig) -> Layer {
        if self.init_weights {
            return Layer::Conv(config, (Init::kaiming_normal(config.fan_out()), Init::ZEROS));
        }
        Layer::Conv(config, torch_default(config.fan_in()))
    }

    /// How a linear layer is drawn.
    fn linear(&self, inputs: usize, outputs: usize) -> Layer {
        if self.init_weights {
            return Layer::Linear((inputs, outputs), (Init::Normal(0.01), Init::ZEROS));
        }
        Layer::Linear((inputs, outputs), torch_default(inputs))
    }
}

impl BackboneConfig for VggConfig {
    fn describe(&self) -> Description {
        Description {
            name: self.name(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            least_side: 32,
            classifier: "classifier.6".to_owned(),
            auxiliary_classifiers: Vec::new(),
            stem: "features.0".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(Vgg::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(Vgg::without_head(self, params)?))
    }
}

/// A network of 3×3 convolutions in five stages (Simonyan and Zisserman, *Very Deep Convolutional
/// Networks for Large-Scale Image Recognition*, 2015) with torchvision's modules.
///
/// Sites: `features.0` …, `features`, `avgpool`, `classifier.0` … `classifier.6`, `classifier`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{BackboneConfig, Pass, VggConfig};
///
/// // For feature maps alone; `Vgg::new` asks for the weights of the large linear layers too.
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = VggConfig::vgg11(1, 4).build_without_head(&params)?;
/// let images = Rng::new(1).randn((2, 1, 64, 70), &Device::Cpu)?;
/// assert_eq!(net.maps(&images, &mut Pass::eval(&mut ()))?.maps.dims(), [2, 512, 2, 2]);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct Vgg {
    description: Description,
    features: Sequence,
    head: Option<SequenceHead>,
}

impl Vgg {
    /// A network with torchvision's initialisation.
    ///
    /// # Errors
    /// Those of [`VggConfig::validate`] and [`Params::weight`].
    pub fn new(config: &VggConfig, params: &Params) -> Result<Self> {
        let network = Self::without_head(config, params)?;
        let classifier = [
            config.linear(512 * 7 * 7, 4096),
            Layer::Relu,
            Layer::Dropout(config.dropout),
            config.linear(4096, 4096),
            Layer::Relu,
            Layer::Dropout(config.dropout),
            config.linear(4096, config.num_classes),
        ];
        let head = Some(SequenceHead::new(7, classifier, params)?);
        Ok(Self { description: config.describe(), head, ..network })
    }

    fn without_head(config: &VggConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        let mut features = Vec::new();
        let mut inputs = config.in_channels;
        for (convolutions, width) in config.layers.into_iter().zip(WIDTHS) {
            for _ in 0..convolutions {
                features.push(config.conv(Conv2dConfig::new(inputs, width, 3).padding(1)));
                if config.batch_norm {
                    features.push(Layer::Norm(width));
                }
                features.push(Layer::Relu);
                inputs = width;
            }
            features.push(Layer::MaxPool(Pool2d::new(2, 2)));
        }
        Ok(Self {
            description: config.describe().without_head(),
            features: Sequence::new(features, &params.at("features"))?,
            head: None,
        })
    }
}

impl Backbone for Vgg {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole network is too large to be drawn in a test.
    #[test]
    fn layers_are_drawn_as_torchvision_draws_them() {
        let conv = Conv2dConfig::new(64, 128, 3).padding(1);
        for (init_weights, of_conv, of_linear) in [
            (
                true,
                (Init::Normal((2.0 / (128.0 * 9.0f64)).sqrt()), Init::ZEROS),
                (Init::Normal(0.01), Init::ZEROS),
            ),
            (
                false,
                (Init::Uniform(1.0 / 24.0), Init::Uniform(1.0 / 24.0)),
                (Init::Uniform(0.1), Init::Uniform(0.1)),
            ),
        ] {
            let config = VggConfig { init_weights, ..VggConfig::default() };
            assert!(matches!(config.conv(conv), Layer::Conv(c, inits) if c == conv && inits == of_conv));
            assert!(matches!(config.linear(100, 7), Layer::Linear((100, 7), inits) if inits == of_linear));
        }
    }
}
