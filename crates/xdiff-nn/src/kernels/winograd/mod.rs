//! Winograd's convolution for 3×3 windows with stride 1: F(2×2, 3×3) and F(4×4, 3×3).
//!
//! Tiles of the image and the weights are transformed to points, where the convolution is a product
//! of numbers; so a 4×4 tile of outputs takes 36 products for each pair of channels instead of 144.
//! Output and gradients are transformed back. [`transform`] has the equations.
//!
//! The largest error is about twice (F2) to ten times (F4) that of plain summation: below
//! 1e-5 · √(input channels / 64) of the output's root mean square; a test holds it there. A value
//! that is not finite spreads to its whole tile.

mod product;
#[cfg(test)]
mod tests;
mod tiles;
mod transform;

use std::ops::Range;

use rayon::prelude::*;

use self::product::{
    GRAD_PANEL, INPUT_PANEL, PANEL, Products, TileProducts, WeightGrad, WeightPanel, Weights,
};
use self::tiles::{BUNDLE, GradTiles, Groups, InputTiles, Order, OutputTiles, Part, Points, Sizes};
use super::buffer::{Scratch, Writer};
use super::simd::{Level, run_at};
use crate::layers::ConvShape;

/// Fewest channels, in and out, for which transforms pay.
const CHANNELS: usize = 16;
/// Fewest tiles of one sample.
const FOUR_TILES: usize = 16;
const TWO_TILES: usize = 9;

/// Transformed weights larger than this (4 MiB) are read once for all tiles.
const CACHED_WEIGHTS: usize = 1 << 20;
/// Points that should fit into a core's second-level cache.
const BLOCK_VALUES: usize = 400_000;
/// Points that are held at once when weights are read once (48 MiB).
const PHASE_VALUES: usize = 12 << 20;

/// The outputs that one tile covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// 2 × 2.
    Two,
    /// 4 × 4.
    Four,
}

/// The tile for a convolution; none when unfolding it is faster or the window is another.
///
/// The choice does not depend on the batch, so that neither does a sample's result.
pub(crate) fn tile(s: &ConvShape) -> Option<Tile> {
    let g = &s.geometry;
    let fits = s.kernel == (3, 3) && g.stride == (1, 1) && g.dilation == (1, 1) && g.groups == 1;
    if !fits || s.in_channels.min(s.out_channels) < CHANNELS {
        return None;
    }
    let tiles = |m: usize| s.out_height.div_ceil(m) * s.out_width.div_ceil(m);
    if tiles(4) >= FOUR_TILES {
        Some(Tile::Four)
    } else if tiles(2) >= TWO_TILES {
        Some(Tile::Two)
    } else {
        None
    }
}

/// When the points of which tiles are formed and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A block of tiles at a time, from the input to the output: all stays in the cache.
    Blocks,
    /// All inputs, then all products, then all outputs: large weights are read once.
    Phases,
}

/// y = w ∗ x + b, for w (O, I, 3, 3). Writes all of `y`.
pub(crate) fn forward(tile: Tile, s: &ConvShape, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
    let sizes = sizes_of(s);
    Convolution { s: &sizes, level: Level::best(), mode: None, turned: false }.run(tile, x, w, bias, y);
}

/// dL/dx from dL/dy: the convolution of dL/dy with the turned weights. Writes all of `dx`.
pub(crate) fn input_grad(tile: Tile, s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    let sizes = turned_sizes_of(s);
    Convolution { s: &sizes, level: Level::best(), mode: None, turned: true }.run(tile, dy, w, None, dx);
}

/// dL/dw from dL/dy. Writes all of `dw` (O, I, 3, 3).
pub(crate) fn weight_grad(tile: Tile, s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    match tile {
        Tile::Two => weight_grad_at::<2>(Level::best(), s, dy, x, dw),
        Tile::Four => weight_grad_at::<4>(Level::best(), s, dy, x, dw),
    }
}

fn sizes_of(s: &ConvShape) -> Sizes {
    Sizes {
        samples: s.batch,
        inputs: s.in_channels,
        outputs: s.out_channels,
        height: s.height,
        width: s.width,
        out_height: s.out_height,
        out_width: s.out_width,
        top: s.geometry.padding.top as isize,
        left: s.geometry.padding.left as isize,
    }
}

