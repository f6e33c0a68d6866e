//! Convolution: unfolding in blocks and matrix products.
//!
//! The image is unfolded a block of output positions at a time, small enough to stay in the cache,
//! and multiplied by the packed weights. The gradient of the input is the transposed product, folded
//! back; that of the weight is the product of the output's gradient with the same columns. Blocks
//! lie within one sample, so a sample's result does not depend on its batch.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::{Output, Scratch, Writer};
use super::dots::{Dots, Rows};
use super::matrix::Target;
use super::panels::{BUNDLE, Columns, PANEL, Panels, Products, pack};
use super::simd::{Level, run_at};
use super::{depthwise, im2col, sum, winograd};
use crate::layers::ConvShape;
use crate::prepared::Prepared;

/// Values of a block of columns and their products that should fit into a core's second-level
/// cache.
const BLOCK_VALUES: usize = 100_000;
/// The same for the columns of a weight's gradient.
const TILE_VALUES: usize = 300_000;
/// Fewest and most positions of it that are summed at once.
const TILE_WIDTH: Range<usize> = 256..2048;
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
        products(s, x, w, bias, y.writer());
    }
    // SAFETY: all three kernels write every output.
    Ok(unsafe { y.finish() })
}

/// The unfolding of a block of output positions in bundles, and its products with packed weights.
struct Block {
    positions: Range<usize>,
    /// Positions of a whole bundle.
    bundle: usize,
    lanes: usize,
}

impl Block {
    /// Blocks of whole bundles that cover all positions, of about [`BLOCK_VALUES`] values with
    /// `height` values a position.
    fn all(positions: usize, height: usize, level: Level) -> Vec<Block> {
        let lanes = level.lanes();
        let bundle = BUNDLE * lanes;
        let bundles = (BLOCK_VALUES / (height * bundle)).clamp(1, 16);
        chunks(positions, bundles * bundle)
            .into_iter()
            .map(|positions| Block { positions, bundle, lanes })
            .collect()
    }

    /// Vectors of the block.
    fn groups(&self) -> usize {
        self.positions.len().div_ceil(self.lanes)
    }

    /// The bundles: their positions, how wide they are, and how many vectors stand before them.
    fn bundles(&self) -> impl Iterator<Item = (Range<usize>, usize, usize)> {
        self.positions.clone().step_by(self.bundle).map(|start| {
            let end = (start + self.bundle).min(self.positions.end);
            let wide = (end - start).next_multiple_of(self.lanes);
            (start..end, wide, (start - self.positions.start) / self.lanes)
        })
    }

    /// Multiplies columns that `fill(positions, width, columns)` writes for each bundle, and hands
    /// the results to `take(positions, width, rows)`.
    fn multiply(
        &self,
        level: Level,
        weights: Panels<'_>,
        fill: impl Fn(Range<usize>, usize, &mut [f32]),
        mut take: impl FnMut(Range<usize>, usize, &[f32]),
    ) {
        let (groups, rows) = (self.groups(), weights.len() * PANEL);
        let mut columns = Scratch::take(groups * self.lanes * weights.depth);
        for (positions, wide, before) in self.bundles() {
            let start = before * self.lanes * weights.depth;
            fill(positions, wide, &mut columns[start..start + wide * weights.depth]);
        }
        let mut sums = Scratch::take(groups * self.lanes * rows);
        let (panels, to) = (0..weights.len(), Writer::over(&mut sums));
        let columns = Columns::whole(&columns, groups, weights.depth);
        run_at(level, Products { weights, panels, columns, to, start: 0 });
        for (positions, wide, before) in self.bundles() {
            let start = before * self.lanes * rows;
            take(positions, wide, &sums[start..start + wide * rows]);
        }
    }
}

