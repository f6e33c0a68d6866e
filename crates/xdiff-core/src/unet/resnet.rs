//! The residual block, and the ways to halve and double an image.

use std::sync::Arc;

use candle_core::Tensor;
use xdiff_nn::layers::{
    Activation, Conv2d, Conv2dConfig, GroupNorm, Linear, Pool2d, add, avg_pool2d, dropout, upsample_nearest2d,
};
use xdiff_nn::tap::visit;
use xdiff_nn::{Params, Rng, Tap};

use super::config::{TimeScaleShift, UNet2DConfig};
use super::layer::Layer;
use crate::{Error, Result};

/// What travels through a forward pass beside the activations.
pub(super) struct Pass<'a> {
    /// Time and class (B, time width).
    pub(super) embedding: &'a Tensor,
    /// Sees the activations.
    pub(super) tap: &'a mut dyn Tap,
    /// Each block forks it to draw the dropped activations; nothing is dropped without it.
    pub(super) dropout: Option<&'a Rng>,
    /// Whether layers are computed anew in the backward pass, where no tap sees them.
    pub(super) checkpointing: bool,
}

/// A change of size inside a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resize {
    None,
    Half,
    Double,
}

impl Resize {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::None => x.clone(),
            Self::Half => avg_pool2d(x, &Pool2d::new(2, 2))?,
            Self::Double => double(x)?,
        })
    }
}

/// Nearest-neighbour upsampling by two.
fn double(x: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let side =
        |n: usize| n.checked_mul(2).ok_or_else(|| Error::input("image", format!("side {n} is too large")));
    Ok(upsample_nearest2d(x, (side(h)?, side(w)?))?)
}

/// GroupNorm → activation → conv 3×3, time, GroupNorm → activation → dropout → conv 3×3, plus the
/// input (through a 1×1 convolution where channels change); after He et al. and Ho et al. 2020.
#[derive(Debug)]
pub(super) struct ResnetBlock {
    site: String,
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    activation: Activation,
    time: TimeScaleShift,
    dropout: f64,
    resize: Resize,
    scale: f64,
}

impl ResnetBlock {
    pub(super) fn new(
        config: &UNet2DConfig,
        (input, output): (usize, usize),
        resize: Resize,
        scale: f64,
        p: &Params,
    ) -> Result<Self> {
        let groups = config.norm_num_groups;
        let conv = |i, o, name: &str| Conv2d::new(Conv2dConfig::new(i, o, 3).padding(1), &p.at(name));
        let time_width = match config.resnet_time_scale_shift {
            TimeScaleShift::Default => output,
            TimeScaleShift::ScaleShift => 2 * output,
        };
        let shortcut = || Conv2d::new(Conv2dConfig::new(input, output, 1), &p.at("conv_shortcut"));
        Ok(Self {
            site: p.path().to_owned(),
            norm1: GroupNorm::new(groups, input, config.norm_eps, &p.at("norm1"))?,
            conv1: conv(input, output, "conv1")?,
            time_emb_proj: Linear::new(config.time_width(), time_width, true, &p.at("time_emb_proj"))?,
            norm2: GroupNorm::new(groups, output, config.norm_eps, &p.at("norm2"))?,
            conv2: conv(output, output, "conv2")?,
            conv_shortcut: if input == output { None } else { Some(shortcut()?) },
            activation: config.act_fn,
            time: config.resnet_time_scale_shift,
            dropout: config.dropout,
            resize,
            scale,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let h = self.norm1.forward_act(x, self.activation)?;
        let (x, h) = (self.resize.apply(x)?, self.resize.apply(&h)?);
        let h = self.conv1.forward(&h)?;
        let time = self
            .time_emb_proj
            .forward(&self.activation.apply(pass.embedding)?)?
            .unsqueeze(2)?
            .unsqueeze(3)?;
        let h = match self.time {
            TimeScaleShift::Default => self.norm2.forward_act(&add(&h, &time)?, self.activation)?,
            TimeScaleShift::ScaleShift => {
                let parts = time.chunk(2, 1)?;
                let h = self.norm2.forward(&h)?;
                let h = h.broadcast_mul(&(&parts[0] + 1.0)?)?.broadcast_add(&parts[1])?;
                self.activation.apply(&h)?
            }
        };
        let h = match pass.dropout {
            Some(rng) if self.dropout > 0.0 => dropout(&h, self.dropout, &mut rng.fork(&self.site))?,
            _ => h,
        };
        let h = self.conv2.forward(&h)?;
        let x = match &self.conv_shortcut {
            Some(conv) => conv.forward(&x)?,
            None => x,
        };
        let y = add(&x, &h)?;
        let y = if self.scale == 1.0 { y } else { (y / self.scale)? };
        Ok(visit(pass.tap, &self.site, y)?)
    }
}

/// A change of size between stages.
#[derive(Debug)]
pub(super) enum Resampler {
    /// A strided convolution.
    Down { site: String, conv: Conv2d },
    /// Nearest upsampling and a convolution.
    Up { site: String, conv: Conv2d },
    /// A residual block.
    Resnet(Arc<Layer>),
}

impl Resampler {
    pub(super) fn down(config: &UNet2DConfig, channels: usize, p: &Params) -> Result<Self> {
        let conv = Conv2dConfig::new(channels, channels, 3).stride(2);
        // diffusers pads right and bottom by one where no padding is asked for.
        let conv = if config.downsample_padding == 0 { conv.pad4(0, 1, 0, 1) } else { conv.padding(1) };
        Ok(Self::Down { site: p.path().to_owned(), conv: Conv2d::new(conv, &p.at("conv"))? })
    }

    pub(super) fn up(channels: usize, p: &Params) -> Result<Self> {
        let conv = Conv2d::new(Conv2dConfig::new(channels, channels, 3).padding(1), &p.at("conv"))?;
        Ok(Self::Up { site: p.path().to_owned(), conv })
    }

    pub(super) fn resnet(config: &UNet2DConfig, channels: usize, resize: Resize, p: &Params) -> Result<Self> {
        let block = ResnetBlock::new(config, (channels, channels), resize, 1.0, p)?;
        Ok(Self::Resnet(Layer::new(block, None)))
    }

    pub(super) fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        match self {
            Self::Down { site, conv } => Ok(visit(pass.tap, site, conv.forward(&x)?)?),
            Self::Up { site, conv } => Ok(visit(pass.tap, site, conv.forward(&double(&x)?)?)?),
            Self::Resnet(layer) => layer.forward(&[x], pass),
        }
    }
}
