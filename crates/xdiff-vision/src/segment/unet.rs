//! A U-Net for segmentation.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_nn::Params;
use xdiff_nn::layers::{
    Activation, BatchNormConfig, Conv2d, Conv2dConfig, GroupNorm, Pool2d, max_pool2d, upsample_bilinear2d,
};

use super::Segmenter;
use crate::check::{positive, probability};
use crate::parts::NormSite;
use crate::{Error, Pass, Result, check};

/// How activations are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SegNorm {
    /// Over the batch.
    #[default]
    Batch,
    /// Over groups of channels of each image, for small batches.
    Group {
        /// How many groups; a divisor of every width.
        groups: usize,
    },
}

/// What a [`SegUNet`] is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SegUNetConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes there are with the background; 1 for one logit of foreground against
    /// background.
    pub classes: usize,
    /// Channels of each level, from the finest down; at least one.
    pub widths: Vec<usize>,
    /// How activations are normalised.
    pub norm: SegNorm,
    /// Probability of dropout between the two convolutions of a block.
    pub dropout: f64,
}

impl Default for SegUNetConfig {
    /// One channel, one logit, four levels of 16 to 128 channels, batch norm, no dropout.
    fn default() -> Self {
        Self { in_channels: 1, classes: 1, widths: vec![16, 32, 64, 128], norm: SegNorm::Batch, dropout: 0.0 }
    }
}

impl SegUNetConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        positive("in_channels", self.in_channels)?;
        positive("classes", self.classes)?;
        if self.widths.is_empty() || self.widths.len() > 16 || self.widths.contains(&0) {
            let reason = format!("is {:?}, must be 1 to 16 positive numbers", self.widths);
            return Err(Error::config("widths", reason));
        }
        if let SegNorm::Group { groups } = self.norm
            && (groups == 0 || self.widths.iter().any(|w| w % groups != 0))
        {
            let reason = format!("{groups} groups do not divide each of the widths {:?}", self.widths);
            return Err(Error::config("norm", reason));
        }
        probability("dropout", self.dropout)
    }

    /// The least height and width of an image: 2 to the number of levels less one.
    pub fn least_side(&self) -> usize {
        1 << (self.widths.len().max(1) - 1)
    }
}

#[derive(Debug)]
enum AnyNorm {
    Batch(NormSite),
    Group(GroupNorm),
}

impl AnyNorm {
    fn new(kind: SegNorm, channels: usize, params: &Params) -> Result<Self> {
        Ok(match kind {
            SegNorm::Batch => Self::Batch(NormSite::new(channels, BatchNormConfig::default(), params)?),
            SegNorm::Group { groups } => Self::Group(GroupNorm::new(groups, channels, 1e-5, params)?),
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        match self {
            Self::Batch(norm) => norm.forward(x, Activation::Relu, pass),
            Self::Group(norm) => Ok(norm.forward_act(x, Activation::Relu)?),
        }
    }
}

/// Twice a 3×3 convolution, a norm and ReLU.
#[derive(Debug)]
struct Block {
    path: String,
    convs: [Conv2d; 2],
    norms: [AnyNorm; 2],
    dropout: f64,
}

impl Block {
    fn new(config: &SegUNetConfig, (from, to): (usize, usize), params: &Params) -> Result<Self> {
        let conv = |from, name: &str| {
            let config = Conv2dConfig::new(from, to, 3).padding(1).bias(false);
            Conv2d::new(config, &params.at(name))
        };
        let norm = |name: &str| AnyNorm::new(config.norm, to, &params.at(name));
        Ok(Self {
            path: params.path().to_owned(),
            convs: [conv(from, "conv1")?, conv(to, "conv2")?],
            norms: [norm("norm1")?, norm("norm2")?],
            dropout: config.dropout,
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let [conv1, conv2] = &self.convs;
        let [norm1, norm2] = &self.norms;
        let x = norm1.forward(&conv1.forward(x)?, pass)?;
        let x = pass.dropout(&self.path, x, self.dropout)?;
        let x = norm2.forward(&conv2.forward(&x)?, pass)?;
        pass.visit(&self.path, x)
    }
}

/// A U-Net (Ronneberger, Fischer and Brox 2015) with padded convolutions and norms.
///
/// On the way down each level is a block of two 3×3 convolutions, and a 2×2 maximum leads to the next;
/// on the way up the coarser level is interpolated bilinearly to the size of the finer one, whatever
/// that is, joined to what was there on the way down, and passed through a block. Images may have any
/// sides from [`SegUNetConfig::least_side`] on: where a side is odd, its last row or column has no
/// part in the coarser levels and is made of the finer ones and of its neighbours.
///
/// Tap sites: `encoder.0` (finest) to `encoder.N` (coarsest), `decoder.N-1` to `decoder.0`, `head`.
///
/// To train, batch norm needs at least two pixels in a batch at the coarsest level.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::Pass;
/// use xdiff_vision::segment::{SegUNet, SegUNetConfig, Segmenter};
///
/// let config = SegUNetConfig { classes: 3, widths: vec![4, 8, 8], ..Default::default() };
/// let network = SegUNet::new(config, &Params::fresh(0, &Device::Cpu))?;
/// let images = Rng::new(1).randn((1, 1, 9, 14), &Device::Cpu)?;
/// assert_eq!(network.logits(&images, &mut Pass::eval(&mut ()))?.dims(), [1, 3, 9, 14]);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct SegUNet {
    config: SegUNetConfig,
    encoder: Vec<Block>,
    /// From the finest level up to the last but one.
    decoder: Vec<Block>,
    head: Conv2d,
}

impl SegUNet {
    /// Asks for the weights of the blocks, `encoder.0.conv1.weight` and so on, and of `head`.
    ///
    /// # Errors
    /// Those of [`SegUNetConfig::validate`] and [`Params::weight`].
    pub fn new(config: SegUNetConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        let (widths, mut from) = (&config.widths, config.in_channels);
        let mut encoder = Vec::with_capacity(widths.len());
        for (i, width) in widths.iter().enumerate() {
            encoder.push(Block::new(&config, (from, *width), &params.at(format!("encoder.{i}")))?);
            from = *width;
        }
        let decoder = widths
            .windows(2)
            .enumerate()
            .map(|(i, w)| Block::new(&config, (w[0] + w[1], w[0]), &params.at(format!("decoder.{i}"))));
        let decoder = decoder.collect::<Result<_>>()?;
        let head = Conv2d::new(Conv2dConfig::new(widths[0], config.classes, 1), &params.at("head"))?;
        Ok(Self { encoder, decoder, head, config })
    }

    /// The configuration.
    pub fn config(&self) -> &SegUNetConfig {
        &self.config
    }
}

impl Segmenter for SegUNet {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn logits(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        check::images("this network", self.config.in_channels, self.config.least_side(), images)?;
        let mut levels: Vec<Tensor> = Vec::with_capacity(self.encoder.len());
        for block in &self.encoder {
            let x = match levels.last() {
                None => images.clone(),
                Some(finer) => max_pool2d(finer, &Pool2d::new(2, 2))?,
            };
            levels.push(block.forward(&x, pass)?);
        }
        // The coarsest level is where the way up begins.
        let Some(mut x) = levels.pop() else { return Err(Error::config("widths", "is empty")) };
        for (block, skip) in self.decoder.iter().zip(&levels).rev() {
            let (_, _, h, w) = skip.dims4()?;
            let up = upsample_bilinear2d(&x, (h, w), false)?;
            x = block.forward(&Tensor::cat(&[skip, &up], 1)?, pass)?;
        }
        pass.visit("head", self.head.forward(&x)?)
    }
}
