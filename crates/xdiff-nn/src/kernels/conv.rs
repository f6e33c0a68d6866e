//! Convolution: unfolding in tiles and matrix products.
//!
//! The image is unfolded a tile of output positions at a time, small enough to stay in the cache,
//! and multiplied by the weight; the product goes where it belongs in (B, C, H, W) order, on top of
//! the bias. The gradient of the input is the transposed product, folded back; that of the weight
//! is the product of the output's gradient with the same columns. A window of one pixel needs no
//! unfolding. Tiles lie within one sample, so a sample's result does not depend on its batch.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::{Output, Scratch, Writer};
use super::matrix::{Matrix, Onto, Target, multiply, multiply_into};
use super::{depthwise, im2col, sum, winograd};
use crate::layers::ConvShape;

/// Values of a tile that should fit into a core's second-level cache.
const TILE_VALUES: usize = 300_000;
/// Fewest and most output positions of a tile.
const TILE_WIDTH: Range<usize> = 64..4096;
/// Into about how many tasks the work of one sample (or of a weight's gradient) is divided.
const TASKS: usize = 8;

/// Ranges of `step` that cover 0..n.
fn chunks(n: usize, step: usize) -> Vec<Range<usize>> {
    (0..n).step_by(step.max(1)).map(|i| i..(i + step).min(n)).collect()
}

/// Tiles of output positions, `height` values each.
fn tiles(positions: usize, height: usize) -> Vec<Range<usize>> {
    let widest = (TILE_VALUES / height.max(1)).clamp(TILE_WIDTH.start, TILE_WIDTH.end);
    let n = positions.div_ceil(widest).max(1);
    chunks(positions, positions.div_ceil(n).next_multiple_of(16))
}

/// y = w ∗ x + b.
pub(crate) fn forward(s: &ConvShape, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
    check(s, Some(x), Some(w), None);
    assert!(bias.is_none_or(|b| b.len() == s.out_channels), "bias length");
    let mut y = Output::new(s.out_dims().iter().product())?;
    if depthwise::serves(s) {
        depthwise::forward(s, x, w, bias, y.writer());
    } else if let Some(tile) = winograd::tile(s) {
        winograd::forward(tile, s, x, w, bias, y.writer());
    } else {
        products(s, x, w, bias, y.writer());
    }
    // SAFETY: all three kernels write every output.
    Ok(unsafe { y.finish() })
}

fn products(s: &ConvShape, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (depth, positions) = (group_in * s.taps(), s.positions());
    let tiles = tiles(positions, depth + group_out);
    let parts = s.geometry.groups * tiles.len();
    let outs = chunks(group_out, group_out.div_ceil(TASKS.div_ceil(parts)).max(64));
    (0..s.batch * parts * outs.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rest, outs) = (task / outs.len(), outs[task % outs.len()].clone());
        let (rest, tile) = (rest / tiles.len(), tiles[rest % tiles.len()].clone());
        let (sample, group) = (rest / s.geometry.groups, rest % s.geometry.groups);
        let first_in = (sample * s.in_channels + group * group_in) * s.pixels();
        let planes = &x[first_in..first_in + group_in * s.pixels()];
        let channel = group * group_out + outs.start;
        let w = &w[channel * depth..(channel + outs.len()) * depth];
        let start = (sample * s.out_channels + channel) * positions + tile.start;
        let mut onto = Onto::Replace;
        if let Some(bias) = bias {
            for (i, b) in bias[channel..channel + outs.len()].iter().enumerate() {
                // SAFETY: each task has its own sample, channels and positions.
                unsafe { y.fill(start + i * positions, tile.len(), *b) };
            }
            onto = Onto::Add;
        }
        let target = Target { writer: y, start, stride: positions };
        with_columns(s, planes, tile, |columns| {
            // SAFETY: as above; with a bias all elements have been set.
            unsafe { multiply_into(target, onto, Matrix::dense(w, depth), columns) };
        });
    });
}

