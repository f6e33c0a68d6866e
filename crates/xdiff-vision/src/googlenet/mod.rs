//! GoogLeNet, as torchvision has it.

#[cfg(test)]
mod tests;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::Params;
use xdiff_nn::layers::{Activation, Pool2d, adaptive_avg_pool2d, max_pool2d};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::transform_input::{self, transform_input};
use crate::parts::{
    ConvUnit, LinearSite, Mixed, PooledHead, Pooling, Step, UnitStyle, Window, head_of, normal_or_default,
};
use crate::{Backbone, BackboneConfig, Description, Head, Maps, Pass, Result};

/// What a [`GoogLeNet`] is made of; torchvision's keyword arguments and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GoogLeNetConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the heads tell apart.
    pub num_classes: usize,
    /// Whether there are two auxiliary classifiers, which run in training only. torchvision's files hold
    /// them: without them, drop `aux1.` and `aux2.` with a [`KeyMap`](xdiff_nn::weights::KeyMap).
    pub aux_logits: bool,
    /// Whether images come normalised by ImageNet's means and deviations and are mapped to −1..1 first.
    /// torchvision's weights want that.
    pub transform_input: bool,
    /// Whether fresh weights are drawn as torchvision draws them, and not as PyTorch's layers do.
    pub init_weights: bool,
    /// Probability of dropout before the last layer.
    pub dropout: f64,
    /// Probability of dropout before the last layer of an auxiliary classifier.
    pub dropout_aux: f64,
}

impl Default for GoogLeNetConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            num_classes: 1000,
            aux_logits: true,
            transform_input: false,
            init_weights: true,
            dropout: 0.2,
            dropout_aux: 0.7,
        }
    }
}

impl GoogLeNetConfig {
    /// torchvision's network for images of that many channels and that many classes.
    pub fn new(in_channels: usize, num_classes: usize) -> Self {
        Self { in_channels, num_classes, ..Default::default() }
    }

    /// Checks that the values fit each other.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        probability("dropout", self.dropout)?;
        probability("dropout_aux", self.dropout_aux)?;
        transform_input::check(self.transform_input, self.in_channels)
    }

    /// torchvision draws from a normal with deviation 0.01, cut off at ±2: at 200 deviations.
    fn style(&self) -> UnitStyle {
        UnitStyle::inception(self.deviation())
    }

    fn deviation(&self) -> Option<f64> {
        self.init_weights.then_some(0.01)
    }

    fn linear(&self, inputs: usize, outputs: usize, params: &Params) -> Result<LinearSite> {
        LinearSite::new((inputs, outputs), normal_or_default(self.deviation(), inputs), params)
    }
}

