//! Convolution, batch norm and activation whose every stage a tap can see.

use candle_core::Tensor;
use xdiff_nn::layers::{Activation, BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig, Linear};
use xdiff_nn::{Init, Params};

use crate::{Pass, Result};

/// What torchvision calls the stages of a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StageNames {
    pub(crate) conv: &'static str,
    pub(crate) norm: &'static str,
    /// The activation, where it is a module.
    pub(crate) act: Option<&'static str>,
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
    pub(crate) fn of(self, config: &Conv2dConfig) -> Init {
        match self {
            Self::Default => Init::torch_default(config.fan_in()),
            Self::Normal(deviation) => Init::Normal(deviation),
            Self::KaimingFanOut => Init::kaiming_normal(config.fan_out()),
        }
    }
}

/// A convolution without bias, batch norm, and an activation.
///
/// Batch norm and activation are one operation unless the tap wants what is between them.
#[derive(Debug)]
pub(crate) struct ConvUnit {
    path: String,
    conv_site: String,
    norm_site: String,
    act_site: Option<String>,
    conv: Conv2d,
    norm: BatchNorm2d,
    act: Activation,
}

impl ConvUnit {
    pub(crate) fn new(config: Conv2dConfig, style: UnitStyle, params: &Params) -> Result<Self> {
        let UnitStyle { names, norm, act, init } = style;
        let config = config.bias(false);
        Ok(Self {
            path: params.path().to_owned(),
            conv_site: params.full(names.conv),
            norm_site: params.full(names.norm),
            act_site: names.act.map(|name| params.full(name)),
            conv: Conv2d::with_init(config, init.of(&config), &params.at(names.conv))?,
            norm: BatchNorm2d::new(config.out_channels, norm, &params.at(names.norm))?,
            act,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut y = pass.visit(&self.conv_site, self.conv.forward(x)?)?;
        let mode = pass.norm_mode(&self.norm_site);
        y = if pass.wants(&self.norm_site) {
            self.act.apply(&pass.visit(&self.norm_site, self.norm.forward(&y, mode)?)?)?
        } else {
            self.norm.forward_act(&y, mode, self.act)?
        };
        if let Some(site) = &self.act_site {
            y = pass.visit(site, y)?;
        }
        pass.visit(&self.path, y)
    }
}

/// A linear layer that is a site, with weight and bias drawn apart.
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
