//! The stages of the U-Net.

use std::sync::Arc;

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::tap::visit;

use super::attention::{SelfAttention, Widths};
use super::config::{DownBlock, Resampling, TimeScaleShift, UNet2DConfig, UpBlock};
use super::layer::Layer;
use super::resnet::{Pass, Resampler, Resize, ResnetBlock};
use crate::{Error, Result};

/// One layer for each entry of `inputs`, which holds the channels that come in.
fn layers(
    config: &UNet2DConfig,
    inputs: &[usize],
    output: usize,
    attends: bool,
    p: &Params,
) -> Result<Vec<Arc<Layer>>> {
    let (resnets, attentions) = (p.at("resnets"), p.at("attentions"));
    let widths = Widths {
        channels: output,
        head: config.attention_head_dim.unwrap_or(output),
        groups: Some(config.norm_num_groups),
    };
    let attention = |j: usize| SelfAttention::new(widths, config.norm_eps, 1.0, &attentions.at(j));
    let layer = |(j, &input): (usize, &usize)| {
        let resnet = ResnetBlock::new(config, (input, output), Resize::None, 1.0, &resnets.at(j))?;
        Ok(Layer::new(resnet, if attends { Some(attention(j)?) } else { None }))
    };
    inputs.iter().enumerate().map(layer).collect()
}

/// A stage on the way down.
#[derive(Debug)]
pub(super) struct Down {
    layers: Vec<Arc<Layer>>,
    sampler: Option<Resampler>,
}

impl Down {
    pub(super) fn new(config: &UNet2DConfig, stage: usize, p: &Params) -> Result<Self> {
        let channels = &config.block_out_channels;
        let output = channels[stage];
        let input = channels[stage.saturating_sub(1)];
        let mut inputs = vec![output; config.layers_per_block];
        inputs[0] = input;
        let kind = config.down_block_types[stage];
        let layers = layers(config, &inputs, output, kind == DownBlock::Attention, p)?;
        let p = p.at("downsamplers").at(0);
        let by_resnet = kind == DownBlock::Resnet
            || kind == DownBlock::Attention && config.downsample_type == Resampling::Resnet;
        let sampler = if stage + 1 == channels.len() {
            None
        } else if by_resnet {
            Some(Resampler::resnet(config, output, Resize::Half, &p)?)
        } else {
            Some(Resampler::down(config, output, &p)?)
        };
        Ok(Self { layers, sampler })
    }

    /// Pushes every state that the way up joins again.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        skips: &mut Vec<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.forward(&[x], pass)?;
            skips.push(x.clone());
        }
        if let Some(sampler) = &self.sampler {
            x = sampler.forward(x, pass)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The stage between down and up.
#[derive(Debug)]
pub(super) struct Mid {
    site: String,
    first: Arc<Layer>,
    second: Arc<Layer>,
}

impl Mid {
    pub(super) fn new(config: &UNet2DConfig, p: &Params) -> Result<Self> {
        let channels = config.block_out_channels[config.block_out_channels.len() - 1];
        let scale = config.mid_block_scale_factor;
        let resnet = |j: usize| {
            ResnetBlock::new(config, (channels, channels), Resize::None, scale, &p.at("resnets").at(j))
        };
        // diffusers leaves the normalisation out under scale_shift unless its groups are given.
        let groups = config.attn_norm_num_groups.or_else(|| {
            (config.resnet_time_scale_shift == TimeScaleShift::Default).then_some(config.norm_num_groups)
        });
        let widths = Widths { channels, head: config.attention_head_dim.unwrap_or(channels), groups };
        let attention = if config.add_attention {
            Some(SelfAttention::new(widths, config.norm_eps, scale, &p.at("attentions").at(0))?)
        } else {
            None
        };
        Ok(Self {
            site: p.path().to_owned(),
            first: Layer::new(resnet(0)?, attention),
            second: Layer::new(resnet(1)?, None),
        })
    }

    pub(super) fn forward(&self, x: Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.first.forward(&[x], pass)?;
        let x = self.second.forward(&[x], pass)?;
        Ok(visit(pass.tap, &self.site, x)?)
    }
}

/// A stage on the way up.
#[derive(Debug)]
pub(super) struct Up {
    layers: Vec<Arc<Layer>>,
    sampler: Option<Resampler>,
}

impl Up {
    pub(super) fn new(config: &UNet2DConfig, index: usize, p: &Params) -> Result<Self> {
        let channels = &config.block_out_channels;
        let stage = channels.len() - 1 - index;
        let output = channels[stage];
        let previous = channels[(stage + 1).min(channels.len() - 1)];
        let below = channels[stage.saturating_sub(1)];
        let count = config.layers_per_block + 1;
        let inputs: Vec<usize> = (0..count)
            .map(|j| {
                let from_before = if j == 0 { previous } else { output };
                let from_skip = if j + 1 == count { below } else { output };
                from_before + from_skip
            })
            .collect();
        let kind = config.up_block_types[index];
        let layers = layers(config, &inputs, output, kind == UpBlock::Attention, p)?;
        let p = p.at("upsamplers").at(0);
        let by_resnet = kind == UpBlock::Resnet
            || kind == UpBlock::Attention && config.upsample_type == Resampling::Resnet;
        let sampler = if stage == 0 {
            None
        } else if by_resnet {
            Some(Resampler::resnet(config, output, Resize::Double, &p)?)
        } else {
            Some(Resampler::up(output, &p)?)
        };
        Ok(Self { layers, sampler })
    }

    /// Joins the states of the way down, last first.
    pub(super) fn forward(
        &self,
        mut x: Tensor,
        skips: &mut Vec<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            let Some(skip) = skips.pop() else {
                return Err(Error::config(
                    "up_block_types",
                    "there are more layers up than states from the way down",
                ));
            };
            x = layer.forward(&[x, skip], pass)?;
        }
        match &self.sampler {
            Some(sampler) => sampler.forward(x, pass),
            None => Ok(x),
        }
    }
}
