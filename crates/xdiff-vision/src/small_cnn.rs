//! A small network for small images.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::layers::Conv2dConfig;
use xdiff_nn::{Init, Params};

use crate::backbone::changed;
use crate::check::{positive, probability};
use crate::parts::{ConvSite, LinearSite, NormSite, PooledHead, head_of, torch_default};
use crate::resnet::{BlockPlan, Stage, conv, norm};
use crate::{Backbone, BackboneConfig, Description, Error, Head, Maps, Pass, Result};

/// What a [`SmallCnn`] is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmallCnnConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart.
    pub num_classes: usize,
    /// Channels of each stage. Each stage after the first halves the size.
    pub widths: Vec<usize>,
    /// Residual blocks in each stage.
    pub blocks: usize,
    /// Share of the penultimate features dropped in training.
    pub dropout: f64,
}

impl Default for SmallCnnConfig {
    fn default() -> Self {
        Self::new(1, 2)
    }
}

impl SmallCnnConfig {
    /// Three stages of 32, 64 and 128 channels with one block each, for images of 32 to 64 pixels a
    /// side: 307,300 parameters for one channel and four classes, 307,876 for three
    /// channels.
    pub fn new(in_channels: usize, num_classes: usize) -> Self {
        Self { in_channels, num_classes, widths: vec![32, 64, 128], blocks: 1, dropout: 0.1 }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("num_classes", self.num_classes)?;
        if !(1..=8).contains(&self.widths.len()) || self.widths.contains(&0) {
            let reason = format!("takes 1 to 8 stages of at least one channel, got {:?}", self.widths);
            return Err(Error::config("widths", reason));
        }
        if !(1..=64).contains(&self.blocks) {
            return Err(Error::config("blocks", format!("must lie in 1..=64, got {}", self.blocks)));
        }
        probability("dropout", self.dropout)
    }
}

impl BackboneConfig for SmallCnnConfig {
    fn describe(&self) -> Description {
        Description {
            name: "small_cnn".to_owned(),
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
        Ok(Box::new(SmallCnn::new(self, params)?))
    }

    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>> {
        Ok(Box::new(SmallCnn::without_head(self, params)?))
    }
}

/// A residual network for small images, in the manner of He et al. (2016), section 4.2: a 3×3
/// convolution instead of the 7×7 one and its pooling, then stages of basic blocks, the mean over
/// each map, and a linear layer.
///
/// Sites: `conv1`, `bn1`, `relu`, the stages `layer1` …, their blocks `layer1.0` and the layers in
/// these, `avgpool`, `dropout`, `fc`.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Backbone, Pass, SmallCnn, SmallCnnConfig};
///
/// let params = Params::fresh(0, &Device::Cpu);
/// let net = SmallCnn::new(&SmallCnnConfig { dropout: 0.2, ..SmallCnnConfig::new(1, 4) }, &params)?;
/// let images = Rng::new(1).randn((2, 1, 32, 32), &Device::Cpu)?;
/// let output = net.forward(&images, &mut Pass::eval(&mut ()))?;
/// assert_eq!(output.features.dims(), [2, 128]);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct SmallCnn {
    description: Description,
    stem: (ConvSite, NormSite),
    relu: String,
    stages: Vec<Stage>,
    head: Option<PooledHead>,
}

impl SmallCnn {
    /// A network with the initialisation of torchvision's residual networks.
    ///
    /// # Errors
    /// Those of [`SmallCnnConfig::validate`] and [`Params::weight`].
    pub fn new(config: &SmallCnnConfig, params: &Params) -> Result<Self> {
        let network = Self::without_head(config, params)?;
        let features = config.widths[config.widths.len() - 1];
        let fc = LinearSite::new((features, config.num_classes), torch_default(features), &params.at("fc"))?;
        let head = PooledHead::new(fc).pool_site(params.full("avgpool"));
        let head = Some(head.dropout(params.full("dropout"), config.dropout));
        Ok(Self { description: config.describe(), head, ..network })
    }

    fn without_head(config: &SmallCnnConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        let mut inputs = config.widths[0];
        let stem = Conv2dConfig::new(config.in_channels, inputs, 3).padding(1);
        let stem = (conv(stem, &params.at("conv1"))?, norm(inputs, Init::ONES, &params.at("bn1"))?);
        let mut stages = Vec::with_capacity(config.widths.len());
        for (i, &width) in config.widths.iter().enumerate() {
            let of = |block| match block {
                0 => BlockPlan::basic(inputs, width, if i == 0 { 1 } else { 2 }, Init::ONES),
                _ => BlockPlan::basic(width, width, 1, Init::ONES),
            };
            stages.push(Stage::new((0..config.blocks).map(of), &params.at(format!("layer{}", i + 1)))?);
            inputs = width;
        }
        Ok(Self {
            description: config.describe().without_head(),
            stem,
            relu: params.full("relu"),
            stages,
            head: None,
        })
    }
}

impl Backbone for SmallCnn {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        let x = self.stem.0.forward(images, pass)?;
        let mut x = self.stem.1.relu(&x, &self.relu, pass)?;
        for stage in &self.stages {
            x = stage.forward(x, pass)?;
        }
        Ok(Maps { maps: x, auxiliary: Vec::new() })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        head_of(&self.head)?.forward(maps, pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::size;

    /// The numbers of [`SmallCnnConfig::new`]'s doc.
    #[test]
    fn the_size_is_the_one_documented() {
        let count = |channels| size(|p| SmallCnn::new(&SmallCnnConfig::new(channels, 4), p)).0;
        assert_eq!([count(1), count(3)], [307_300, 307_876]);
    }
}
