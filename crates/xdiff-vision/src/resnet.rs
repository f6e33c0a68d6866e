//! Residual networks.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::layers::{BatchNormConfig, Conv2dConfig, Pool2d, add, max_pool2d};
use xdiff_nn::{Init, Params};

use crate::backbone::changed;
use crate::check::positive;
use crate::parts::{ConvInit, ConvSite, LinearSite, NormSite, PooledHead, head_of, relu, torch_default};
use crate::{Backbone, BackboneConfig, Description, Error, Head, Maps, Pass, Result};

/// Which residual block a network is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResNetBlock {
    /// Two 3×3 convolutions.
    #[default]
    Basic,
    /// 1×1 to fewer channels, 3×3 (with the stride), 1×1 to four times the stage's width.
    Bottleneck,
}

impl ResNetBlock {
    /// By how much a block's output is wider than its stage.
    const fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// What a [`ResNet`] is made of, under torchvision's names; ResNet-18 for three channels and 1000
/// classes by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNetConfig {
    /// The kind of block.
    pub block: ResNetBlock,
    /// How many blocks each of the four stages has.
    pub layers: [usize; 4],
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart.
    pub num_classes: usize,
    /// Whether the last norm of a block begins at 0, so that every block begins as the identity.
    pub zero_init_residual: bool,
    /// Groups of the 3×3 convolutions of bottlenecks (ResNeXt).
    pub groups: usize,
    /// Channels of one group in the first stage of bottlenecks; 64 without groups.
    pub width_per_group: usize,
    /// Which of the last three stages keep the size and dilate their windows instead; of bottlenecks.
    pub replace_stride_with_dilation: Option<[bool; 3]>,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self::resnet18(3, 1000)
    }
}

impl ResNetConfig {
    fn of(block: ResNetBlock, layers: [usize; 4], in_channels: usize, num_classes: usize) -> Self {
        Self {
            block,
            layers,
            in_channels,
            num_classes,
            zero_init_residual: false,
            groups: 1,
            width_per_group: 64,
            replace_stride_with_dilation: None,
        }
    }

    /// ResNet-18.
    pub fn resnet18(in_channels: usize, num_classes: usize) -> Self {
        Self::of(ResNetBlock::Basic, [2, 2, 2, 2], in_channels, num_classes)
    }

    /// ResNet-34.
    pub fn resnet34(in_channels: usize, num_classes: usize) -> Self {
        Self::of(ResNetBlock::Basic, [3, 4, 6, 3], in_channels, num_classes)
    }

    /// ResNet-50.
    pub fn resnet50(in_channels: usize, num_classes: usize) -> Self {
        Self::of(ResNetBlock::Bottleneck, [3, 4, 6, 3], in_channels, num_classes)
    }

    /// torchvision's name of the network, or `resnet` for one that it does not have.
    fn name(&self) -> &'static str {
        use ResNetBlock::{Basic, Bottleneck};
        let plain = self.replace_stride_with_dilation.unwrap_or_default() == [false; 3];
        match (plain, self.block, self.layers, self.groups, self.width_per_group) {
            (true, Basic, [2, 2, 2, 2], 1, 64) => "resnet18",
            (true, Basic, [3, 4, 6, 3], 1, 64) => "resnet34",
            (true, Bottleneck, [3, 4, 6, 3], 1, 64) => "resnet50",
            (true, Bottleneck, [3, 4, 6, 3], 1, 128) => "wide_resnet50_2",
            (true, Bottleneck, [3, 4, 6, 3], 32, 4) => "resnext50_32x4d",
            (true, Bottleneck, [3, 4, 23, 3], 1, 64) => "resnet101",
            (true, Bottleneck, [3, 8, 36, 3], 1, 64) => "resnet152",
            _ => "resnet",
        }
    }

    /// Checks that the fields fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        positive("groups", self.groups)?;
        positive("width_per_group", self.width_per_group)?;
        for blocks in self.layers {
            positive("layers", blocks)?;
        }
        let dilated = self.replace_stride_with_dilation.unwrap_or_default().contains(&true);
        if self.block == ResNetBlock::Basic && (self.groups, self.width_per_group) != (1, 64) {
            let given = format!("{} groups of {} channels", self.groups, self.width_per_group);
            return Err(Error::config("groups", format!("{given}; basic blocks have one group of 64")));
        }
        if self.block == ResNetBlock::Basic && dilated {
            let reason = "basic blocks cannot be dilated; choose bottlenecks, or dilate no stage";
            return Err(Error::config("replace_stride_with_dilation", reason));
        }
        if self.block == ResNetBlock::Bottleneck && self.inner_width(64) == 0 {
            let reason = format!("{} leaves the first stage no channel", self.width_per_group);
            return Err(Error::config("width_per_group", reason));
        }
        Ok(())
    }

    /// Channels of the last feature maps.
    fn features(&self) -> usize {
        512 * self.block.expansion()
    }

    /// Channels of the 3×3 convolution of a bottleneck in a stage of that width.
    fn inner_width(&self, width: usize) -> usize {
        (width.saturating_mul(self.width_per_group) / 64).saturating_mul(self.groups)
    }
}

