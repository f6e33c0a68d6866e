//! Where bf16 pays.

use super::level::Level;
use crate::compute::Precision;
use crate::kernels::linear::LinearShape;
use crate::kernels::winograd;
use crate::layers::ConvShape;

/// Fewest inputs and outputs of a linear layer, or channels of a convolution.
const CHANNELS: usize = 32;
/// Fewest rows of one sample of a linear layer.
const ROWS: usize = 16;
/// Fewest positions of one sample of a convolution.
const POSITIONS: usize = 16;
/// The same for a strided window of more than 4 Mi weights, which cost more to pack than they save.
const LARGE_WEIGHTS: usize = 4 << 20;
const LARGE_POSITIONS: usize = 32;

/// The level for a linear layer; none where f32 is asked for or faster.
pub(crate) fn for_linear(precision: Precision, s: LinearShape) -> Option<Level> {
    let pays = s.rows >= ROWS && s.inputs.min(s.outputs) >= CHANNELS;
    if precision == Precision::Bf16 && pays { Level::best() } else { None }
}

/// The level for a convolution; none where f32 is asked for or faster.
pub(crate) fn for_conv(precision: Precision, s: &ConvShape) -> Option<Level> {
    let large = s.in_channels.min(s.out_channels) >= CHANNELS && s.positions() >= POSITIONS;
    let weights = s.in_channels * s.out_channels * s.taps();
    let strided = s.geometry.stride != (1, 1) && s.taps() > 1;
    let packing = strided && weights > LARGE_WEIGHTS && s.positions() < LARGE_POSITIONS;
    if precision == Precision::F32 || s.geometry.groups > 1 || !large || packing {
        return None;
    }
    Level::best().filter(|level| level.has_tiles() || winograd::tile(s).is_none())
}