/// The sizes of the convolution that yields the input's gradient.
fn turned_sizes_of(s: &ConvShape) -> Sizes {
    let forward = sizes_of(s);
    Sizes {
        inputs: forward.outputs,
        outputs: forward.inputs,
        height: forward.out_height,
        width: forward.out_width,
        out_height: forward.height,
        out_width: forward.width,
        top: 2 - forward.top,
        left: 2 - forward.left,
        ..forward
    }
}

/// Ranges of `step` that cover 0..n.
fn chunks(n: usize, step: usize) -> Vec<Range<usize>> {
    (0..n).step_by(step).map(|i| i..(i + step).min(n)).collect()
}

struct Convolution<'a> {
    s: &'a Sizes,
    level: Level,
    /// Chosen by the size of the weights when none is given.
    mode: Option<Mode>,
    /// Whether the weights are those of the input's gradient.
    turned: bool,
}

impl Convolution<'_> {
    fn run(&self, tile: Tile, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
        match tile {
            Tile::Two => self.tiles::<2>(x, w, bias, y),
            Tile::Four => self.tiles::<4>(x, w, bias, y),
        }
    }

    fn tiles<const M: usize>(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
        let s = self.s;
        let groups = Groups::new(s, M, self.level.lanes());
        let panels = s.outputs.div_ceil(PANEL);
        let mut values = Scratch::take((M + 2) * (M + 2) * Weights::stride(s.inputs, panels));
        let matrix = transform::filter_matrix(M);
        let size = if self.turned { (s.inputs, s.outputs) } else { (s.outputs, s.inputs) };
        let to = Writer::over(&mut values);
        (0..panels).into_par_iter().for_each(|panel| {
            let turned = self.turned;
            let task = WeightPanel::<M> { w, size, turned, panel, panels, matrix: &matrix, to };
            run_at(self.level, task);
        });
        let weights = Weights { values: &values, inputs: s.inputs, panels };
        let large = values.len() > CACHED_WEIGHTS;
        match self.mode.unwrap_or(if large { Mode::Phases } else { Mode::Blocks }) {
            Mode::Blocks => self.blocks::<M>(&groups, weights, x, bias, y),
            Mode::Phases => self.phases::<M>(&groups, weights, x, bias, y),
        }
    }

    /// The points of `count` groups, of the input and of the output.
    fn points(&self, count: usize, panels: usize) -> (Points, Points) {
        let lanes = self.level.lanes();
        let of = |channels| Points { groups: count, channels, lanes, order: Order::Bundles };
        (of(self.s.inputs), of(panels * PANEL))
    }

    fn blocks<const M: usize>(
        &self,
        all: &Groups,
        weights: Weights<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        y: Writer<'_>,
    ) {
        let (s, n, panels) = (self.s, (M + 2) * (M + 2), weights.panels);
        // Whole bundles that fit the cache, as many blocks as threads or a multiple of that.
        let values = n * (s.inputs + panels * PANEL) * self.level.lanes();
        let threads = rayon::current_num_threads();
        let fitting = (BLOCK_VALUES / values / BUNDLE).clamp(1, 2) * BUNDLE;
        let wanted = all.len().div_ceil(fitting).next_multiple_of(threads);
        let blocks = chunks(all.len(), all.len().div_ceil(wanted.max(1)).max(1));
        blocks.into_par_iter().with_max_len(1).for_each(|block| {
            let (v_points, m_points) = self.points(block.len(), panels);
            let mut v = Scratch::take(n * v_points.stride());
            let mut m = Scratch::take(n * m_points.stride());
            let part = |points| Part { s, all, first: block.start, points };
            let to = Writer::over(&mut v);
            run_at(self.level, InputTiles::<M> { part: part(v_points), x, channels: 0..s.inputs, to });
            let to = Writer::over(&mut m);
            for point in 0..n {
                let (panels, to_points) = (0..panels, m_points);
                run_at(self.level, Products { weights, point, panels, v: &v, v_points, to, to_points });
            }
            let (part, channels) = (part(m_points), 0..s.outputs);
            run_at(self.level, OutputTiles::<M> { part, from: &m, bias, channels, y });
        });
    }

    fn phases<const M: usize>(
        &self,
        all: &Groups,
        weights: Weights<'_>,
        x: &[f32],
        bias: Option<&[f32]>,
        y: Writer<'_>,
    ) {
        let (s, n, panels) = (self.s, (M + 2) * (M + 2), weights.panels);
        let values = n * (s.inputs + panels * PANEL) * self.level.lanes();
        let threads = rayon::current_num_threads();
        for held in chunks(all.len(), (PHASE_VALUES / values).max(BUNDLE)) {
            let (v_points, m_points) = self.points(held.len(), panels);
            let mut v = Scratch::take(n * v_points.stride());
            let mut m = Scratch::take(n * m_points.stride());
            let part = |points| Part { s, all, first: held.start, points };
            let to = Writer::over(&mut v);
            let channels = chunks(s.inputs, s.inputs.div_ceil(4 * threads));
            channels.into_par_iter().with_max_len(1).for_each(|channels| {
                run_at(self.level, InputTiles::<M> { part: part(v_points), x, channels, to });
            });
            let to = Writer::over(&mut m);
            let split = chunks(panels, panels.div_ceil(if n >= 4 * threads { 1 } else { 4 }));
            (0..n * split.len()).into_par_iter().with_max_len(1).for_each(|task| {
                let (point, panels) = (task / split.len(), split[task % split.len()].clone());
                let to_points = m_points;
                run_at(self.level, Products { weights, point, panels, v: &v, v_points, to, to_points });
            });
            let channels = chunks(s.outputs, s.outputs.div_ceil(4 * threads));
            channels.into_par_iter().with_max_len(1).for_each(|channels| {
                run_at(self.level, OutputTiles::<M> { part: part(m_points), from: &m, bias, channels, y });
            });
        }
    }
}

