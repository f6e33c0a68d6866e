//! Inception v3, as torchvision has it and as the Fréchet Inception distance uses it.

mod blocks;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::Params;
use xdiff_nn::layers::{Pool2d, adaptive_avg_pool2d, avg_pool2d, max_pool2d};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::transform_input::{self, transform_input};
use crate::parts::{
    ConvUnit, LinearSite, Mixed, PooledHead, Pooling, UnitStyle, Window, head_of, normal_or_default,
};
use crate::{Backbone, BackboneConfig, Description, Error, Head, Maps, Pass, Result};
use blocks::Kind;

/// Whose poolings an [`InceptionV3`] has within the blocks that keep the size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InceptionPooling {
    /// torchvision's: averages that count what lies over the edge as zeros.
    #[default]
    Torchvision,
    /// TensorFlow's of 2015, which the weights of the Fréchet Inception distance were trained with, as
    /// pytorch-fid has them: averages of what lies inside, but maxima in `Mixed_7c`.
    Fid,
}

/// What an [`InceptionV3`] is made of; torchvision's keyword arguments and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InceptionConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the heads tell apart.
    pub num_classes: usize,
    /// Whether there is an auxiliary classifier, which runs in training only. torchvision's files hold it:
    /// without it, drop `AuxLogits.` with a [`KeyMap`](xdiff_nn::weights::KeyMap).
    pub aux_logits: bool,
    /// Whether images come normalised by ImageNet's means and deviations and are mapped to −1..1 first.
    /// torchvision's weights want that.
    pub transform_input: bool,
    /// Whether fresh weights are drawn as torchvision draws them, and not as PyTorch's layers do.
    pub init_weights: bool,
    /// Probability of dropout before the last layer.
    pub dropout: f64,
    /// The poolings within blocks; no argument of torchvision's.
    pub pooling: InceptionPooling,
}

impl Default for InceptionConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            num_classes: 1000,
            aux_logits: true,
            transform_input: false,
            init_weights: true,
            dropout: 0.5,
            pooling: InceptionPooling::Torchvision,
        }
    }
}

impl InceptionConfig {
    /// torchvision's network for images of that many channels and that many classes.
    pub fn new(in_channels: usize, num_classes: usize) -> Self {
        Self { in_channels, num_classes, ..Default::default() }
    }

    /// The network of the Fréchet Inception distance: 1008 classes, no auxiliary classifier,
    /// [`InceptionPooling::Fid`]. Like pytorch-fid, it leaves fresh weights to PyTorch's layers.
    pub fn fid() -> Self {
        Self {
            num_classes: 1008,
            aux_logits: false,
            init_weights: false,
            pooling: InceptionPooling::Fid,
            ..Default::default()
        }
    }

    /// Checks that the values fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        probability("dropout", self.dropout)?;
        transform_input::check(self.transform_input, self.in_channels)
    }

    /// How the units draw their weights, given torchvision's deviation.
    ///
    /// torchvision draws from a normal that is cut off at ±2: at 20 deviations or more.
    fn style(&self, deviation: f64) -> UnitStyle {
        UnitStyle::inception(self.init_weights.then_some(deviation))
    }

    fn linear(&self, inputs: usize, deviation: f64, params: &Params) -> Result<LinearSite> {
        let inits = normal_or_default(self.init_weights.then_some(deviation), inputs);
        LinearSite::new((inputs, self.num_classes), inits, params)
    }

    /// The pooling of the block of this name.
    fn pool(&self, block: &str) -> Pooling {
        let pool = Pool2d { padding: (1, 1), ..Pool2d::new(3, 1) };
        match self.pooling {
            InceptionPooling::Torchvision => Pooling::Average(pool),
            InceptionPooling::Fid if block == "Mixed_7c" => Pooling::Max(pool),
            InceptionPooling::Fid => Pooling::Average(Pool2d { count_include_pad: false, ..pool }),
        }
    }
}

