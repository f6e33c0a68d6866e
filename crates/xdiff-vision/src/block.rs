//! A convolution, batch norm and activation: what most backbones are made of.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::{Activation, BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig};

use crate::{Pass, Result};

/// A batch norm that knows its path, so that it can be frozen.
#[derive(Debug)]
pub(crate) struct Norm {
    path: String,
    norm: BatchNorm2d,
}

impl Norm {
    pub(crate) fn new(channels: usize, config: BatchNormConfig, params: &Params) -> Result<Self> {
        Ok(Self { path: params.path().to_owned(), norm: BatchNorm2d::new(channels, config, params)? })
    }

    pub(crate) fn forward(&self, x: &Tensor, act: Activation, pass: &Pass<'_>) -> Result<Tensor> {
        Ok(self.norm.forward_act(x, pass.norm_mode(&self.path), act)?)
    }
}

/// A convolution without bias, and the batch norm behind it.
#[derive(Debug)]
pub(crate) struct ConvNorm {
    conv: Conv2d,
    norm: Norm,
}

impl ConvNorm {
    /// `conv` and `norm` are the scopes of the two.
    pub(crate) fn new(
        config: Conv2dConfig,
        norm: BatchNormConfig,
        (conv, norm_params): (&Params, &Params),
    ) -> Result<Self> {
        let config = config.bias(false);
        Ok(Self {
            conv: Conv2d::new(config, conv)?,
            norm: Norm::new(config.out_channels, norm, norm_params)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, act: Activation, pass: &Pass<'_>) -> Result<Tensor> {
        self.norm.forward(&self.conv.forward(x)?, act, pass)
    }
}