fn weight_grad_at<const M: usize>(level: Level, s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    let sizes = sizes_of(s);
    let (n, lanes, threads) = ((M + 2) * (M + 2), level.lanes(), rayon::current_num_threads());
    let all = Groups::new(&sizes, M, lanes);
    let (inputs, outputs) =
        (s.in_channels.next_multiple_of(INPUT_PANEL), s.out_channels.next_multiple_of(GRAD_PANEL));
    // For all points, the sums over tiles: padded by a line against cache conflicts.
    let stride = inputs * outputs + 16;
    let mut sums = Scratch::take(n * stride);
    let fitting = (PHASE_VALUES / (n * (inputs + outputs) * lanes)).max(8);
    for (turn, held) in chunks(all.len(), fitting).into_iter().enumerate() {
        let of =
            |channels, panel| Points { groups: held.len(), channels, lanes, order: Order::Panels(panel) };
        let (v_points, w_points) = (of(s.in_channels, INPUT_PANEL), of(s.out_channels, GRAD_PANEL));
        let mut v = Scratch::take(n * v_points.stride());
        let mut w = Scratch::take(n * w_points.stride());
        let part = |points| Part { s: &sizes, all: &all, first: held.start, points };
        let (to_v, to_w) = (Writer::over(&mut v), Writer::over(&mut w));
        let (v_part, w_part) = (part(v_points), part(w_points));
        let both = chunks(s.in_channels, s.in_channels.div_ceil(4 * threads))
            .into_iter()
            .map(|channels| (true, channels))
            .chain(
                chunks(s.out_channels, s.out_channels.div_ceil(4 * threads)).into_iter().map(|c| (false, c)),
            );
        both.collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(|(of_input, channels)| {
            if of_input {
                run_at(level, InputTiles::<M> { part: v_part, x, channels, to: to_v });
            } else {
                run_at(level, GradTiles::<M> { part: w_part, dy, channels, to: to_w });
            }
        });
        sums.par_chunks_mut(stride).with_max_len(1).enumerate().for_each(|(point, sums)| {
            let (sums, add) = (&mut sums[..inputs * outputs], turn > 0);
            run_at(level, TileProducts { point, v: &v, v_points, w: &w, w_points, add, sums });
        });
    }
    let matrix = transform::filter_matrix(M);
    let size = s.in_channels * 9;
    (0..s.out_channels).into_par_iter().for_each(|output| {
        // SAFETY: each task has its own output channel.
        unsafe { dw.fill(output * size, size, 0.0) };
        // SAFETY: as above, and set just now.
        let to = unsafe { dw.slice(output * size, size) };
        let (sums, matrix, inputs) = (&sums[output * inputs..], &matrix, s.in_channels);
        run_at(level, WeightGrad::<M> { sums, stride, matrix, inputs, to });
    });
}
