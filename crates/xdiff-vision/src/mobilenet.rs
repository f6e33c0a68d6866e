//! MobileNetV2, as torchvision has it.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::layers::{Activation, BatchNormConfig, Conv2dConfig, add};
use xdiff_nn::{Init, Params};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::{
    ConvInit, ConvSite, ConvUnit, LinearSite, NormSite, PooledHead, StageNames, UnitStyle, head_of,
};
use crate::{Backbone, BackboneConfig, Description, Error, Head, Maps, Pass, Result};

/// A run of like blocks of [`MobileNetV2`]: (t, c, n, s) in torchvision and in the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 4]", into = "[usize; 4]")]
pub struct InvertedResiduals {
    /// How many times as many channels a block has inside.
    pub expansion: usize,
    /// Channels of the output, before the width multiplier.
    pub channels: usize,
    /// How many blocks.
    pub repeats: usize,
    /// Step of the first block's windows, 1 or 2; 1 in the others.
    pub stride: usize,
}

impl From<[usize; 4]> for InvertedResiduals {
    fn from([expansion, channels, repeats, stride]: [usize; 4]) -> Self {
        Self { expansion, channels, repeats, stride }
    }
}

impl From<InvertedResiduals> for [usize; 4] {
    fn from(run: InvertedResiduals) -> Self {
        [run.expansion, run.channels, run.repeats, run.stride]
    }
}

/// What a [`MobileNetV2`] is made of; torchvision's keyword arguments and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MobileNetV2Config {
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart.
    pub num_classes: usize,
    /// Factor on the number of channels of all layers; the last ones are not made narrower.
    pub width_mult: f64,
    /// The blocks in order; the paper's when absent.
    pub inverted_residual_setting: Option<Vec<InvertedResiduals>>,
    /// What numbers of channels are rounded to a multiple of.
    pub round_nearest: usize,
    /// Probability of dropout before the last layer.
    pub dropout: f64,
}

impl Default for MobileNetV2Config {
    fn default() -> Self {
        Self {
            in_channels: 3,
            num_classes: 1000,
            width_mult: 1.0,
            inverted_residual_setting: None,
            round_nearest: 8,
            dropout: 0.2,
        }
    }
}

/// The paper's blocks.
const BLOCKS: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

/// Channels after the first and before the last layer.
const ENDS: (usize, usize) = (32, 1280);

impl MobileNetV2Config {
    /// torchvision's network for images of that many channels and that many classes.
    pub fn new(in_channels: usize, num_classes: usize) -> Self {
        Self { in_channels, num_classes, ..Default::default() }
    }

    /// Checks that the values fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        positive("round_nearest", self.round_nearest)?;
        probability("dropout", self.dropout)?;
        if !(self.width_mult > 0.0 && self.width_mult <= 32.0) {
            let reason = format!("is {}, must lie above 0 and at most at 32", self.width_mult);
            return Err(Error::config("width_mult", reason));
        }
        self.validate_blocks()
    }

    fn validate_blocks(&self) -> Result<()> {
        const FIELD: &str = "inverted_residual_setting";
        const MOST_BLOCKS: usize = 1000;
        let runs = self.runs();
        for run in &runs {
            let positive = run.expansion > 0 && run.channels > 0 && run.repeats > 0;
            let small = run.expansion <= 64 && run.channels <= 8192;
            if !positive || !small || !(1..=2).contains(&run.stride) {
                let reason = format!(
                    "has a run {:?}; expansion must be 1 to 64, channels 1 to 8192, repeats at least 1 \
                     and stride 1 or 2",
                    <[usize; 4]>::from(*run)
                );
                return Err(Error::config(FIELD, reason));
            }
        }
        let blocks = runs.iter().fold(0usize, |n, run| n.saturating_add(run.repeats));
        if blocks == 0 || blocks > MOST_BLOCKS {
            return Err(Error::config(FIELD, format!("has {blocks} blocks, must have 1 to {MOST_BLOCKS}")));
        }
        Ok(())
    }

    fn runs(&self) -> Vec<InvertedResiduals> {
        match &self.inverted_residual_setting {
            Some(runs) => runs.clone(),
            None => BLOCKS.map(InvertedResiduals::from).to_vec(),
        }
    }

    /// Channels of the last feature maps.
    fn features(&self) -> usize {
        self.rounded(ENDS.1, self.width_mult.max(1.0))
    }

    /// The multiple of `round_nearest` nearest to `channels` × `factor`, or the one above it where
    /// that would take off more than a tenth.
    fn rounded(&self, channels: usize, factor: f64) -> usize {
        let (wanted, step) = (channels as f64 * factor, self.round_nearest);
        let nearest = ((wanted + step as f64 / 2.0) as usize / step * step).max(step);
        if (nearest as f64) < 0.9 * wanted { nearest + step } else { nearest }
    }
}

