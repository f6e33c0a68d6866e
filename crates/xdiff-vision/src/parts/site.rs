//! Convolutions, batch norms and linear layers that are sites.

use candle_core::Tensor;
use xdiff_nn::layers::{Activation, BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig, Linear};
use xdiff_nn::{Init, Params};

use super::init::{ConvInit, Inits};
use crate::{Pass, Result};

/// A batch norm that knows its path, so that it can be frozen.
#[derive(Debug)]
pub(crate) struct NormSite {
    path: String,
    norm: BatchNorm2d,
}

impl NormSite {
    pub(crate) fn new(channels: usize, config: BatchNormConfig, params: &Params) -> Result<Self> {
        Self::with_init(channels, config, Init::ONES, params)
    }

    /// As [`new`](Self::new), with another initial weight.
    pub(crate) fn with_init(
        channels: usize,
        config: BatchNormConfig,
        weight: Init,
        params: &Params,
    ) -> Result<Self> {
        let norm = BatchNorm2d::with_init(channels, config, weight, params)?;
        Ok(Self { path: params.path().to_owned(), norm })
    }

    pub(crate) fn forward(&self, x: &Tensor, act: Activation, pass: &Pass<'_>) -> Result<Tensor> {
        Ok(self.norm.forward_act(x, pass.norm_mode(&self.path), act)?)
    }

    /// The normalised input, as a site.
    pub(crate) fn visited(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let y = self.forward(x, Activation::Identity, pass)?;
        pass.visit(&self.path, y)
    }

    /// An activation of the normalised input, which alone is a site; in one go unless somebody looks
    /// at it.
    pub(crate) fn then(&self, x: &Tensor, act: Activation, pass: &mut Pass<'_>) -> Result<Tensor> {
        if pass.wants(&self.path) {
            return Ok(act.apply(&self.visited(x, pass)?)?);
        }
        self.forward(x, act, pass)
    }

    /// As [`then`](Self::then), with ReLU.
    pub(crate) fn then_relu(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.then(x, Activation::Relu, pass)
    }

    /// As [`then_relu`](Self::then_relu), with a site for the ReLU too.
    pub(crate) fn relu(&self, x: &Tensor, relu_site: &str, pass: &mut Pass<'_>) -> Result<Tensor> {
        let y = self.then_relu(x, pass)?;
        pass.visit(relu_site, y)
    }
}

/// A convolution that is a site.
#[derive(Debug)]
pub(crate) struct ConvSite {
    path: String,
    conv: Conv2d,
}

impl ConvSite {
    pub(crate) fn new(config: Conv2dConfig, inits: Inits, params: &Params) -> Result<Self> {
        Ok(Self { path: params.path().to_owned(), conv: Conv2d::with_inits(config, inits, params)? })
    }

    /// One that a batch norm follows, which has the bias.
    pub(crate) fn without_bias(config: Conv2dConfig, init: ConvInit, params: &Params) -> Result<Self> {
        Self::new(config.bias(false), (init.weight(config), Init::ZEROS), params)
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.visit(&self.path, self.conv.forward(x)?)
    }
}

/// A linear layer that is a site.
#[derive(Debug)]
pub(crate) struct LinearSite {
    path: String,
    linear: Linear,
}

impl LinearSite {
    /// `sizes` are inputs and outputs.
    pub(crate) fn new(sizes: (usize, usize), (weight, bias): Inits, params: &Params) -> Result<Self> {
        let linear = Linear::with_inits(sizes, weight, Some(bias), params)?;
        Ok(Self { path: params.path().to_owned(), linear })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.visit(&self.path, self.linear.forward(x)?)
    }
}

/// ReLU as a site.
pub(crate) fn relu(x: &Tensor, site: &str, pass: &mut Pass<'_>) -> Result<Tensor> {
    pass.visit(site, Activation::Relu.apply(x)?)
}
