//! Convolution: unfolding in blocks and matrix products.
//!
//! The image is unfolded a block of output positions at a time, small enough to stay in the cache,
//! and multiplied by the packed weights ([`products`]); the gradient of the weight is the product of
//! the output's gradient with the same columns ([`outer`]). Blocks lie within one sample, so a
//! sample's result does not depend on its batch. Some shapes have kernels of their own.

mod outer;
mod products;

use std::ops::Range;
use std::sync::Arc;

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::Output;
use super::{depthwise, sum, winograd};
use crate::layers::ConvShape;
use crate::prepared::Prepared;

/// Into about how many tasks the work of one sample (or of a weight's gradient) is divided.
const TASKS: usize = 8;

/// Ranges of `step` that cover 0..n.
fn chunks(n: usize, step: usize) -> Vec<Range<usize>> {
    (0..n).step_by(step.max(1)).map(|i| i..(i + step).min(n)).collect()
}

/// Transformed weights that a layer keeps: one set for each size of tiles.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeptWeights([Prepared<winograd::Transformed>; 2]);

impl KeptWeights {
    fn get(&self, tile: winograd::Tile, s: &ConvShape, w: &[f32]) -> Option<Arc<winograd::Transformed>> {
        let bytes = winograd::transformed_bytes(tile, s);
        self.0[tile as usize].get(w, bytes, || winograd::transform_weights(tile, s, w))
    }
}

/// y = w ∗ x + b. Where weights may be `kept`, they are transformed once.
pub(crate) fn forward(
    s: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    kept: Option<&KeptWeights>,
) -> Result<Vec<f32>> {
    check(s, Some(x), Some(w), None);
    assert!(bias.is_none_or(|b| b.len() == s.out_channels), "bias length");
    let mut y = Output::new(s.out_dims().iter().product())?;
    if depthwise::serves(s) {
        depthwise::forward(s, x, w, bias, y.writer());
    } else if let Some(tile) = winograd::tile(s) {
        let kept = kept.and_then(|kept| kept.get(tile, s, w));
        winograd::forward(tile, s, x, (w, kept.as_deref()), bias, y.writer());
    } else {
        products::forward(s, x, w, bias, y.writer());
    }
    // SAFETY: all three kernels write every output.
    Ok(unsafe { y.finish() })
}

/// dL/dx from dL/dy.
pub(crate) fn input_grad(s: &ConvShape, dy: &[f32], w: &[f32]) -> Result<Vec<f32>> {
    check(s, None, Some(w), Some(dy));
    let mut dx = Output::new(s.batch * s.in_channels * s.pixels())?;
    if depthwise::serves(s) {
        depthwise::input_grad(s, dy, w, dx.writer());
    } else if let Some(tile) = winograd::tile(s) {
        winograd::input_grad(tile, s, dy, w, dx.writer());
    } else {
        products::input_grad(s, dy, w, dx.writer());
    }
    // SAFETY: all three kernels write every value.
    Ok(unsafe { dx.finish() })
}

/// dL/dw from dL/dy.
pub(crate) fn weight_grad(s: &ConvShape, dy: &[f32], x: &[f32]) -> Result<Vec<f32>> {
    check(s, Some(x), None, Some(dy));
    let mut dw = Output::new(s.out_channels * s.group_channels().0 * s.taps())?;
    let writer = dw.writer();
    if s.batch == 0 {
        // SAFETY: one task.
        unsafe { writer.fill(0, s.out_channels * s.group_channels().0 * s.taps(), 0.0) };
    } else if depthwise::serves(s) {
        depthwise::weight_grad(s, dy, x, writer);
    } else if let Some(tile) = winograd::tile(s) {
        winograd::weight_grad(tile, s, dy, x, writer);
    } else {
        outer::products(s, dy, x, writer);
    }
    // SAFETY: each of the four writes every value.
    Ok(unsafe { dw.finish() })
}

/// dL/db from dL/dy: the sum over samples and positions.
pub(crate) fn bias_grad(s: &ConvShape, dy: &[f32]) -> Vec<f32> {
    check(s, None, None, Some(dy));
    let positions = s.positions();
    (0..s.out_channels)
        .into_par_iter()
        .map(|c| {
            let first = |sample: usize| (sample * s.out_channels + c) * positions;
            (0..s.batch).map(|b| sum::sum(&dy[first(b)..first(b) + positions])).sum::<f64>() as f32
        })
        .collect()
}

fn check(s: &ConvShape, x: Option<&[f32]>, w: Option<&[f32]>, y: Option<&[f32]>) {
    let lengths = [
        (x, s.batch * s.in_channels * s.pixels()),
        (w, s.out_channels * s.group_channels().0 * s.taps()),
        (y, s.out_dims().iter().product()),
    ];
    for (values, len) in lengths {
        assert!(values.is_none_or(|v| v.len() == len), "a convolution's values do not fit its shape");
    }
}
