//! Layers one after another, numbered as in PyTorch's `Sequential`.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::{
    Activation, BatchNormConfig, Conv2d, Conv2dConfig, Linear, Pool2d, adaptive_avg_pool2d, max_pool2d,
};

use super::fire::{Fire, FireWidths};
use super::init::Inits;
use super::site::NormSite;
use crate::{Pass, Result};

/// What a layer of a sequence is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer {
    Conv(Conv2dConfig, Inits),
    /// Batch norm of that many channels.
    Norm(usize),
    Relu,
    MaxPool(Pool2d),
    /// The mean of each of that many parts per side.
    MeanPool(usize),
    Fire(FireWidths),
    Dropout(f64),
    /// (inputs, outputs).
    Linear((usize, usize), Inits),
}

#[derive(Debug)]
enum BuiltLayer {
    Conv(Conv2d),
    Norm(NormSite),
    Relu,
    MaxPool(Pool2d),
    MeanPool(usize),
    Fire(Box<Fire>),
    Dropout(f64),
    Linear(Linear),
}

impl BuiltLayer {
    fn new(layer: Layer, params: &Params) -> Result<Self> {
        Ok(match layer {
            Layer::Conv(config, inits) => Self::Conv(Conv2d::with_inits(config, inits, params)?),
            Layer::Norm(channels) => Self::Norm(NormSite::new(channels, BatchNormConfig::default(), params)?),
            Layer::Relu => Self::Relu,
            Layer::MaxPool(pool) => Self::MaxPool(pool),
            Layer::MeanPool(side) => Self::MeanPool(side),
            Layer::Fire(widths) => Self::Fire(Box::new(Fire::new(widths, params)?)),
            Layer::Dropout(p) => Self::Dropout(p),
            Layer::Linear(sizes, (weight, bias)) => {
                Self::Linear(Linear::with_inits(sizes, weight, Some(bias), params)?)
            }
        })
    }

    fn forward(&self, site: &str, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        Ok(match self {
            Self::Conv(conv) => conv.forward(x)?,
            Self::Norm(norm) => norm.forward(x, Activation::Identity, pass)?,
            Self::Relu => Activation::Relu.apply(x)?,
            Self::MaxPool(pool) => max_pool2d(x, pool)?,
            Self::MeanPool(side) => adaptive_avg_pool2d(x, (*side, *side))?,
            Self::Fire(fire) => fire.forward(x, pass)?,
            Self::Dropout(p) => pass.dropout(site, x.clone(), *p)?,
            Self::Linear(linear) => linear.forward(x)?,
        })
    }
}

/// What a sequence gives.
pub(crate) struct Passed {
    /// What its last layer takes.
    pub(crate) before_last: Tensor,
    /// What its last layer gives.
    pub(crate) output: Tensor,
}

/// Layers one after another; layer i has the scope and the site `i` below the sequence's own.
#[derive(Debug)]
pub(crate) struct Sequence {
    site: String,
    layers: Vec<(String, BuiltLayer)>,
}

impl Sequence {
    pub(crate) fn new(layers: impl IntoIterator<Item = Layer>, params: &Params) -> Result<Self> {
        let built = |(i, layer)| {
            let scope = params.at(i);
            Ok((scope.path().to_owned(), BuiltLayer::new(layer, &scope)?))
        };
        let layers = layers.into_iter().enumerate().map(built).collect::<Result<_>>()?;
        Ok(Self { site: params.path().to_owned(), layers })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Passed> {
        let (mut before_last, mut output) = (x.clone(), x.clone());
        let mut layers = self.layers.iter().peekable();
        while let Some((site, layer)) = layers.next() {
            before_last = output;
            output = match (layer, layers.peek()) {
                // In one go, unless somebody looks at what lies between.
                (BuiltLayer::Norm(norm), Some((relu, BuiltLayer::Relu))) if !pass.wants(site) => {
                    layers.next();
                    let y = norm.forward(&before_last, Activation::Relu, pass)?;
                    pass.visit(relu, y)?
                }
                _ => {
                    let y = layer.forward(site, &before_last, pass)?;
                    pass.visit(site, y)?
                }
            };
        }
        let output = pass.visit(&self.site, output)?;
        Ok(Passed { before_last, output })
    }
}
