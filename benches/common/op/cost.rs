//! What an operation takes, learns and costs.

use super::{Op, Pass, Pooling};

/// Bytes of a number.
const F32: u64 = 4;

impl Op {
    /// The shapes of what it is given, besides its parameters.
    pub fn inputs(&self) -> Vec<Vec<usize>> {
        match self {
            Self::Conv2d { batch, in_channels: channels, size, .. }
            | Self::GroupNorm { batch, channels, size, .. }
            | Self::BatchNorm { batch, channels, size, .. }
            | Self::Upsample { batch, channels, size }
            | Self::NearestPatch { batch, channels, size, .. }
            | Self::Pool { batch, channels, size, .. } => vec![vec![*batch, *channels, *size, *size]],
            Self::Linear { batch, rows, inputs: width, .. } | Self::LayerNorm { batch, rows, width } => {
                vec![vec![*batch, *rows, *width]]
            }
            Self::Geglu { batch, rows, width } => vec![vec![*batch, *rows, 2 * width]],
            Self::Attention { batch, heads, queries, keys, width, packed } => [queries, keys, keys]
                .map(|rows| {
                    if *packed {
                        vec![*batch, *rows, heads * width]
                    } else {
                        vec![*batch, *heads, *rows, *width]
                    }
                })
                .to_vec(),
            Self::Activation { shape, .. } | Self::Softmax { shape } => vec![shape.clone()],
            Self::Add { shape } => vec![shape.clone(), shape.clone()],
            Self::AddChannels { batch, channels, size } => {
                vec![vec![*batch, *channels, *size, *size], vec![*batch, *channels, 1, 1]]
            }
            Self::Cat { batch, channels, size } => channels.map(|c| vec![*batch, c, *size, *size]).to_vec(),
            Self::AdamW { .. } | Self::Ema { .. } => Vec::new(),
        }
    }

    /// The shape of the result; that of an optimiser's step is all that it changes.
    pub fn output(&self) -> Vec<usize> {
        match self {
            Self::Conv2d { batch, out_channels: channels, size, kernel, stride, .. }
            | Self::Pool { batch, channels, size, kernel, stride, .. } => {
                let side = (size + 2 * ((kernel - 1) / 2) - kernel) / stride + 1;
                vec![*batch, *channels, side, side]
            }
            Self::Linear { batch, rows, outputs: width, .. } | Self::Geglu { batch, rows, width } => {
                vec![*batch, *rows, *width]
            }
            Self::Upsample { batch, channels, size } => vec![*batch, *channels, 2 * size, 2 * size],
            Self::Cat { batch, channels: [a, b], size } => vec![*batch, a + b, *size, *size],
            Self::NearestPatch { batch, vectors, .. } => vec![*batch, *vectors],
            Self::AdamW { tensors, values } | Self::Ema { tensors, values } => vec![*tensors, *values],
            _ => self.inputs().swap_remove(0),
        }
    }

    /// How many numbers it learns; an optimiser, how many it trains.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Conv2d { in_channels, out_channels, kernel, groups, bias, .. } => {
                out_channels * (in_channels / groups * kernel * kernel + usize::from(*bias))
            }
            Self::Linear { inputs, outputs, bias, .. } => outputs * (inputs + usize::from(*bias)),
            Self::GroupNorm { channels: width, .. }
            | Self::BatchNorm { channels: width, .. }
            | Self::LayerNorm { width, .. } => 2 * width,
            Self::NearestPatch { channels, vectors, .. } => vectors * channels,
            Self::AdamW { tensors, values } | Self::Ema { tensors, values } => tensors * values,
            _ => 0,
        }
    }

    /// Floating-point operations: two a multiply-add of convolutions, linear layers and attention,
    /// and twice as many for the backward pass, which has two products for each. 0 for what only
    /// moves through memory, as gradients of nearest patches do: they touch no other patch.
    pub fn flops(&self, pass: Pass) -> u64 {
        let output: usize = self.output().iter().product();
        let products = match self {
            Self::Conv2d { in_channels, kernel, groups, .. } => {
                output * in_channels / groups * kernel * kernel
            }
            Self::Linear { inputs, .. } => output * inputs,
            Self::Attention { keys, .. } => 2 * output * keys,
            Self::NearestPatch { channels, size, .. } if pass == Pass::Forward => {
                output * size * size * channels
            }
            _ => 0,
        };
        let times = if pass == Pass::Backward { 4 } else { 2 };
        times * products as u64
    }

    /// Bytes that go through memory when each tensor is read or written once: forward the inputs,
    /// parameters and the result, backward the result's gradient, the gradients of inputs and
    /// parameters, and whatever of them a derivative needs.
    pub fn bytes(&self, pass: Pass) -> u64 {
        let inputs: usize = self.inputs().iter().map(|s| s.iter().product::<usize>()).sum();
        let output: usize = self.output().iter().product();
        let values = match (self, pass) {
            // Reads value, gradient and two moments; writes all but the gradient.
            (Self::AdamW { .. }, _) => 7 * output,
            // Reads value and average; writes the average.
            (Self::Ema { .. }, _) => 3 * output,
            (_, Pass::Backward) => {
                let read = if self.is_linear_map() { 0 } else { inputs + self.parameters() };
                output + read + inputs + self.parameters()
            }
            _ => inputs + self.parameters() + output,
        };
        F32 * values as u64
    }

    /// Whether the derivative depends on no value.
    fn is_linear_map(&self) -> bool {
        matches!(
            self,
            Self::Upsample { .. }
                | Self::Pool { kind: Pooling::Avg, .. }
                | Self::Add { .. }
                | Self::AddChannels { .. }
                | Self::Cat { .. }
        )
    }
}