fn products(s: &ConvShape, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (depth, positions, level) = (group_in * s.taps(), s.positions(), Level::best());
    let blocks = Block::all(positions, depth + group_out, level);
    let parts = s.geometry.groups * blocks.len();
    // Output channels are divided too where there are few blocks.
    let step = group_out.div_ceil(TASKS.div_ceil(parts)).max(64);
    let outs: Vec<(usize, Range<usize>)> = (0..s.geometry.groups)
        .flat_map(|group| chunks(group_out, step).into_iter().map(move |outs| (group, outs)))
        .collect();
    let packed: Vec<Scratch> = outs
        .par_iter()
        .map(|(group, outs)| {
            let w = &w[(group * group_out + outs.start) * depth..];
            pack(outs.len(), depth, |row, term| w[row * depth + term])
        })
        .collect();
    (0..s.batch * blocks.len() * outs.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rest, part) = (task / outs.len(), task % outs.len());
        let (sample, block) = (rest / blocks.len(), &blocks[rest % blocks.len()]);
        let (group, outs) = &outs[part];
        let first_in = (sample * s.in_channels + group * group_in) * s.pixels();
        let planes = &x[first_in..first_in + group_in * s.pixels()];
        let channel = group * group_out + outs.start;
        let weights = Panels { values: &packed[part], depth };
        block.multiply(
            level,
            weights,
            |positions, wide, columns| im2col::unfold(s, planes, positions, wide, columns),
            |tile, wide, sums| {
                for (i, sums) in sums.chunks_exact(wide).take(outs.len()).enumerate() {
                    let start = (sample * s.out_channels + channel + i) * positions + tile.start;
                    let bias = bias.map_or(0.0, |b| b[channel + i]);
                    // SAFETY: each task has its own sample, channels and positions.
                    unsafe { y.add(start, &sums[..tile.len()], bias) };
                }
            },
        );
    });
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
    let level = Level::best();
    // Whole input channels for each task, so that no two tasks add to one pixel.
    let step = group_in.div_ceil(TASKS).max(64usize.div_ceil(s.taps()));
    let ins: Vec<(usize, Range<usize>)> = (0..s.geometry.groups)
        .flat_map(|group| chunks(group_in, step).into_iter().map(move |ins| (group, ins)))
        .collect();
    let packed: Vec<Scratch> = ins
        .par_iter()
        .map(|(group, ins)| {
            let w = &w[group * group_out * depth + ins.start * s.taps()..];
            pack(ins.len() * s.taps(), group_out, |row, term| w[term * depth + row])
        })
        .collect();
    let blocks = Block::all(positions, step.min(group_in) * s.taps() + group_out, level);
    (0..s.batch * ins.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (sample, part) = (task / ins.len(), task % ins.len());
        let (group, ins) = &ins[part];
        let start = (sample * s.in_channels + group * group_in + ins.start) * pixels;
        // SAFETY: each task has its own sample and input channels.
        unsafe { dx.fill(start, ins.len() * pixels, 0.0) };
        // SAFETY: as above, and set just now.
        let planes = unsafe { dx.slice(start, ins.len() * pixels) };
        let first_out = (sample * s.out_channels + group * group_out) * positions;
        let dy = &dy[first_out..first_out + group_out * positions];
        let weights = Panels { values: &packed[part], depth: group_out };
        for block in &blocks {
            block.multiply(
                level,
                weights,
                |tile, wide, columns| {
                    let rows = dy.chunks_exact(positions).zip(columns.chunks_exact_mut(wide));
                    rows.for_each(|(dy, row)| row[..tile.len()].copy_from_slice(&dy[tile.clone()]));
                },
                |tile, wide, sums| im2col::fold(s, &sums[..ins.len() * s.taps() * wide], tile, wide, planes),
            );
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

/// Positions of one sample, as a part of the rows that a weight's gradient sums over.
struct Piece {
    sample: usize,
    positions: Range<usize>,
    /// Where they stand in the rows; filled up with zeros to a whole number of vectors.
    start: usize,
}

/// Pieces that cover all samples and positions, in sets of about `wanted` numbers a row.
fn pieces(s: &ConvShape, lanes: usize, wanted: usize) -> Vec<Vec<Piece>> {
    let tiles = chunks(s.positions(), wanted.next_multiple_of(lanes));
    let mut sets: Vec<Vec<Piece>> = Vec::new();
    let mut filled = wanted;
    for (sample, tile) in (0..s.batch).flat_map(|sample| tiles.iter().map(move |tile| (sample, tile))) {
        let width = tile.len().next_multiple_of(lanes);
        if filled + width > wanted {
            sets.push(Vec::new());
            filled = 0;
        }
        if let Some(set) = sets.last_mut() {
            set.push(Piece { sample, positions: tile.clone(), start: filled });
        }
        filled += width;
    }
    sets
}

fn outer_products(s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (taps, positions, pixels) = (s.taps(), s.positions(), s.pixels());
    let (depth, level) = (group_in * taps, Level::best());
    let lanes = level.lanes();
    // Each task sums over all samples and positions for its own part of the weight.
    let ins = chunks(group_in, group_in.div_ceil(TASKS).max(48usize.div_ceil(taps)));
    let parts = s.geometry.groups * ins.len();
    let outs = chunks(group_out, group_out.div_ceil(TASKS.div_ceil(parts)).max(16));
    let height = ins.first().map_or(0, Range::len) * taps + outs.first().map_or(0, Range::len);
    let sets = pieces(s, lanes, (TILE_VALUES / height.max(1)).clamp(TILE_WIDTH.start, TILE_WIDTH.end));
    (0..parts * outs.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rest, outs) = (task / outs.len(), outs[task % outs.len()].clone());
        let (group, ins) = (rest / ins.len(), ins[rest % ins.len()].clone());
        let channel = group * group_out + outs.start;
        let to = Target { writer: dw, start: channel * depth + ins.start * taps, stride: depth };
        for (turn, set) in sets.iter().enumerate() {
            let width: usize = set.iter().map(|p| p.positions.len().next_multiple_of(lanes)).sum();
            // A line more than needed, against cache conflicts; and a row, since pieces that start
            // later end later.
            let stride = width + 16;
            let mut columns = Scratch::take((ins.len() * taps + 1) * stride);
            let mut grads = Scratch::take(outs.len() * stride);
            for piece in set {
                let (from, to) = (&piece.positions, piece.start);
                let first_in = (piece.sample * s.in_channels + group * group_in + ins.start) * pixels;
                let planes = &x[first_in..first_in + ins.len() * pixels];
                im2col::unfold(s, planes, from.clone(), stride, &mut columns[to..]);
                let first_out = (piece.sample * s.out_channels + channel) * positions;
                let dy = dy[first_out..first_out + outs.len() * positions].chunks_exact(positions);
                for (row, dy) in grads.chunks_exact_mut(stride).zip(dy) {
                    row[to..to + from.len()].copy_from_slice(&dy[from.clone()]);
                }
                let padding = to + from.len()..to + from.len().next_multiple_of(lanes);
                for row in columns.chunks_exact_mut(stride).chain(grads.chunks_exact_mut(stride)) {
                    row[padding.clone()].fill(0.0);
                }
            }
            let a = Rows { values: &grads, count: outs.len(), stride };
            let b = Rows { values: &columns, count: ins.len() * taps, stride };
            run_at(level, Dots { a, b, vectors: width / lanes, to, add: turn > 0 });
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