impl BackboneConfig for ResNetConfig {
    fn describe(&self) -> Description {
        Description {
            name: self.name().to_owned(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            least_side: 1,
            classifier: "fc".to_owned(),
            auxiliary_classifiers: Vec::new(),
            stem: "conv1".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(ResNet::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(ResNet::without_head(self, params)?))
    }
}

/// A residual network (He et al., *Deep Residual Learning for Image Recognition*, 2016) with
/// torchvision's modules: the stride of a bottleneck lies on its 3×3 convolution.
///
/// Sites: `conv1`, `bn1`, `relu`, `maxpool`, the stages `layer1` … `layer4`, their blocks `layer1.0`
/// and the layers in these, `avgpool`, `fc`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::tap::{Recorder, Sites};
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Backbone, Pass, ResNet, ResNetConfig};
///
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = ResNet::new(&ResNetConfig::resnet18(1, 3), &params)?;
/// let params = params.finish()?;
/// let image = Rng::new(1).randn((2, 1, 40, 33), &Device::Cpu)?;
/// let mut tap = Recorder::new(Sites::named(["layer2"]));
/// let output = net.forward(&image, &mut Pass::eval(&mut tap))?;
/// assert_eq!(output.logits.dims(), [2, 3]);
/// assert_eq!(tap.seen()["layer2"].dims(), [2, 128, 5, 5]);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct ResNet {
    description: Description,
    stem: (ConvSite, NormSite),
    relu: String,
    maxpool: String,
    stages: Vec<Stage>,
    head: Option<PooledHead>,
}

impl ResNet {
    /// A network with torchvision's initialisation.
    ///
    /// # Errors
    /// Those of [`ResNetConfig::validate`] and [`Params::weight`].
    pub fn new(config: &ResNetConfig, params: &Params) -> Result<Self> {
        let network = Self::without_head(config, params)?;
        let features = config.features();
        let fc = LinearSite::new((features, config.num_classes), torch_default(features), &params.at("fc"))?;
        let head = Some(PooledHead::new(fc).pool_site(params.full("avgpool")));
        Ok(Self { description: config.describe(), head, ..network })
    }

    fn without_head(config: &ResNetConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        let stem = Conv2dConfig::new(config.in_channels, 64, 7).stride(2).padding(3);
        let stem = (conv(stem, &params.at("conv1"))?, norm(64, Init::ONES, &params.at("bn1"))?);
        let last_norm = if config.zero_init_residual { Init::ZEROS } else { Init::ONES };
        let mut stages = Vec::with_capacity(4);
        let (mut inputs, mut dilation) = (64, 1);
        for (i, blocks) in config.layers.into_iter().enumerate() {
            let width = 64 << i;
            let before = dilation;
            let mut stride = if i == 0 { 1 } else { 2 };
            if i > 0 && config.replace_stride_with_dilation.is_some_and(|dilate| dilate[i - 1]) {
                dilation *= stride;
                stride = 1;
            }
            let outputs = width * config.block.expansion();
            let of = |block| {
                let (inputs, stride, dilation) =
                    if block == 0 { (inputs, stride, before) } else { (outputs, 1, dilation) };
                match config.block {
                    ResNetBlock::Basic => BlockPlan::basic(inputs, outputs, stride, last_norm),
                    ResNetBlock::Bottleneck => {
                        let inner = config.inner_width(width);
                        let middle = Conv2dConfig::new(inner, inner, 3).stride(stride).dilation(dilation);
                        let convs = vec![
                            Conv2dConfig::new(inputs, inner, 1),
                            middle.padding(dilation).groups(config.groups),
                            Conv2dConfig::new(inner, outputs, 1),
                        ];
                        BlockPlan { convs, shortcut: (inputs, outputs, stride), last_norm }
                    }
                }
            };
            stages.push(Stage::new((0..blocks).map(of), &params.at(format!("layer{}", i + 1)))?);
            inputs = outputs;
        }
        Ok(Self {
            description: config.describe().without_head(),
            stem,
            relu: params.full("relu"),
            maxpool: params.full("maxpool"),
            stages,
            head: None,
        })
    }
}