/// Calls `work` with the columns of these positions: the image itself for a pointwise window.
fn with_columns(s: &ConvShape, planes: &[f32], tile: Range<usize>, work: impl FnOnce(Matrix<'_>)) {
    if s.is_pointwise() {
        let image = Matrix::dense(planes, s.positions());
        work(image.part(0..image.size[0], tile));
    } else {
        let depth = planes.len() / s.pixels() * s.taps();
        let mut columns = Scratch::take(depth * tile.len());
        let width = tile.len();
        im2col::unfold(s, planes, tile, &mut columns);
        work(Matrix::dense(&columns, width));
    }
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
        transposed_products(s, dy, w, dx.writer());
    }
    // SAFETY: all three kernels write every value.
    Ok(unsafe { dx.finish() })
}

fn transposed_products(s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (depth, positions, pixels) = (group_in * s.taps(), s.positions(), s.pixels());
    // Whole input channels for each task, so that no two tasks add to one pixel.
    let ins = chunks(group_in, group_in.div_ceil(TASKS).max(64usize.div_ceil(s.taps())));
    let tiles = tiles(positions, ins.first().map_or(0, Range::len) * s.taps() + group_out);
    (0..s.batch * s.geometry.groups * ins.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rest, ins) = (task / ins.len(), ins[task % ins.len()].clone());
        let (sample, group) = (rest / s.geometry.groups, rest % s.geometry.groups);
        let rows = ins.len() * s.taps();
        let w = Matrix::dense(w, depth)
            .part(group * group_out..(group + 1) * group_out, ins.start * s.taps()..ins.end * s.taps())
            .t();
        let start = (sample * s.in_channels + group * group_in + ins.start) * pixels;
        let first_out = (sample * s.out_channels + group * group_out) * positions;
        let dy = Matrix::dense(&dy[first_out..first_out + group_out * positions], positions);
        if s.is_pointwise() {
            let target = Target { writer: dx, start, stride: pixels };
            // SAFETY: each task has its own sample and input channels.
            unsafe { multiply_into(target, Onto::Replace, w, dy) };
            return;
        }
        // SAFETY: as above.
        unsafe { dx.fill(start, ins.len() * pixels, 0.0) };
        // SAFETY: as above, and set just now.
        let planes = unsafe { dx.slice(start, ins.len() * pixels) };
        for tile in &tiles {
            let mut columns = Scratch::take(rows * tile.len());
            multiply(&mut columns, Onto::Replace, w, dy.part(0..group_out, tile.clone()));
            im2col::fold(s, &columns, tile.clone(), planes);
        }
    });
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
        outer_products(s, dy, x, writer);
    }
    // SAFETY: each of the four writes every value.
    Ok(unsafe { dw.finish() })
}

fn outer_products(s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (depth, positions, pixels) = (group_in * s.taps(), s.positions(), s.pixels());
    // Each task sums over all samples and positions for its own part of the weight.
    let ins = chunks(group_in, group_in.div_ceil(TASKS).max(64usize.div_ceil(s.taps())));
    let parts = s.geometry.groups * ins.len();
    let outs = chunks(group_out, group_out.div_ceil(TASKS.div_ceil(parts)).max(16));
    let tiles = tiles(positions, ins.first().map_or(0, Range::len) * s.taps() + group_out);
    (0..parts * outs.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rest, outs) = (task / outs.len(), outs[task % outs.len()].clone());
        let (group, ins) = (rest / ins.len(), ins[rest % ins.len()].clone());
        let channel = group * group_out + outs.start;
        let target = Target { writer: dw, start: channel * depth + ins.start * s.taps(), stride: depth };
        let mut onto = Onto::Replace;
        for sample in 0..s.batch {
            let first_in = (sample * s.in_channels + group * group_in + ins.start) * pixels;
            let planes = &x[first_in..first_in + ins.len() * pixels];
            let first_out = (sample * s.out_channels + channel) * positions;
            let dy = Matrix::dense(&dy[first_out..first_out + outs.len() * positions], positions);
            for tile in &tiles {
                let grad = dy.part(0..outs.len(), tile.clone());
                with_columns(s, planes, tile.clone(), |columns| {
                    // SAFETY: each task has its own input and output channels of the weight, and
                    // the first product sets what the later ones add to.
                    unsafe { multiply_into(target, onto, grad, columns.t()) };
                });
                onto = Onto::Add;
            }
        }
    });
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