impl BackboneConfig for InceptionConfig {
    fn describe(&self) -> Description {
        let name = match self.pooling {
            InceptionPooling::Torchvision => "inception_v3",
            InceptionPooling::Fid => "fid_inception",
        };
        Description {
            name: name.to_owned(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            least_side: 75,
            classifier: "fc".to_owned(),
            auxiliary_classifiers: if self.aux_logits { vec!["AuxLogits.fc".to_owned()] } else { Vec::new() },
            stem: "Conv2d_1a_3x3.conv".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(InceptionV3::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(InceptionV3::without_head(&Self { aux_logits: false, ..self.clone() }, params)?.0))
    }
}

/// The deviation of fresh weights for which torchvision names no other.
const DEVIATION: f64 = 0.1;

/// The convolutions before the blocks, in two groups behind each of which a pooling stands.
const STEM: [(&[Window], &str); 2] = [
    (
        &[
            Window::valid("Conv2d_1a_3x3", 32, 3, 2),
            Window::valid("Conv2d_2a_3x3", 32, 3, 1),
            Window::same("Conv2d_2b_3x3", 64, (3, 3)),
        ],
        "maxpool1",
    ),
    (&[Window::valid("Conv2d_3b_1x1", 80, 1, 1), Window::valid("Conv2d_4a_3x3", 192, 3, 1)], "maxpool2"),
];

const BLOCKS: [(&str, Kind); 11] = [
    ("Mixed_5b", Kind::A(32)),
    ("Mixed_5c", Kind::A(64)),
    ("Mixed_5d", Kind::A(64)),
    ("Mixed_6a", Kind::B),
    ("Mixed_6b", Kind::C(128)),
    ("Mixed_6c", Kind::C(160)),
    ("Mixed_6d", Kind::C(160)),
    ("Mixed_6e", Kind::C(192)),
    ("Mixed_7a", Kind::D),
    ("Mixed_7b", Kind::E),
    ("Mixed_7c", Kind::E),
];

/// The block whose maps the auxiliary classifier takes.
const BEFORE_AUXILIARY: &str = "Mixed_6e";

/// Inception v3 (Szegedy et al., 2016), as torchvision has it, or with the poolings of the Fréchet
/// Inception distance.
///
/// In training the auxiliary classifier runs: [`Maps::auxiliary`] holds its logits, which torchvision
/// returns beside the others. The usual weight of their loss is 0.4. That head needs images of 299
/// pixels a side; without it, and in predictions, 75 are enough.
///
/// Tap sites are torchvision's modules: `Conv2d_1a_3x3`, `maxpool1`, `Mixed_5b` and its convolutions
/// (`Mixed_5b.branch5x5_1`), `AuxLogits` (in training), `avgpool`, `dropout`, `fc`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Backbone, InceptionConfig, InceptionV3, Pass};
///
/// let config = InceptionConfig { num_classes: 4, aux_logits: false, ..Default::default() };
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = InceptionV3::new(&config, &params)?;
/// let images = Rng::new(1).randn((1, 3, 75, 80), &Device::Cpu)?;
/// let output = net.forward(&images, &mut Pass::eval(&mut ()))?;
/// assert_eq!((output.logits.dims(), output.features.dims()), (&[1, 4][..], &[1, 2048][..]));
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct InceptionV3 {
    description: Description,
    transform_input: bool,
    /// Convolutions, and the site of the pooling behind them.
    stem: Vec<(Vec<ConvUnit>, String)>,
    blocks: Vec<(Mixed, Option<AuxiliaryClassifier>)>,
    head: Option<PooledHead>,
}

impl InceptionV3 {
    /// The least side of images with which the auxiliary classifier can be trained: its 5×5 window
    /// must fit into maps that were pooled once more.
    const LEAST_SIDE_OF_AUXILIARY: usize = 299;

    /// Asks for the parameters under torchvision's names.
    ///
    /// # Errors
    /// Those of [`InceptionConfig::validate`] and [`Params::weight`].
    pub fn new(config: &InceptionConfig, params: &Params) -> Result<Self> {
        let (network, channels) = Self::without_head(config, params)?;
        let fc = config.linear(channels, DEVIATION, &params.at("fc"))?;
        let head = PooledHead::new(fc).pool_site(params.full("avgpool"));
        let head = Some(head.dropout_of_maps(params.full("dropout"), config.dropout));
        Ok(Self { description: config.describe(), head, ..network })
    }

    /// The network without its head, and the channels of its maps.
    fn without_head(config: &InceptionConfig, params: &Params) -> Result<(Self, usize)> {
        config.validate()?;
        let style = config.style(DEVIATION);
        let mut channels = config.in_channels;
        let mut stem = Vec::with_capacity(STEM.len());
        for (windows, pool) in STEM {
            let mut units = Vec::with_capacity(windows.len());
            for window in windows {
                units.push(window.build(channels, style, params)?);
                channels = window.channels();
            }
            stem.push((units, params.full(pool)));
        }
        let mut blocks = Vec::with_capacity(BLOCKS.len());
        for (name, kind) in BLOCKS {
            let block = kind.build(channels, config.pool(name), style, &params.at(name))?;
            channels = block.channels();
            let head = if config.aux_logits && name == BEFORE_AUXILIARY {
                Some(AuxiliaryClassifier::new(channels, config, &params.at("AuxLogits"))?)
            } else {
                None
            };
            blocks.push((block, head));
        }
        let transform_input = config.transform_input;
        let description = config.describe().without_head();
        Ok((Self { description, transform_input, stem, blocks, head: None }, channels))
    }
}

impl Backbone for InceptionV3 {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        let least = Self::LEAST_SIDE_OF_AUXILIARY;
        let auxiliary = !self.description.auxiliary_classifiers.is_empty() && pass.is_training();
        if auxiliary && images.dims().iter().skip(2).any(|n| *n < least) {
            return Err(Error::input(
                "images",
                format!(
                    "shape {:?}; training with the auxiliary classifier takes sides of {least} or more: \
                     enlarge the images, or set aux_logits to false",
                    images.dims()
                ),
            ));
        }
        let mut x = if self.transform_input { transform_input(images)? } else { images.clone() };
        for (units, pool) in &self.stem {
            for unit in units {
                x = unit.forward(&x, pass)?;
            }
            x = pass.visit(pool, max_pool2d(&x, &Pool2d::new(3, 2))?)?;
        }
        let mut auxiliary = Vec::new();
        for (block, head) in &self.blocks {
            x = block.forward(&x, pass)?;
            if let Some(head) = head
                && pass.is_training()
            {
                auxiliary.push(head.forward(&x, pass)?);
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
    convs: [ConvUnit; 2],
    fc: LinearSite,
}

impl AuxiliaryClassifier {
    const CONVS: [Window; 2] = [Window::same("conv0", 128, (1, 1)), Window::valid("conv1", 768, 5, 1)];

    fn new(inputs: usize, config: &InceptionConfig, params: &Params) -> Result<Self> {
        let [first, second] = Self::CONVS;
        Ok(Self {
            path: params.path().to_owned(),
            convs: [
                first.build(inputs, config.style(DEVIATION), params)?,
                second.build(first.channels(), config.style(0.01), params)?,
            ],
            fc: config.linear(second.channels(), 0.001, &params.at("fc"))?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut x = avg_pool2d(x, &Pool2d::new(5, 3))?;
        for conv in &self.convs {
            x = conv.forward(&x, pass)?;
        }
        let logits = self.fc.forward(&adaptive_avg_pool2d(&x, (1, 1))?.flatten_from(1)?, pass)?;
        pass.visit(&self.path, logits)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use xdiff_nn::layers::Mode;

    use super::*;
    use crate::testing::{
        assert_rows, check_gradients, deviation, fresh, randn, seen_and_unseen, size, synthetic, waves,
    };

    fn small() -> InceptionConfig {
        InceptionConfig { num_classes: 5, aux_logits: false, ..Default::default() }
    }

    /// Parameters and names (but step counters) of torchvision 0.29.
    #[test]
    fn the_size_is_torchvisions() {
        let base = InceptionConfig::default;
        let cases = [
            (base(), (27_161_264, 484)),
            (InceptionConfig { aux_logits: false, ..base() }, (23_834_568, 472)),
            (InceptionConfig { num_classes: 7, ..base() }, (24_362_990, 484)),
            (InceptionConfig::fid(), (23_850_960, 472)),
        ];
        for (config, wanted) in cases {
            assert_eq!(size(|p| InceptionV3::new(&config, p)), wanted, "{config:?}");
        }
    }

    #[test]
    fn every_module_is_a_site() {
        let net = fresh(|p| InceptionV3::new(&small(), p));
        let (output, tap) = seen_and_unseen(&net, &randn(1, &[1, 3, 75, 107]));
        assert_eq!((output.logits.dims(), output.auxiliary.len()), (&[1, 5][..], 0));
        for (site, dims) in [
            ("Conv2d_1a_3x3.conv", [1, 32, 37, 53]),
            ("Conv2d_1a_3x3", [1, 32, 37, 53]),
            ("Conv2d_2b_3x3.bn", [1, 64, 35, 51]),
            ("maxpool1", [1, 64, 17, 25]),
            ("maxpool2", [1, 192, 7, 11]),
            ("Mixed_5b.branch5x5_1", [1, 48, 7, 11]),
            ("Mixed_5b.branch_pool.conv", [1, 32, 7, 11]),
            ("Mixed_5d", [1, 288, 7, 11]),
            ("Mixed_6a", [1, 768, 3, 5]),
            ("Mixed_6e.branch7x7dbl_4", [1, 192, 3, 5]),
            ("Mixed_7a", [1, 1280, 1, 2]),
            ("Mixed_7c.branch3x3dbl_3b", [1, 384, 1, 2]),
            ("Mixed_7c", [1, 2048, 1, 2]),
            ("avgpool", [1, 2048, 1, 1]),
            ("dropout", [1, 2048, 1, 1]),
        ] {
            assert_eq!(tap.seen().get(site).map(|x| x.dims()), Some(&dims[..]), "{site}");
        }
        assert_eq!(tap.seen()["fc"].dims(), [1, 5]);
    }

    #[test]
    fn the_auxiliary_classifier_asks_for_large_images() {
        let net = fresh(|p| InceptionV3::new(&InceptionConfig { aux_logits: true, ..small() }, p));
        assert!(net.forward(&randn(1, &[1, 3, 75, 75]), &mut Pass::eval(&mut ())).is_ok());
        let outcome = net.forward(&randn(1, &[2, 3, 299, 298]), &mut Pass::train(&mut ()));
        assert!(matches!(outcome, Err(Error::Input { reason, .. }) if reason.contains("aux_logits")));
        let config = InceptionConfig { init_weights: false, ..small() };
        let head = fresh(|p| AuxiliaryClassifier::new(3, &config, p));
        let mut tap = xdiff_nn::tap::Recorder::default();
        let logits = head.forward(&randn(1, &[2, 3, 20, 17]), &mut Pass::eval(&mut tap)).unwrap();
        assert_eq!((logits.dims(), tap.seen()["conv1"].dims()), (&[2, 5][..], &[2, 768, 2, 1][..]));
        assert!(head.forward(&randn(1, &[2, 3, 16, 17]), &mut Pass::eval(&mut ())).is_err());
    }

    /// torchvision 0.29's `InceptionAux` with synthetic weights.
    #[test]
    fn the_auxiliary_classifier_is_torchvisions() {
        let config = InceptionConfig { num_classes: 2, ..small() };
        let head = synthetic(|p| AuxiliaryClassifier::new(768, &config, p));
        let x = waves(&[3, 768, 17, 20]);
        let eval = head.forward(&x, &mut Pass::eval(&mut ())).unwrap();
        let wanted =
            [[0.058_433_51, -0.056_867_43], [0.055_190_62, -0.084_320_56], [0.050_658_23, -0.023_307_543]];
        assert_rows(&eval, &wanted, 1e-5);
        let train = head.forward(&x, &mut Pass::train(&mut ())).unwrap();
        let wanted =
            [[-0.022_119_45, -0.333_274_75], [-0.440_647_36, 0.106_651_336], [0.225_119_19, 0.173_032_17]];
        assert_rows(&train, &wanted, 1e-4);
    }

    #[test]
    fn poolings_differ_where_they_should() {
        let of = |pooling| {
            let config = InceptionConfig { pooling, ..small() };
            let net = fresh(|p| InceptionV3::new(&config, p));
            seen_and_unseen(&net, &randn(1, &[1, 3, 75, 75])).1
        };
        let (ours, theirs) = (of(InceptionPooling::Torchvision), of(InceptionPooling::Fid));
        for (site, same) in
            [("maxpool2", true), ("Mixed_5b.branch5x5_2", true), ("Mixed_5b.branch_pool", false)]
        {
            let distance = crate::testing::difference(&ours.seen()[site], &theirs.seen()[site]);
            assert_eq!(distance < 1e-6, same, "{site}: {distance}");
        }
    }

    #[test]
    fn gradients_of_all_blocks_match_differences() {
        let config = InceptionConfig { init_weights: false, ..small() };
        let fid = InceptionConfig { pooling: InceptionPooling::Fid, ..config.clone() };
        for (name, config, kind) in [
            ("Mixed_5b", &config, Kind::A(3)),
            ("Mixed_5b", &fid, Kind::A(3)),
            ("Mixed_6a", &config, Kind::B),
            ("Mixed_6b", &fid, Kind::C(5)),
            ("Mixed_7a", &config, Kind::D),
            ("Mixed_7b", &config, Kind::E),
            ("Mixed_7c", &fid, Kind::E),
        ] {
            let block = fresh(|p| kind.build(2, config.pool(name), config.style(DEVIATION), p));
            for mode in [Mode::Eval, Mode::Train] {
                check_gradients(&[2, 2, 5, 7], |x| match mode {
                    Mode::Eval => block.forward(x, &mut Pass::eval(&mut ())),
                    Mode::Train => block.forward(x, &mut Pass::train(&mut ())),
                });
            }
        }
    }

    #[test]
    fn fresh_weights_are_torchvisions() {
        let config = InceptionConfig { aux_logits: true, ..small() };
        let params = Params::fresh(0, &Device::Cpu);
        InceptionV3::new(&config, &params).unwrap();
        let set = params.finish().unwrap();
        for (name, wanted) in [
            ("Mixed_6b.branch1x1.conv.weight", 0.1),
            ("AuxLogits.conv0.conv.weight", 0.1),
            ("AuxLogits.conv1.conv.weight", 0.01),
            ("AuxLogits.fc.weight", 0.001),
            ("fc.weight", 0.1),
        ] {
            let got = deviation(&set, name);
            assert!((got - wanted).abs() <= 0.05 * wanted, "{name}: {got}, expected {wanted}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let cases = [
            (InceptionConfig { num_classes: 0, ..small() }, "num_classes"),
            (InceptionConfig { in_channels: 0, ..small() }, "in_channels"),
            (InceptionConfig { dropout: 2.0, ..small() }, "dropout"),
            (InceptionConfig { in_channels: 4, transform_input: true, ..small() }, "transform_input"),
        ];
        for (config, wanted) in cases {
            let outcome = InceptionV3::new(&config, &Params::fresh(0, &Device::Cpu));
            assert!(matches!(outcome, Err(Error::Config { field, .. }) if field == wanted), "{config:?}");
        }
        let net = fresh(|p| InceptionV3::new(&InceptionConfig { init_weights: false, ..small() }, p));
        for dims in [&[1, 3, 74, 80][..], &[1, 1, 80, 80], &[0, 3, 80, 80], &[3, 80, 80]] {
            let outcome = net.forward(&randn(1, dims), &mut Pass::eval(&mut ()));
            assert!(matches!(outcome, Err(Error::Input { .. })), "{dims:?}");
        }
        let read: InceptionConfig =
            serde_json::from_str(r#"{"aux_logits": false, "num_classes": 5}"#).unwrap();
        assert_eq!(read, small());
        assert!(serde_json::from_str::<InceptionConfig>(r#"{"classes": 3}"#).is_err());
    }
}