impl BackboneConfig for MobileNetV2Config {
    fn describe(&self) -> Description {
        Description {
            name: "mobilenet_v2".to_owned(),
            in_channels: self.in_channels,
            classes: self.num_classes,
            // Every window is padded.
            least_side: 1,
            classifier: "classifier.1".to_owned(),
            auxiliary_classifiers: Vec::new(),
            stem: "features.0.0".to_owned(),
        }
    }

    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>> {
        changed(self, arguments)
    }

    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(MobileNetV2::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(MobileNetV2::without_head(self, params)?))
    }
}

fn style() -> UnitStyle {
    UnitStyle {
        names: StageNames::NUMBERED,
        norm: BatchNormConfig::default(),
        act: Activation::Relu6,
        init: ConvInit::KaimingFanOut,
    }
}

/// MobileNetV2 (Sandler et al., 2018): blocks that widen, filter each channel by itself and narrow
/// again, with a way past them where the shape stays.
///
/// Tap sites are torchvision's modules: `features`, its layers (`features.3`), what these are made
/// of (`features.3.conv`, `features.3.conv.0.1`), `classifier.0`, `classifier.1`, `classifier`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Backbone, MobileNetV2, MobileNetV2Config, Pass};
///
/// let config = MobileNetV2Config { in_channels: 1, num_classes: 3, width_mult: 0.25, ..Default::default() };
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = MobileNetV2::new(&config, &params)?;
/// let images = Rng::new(1).randn((2, 1, 33, 40), &Device::Cpu)?;
/// let output = net.forward(&images, &mut Pass::eval(&mut ()))?;
/// assert_eq!((output.logits.dims(), output.features.dims()), (&[2, 3][..], &[2, 1280][..]));
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct MobileNetV2 {
    description: Description,
    features_site: String,
    first: ConvUnit,
    blocks: Vec<Block>,
    last: ConvUnit,
    head: Option<PooledHead>,
    classifier_site: String,
}

impl MobileNetV2 {
    /// Asks for the parameters under torchvision's names, drawn afresh as torchvision draws them.
    ///
    /// # Errors
    /// Those of [`MobileNetV2Config::validate`] and [`Params::weight`].
    pub fn new(config: &MobileNetV2Config, params: &Params) -> Result<Self> {
        let network = Self::without_head(config, params)?;
        let sizes = (config.features(), config.num_classes);
        let scope = params.at("classifier");
        let linear = LinearSite::new(sizes, (Init::Normal(0.01), Init::ZEROS), &scope.at(1))?;
        let head = Some(PooledHead::new(linear).dropout(scope.full(0), config.dropout));
        Ok(Self { description: config.describe(), head, ..network })
    }

    fn without_head(config: &MobileNetV2Config, params: &Params) -> Result<Self> {
        config.validate()?;
        let features = params.at("features");
        let mut channels = config.rounded(ENDS.0, config.width_mult);
        let first = Conv2dConfig::new(config.in_channels, channels, 3).stride(2).padding(1);
        let first = ConvUnit::new(first, style(), &features.at(0))?;
        let mut blocks = Vec::new();
        for run in config.runs() {
            let outputs = config.rounded(run.channels, config.width_mult);
            for i in 0..run.repeats {
                let stride = if i == 0 { run.stride } else { 1 };
                let scope = features.at(blocks.len() + 1);
                blocks.push(Block::new((channels, outputs), run.expansion, stride, &scope)?);
                channels = outputs;
            }
        }
        let last = Conv2dConfig::new(channels, config.features(), 1);
        Ok(Self {
            description: config.describe().without_head(),
            features_site: features.path().to_owned(),
            first,
            last: ConvUnit::new(last, style(), &features.at(blocks.len() + 1))?,
            blocks,
            head: None,
            classifier_site: params.full("classifier"),
        })
    }
}

impl Backbone for MobileNetV2 {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        let mut x = self.first.forward(images, pass)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        let x = self.last.forward(&x, pass)?;
        Ok(Maps { maps: pass.visit(&self.features_site, x)?, auxiliary: Vec::new() })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let Head { logits, features } = head_of(&self.head)?.forward(maps, pass)?;
        Ok(Head { logits: pass.visit(&self.classifier_site, logits)?, features })
    }
}

