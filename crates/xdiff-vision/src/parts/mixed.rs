//! Blocks of parallel branches whose maps are joined: what GoogLeNet and Inception are made of.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::{Conv2dConfig, Pool2d, avg_pool2d, max_pool2d};

use super::conv_unit::{ConvUnit, UnitStyle};
use crate::{Pass, Result};

/// Pooling that keeps or divides the size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pooling {
    Average(Pool2d),
    Max(Pool2d),
}

impl Pooling {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Average(pool) => avg_pool2d(x, pool)?,
            Self::Max(pool) => max_pool2d(x, pool)?,
        })
    }
}

/// A convolution of a branch: its name, and all but the channels that it is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    name: &'static str,
    channels: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: (usize, usize),
}

impl Window {
    pub(crate) const fn channels(&self) -> usize {
        self.channels
    }

    /// One that keeps the size.
    pub(crate) const fn same(name: &'static str, channels: usize, kernel: (usize, usize)) -> Self {
        Self { name, channels, kernel, stride: 1, padding: (kernel.0 / 2, kernel.1 / 2) }
    }

    /// One without padding.
    pub(crate) const fn valid(name: &'static str, channels: usize, kernel: usize, stride: usize) -> Self {
        Self { name, channels, kernel: (kernel, kernel), stride, padding: (0, 0) }
    }

    /// The same at every `stride`-th position.
    pub(crate) const fn strided(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    pub(crate) fn build(self, inputs: usize, style: UnitStyle, params: &Params) -> Result<ConvUnit> {
        let config = Conv2dConfig::new(inputs, self.channels, 1)
            .kernel_hw(self.kernel.0, self.kernel.1)
            .stride(self.stride)
            .padding_hw(self.padding.0, self.padding.1);
        ConvUnit::new(config, style, &params.at(self.name))
    }
}

/// What a step of a branch is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A pooling, and its name where it is a module.
    Pool(Pooling, Option<&'static str>),
    /// A convolution.
    Conv(Window),
    /// Two convolutions of the same maps, joined.
    Fork([Window; 2]),
}

#[derive(Debug)]
enum BuiltStep {
    Pool(Pooling, Option<String>),
    Conv(Box<ConvUnit>),
    Fork(Box<[ConvUnit; 2]>),
}

/// A sequence of steps.
#[derive(Debug)]
struct Branch {
    /// Where the branch is a module of several.
    site: Option<String>,
    steps: Vec<BuiltStep>,
}

impl Branch {
    /// A branch, and how many channels it gives.
    fn new(
        inputs: usize,
        module: Option<&'static str>,
        plan: &[Step],
        style: UnitStyle,
        params: &Params,
    ) -> Result<(Self, usize)> {
        let scope = module.map_or_else(|| params.clone(), |name| params.at(name));
        let mut channels = inputs;
        let mut steps = Vec::with_capacity(plan.len());
        for step in plan {
            steps.push(match step {
                Step::Pool(pool, name) => BuiltStep::Pool(*pool, name.map(|name| scope.full(name))),
                Step::Conv(window) => {
                    let conv = window.build(channels, style, &scope)?;
                    channels = window.channels;
                    BuiltStep::Conv(Box::new(conv))
                }
                Step::Fork([a, b]) => {
                    let convs = [a.build(channels, style, &scope)?, b.build(channels, style, &scope)?];
                    channels = a.channels + b.channels;
                    BuiltStep::Fork(Box::new(convs))
                }
            });
        }
        Ok((Self { site: module.map(|_| scope.path().to_owned()), steps }, channels))
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let mut x = x.clone();
        for step in &self.steps {
            x = match step {
                BuiltStep::Pool(pool, site) => {
                    let y = pool.forward(&x)?;
                    match site {
                        Some(site) => pass.visit(site, y)?,
                        None => y,
                    }
                }
                BuiltStep::Conv(conv) => conv.forward(&x, pass)?,
                BuiltStep::Fork(convs) => {
                    let [a, b] = convs.as_ref();
                    Tensor::cat(&[a.forward(&x, pass)?, b.forward(&x, pass)?], 1)?
                }
            };
        }
        match &self.site {
            Some(site) => pass.visit(site, x),
            None => Ok(x),
        }
    }
}

/// Parallel branches, joined along the channels.
#[derive(Debug)]
pub(crate) struct Mixed {
    path: String,
    channels: usize,
    branches: Vec<Branch>,
}

/// The branches of a block: the name where a branch is a module of its own, and the steps.
pub(crate) type Branches<'a> = &'a [(Option<&'static str>, &'a [Step])];

impl Mixed {
    /// A block over maps of `inputs` channels.
    pub(crate) fn new(
        inputs: usize,
        branches: Branches<'_>,
        style: UnitStyle,
        params: &Params,
    ) -> Result<Self> {
        let mut channels = 0;
        let mut built = Vec::with_capacity(branches.len());
        for (module, plan) in branches {
            let (branch, outputs) = Branch::new(inputs, *module, plan, style, params)?;
            channels += outputs;
            built.push(branch);
        }
        Ok(Self { path: params.path().to_owned(), channels, branches: built })
    }

    /// How many channels the joined maps have.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let maps = self.branches.iter().map(|branch| branch.forward(x, pass)).collect::<Result<Vec<_>>>()?;
        pass.visit(&self.path, Tensor::cat(&maps, 1)?)
    }
}
