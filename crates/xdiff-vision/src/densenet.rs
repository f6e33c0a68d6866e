//! DenseNet.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::layers::{Activation, BatchNormConfig, Conv2dConfig, Pool2d, avg_pool2d, max_pool2d};
use xdiff_nn::{Init, Params};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::{ConvInit, ConvSite, LinearSite, NormSite, PooledHead, head_of};
use crate::{Backbone, BackboneConfig, Description, Error, Head, Maps, Pass, Result};

/// What a [`DenseNet`] is made of, under torchvision's names; DenseNet-121 for three channels and
/// 1000 classes by default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenseNetConfig {
    /// Channels that each layer adds.
    pub growth_rate: usize,
    /// How many layers each block has.
    pub block_config: Vec<usize>,
    /// Channels after the first convolution.
    pub num_init_features: usize,
    /// Channels between the two convolutions of a layer, as a multiple of the growth rate.
    pub bn_size: usize,
    /// Share of the numbers of each layer dropped in training.
    pub drop_rate: f64,
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart.
    pub num_classes: usize,
}

impl Default for DenseNetConfig {
    fn default() -> Self {
        Self::densenet121(3, 1000)
    }
}

impl DenseNetConfig {
    /// DenseNet-121.
    pub fn densenet121(in_channels: usize, num_classes: usize) -> Self {
        Self {
            growth_rate: 32,
            block_config: vec![6, 12, 24, 16],
            num_init_features: 64,
            bn_size: 4,
            drop_rate: 0.0,
            in_channels,
            num_classes,
        }
    }

    fn name(&self) -> &'static str {
        match (self.growth_rate, self.num_init_features, &self.block_config[..], self.bn_size) {
            (32, 64, [6, 12, 24, 16], 4) => "densenet121",
            (32, 64, [6, 12, 32, 32], 4) => "densenet169",
            (32, 64, [6, 12, 48, 32], 4) => "densenet201",
            (48, 96, [6, 12, 36, 24], 4) => "densenet161",
            _ => "densenet",
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        probability("drop_rate", self.drop_rate)?;
        positive("growth_rate", self.growth_rate)?;
        positive("num_init_features", self.num_init_features)?;
        positive("bn_size", self.bn_size)?;
        let blocks = &self.block_config;
        if !(1..=16).contains(&blocks.len()) || blocks.iter().any(|layers| !(1..=4096).contains(layers)) {
            let reason = format!("takes 1 to 16 blocks of 1 to 4096 layers each, got {blocks:?}");
            return Err(Error::config("block_config", reason));
        }
        if blocks.len() > 1 && self.num_init_features + blocks[0] * self.growth_rate < 2 {
            return Err(Error::config("num_init_features", "a transition needs two channels to halve"));
        }
        Ok(())
    }
}

impl BackboneConfig for DenseNetConfig {
    fn describe(&self) -> Description {
        Description {
            name: self.name().to_owned(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            // The stem quarters a side, rounding up, and each transition halves it, rounding down.
            least_side: (4usize << self.block_config.len().saturating_sub(1).min(32)) - 3,
            classifier: "classifier".to_owned(),
            auxiliary_classifiers: Vec::new(),
            stem: "features.conv0".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(DenseNet::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(DenseNet::without_head(self, params)?.0))
    }
}

/// A network in which each layer of a block takes what all layers before it gave (Huang et al.,
/// *Densely Connected Convolutional Networks*, 2017; the form BC) with torchvision's modules.
///
/// The last feature maps are those after the last norm and ReLU, which torchvision forms outside of
/// `features`.
///
/// Sites: `features.conv0`, `norm0`, `relu0`, `pool0`, the blocks `features.denseblock1`, their
/// layers `features.denseblock1.denselayer1` and the parts of these, `features.transition1` and its
/// parts, `features.norm5`, `features`, `classifier`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Backbone, Pass, DenseNet, DenseNetConfig};
///
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = DenseNet::new(&DenseNetConfig::densenet121(1, 4), &params)?;
/// let images = Rng::new(1).randn((2, 1, 40, 33), &Device::Cpu)?;
/// let output = net.forward(&images, &mut Pass::eval(&mut ()))?;
/// assert_eq!((output.logits.dims(), output.features.dims()), (&[2, 4][..], &[2, 1024][..]));
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct DenseNet {
    description: Description,
    site: String,
    stem: Stem,
    blocks: Vec<(DenseBlock, Option<Transition>)>,
    norm5: NormSite,
    head: Option<PooledHead>,
}

impl DenseNet {
    /// A network with torchvision's initialisation.
    ///
    /// # Errors
    /// Those of [`DenseNetConfig::validate`] and [`Params::weight`].
    pub fn new(config: &DenseNetConfig, params: &Params) -> Result<Self> {
        let (network, channels) = Self::without_head(config, params)?;
        let sizes = (channels, config.num_classes);
        let inits = (Init::torch_default(channels), Init::ZEROS);
        let head = Some(PooledHead::new(LinearSite::new(sizes, inits, &params.at("classifier"))?));
        Ok(Self { description: config.describe(), head, ..network })
    }

    /// The network without its head, and the channels of its maps.
    fn without_head(config: &DenseNetConfig, params: &Params) -> Result<(Self, usize)> {
        config.validate()?;
        let scope = params.at("features");
        let stem = Stem::new(config, &scope)?;
        let mut channels = config.num_init_features;
        let mut blocks = Vec::with_capacity(config.block_config.len());
        for (i, layers) in config.block_config.iter().enumerate() {
            let k = i + 1;
            let block = DenseBlock::new(config, (channels, *layers), &scope.at(format!("denseblock{k}")))?;
            channels += layers * config.growth_rate;
            let transition = if k < config.block_config.len() {
                let transition = Transition::new(channels, &scope.at(format!("transition{k}")))?;
                channels /= 2;
                Some(transition)
            } else {
                None
            };
            blocks.push((block, transition));
        }
        let network = Self {
            description: config.describe().without_head(),
            site: scope.path().to_owned(),
            stem,
            blocks,
            norm5: norm(channels, &scope.at("norm5"))?,
            head: None,
        };
        Ok((network, channels))
    }
}

impl Backbone for DenseNet {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        let mut x = self.stem.forward(images, pass)?;
        for (block, transition) in &self.blocks {
            x = block.forward(x, pass)?;
            if let Some(transition) = transition {
                x = transition.forward(&x, pass)?;
            }
        }
        // `features` ends with the norm: both sites see what ReLU has not touched.
        let maps = if pass.wants(&self.site) {
            let y = self.norm5.visited(&x, pass)?;
            Activation::Relu.apply(&pass.visit(&self.site, y)?)?
        } else {
            self.norm5.then_relu(&x, pass)?
        };
        Ok(Maps { maps, auxiliary: Vec::new() })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        head_of(&self.head)?.forward(maps, pass)
    }
}

/// A convolution without bias and with torchvision's initialisation for DenseNet.
fn conv(config: Conv2dConfig, params: &Params) -> Result<ConvSite> {
    ConvSite::without_bias(config, ConvInit::KaimingFanIn, params)
}

fn norm(channels: usize, params: &Params) -> Result<NormSite> {
    NormSite::new(channels, BatchNormConfig::default(), params)
}

#[derive(Debug)]
struct Stem {
    conv: ConvSite,
    norm: NormSite,
    relu: String,
    pool: String,
}

impl Stem {
    fn new(config: &DenseNetConfig, params: &Params) -> Result<Self> {
        let width = config.num_init_features;
        let first = Conv2dConfig::new(config.in_channels, width, 7).stride(2).padding(3);
        Ok(Self {
            conv: conv(first, &params.at("conv0"))?,
            norm: norm(width, &params.at("norm0"))?,
            relu: params.full("relu0"),
            pool: params.full("pool0"),
        })
    }

