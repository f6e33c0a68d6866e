//! Convolution, batch norm and activation as one module.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::{Activation, BatchNormConfig, Conv2dConfig};

use super::init::ConvInit;
use super::site::{ConvSite, NormSite};
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

impl UnitStyle {
    /// That of GoogLeNet and Inception: weights with this deviation, or PyTorch's default.
    pub(crate) fn inception(deviation: Option<f64>) -> Self {
        Self {
            names: StageNames::NAMED,
            norm: BatchNormConfig { eps: 1e-3, ..Default::default() },
            act: Activation::Relu,
            init: deviation.map_or(ConvInit::Default, ConvInit::Normal),
        }
    }
}

/// A convolution without bias, batch norm, and an activation.
#[derive(Debug)]
pub(crate) struct ConvUnit {
    path: String,
    conv: ConvSite,
    norm: NormSite,
    act: Activation,
    act_site: Option<String>,
}

impl ConvUnit {
    pub(crate) fn new(config: Conv2dConfig, style: UnitStyle, params: &Params) -> Result<Self> {
        let UnitStyle { names, norm, act, init } = style;
        Ok(Self {
            path: params.path().to_owned(),
            conv: ConvSite::without_bias(config, init, &params.at(names.conv))?,
            norm: NormSite::new(config.out_channels, norm, &params.at(names.norm))?,
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
