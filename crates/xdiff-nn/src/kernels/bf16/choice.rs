//! Where bf16 pays.

use super::level::Level;
use crate::compute::Precision;
use crate::kernels::linear::LinearShape;
use crate::kernels::winograd;
use crate::layers::ConvShape;

/// Fewest numbers that a sum has and that a row of results has, and fewest rows of one sample.
const TERMS: usize = 32;
const OUTPUTS: usize = 32;
const ROWS: usize = 16;

/// The level for a linear layer; none when f32 is taken.
pub(crate) fn for_linear(precision: Precision, s: LinearShape) -> Option<Level> {
    let pays = precision == Precision::Bf16 && s.rows >= ROWS && s.inputs >= TERMS && s.outputs >= OUTPUTS;
    Level::best().filter(|_| pays)
}

/// The level for a convolution; none when f32 is taken.
pub(crate) fn for_conv(precision: Precision, s: &ConvShape) -> Option<Level> {
    let pays = precision == Precision::Bf16
        && s.geometry.groups == 1
        && s.in_channels >= TERMS
        && s.out_channels >= OUTPUTS
        && s.positions() >= ROWS;
    let level = Level::best().filter(|_| pays)?;
    if winograd::tile(s).is_some() { level.has_tiles().then_some(level) } else { Some(level) }
}
