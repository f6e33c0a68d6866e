//! GoogLeNet, as torchvision has it.

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

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use xdiff_nn::Rng;
    use xdiff_nn::layers::Mode;

    use super::*;
    use crate::Error;
    use crate::testing::{
        assert_rows, check_gradients, fresh, randn, seen_and_unseen, size, synthetic, waves,
    };

    fn small() -> GoogLeNetConfig {
        GoogLeNetConfig { num_classes: 5, ..Default::default() }
    }

    /// Parameters and names (but step counters) of torchvision 0.29.
    #[test]
    fn the_size_is_torchvisions() {
        let config = GoogLeNetConfig::default();
        let without = GoogLeNetConfig { aux_logits: false, ..config.clone() };
        let seven = GoogLeNetConfig { num_classes: 7, ..config.clone() };
        for (config, wanted) in
            [(config, (13_004_888, 305)), (without, (6_624_904, 287)), (seven, (9_951_413, 305))]
        {
            assert_eq!(size(|p| GoogLeNet::new(&config, p)), wanted, "{config:?}");
        }
    }

    #[test]
    fn every_module_is_a_site() {
        let net = fresh(|p| GoogLeNet::new(&small(), p));
        let (output, tap) = seen_and_unseen(&net, &randn(1, &[2, 3, 33, 40]));
        assert!(output.auxiliary.is_empty());
        for (site, dims) in [
            ("conv1.conv", [2, 64, 17, 20]),
            ("conv1.bn", [2, 64, 17, 20]),
            ("maxpool1", [2, 64, 8, 10]),
            ("conv3", [2, 192, 8, 10]),
            ("inception3a.branch1", [2, 64, 4, 5]),
            ("inception3a.branch4.0", [2, 192, 4, 5]),
            ("inception3a.branch4", [2, 32, 4, 5]),
            ("inception3a", [2, 256, 4, 5]),
            ("inception4d.branch3.1.bn", [2, 64, 2, 2]),
            ("maxpool4", [2, 832, 1, 1]),
            ("inception5b", [2, 1024, 1, 1]),
            ("avgpool", [2, 1024, 1, 1]),
        ] {
            assert_eq!(tap.seen().get(site).map(|x| x.dims()), Some(&dims[..]), "{site}");
        }
        assert_eq!(tap.seen()["fc"].dims(), [2, 5]);
        assert!(!tap.seen().keys().any(|site| site.starts_with("aux")));
    }

    #[test]
    fn training_runs_the_auxiliary_classifiers_in_order_of_depth() {
        let net = fresh(|p| GoogLeNet::new(&small(), p));
        let images = randn(1, &[2, 3, 40, 40]);
        let mut tap = xdiff_nn::tap::Recorder::default();
        let output = net.forward(&images, &mut Pass::train(&mut tap)).unwrap();
        assert_eq!(output.auxiliary.len(), 2);
        for (logits, site) in output.auxiliary.iter().zip(["aux1", "aux2"]) {
            assert_eq!(logits.to_vec2::<f32>().unwrap(), tap.seen()[site].to_vec2::<f32>().unwrap());
        }
        assert_eq!(tap.seen()["aux1.conv"].dims(), [2, 128, 4, 4]);
        let rng = Rng::new(3);
        let dropped = net.forward(&images, &mut Pass::train(&mut ()).with_dropout(&rng)).unwrap();
        let positive = |x: &Tensor| {
            let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            x.into_iter().filter(|v| *v > 0.0).count() as f64
        };
        let share = positive(&dropped.features) / positive(&output.features);
        assert!((share - 0.8).abs() < 0.05, "{share}");
    }

    /// torchvision 0.29's `InceptionAux` with synthetic weights, without dropout.
    #[test]
    fn the_auxiliary_classifier_is_torchvisions() {
        let config = GoogLeNetConfig { num_classes: 3, ..small() };
        let style = config.style();
        let head = synthetic(|p| AuxiliaryClassifier::new(512, &config, style, p));
        let x = waves(&[2, 512, 5, 6]);
        let eval = head.forward(&x, &mut Pass::eval(&mut ())).unwrap();
        let wanted =
            [[-0.130_551_5, 0.083_717_704, -0.035_103_247], [-0.020_829_493, 0.180_959_98, 0.212_805_99]];
        assert_rows(&eval, &wanted, 1e-5);
        let train = head.forward(&x, &mut Pass::train(&mut ())).unwrap();
        let wanted =
            [[-0.146_449_69, 0.353_435_9, 0.061_767_586], [-0.395_610_24, 0.961_090_74, 0.918_328_46]];
        assert_rows(&train, &wanted, 1e-4);
    }

    #[test]
    fn frozen_norms_keep_their_statistics() {
        let params = Params::fresh(0, &Device::Cpu);
        let net = GoogLeNet::new(&small(), &params).unwrap();
        let set = params.finish().unwrap();
        let mean = |name: &str| set.get(name).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let frozen = ["inception3a".to_owned()];
        net.forward(&randn(1, &[2, 3, 32, 32]), &mut Pass::train(&mut ()).with_frozen(&frozen)).unwrap();
        assert_eq!(mean("inception3a.branch2.1.bn.running_mean"), 0.0);
        assert_ne!(mean("inception3b.branch2.1.bn.running_mean"), 0.0);
    }

    #[test]
    fn fresh_weights_are_torchvisions() {
        for (init_weights, deviation) in [(true, 0.01), (false, 1.0 / (3.0f64 * 192.0 * 9.0).sqrt())] {
            let params = Params::fresh(0, &Device::Cpu);
            let config = GoogLeNetConfig { init_weights, ..small() };
            GoogLeNet::new(&config, &params).unwrap();
            let set = params.finish().unwrap();
            let of = |name: &str| {
                let x = set.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
            };
            let got = of("inception4a.branch2.1.conv.weight") / deviation;
            let wanted = if init_weights { 1.0 } else { (192.0f64 / 96.0).sqrt() };
            assert!((got - wanted).abs() < 0.02, "{init_weights}: {got}");
            assert!((of("fc.bias") - (3.0f64 * 1024.0).sqrt().recip()).abs() < 0.01);
        }
    }

    #[test]
    fn transformed_images_are_those_of_half_and_half() {
        let config = GoogLeNetConfig { transform_input: true, aux_logits: false, ..small() };
        let build = |config: &GoogLeNetConfig| fresh(|p| GoogLeNet::new(config, p));
        let images = randn(1, &[1, 3, 32, 32]);
        let inner = |c: usize, a: f64, b: f64| images.narrow(1, c, 1).unwrap().affine(a, b).unwrap();
        let by_hand =
            Tensor::cat(&[inner(0, 0.458, -0.03), inner(1, 0.448, -0.088), inner(2, 0.45, -0.188)], 1)
                .unwrap();
        let run = |net: &GoogLeNet, x: &Tensor| net.forward(x, &mut Pass::eval(&mut ())).unwrap().features;
        let transformed = run(&build(&config), &images);
        let plain = run(&build(&GoogLeNetConfig { transform_input: false, ..config }), &by_hand);
        assert!(crate::testing::difference(&transformed, &plain) < 1e-4);
    }

    #[test]
    fn gradients_of_a_block_and_of_a_head_match_differences() {
        let config = GoogLeNetConfig { init_weights: false, ..small() };
        let style = config.style();
        let one = fresh(|p| block(3, [2, 3, 4, 2, 3, 2], style, p));
        let head = fresh(|p| AuxiliaryClassifier::new(3, &config, style, p));
        for mode in [Mode::Eval, Mode::Train] {
            let pass = |run: &dyn Fn(&mut Pass<'_>) -> Result<Tensor>| match mode {
                Mode::Eval => run(&mut Pass::eval(&mut ())),
                Mode::Train => run(&mut Pass::train(&mut ())),
            };
            check_gradients(&[2, 3, 5, 7], |x| pass(&|p| one.forward(x, p)));
            check_gradients(&[2, 3, 5, 7], |x| pass(&|p| head.forward(x, p)));
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let base = small;
        let cases = [
            (GoogLeNetConfig { num_classes: 0, ..base() }, "num_classes"),
            (GoogLeNetConfig { in_channels: 0, ..base() }, "in_channels"),
            (GoogLeNetConfig { dropout: 1.5, ..base() }, "dropout"),
            (GoogLeNetConfig { dropout_aux: f64::NAN, ..base() }, "dropout_aux"),
            (GoogLeNetConfig { in_channels: 1, transform_input: true, ..base() }, "transform_input"),
        ];
        for (config, wanted) in cases {
            let outcome = GoogLeNet::new(&config, &Params::fresh(0, &Device::Cpu));
            assert!(matches!(outcome, Err(Error::Config { field, .. }) if field == wanted), "{config:?}");
        }
        let net = fresh(|p| GoogLeNet::new(&small(), p));
        for dims in [&[2, 3, 14, 20][..], &[2, 1, 20, 20], &[0, 3, 20, 20], &[3, 20, 20]] {
            let outcome = net.forward(&randn(1, dims), &mut Pass::eval(&mut ()));
            assert!(matches!(outcome, Err(Error::Input { .. })), "{dims:?}");
        }
        for train in [false, true] {
            let mut tap = ();
            let mut pass = if train { Pass::train(&mut tap) } else { Pass::eval(&mut tap) };
            assert!(net.forward(&randn(1, &[2, 3, 15, 15]), &mut pass).is_ok());
        }
        // One value a channel has no variance.
        assert!(net.forward(&randn(1, &[1, 3, 15, 15]), &mut Pass::train(&mut ())).is_err());
        assert!(serde_json::from_str::<GoogLeNetConfig>(r#"{"classes": 3}"#).is_err());
        let read: GoogLeNetConfig =
            serde_json::from_str(r#"{"aux_logits": false, "num_classes": 5}"#).unwrap();
        assert_eq!(read, GoogLeNetConfig { aux_logits: false, ..small() });
    }
}
