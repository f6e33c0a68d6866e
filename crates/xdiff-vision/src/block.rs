//! A convolution, batch norm and activation: what most backbones are made of.

use candle_core::Tensor;
use xdiff_nn::layers::{Activation, BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig};
use xdiff_nn::{Init, Params};

use crate::{Pass, Result};

/// A batch norm that knows its path, so that it can be frozen.
#[derive(Debug)]
pub(crate) struct Norm {
    path: String,
    norm: BatchNorm2d,
}

impl Norm {
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

    /// ReLU of the normalised input, which alone is a site; in one go unless somebody looks at it.
    pub(crate) fn then_relu(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        if pass.wants(&self.path) {
            return Ok(Activation::Relu.apply(&self.visited(x, pass)?)?);
        }
        self.forward(x, Activation::Relu, pass)
    }

    /// As [`then_relu`](Self::then_relu), with a site for the ReLU too.
    pub(crate) fn relu(&self, x: &Tensor, relu_site: &str, pass: &mut Pass<'_>) -> Result<Tensor> {
        let y = self.then_relu(x, pass)?;
        pass.visit(relu_site, y)
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

/// A convolution that is a site of its own.
#[derive(Debug)]
pub(crate) struct Conv {
    site: String,
    conv: Conv2d,
}

impl Conv {
    pub(crate) fn new(config: Conv2dConfig, inits: (Init, Init), params: &Params) -> Result<Self> {
        Ok(Self { site: params.path().to_owned(), conv: Conv2d::with_inits(config, inits, params)? })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.visit(&self.site, self.conv.forward(x)?)
    }
}

/// ReLU as a site.
pub(crate) fn relu(x: &Tensor, site: &str, pass: &mut Pass<'_>) -> Result<Tensor> {
    pass.visit(site, Activation::Relu.apply(x)?)
}