impl Backbone for ResNet {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        let x = self.stem.0.forward(images, pass)?;
        let x = self.stem.1.relu(&x, &self.relu, pass)?;
        let pooled = max_pool2d(&x, &Pool2d { padding: (1, 1), ..Pool2d::new(3, 2) })?;
        let mut x = pass.visit(&self.maxpool, pooled)?;
        for stage in &self.stages {
            x = stage.forward(x, pass)?;
        }
        Ok(Maps { maps: x, auxiliary: Vec::new() })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        head_of(&self.head)?.forward(maps, pass)
    }
}

/// A convolution without bias and with torchvision's initialisation for residual networks.
pub(crate) fn conv(config: Conv2dConfig, params: &Params) -> Result<ConvSite> {
    ConvSite::without_bias(config, ConvInit::KaimingFanOut, params)
}

/// Batch norm with PyTorch's constants.
pub(crate) fn norm(channels: usize, weight: Init, params: &Params) -> Result<NormSite> {
    NormSite::with_init(channels, BatchNormConfig::default(), weight, params)
}

/// What a residual block is to be.
pub(crate) struct BlockPlan {
    /// The convolutions, each with a norm behind it.
    convs: Vec<Conv2dConfig>,
    /// Input and output channels and stride of the way past them.
    shortcut: (usize, usize, usize),
    /// How the weight of the last norm begins.
    last_norm: Init,
}

impl BlockPlan {
    /// Two 3×3 convolutions, the first with the stride.
    pub(crate) fn basic(inputs: usize, outputs: usize, stride: usize, last_norm: Init) -> Self {
        let convs = vec![
            Conv2dConfig::new(inputs, outputs, 3).stride(stride).padding(1),
            Conv2dConfig::new(outputs, outputs, 3).padding(1),
        ];
        Self { convs, shortcut: (inputs, outputs, stride), last_norm }
    }
}

/// Convolutions and a way past them: ReLU of their sum.
#[derive(Debug)]
struct Block {
    site: String,
    relu: String,
    layers: Vec<(ConvSite, NormSite)>,
    shortcut: Option<Shortcut>,
}

/// A way past a block that changes the shape.
#[derive(Debug)]
struct Shortcut {
    site: String,
    conv: ConvSite,
    norm: NormSite,
}

impl Block {
    fn new(plan: &BlockPlan, params: &Params) -> Result<Self> {
        let last = plan.convs.len();
        let layer = |(i, config): (usize, &Conv2dConfig)| {
            let (k, weight) = (i + 1, if i + 1 == last { plan.last_norm } else { Init::ONES });
            let norm = norm(config.out_channels, weight, &params.at(format!("bn{k}")))?;
            Ok((conv(*config, &params.at(format!("conv{k}")))?, norm))
        };
        let (inputs, outputs, stride) = plan.shortcut;
        let shortcut = || {
            let scope = params.at("downsample");
            Ok::<_, Error>(Shortcut {
                site: scope.path().to_owned(),
                conv: conv(Conv2dConfig::new(inputs, outputs, 1).stride(stride), &scope.at(0))?,
                norm: norm(outputs, Init::ONES, &scope.at(1))?,
            })
        };
        Ok(Self {
            site: params.path().to_owned(),
            relu: params.full("relu"),
            layers: plan.convs.iter().enumerate().map(layer).collect::<Result<_>>()?,
            shortcut: if stride != 1 || inputs != outputs { Some(shortcut()?) } else { None },
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut y = x.clone();
        for (i, (conv, norm)) in self.layers.iter().enumerate() {
            y = conv.forward(&y, pass)?;
            y = if i + 1 < self.layers.len() {
                norm.relu(&y, &self.relu, pass)?
            } else {
                norm.visited(&y, pass)?
            };
        }
        let past = match &self.shortcut {
            Some(Shortcut { site, conv, norm }) => {
                let past = norm.visited(&conv.forward(x, pass)?, pass)?;
                pass.visit(site, past)?
            }
            None => x.clone(),
        };
        let y = relu(&add(&y, &past)?, &self.relu, pass)?;
        pass.visit(&self.site, y)
    }
}

/// Blocks one after another.
#[derive(Debug)]
pub(crate) struct Stage {
    site: String,
    blocks: Vec<Block>,
}

impl Stage {
    pub(crate) fn new(plans: impl Iterator<Item = BlockPlan>, params: &Params) -> Result<Self> {
        let block = |(i, plan): (usize, BlockPlan)| Block::new(&plan, &params.at(i));
        Ok(Self {
            site: params.path().to_owned(),
            blocks: plans.enumerate().map(block).collect::<Result<_>>()?,
        })
    }

    pub(crate) fn forward(&self, mut x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        pass.visit(&self.site, x)
    }
}