/// An inverted residual.
#[derive(Debug)]
struct Block {
    path: String,
    sequence_site: String,
    /// The widening, unless the block does not widen, and the filter by channel.
    units: Vec<ConvUnit>,
    conv: ConvSite,
    norm: NormSite,
    residual: bool,
}

impl Block {
    fn new(
        (inputs, outputs): (usize, usize),
        expansion: usize,
        stride: usize,
        params: &Params,
    ) -> Result<Self> {
        let scope = params.at("conv");
        let inside = inputs * expansion;
        let mut units = Vec::with_capacity(2);
        if expansion != 1 {
            units.push(ConvUnit::new(Conv2dConfig::new(inputs, inside, 1), style(), &scope.at(0))?);
        }
        let by_channel = Conv2dConfig::new(inside, inside, 3).stride(stride).padding(1).groups(inside);
        units.push(ConvUnit::new(by_channel, style(), &scope.at(units.len()))?);
        let narrow = Conv2dConfig::new(inside, outputs, 1);
        Ok(Self {
            path: params.path().to_owned(),
            sequence_site: scope.path().to_owned(),
            conv: ConvSite::without_bias(narrow, style().init, &scope.at(units.len()))?,
            norm: NormSite::new(outputs, style().norm, &scope.at(units.len() + 1))?,
            units,
            residual: stride == 1 && inputs == outputs,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut y = x.clone();
        for unit in &self.units {
            y = unit.forward(&y, pass)?;
        }
        let y = self.norm.visited(&self.conv.forward(&y, pass)?, pass)?;
        let y = pass.visit(&self.sequence_site, y)?;
        pass.visit(&self.path, if self.residual { add(x, &y)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{check_gradients, deviation, fresh, randn, seen_and_unseen, size};

    fn small() -> MobileNetV2Config {
        MobileNetV2Config { width_mult: 0.25, num_classes: 5, ..Default::default() }
    }

    /// Parameters and names (but step counters) of torchvision 0.29.
    #[test]
    fn the_size_is_torchvisions() {
        let base = MobileNetV2Config::default;
        let runs = [[1, 8, 1, 1], [2, 12, 2, 2], [3, 12, 1, 1]].map(InvertedResiduals::from).to_vec();
        let cases = [
            (base(), (3_504_872, 262)),
            (MobileNetV2Config { width_mult: 0.35, ..base() }, (1_677_128, 262)),
            (MobileNetV2Config { width_mult: 1.4, num_classes: 10, ..base() }, (4_333_706, 262)),
            (MobileNetV2Config { width_mult: 0.5, round_nearest: 4, ..base() }, (1_965_448, 262)),
            (
                MobileNetV2Config { inverted_residual_setting: Some(runs), num_classes: 5, ..base() },
                (35_285, 67),
            ),
        ];
        for (config, wanted) in cases {
            assert_eq!(size(|p| MobileNetV2::new(&config, p)), wanted, "{config:?}");
        }
    }

    /// torchvision's `_make_divisible`.
    #[test]
    fn channels_are_rounded_as_torchvision_does() {
        for (channels, factor, round_nearest, wanted) in [
            (32, 0.35, 8, 16),
            (16, 0.35, 8, 8),
            (24, 0.1, 8, 8),
            (1280, 1.4, 8, 1792),
            (32, 0.75, 1, 24),
            (67, 0.5, 10, 40),
            (11, 1.0, 8, 16),
            (12, 1.0, 8, 16),
        ] {
            let config = MobileNetV2Config { round_nearest, ..small() };
            assert_eq!(config.rounded(channels, factor), wanted, "{channels} {factor} {round_nearest}");
        }
    }

    #[test]
    fn every_module_is_a_site() {
        let net = fresh(|p| MobileNetV2::new(&small(), p));
        let (output, tap) = seen_and_unseen(&net, &randn(1, &[2, 3, 33, 40]));
        assert_eq!(output.logits.dims(), [2, 5]);
        for (site, dims) in [
            ("features.0.0", [2, 8, 17, 20]),
            ("features.0.1", [2, 8, 17, 20]),
            ("features.0.2", [2, 8, 17, 20]),
            ("features.1.conv.0", [2, 8, 17, 20]),
            ("features.1.conv.1", [2, 8, 17, 20]),
            ("features.2.conv.0.1", [2, 48, 17, 20]),
            ("features.2.conv.1", [2, 48, 9, 10]),
            ("features.2.conv.3", [2, 8, 9, 10]),
            ("features.3.conv", [2, 8, 9, 10]),
            ("features.3", [2, 8, 9, 10]),
            ("features.18", [2, 1280, 2, 2]),
            ("features", [2, 1280, 2, 2]),
        ] {
            assert_eq!(tap.seen().get(site).map(|x| x.dims()), Some(&dims[..]), "{site}");
        }
        for site in ["classifier.0", "classifier.1", "classifier"] {
            assert_eq!(tap.seen()[site].dims()[0], 2, "{site}");
        }
        let six = tap.seen()["features.0"].max_all().unwrap().to_scalar::<f32>().unwrap();
        let below = tap.seen()["features.0.1"].min_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(six <= 6.0 && below < 0.0);
    }

    #[test]
    fn the_smallest_image_will_do() {
        let net = fresh(|p| MobileNetV2::new(&small(), p));
        assert!(net.forward(&randn(1, &[1, 3, 1, 1]), &mut Pass::eval(&mut ())).is_ok());
        assert!(net.forward(&randn(1, &[2, 3, 1, 1]), &mut Pass::train(&mut ())).is_ok());
        assert!(net.forward(&randn(1, &[1, 3, 1, 1]), &mut Pass::train(&mut ())).is_err());
        assert!(matches!(
            net.forward(&randn(1, &[1, 4, 9, 9]), &mut Pass::eval(&mut ())),
            Err(Error::Input { .. })
        ));
    }

    #[test]
    fn fresh_weights_are_torchvisions() {
        let params = Params::fresh(0, &Device::Cpu);
        MobileNetV2::new(&MobileNetV2Config::default(), &params).unwrap();
        let set = params.finish().unwrap();
        for (name, wanted) in [
            ("features.18.0.weight", (2.0f64 / 1280.0).sqrt()),
            ("features.5.conv.1.0.weight", (2.0f64 / (192.0 * 9.0)).sqrt()),
            ("classifier.1.weight", 0.01),
            ("classifier.1.bias", 0.0),
        ] {
            let got = deviation(&set, name);
            assert!((got - wanted).abs() <= 0.05 * wanted, "{name}: {got}, expected {wanted}");
        }
    }

    #[test]
    fn gradients_of_blocks_match_differences() {
        for (outputs, expansion, stride) in [(3, 2, 1), (4, 1, 1), (4, 3, 2)] {
            let block = fresh(|p| Block::new((3, outputs), expansion, stride, p));
            check_gradients(&[2, 3, 5, 7], |x| block.forward(x, &mut Pass::eval(&mut ())));
            check_gradients(&[2, 3, 5, 7], |x| block.forward(x, &mut Pass::train(&mut ())));
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let runs = |run: [usize; 4]| Some(vec![InvertedResiduals::from(run)]);
        let cases = [
            (MobileNetV2Config { num_classes: 0, ..small() }, "num_classes"),
            (MobileNetV2Config { in_channels: usize::MAX, ..small() }, "in_channels"),
            (MobileNetV2Config { round_nearest: 0, ..small() }, "round_nearest"),
            (MobileNetV2Config { dropout: -0.1, ..small() }, "dropout"),
            (MobileNetV2Config { width_mult: 0.0, ..small() }, "width_mult"),
            (MobileNetV2Config { width_mult: f64::NAN, ..small() }, "width_mult"),
            (MobileNetV2Config { width_mult: f64::INFINITY, ..small() }, "width_mult"),
            (
                MobileNetV2Config { inverted_residual_setting: Some(vec![]), ..small() },
                "inverted_residual_setting",
            ),
        ];
        let odd = [
            [1, 8, 1, 3],
            [0, 8, 1, 1],
            [1, 0, 1, 1],
            [1, 8, 0, 1],
            [1, 8, usize::MAX, 1],
            [1 << 40, 8, 1, 1],
        ]
        .map(|run| {
            let config = MobileNetV2Config { inverted_residual_setting: runs(run), ..small() };
            (config, "inverted_residual_setting")
        });
        for (config, wanted) in cases.into_iter().chain(odd) {
            let outcome = MobileNetV2::new(&config, &Params::fresh(0, &Device::Cpu));
            assert!(matches!(outcome, Err(Error::Config { field, .. }) if field == wanted), "{config:?}");
        }
    }

    #[test]
    fn configurations_are_torchvisions_arguments() {
        let text = r#"{"num_classes": 5, "width_mult": 0.5, "inverted_residual_setting": [[1, 16, 2, 1]]}"#;
        let read: MobileNetV2Config = serde_json::from_str(text).unwrap();
        assert_eq!(read.runs(), [InvertedResiduals { expansion: 1, channels: 16, repeats: 2, stride: 1 }]);
        let again: MobileNetV2Config = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
        assert!(serde_json::from_str::<MobileNetV2Config>(r#"{"width": 1}"#).is_err());
    }
}