impl BackboneConfig for GoogLeNetConfig {
    fn describe(&self) -> Description {
        let auxiliary_classifiers =
            if self.aux_logits { HEADS.map(|(head, _)| format!("{head}.fc2")).to_vec() } else { Vec::new() };
        Description {
            name: "googlenet".to_owned(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            // Each pooling with a window of 3 needs two pixels.
            least_side: 15,
            classifier: "fc".to_owned(),
            auxiliary_classifiers,
            stem: "conv1.conv".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(GoogLeNet::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(GoogLeNet::without_head(&Self { aux_logits: false, ..self.clone() }, params)?.0))
    }
}

/// The convolutions before the blocks; a pooling stands behind the first.
const STEM: [Window; 3] = [
    Window::same("conv1", 64, (7, 7)).strided(2),
    Window::same("conv2", 64, (1, 1)),
    Window::same("conv3", 192, (3, 3)),
];

/// Outputs of the branches of a block: 1×1; 3×3 and what it is reduced to before; likewise the second
/// 3×3; and the projection of the pooled maps.
type Widths = [usize; 6];

/// The stages: the name of the pooling before the blocks and the size of its windows, and the blocks.
type StagePlan = ((&'static str, usize), &'static [(&'static str, Widths)]);

const STAGES: [StagePlan; 3] = [
    (
        ("maxpool2", 3),
        &[("inception3a", [64, 96, 128, 16, 32, 32]), ("inception3b", [128, 128, 192, 32, 96, 64])],
    ),
    (
        ("maxpool3", 3),
        &[
            ("inception4a", [192, 96, 208, 16, 48, 64]),
            ("inception4b", [160, 112, 224, 24, 64, 64]),
            ("inception4c", [128, 128, 256, 24, 64, 64]),
            ("inception4d", [112, 144, 288, 32, 64, 64]),
            ("inception4e", [256, 160, 320, 32, 128, 128]),
        ],
    ),
    (
        ("maxpool4", 2),
        &[("inception5a", [256, 160, 320, 32, 128, 128]), ("inception5b", [384, 192, 384, 48, 128, 128])],
    ),
];

/// The auxiliary classifiers, and the blocks whose maps they take.
const HEADS: [(&str, &str); 2] = [("aux1", "inception4a"), ("aux2", "inception4d")];

/// GoogLeNet (Szegedy et al., 2015) with batch norm, as torchvision has it: the branch that the paper
/// gives 5×5 windows has 3×3 ones, as in torchvision's released weights.
///
/// In training both auxiliary classifiers run: [`Maps::auxiliary`] holds `aux1` and `aux2` in this order
/// (torchvision returns them the other way round). The paper adds their losses with weight 0.3.
///
/// Tap sites are torchvision's modules: `conv1`, `maxpool1`, `inception3a`, its branches
/// (`inception3a.branch2`) and their steps, `aux1` (in training), `avgpool`, `dropout`, `fc`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Backbone, GoogLeNet, GoogLeNetConfig, Pass};
///
/// let config = GoogLeNetConfig { in_channels: 1, num_classes: 4, ..Default::default() };
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = GoogLeNet::new(&config, &params)?;
/// let images = Rng::new(1).randn((2, 1, 33, 41), &Device::Cpu)?;
/// let output = net.forward(&images, &mut Pass::eval(&mut ()))?;
/// assert_eq!((output.logits.dims(), output.features.dims()), (&[2, 4][..], &[2, 1024][..]));
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct GoogLeNet {
    description: Description,
    transform_input: bool,
    stem: [ConvUnit; 3],
    pool: Halving,
    stages: Vec<Stage>,
    head: Option<PooledHead>,
}

/// A pooling that halves the size, counting a last window that reaches beyond the edge.
#[derive(Debug)]
struct Halving {
    site: String,
    kernel: usize,
}

impl Halving {
    fn new((name, kernel): (&str, usize), params: &Params) -> Self {
        Self { site: params.full(name), kernel }
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let windows = Pool2d { ceil_mode: true, ..Pool2d::new(self.kernel, 2) };
        pass.visit(&self.site, max_pool2d(x, &windows)?)
    }
}

/// A pooling, and blocks with the auxiliary classifiers on their maps.
#[derive(Debug)]
struct Stage {
    pool: Halving,
    blocks: Vec<(Mixed, Option<AuxiliaryClassifier>)>,
}

impl GoogLeNet {
    /// Asks for the parameters under torchvision's names.
    ///
    /// # Errors
    /// Those of [`GoogLeNetConfig::validate`] and [`Params::weight`].
    pub fn new(config: &GoogLeNetConfig, params: &Params) -> Result<Self> {
        let (network, channels) = Self::without_head(config, params)?;
        let fc = config.linear(channels, config.num_classes, &params.at("fc"))?;
        let head = PooledHead::new(fc).pool_site(params.full("avgpool"));
        let head = Some(head.dropout(params.full("dropout"), config.dropout));
        Ok(Self { description: config.describe(), head, ..network })
    }

    /// The network without its head, and the channels of its maps.
    fn without_head(config: &GoogLeNetConfig, params: &Params) -> Result<(Self, usize)> {
        config.validate()?;
        let style = config.style();
        let [first, second, third] = STEM;
        let stem = [
            first.build(config.in_channels, style, params)?,
            second.build(first.channels(), style, params)?,
            third.build(second.channels(), style, params)?,
        ];
        let mut channels = third.channels();
        let mut stages = Vec::with_capacity(STAGES.len());
        for (pool, plans) in STAGES {
            let mut blocks = Vec::with_capacity(plans.len());
            for (name, widths) in plans {
                let block = block(channels, *widths, style, &params.at(name))?;
                channels = block.channels();
                let head = HEADS.iter().find(|(_, after)| config.aux_logits && after == name);
                let head = head
                    .map(|(head, _)| AuxiliaryClassifier::new(channels, config, style, &params.at(head)))
                    .transpose()?;
                blocks.push((block, head));
            }
            stages.push(Stage { pool: Halving::new(pool, params), blocks });
        }
        let network = Self {
            description: config.describe().without_head(),
            transform_input: config.transform_input,
            stem,
            pool: Halving::new(("maxpool1", 3), params),
            stages,
            head: None,
        };
        Ok((network, channels))
    }
}

/// One block of four branches.
fn block(inputs: usize, widths: Widths, style: UnitStyle, params: &Params) -> Result<Mixed> {
    let [one, reduced, three, reduced_again, again, projected] = widths;
    let conv = |name, channels, kernel| Step::Conv(Window::same(name, channels, (kernel, kernel)));
    let pool = Pool2d { padding: (1, 1), ceil_mode: true, ..Pool2d::new(3, 1) };
    Mixed::new(
        inputs,
        &[
            (None, &[conv("branch1", one, 1)]),
            (Some("branch2"), &[conv("0", reduced, 1), conv("1", three, 3)]),
            (Some("branch3"), &[conv("0", reduced_again, 1), conv("1", again, 3)]),
            (Some("branch4"), &[Step::Pool(Pooling::Max(pool), Some("0")), conv("1", projected, 1)]),
        ],
        style,
        params,
    )
}

impl Backbone for GoogLeNet {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        let x = if self.transform_input { transform_input(images)? } else { images.clone() };
        let [first, second, third] = &self.stem;
        let mut x = self.pool.forward(&first.forward(&x, pass)?, pass)?;
        x = third.forward(&second.forward(&x, pass)?, pass)?;
        let mut auxiliary = Vec::new();
        for stage in &self.stages {
            x = stage.pool.forward(&x, pass)?;
            for (block, head) in &stage.blocks {
                x = block.forward(&x, pass)?;
                if let Some(head) = head
                    && pass.is_training()
                {
                    auxiliary.push(head.forward(&x, pass)?);
                }
            }
        }
        Ok(Maps { maps: x, auxiliary })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        head_of(&self.head)?.forward(maps, pass)
    }
}

/// A head on maps in the middle of the network, for training.
#[derive(Debug)]
struct AuxiliaryClassifier {
    path: String,
    dropout_site: String,
    dropout: f64,
    conv: ConvUnit,
    hidden: LinearSite,
    last: LinearSite,
}

impl AuxiliaryClassifier {
    /// Height and width of the pooled maps.
    const SIDE: usize = 4;
    const CONV: Window = Window::same("conv", 128, (1, 1));
    const HIDDEN: usize = 1024;

    fn new(inputs: usize, config: &GoogLeNetConfig, style: UnitStyle, params: &Params) -> Result<Self> {
        let flat = Self::CONV.channels() * Self::SIDE * Self::SIDE;
        Ok(Self {
            path: params.path().to_owned(),
            dropout_site: params.full("dropout"),
            dropout: config.dropout_aux,
            conv: Self::CONV.build(inputs, style, params)?,
            hidden: config.linear(flat, Self::HIDDEN, &params.at("fc1"))?,
            last: config.linear(Self::HIDDEN, config.num_classes, &params.at("fc2"))?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = adaptive_avg_pool2d(x, (Self::SIDE, Self::SIDE))?;
        let x = self.conv.forward(&x, pass)?.flatten_from(1)?;
        let x = Activation::Relu.apply(&self.hidden.forward(&x, pass)?)?;
        let x = pass.dropout(&self.dropout_site, x, self.dropout)?;
        let x = pass.visit(&self.dropout_site, x)?;
        let logits = self.last.forward(&x, pass)?;
        pass.visit(&self.path, logits)
    }
}
