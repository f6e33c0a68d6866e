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
pub(super) const POSITIONS: usize = 16;

/// The level for a linear layer; none where f32 is asked for or faster.
pub(crate) fn for_linear(precision: Precision, s: LinearShape) -> Option<Level> {
    let pays = s.rows >= ROWS && s.inputs.min(s.outputs) >= CHANNELS;
    if precision == Precision::Bf16 && pays { Level::best() } else { None }
}

/// The level for a convolution; none where f32 is asked for or faster.
pub(crate) fn for_conv(precision: Precision, s: &ConvShape) -> Option<Level> {
    let large = s.in_channels.min(s.out_channels) >= CHANNELS && s.positions() >= POSITIONS;
    if precision == Precision::F32 || s.geometry.groups > 1 || !large {
        return None;
    }
    Level::best().filter(|level| level.has_tiles() || winograd::tile(s).is_none())
}
