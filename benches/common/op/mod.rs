//! Single operations: what they are called, what they cost and how they run.

mod cost;
mod layer;
mod run;
#[cfg(test)]
mod tests;

use serde::Serialize;
use xdiff::nn::layers::Activation;

pub(crate) use layer::{Layer, layer};
pub(crate) use run::prepare;

/// A layer or another operation, with the sizes of what it is given. Images are square.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// A convolution of images with a square window and zeros half a window wide around them.
    #[serde(rename = "conv2d")]
    Conv2d {
        /// Images.
        batch: usize,
        /// Channels of the input.
        in_channels: usize,
        /// Channels of the output.
        out_channels: usize,
        /// Side of the input.
        size: usize,
        /// Side of the window, an odd number.
        kernel: usize,
        /// Steps between windows.
        stride: usize,
        /// Independent groups of channels.
        groups: usize,
        /// Whether a learnt number is added.
        bias: bool,
    },
    /// An affine map of the last dimension of (batch, rows, inputs).
    Linear {
        /// Samples.
        batch: usize,
        /// Rows of a sample.
        rows: usize,
        /// Numbers in a row.
        inputs: usize,
        /// Numbers in a row of the output.
        outputs: usize,
        /// Whether a learnt number is added.
        bias: bool,
    },
    /// Scaled dot-product attention.
    Attention {
        /// Samples.
        batch: usize,
        /// Heads.
        heads: usize,
        /// Queries of a head.
        queries: usize,
        /// Keys of a head.
        keys: usize,
        /// Numbers of a query, key or value.
        width: usize,
        /// Whether queries, keys, values and the result are (batch, rows, heads · width), as the
        /// projections around them have them, and not (batch, heads, rows, width).
        packed: bool,
    },
    /// Group norm, with SiLU after it or not.
    GroupNorm {
        /// Images.
        batch: usize,
        /// Channels.
        channels: usize,
        /// Side.
        size: usize,
        /// Groups of channels.
        groups: usize,
        /// Whether SiLU follows.
        silu: bool,
    },
    /// Layer norm of the rows of (batch, rows, width).
    LayerNorm {
        /// Samples.
        batch: usize,
        /// Rows of a sample.
        rows: usize,
        /// Numbers in a row.
        width: usize,
    },
    /// Batch norm.
    BatchNorm {
        /// Images.
        batch: usize,
        /// Channels.
        channels: usize,
        /// Side.
        size: usize,
        /// By the batch's moments, not the running ones.
        train: bool,
    },
    /// A function of each number.
    Activation {
        /// Which.
        function: Activation,
        /// Of a tensor of this shape.
        shape: Vec<usize>,
    },
    /// a · GELU(b) of (batch, rows, 2 · width), whose rows are a and then b.
    Geglu {
        /// Samples.
        batch: usize,
        /// Rows of a sample.
        rows: usize,
        /// Numbers in a row of the result.
        width: usize,
    },
    /// Softmax over the last dimension.
    Softmax {
        /// Of a tensor of this shape.
        shape: Vec<usize>,
    },
    /// Images of twice the side, each pixel copied to four.
    Upsample {
        /// Images.
        batch: usize,
        /// Channels.
        channels: usize,
        /// Side of the input.
        size: usize,
    },
    /// Pooling with windows that reach (kernel − 1) / 2 over the edge.
    Pool {
        /// Of what.
        kind: Pooling,
        /// Images.
        batch: usize,
        /// Channels.
        channels: usize,
        /// Side of the input.
        size: usize,
        /// Side of a window.
        kernel: usize,
        /// Steps between windows.
        stride: usize,
    },
    /// The squared distance from each of many vectors to the nearest patch of each image.
    NearestPatch {
        /// Images.
        batch: usize,
        /// Channels: numbers of a patch, and of a vector.
        channels: usize,
        /// Side.
        size: usize,
        /// Vectors.
        vectors: usize,
    },
    /// The sum of two tensors.
    Add {
        /// Of this shape.
        shape: Vec<usize>,
    },
    /// Images and a number for each sample and channel, added.
    AddChannels {
        /// Images.
        batch: usize,
        /// Channels.
        channels: usize,
        /// Side.
        size: usize,
    },
    /// Two images joined along the channels.
    Cat {
        /// Images.
        batch: usize,
        /// Channels of either.
        channels: [usize; 2],
        /// Side.
        size: usize,
    },
    /// A step of AdamW, gradients given.
    #[serde(rename = "adamw")]
    AdamW {
        /// Parameters.
        tensors: usize,
        /// Numbers of each.
        values: usize,
    },
    /// An update of an exponential moving average of parameters.
    Ema {
        /// Parameters.
        tensors: usize,
        /// Numbers of each.
        values: usize,
    },
}