    fn forward(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.conv.forward(images, pass)?;
        let x = self.norm.relu(&x, &self.relu, pass)?;
        let x = max_pool2d(&x, &Pool2d { padding: (1, 1), ..Pool2d::new(3, 2) })?;
        pass.visit(&self.pool, x)
    }
}

/// Norm, ReLU, 1×1 convolution, norm, ReLU, 3×3 convolution.
#[derive(Debug)]
struct DenseLayer {
    site: String,
    parts: [(NormSite, String, ConvSite); 2],
    drop_rate: f64,
}

impl DenseLayer {
    fn new(config: &DenseNetConfig, inputs: usize, params: &Params) -> Result<Self> {
        let inner = config.bn_size * config.growth_rate;
        let part = |k: usize, config: Conv2dConfig| -> Result<_> {
            Ok((
                norm(config.in_channels, &params.at(format!("norm{k}")))?,
                params.full(format!("relu{k}")),
                conv(config, &params.at(format!("conv{k}")))?,
            ))
        };
        Ok(Self {
            site: params.path().to_owned(),
            parts: [
                part(1, Conv2dConfig::new(inputs, inner, 1))?,
                part(2, Conv2dConfig::new(inner, config.growth_rate, 3).padding(1))?,
            ],
            drop_rate: config.drop_rate,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut x = x.clone();
        for (norm, relu, conv) in &self.parts {
            x = conv.forward(&norm.relu(&x, relu, pass)?, pass)?;
        }
        let x = pass.dropout(&self.site, x, self.drop_rate)?;
        pass.visit(&self.site, x)
    }
}

#[derive(Debug)]
struct DenseBlock {
    site: String,
    layers: Vec<DenseLayer>,
}

impl DenseBlock {
    fn new(config: &DenseNetConfig, (inputs, layers): (usize, usize), params: &Params) -> Result<Self> {
        let layer = |i| {
            let inputs = inputs + i * config.growth_rate;
            DenseLayer::new(config, inputs, &params.at(format!("denselayer{}", i + 1)))
        };
        Ok(Self { site: params.path().to_owned(), layers: (0..layers).map(layer).collect::<Result<_>>()? })
    }

    fn forward(&self, mut x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        for layer in &self.layers {
            let new = layer.forward(&x, pass)?;
            x = Tensor::cat(&[x, new], 1)?;
        }
        pass.visit(&self.site, x)
    }
}

/// Norm, ReLU, 1×1 convolution to half the channels, mean over 2×2 pixels.
#[derive(Debug)]
struct Transition {
    site: String,
    norm: NormSite,
    relu: String,
    conv: ConvSite,
    pool: String,
}

impl Transition {
    fn new(channels: usize, params: &Params) -> Result<Self> {
        Ok(Self {
            site: params.path().to_owned(),
            norm: norm(channels, &params.at("norm"))?,
            relu: params.full("relu"),
            conv: conv(Conv2dConfig::new(channels, channels / 2, 1), &params.at("conv"))?,
            pool: params.full("pool"),
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.conv.forward(&self.norm.relu(x, &self.relu, pass)?, pass)?;
        let x = pass.visit(&self.pool, avg_pool2d(&x, &Pool2d::new(2, 2))?)?;
        pass.visit(&self.site, x)
    }
}
