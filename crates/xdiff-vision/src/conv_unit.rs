//! Convolution, batch norm and activation as one module.

use candle_core::Tensor;
use xdiff_nn::layers::{Activation, BatchNormConfig, Conv2dConfig, Linear};
use xdiff_nn::{Init, Params};

use crate::block::{Conv, Norm};
use crate::{Pass, Result};

/// What torchvision calls the stages of a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StageNames {
    conv: &'static str,
    norm: &'static str,
    /// The activation, where it is a module.
    act: Option<&'static str>,
}

impl StageNames {
    /// Those of GoogLeNet and Inception: the activation is no module.
    pub(crate) const NAMED: Self = Self { conv: "conv", norm: "bn", act: None };
    /// Those of a sequence.
    pub(crate) const NUMBERED: Self = Self { conv: "0", norm: "1", act: Some("2") };
}

/// How the units of a network are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitStyle {
    pub(crate) names: StageNames,
    pub(crate) norm: BatchNormConfig,
    pub(crate) act: Activation,
    pub(crate) init: ConvInit,
}

/// How the weight of a convolution is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ConvInit {
    /// PyTorch's default.
    Default,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Kaiming's normal by the outputs.
    KaimingFanOut,
}

impl ConvInit {
    /// A convolution without bias whose weight is drawn so.
    pub(crate) fn build(self, config: Conv2dConfig, params: &Params) -> Result<Conv> {
        let init = match self {
            Self::Default => Init::torch_default(config.fan_in()),
            Self::Normal(deviation) => Init::Normal(deviation),
            Self::KaimingFanOut => Init::kaiming_normal(config.fan_out()),
        };
        Conv::new(config.bias(false), (init, Init::ZEROS), params)
    }
}

/// A convolution without bias, batch norm, and an activation.
#[derive(Debug)]
pub(crate) struct ConvUnit {
    path: String,
    conv: Conv,
    norm: Norm,
    act: Activation,
    act_site: Option<String>,
}

impl ConvUnit {
    pub(crate) fn new(config: Conv2dConfig, style: UnitStyle, params: &Params) -> Result<Self> {
        let UnitStyle { names, norm, act, init } = style;
        Ok(Self {
            path: params.path().to_owned(),
            conv: init.build(config, &params.at(names.conv))?,
            norm: Norm::new(config.out_channels, norm, &params.at(names.norm))?,
            act,
            act_site: names.act.map(|name| params.full(name)),
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut y = self.norm.then(&self.conv.forward(x, pass)?, self.act, pass)?;
        if let Some(site) = &self.act_site {
            y = pass.visit(site, y)?;
        }
        pass.visit(&self.path, y)
    }
}

/// A linear layer that is a site, with weight and bias drawn each in its way.
#[derive(Debug)]
pub(crate) struct LinearSite {
    path: String,
    linear: Linear,
}

impl LinearSite {
    pub(crate) fn new(sizes: (usize, usize), (weight, bias): (Init, Init), params: &Params) -> Result<Self> {
        let linear = Linear::with_inits(sizes, weight, Some(bias), params)?;
        Ok(Self { path: params.path().to_owned(), linear })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.visit(&self.path, self.linear.forward(x)?)
    }
}