/// What a window becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Its largest number.
    Max,
    /// Its mean.
    Avg,
}

/// Which part of the work is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// The result, without gradients.
    Forward,
    /// The gradients of all inputs and parameters, given a result.
    Backward,
    /// A step of an optimiser or an average.
    Step,
}

impl Pass {
    /// As it stands in names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Step => "step",
        }
    }
}

impl Op {
    /// A convolution with a bias, stride 1 and one group.
    pub fn conv(batch: usize, in_channels: usize, out_channels: usize, size: usize, kernel: usize) -> Self {
        Self::Conv2d { batch, in_channels, out_channels, size, kernel, stride: 1, groups: 1, bias: true }
    }

    /// A linear layer with a bias.
    pub fn linear(batch: usize, rows: usize, inputs: usize, outputs: usize) -> Self {
        Self::Linear { batch, rows, inputs, outputs, bias: true }
    }

    /// The operation and its sizes in short: `conv2d/8x64-128x32^2_3x3_s2`.
    pub fn name(&self) -> String {
        match self {
            Self::Conv2d { batch, in_channels, out_channels, size, kernel, stride, groups, bias } => {
                let mut name =
                    format!("conv2d/{batch}x{in_channels}-{out_channels}x{size}^2_{kernel}x{kernel}");
                if *stride > 1 {
                    name += &format!("_s{stride}");
                }
                if *groups > 1 {
                    name += &format!("_g{groups}");
                }
                if *bias { name } else { name + "_no_bias" }
            }
            Self::Linear { batch, rows, inputs, outputs, bias } => {
                let name = format!("linear/{batch}x{rows}x{inputs}-{outputs}");
                if *bias { name } else { name + "_no_bias" }
            }
            Self::Attention { batch, heads, queries, keys, width, packed } => {
                let layout = if *packed { "_packed" } else { "" };
                format!("attention{layout}/{batch}x{heads}x{queries}x{keys}x{width}")
            }
            Self::GroupNorm { batch, channels, size, groups, silu } => {
                let silu = if *silu { "_silu" } else { "" };
                format!("group_norm{silu}/{batch}x{channels}x{size}^2_g{groups}")
            }
            Self::LayerNorm { batch, rows, width } => format!("layer_norm/{batch}x{rows}x{width}"),
            Self::BatchNorm { batch, channels, size, train } => {
                let mode = if *train { "train" } else { "eval" };
                format!("batch_norm_{mode}/{batch}x{channels}x{size}^2")
            }
            Self::Activation { function, shape } => {
                let function = match function {
                    Activation::Identity => "identity",
                    Activation::Silu => "silu",
                    Activation::Gelu => "gelu",
                    Activation::GeluTanh => "gelu_tanh",
                    Activation::QuickGelu => "quick_gelu",
                    Activation::Relu => "relu",
                    Activation::Relu6 => "relu6",
                    Activation::Mish => "mish",
                };
                format!("{function}/{}", by(shape))
            }
            Self::Geglu { batch, rows, width } => format!("geglu/{batch}x{rows}x{width}"),
            Self::Softmax { shape } => format!("softmax/{}", by(shape)),
            Self::Upsample { batch, channels, size } => format!("upsample/{batch}x{channels}x{size}^2"),
            Self::Pool { kind, batch, channels, size, kernel, stride } => {
                let kind = match kind {
                    Pooling::Max => "max",
                    Pooling::Avg => "avg",
                };
                format!("{kind}_pool/{batch}x{channels}x{size}^2_{kernel}x{kernel}_s{stride}")
            }
            Self::NearestPatch { batch, channels, size, vectors } => {
                format!("nearest_patch/{batch}x{channels}x{size}^2_{vectors}")
            }
            Self::Add { shape } => format!("add/{}", by(shape)),
            Self::AddChannels { batch, channels, size } => {
                format!("add_channels/{batch}x{channels}x{size}^2")
            }
            Self::Cat { batch, channels: [a, b], size } => format!("cat/{batch}x{a}+{b}x{size}^2"),
            Self::AdamW { tensors, values } => format!("adamw/{tensors}x{values}"),
            Self::Ema { tensors, values } => format!("ema/{tensors}x{values}"),
        }
    }
}

fn by(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
