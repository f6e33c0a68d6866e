//! The module that SqueezeNet is made of.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::Conv2dConfig;

use super::init::kaiming_uniform;
use super::site::{ConvSite, relu};
use crate::{Pass, Result};

/// Channels of a [`Fire`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FireWidths {
    pub(crate) inputs: usize,
    pub(crate) squeeze: usize,
    /// Of each of the two expanding convolutions.
    pub(crate) expand: usize,
}

/// A fire module: 1×1 to few channels, then 1×1 and 3×3 side by side to many, ReLU after each.
#[derive(Debug)]
pub(crate) struct Fire {
    squeeze: (ConvSite, String),
    expand: [(ConvSite, String); 2],
}

impl Fire {
    pub(crate) fn new(widths: FireWidths, params: &Params) -> Result<Self> {
        let FireWidths { inputs, squeeze, expand } = widths;
        let conv = |config: Conv2dConfig, name: &str| -> Result<_> {
            let conv = ConvSite::new(config, kaiming_uniform(config.fan_in()), &params.at(name))?;
            Ok((conv, params.full(format!("{name}_activation"))))
        };
        Ok(Self {
            squeeze: conv(Conv2dConfig::new(inputs, squeeze, 1), "squeeze")?,
            expand: [
                conv(Conv2dConfig::new(squeeze, expand, 1), "expand1x1")?,
                conv(Conv2dConfig::new(squeeze, expand, 3).padding(1), "expand3x3")?,
            ],
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut run = |(conv, activation): &(ConvSite, String), x: &Tensor| {
            let y = conv.forward(x, pass)?;
            relu(&y, activation, pass)
        };
        let x = run(&self.squeeze, x)?;
        let parts = [run(&self.expand[0], &x)?, run(&self.expand[1], &x)?];
        Ok(Tensor::cat(&parts, 1)?)
    }
}
