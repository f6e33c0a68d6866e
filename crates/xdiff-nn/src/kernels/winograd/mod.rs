//! Winograd's convolution for 3×3 windows with stride 1: F(2×2, 3×3) and F(4×4, 3×3).
//!
//! Tiles of the image and the weights are transformed to points, where the convolution is a product
//! of numbers; so a 4×4 tile of outputs takes 36 products for each pair of channels instead of 144.
//! Output and gradients are transformed back. [`transform`] has the equations.
//!
//! The largest error grows with the root of the number of summed channels; up to 170 of them it is
//! below 2e-5 of the result's root mean square, which a test holds. Plain summation loses about a
//! quarter of that. A value that is not finite spreads to its whole tile.
//!
//! Weights are transformed at every call, unless a layer kept them from an earlier one.

#[cfg(test)]
mod tests;
mod tiles;
mod transform;
mod weights;

use std::ops::Range;

use rayon::prelude::*;

use self::tiles::{GradTiles, Groups, InputTiles, Loads, Order, OutputTiles, Part, Points, Sizes};
use self::weights::{WeightGrad, WeightPanel};
use super::buffer::{Scratch, Writer};
use super::dots::{Dots, Rows};
use super::matrix::Target;
use super::packing::Turned;
use super::panels::{BUNDLE, Columns, PANEL, Panels, Products};
use super::simd::{Level, run_at};
use crate::layers::ConvShape;

/// Fewest channels, in and out, for which transforms pay.
const CHANNELS: usize = 16;
/// Fewest tiles of one sample.
const FOUR_TILES: usize = 16;
const TWO_TILES: usize = 9;

/// Transformed weights larger than this (4 MiB) are formed a few channels at a time.
const SHARED_WEIGHTS: usize = 1 << 20;
/// Transformed weights that are formed at once, about as many as that cache holds.
const WEIGHT_VALUES: usize = 300_000;
/// Points that should fit into a core's second-level cache.
const BLOCK_VALUES: usize = 250_000;
/// Points of the input that are held at once when weights are formed a few channels at a time
/// (20 MiB).
const HELD_VALUES: usize = 5 << 20;
/// Points of the input and of the output's gradient, and sums for the weights' gradient, that are
/// held at once (16 MiB each).
const GRAD_VALUES: usize = 4 << 20;

/// Vectors of tiles from which on sums run along the rows of points.
const LONG_SUMS: usize = 32;

/// The outputs that one tile covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// 2 × 2.
    Two,
    /// 4 × 4.
    Four,
}

impl Tile {
    /// Points of a tile.
    fn points(self) -> usize {
        match self {
            Tile::Two => 16,
            Tile::Four => 36,
        }
    }
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

/// Transformed weights of a convolution, to be used again.
pub(crate) struct Transformed {
    tile: Tile,
    values: Vec<f32>,
}

/// How many bytes the transformed weights of a convolution take.
pub(crate) fn transformed_bytes(tile: Tile, s: &ConvShape) -> usize {
    let panels = s.out_channels.div_ceil(PANEL);
    tile.points() * weights::stride(s.in_channels, panels) * size_of::<f32>()
}

/// Transforms weights (O, I, 3, 3) for calls of [`forward`].
pub(crate) fn transform(tile: Tile, s: &ConvShape, w: &[f32]) -> Transformed {
    let sizes = sizes_of(s);
    let convolution =
        Convolution { s: &sizes, level: Level::best(), mode: None, turned: false, transformed: None };
    let mut values = vec![0.0; transformed_bytes(tile, s) / size_of::<f32>()];
    match tile {
        Tile::Two => convolution.all_weights::<2>(w, &mut values),
        Tile::Four => convolution.all_weights::<4>(w, &mut values),
    }
    Transformed { tile, values }
}

/// In which order points are formed and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// All weights; then a block of tiles at a time, from the input to the output.
    Blocks,
    /// The input's points of many tiles; then a few output channels at a time, from their weights
    /// to the output. Large weights never leave the cache.
    Panels,
    /// All weights and the input's points of many tiles; then one point after another, so that
    /// each is read once. For weights that were transformed before.
    Points,
}

/// y = w ∗ x + b, for w (O, I, 3, 3), perhaps transformed before. Writes all of `y`.
pub(crate) fn forward(
    tile: Tile,
    s: &ConvShape,
    x: &[f32],
    (w, transformed): (&[f32], Option<&Transformed>),
    bias: Option<&[f32]>,
    y: Writer<'_>,
) {
    let sizes = sizes_of(s);
    Convolution { s: &sizes, level: Level::best(), mode: None, turned: false, transformed }
        .run(tile, x, w, bias, y);
}

/// dL/dx from dL/dy: the convolution of dL/dy with the turned weights. Writes all of `dx`.
pub(crate) fn input_grad(tile: Tile, s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    let sizes = turned_sizes_of(s);
    Convolution { s: &sizes, level: Level::best(), mode: None, turned: true, transformed: None }
        .run(tile, dy, w, None, dx);
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

/// At most `count` ranges of almost equal length that cover 0..n, none of them empty.
fn parts(n: usize, count: usize) -> Vec<Range<usize>> {
    let count = count.clamp(1, n.max(1));
    (0..count).map(|i| n * i / count..n * (i + 1) / count).filter(|part| !part.is_empty()).collect()
}

/// The points of all weights.
#[derive(Clone, Copy)]
struct Weights<'a> {
    values: &'a [f32],
    inputs: usize,
    panels: usize,
}

impl<'a> Weights<'a> {
    /// The weights of one point.
    fn point(&self, point: usize) -> Panels<'a> {
        let start = point * weights::stride(self.inputs, self.panels);
        let values = &self.values[start..start + self.inputs * self.panels * PANEL];
        Panels { values, depth: self.inputs }
    }
}

struct Convolution<'a> {
    s: &'a Sizes,
    level: Level,
    /// Chosen by the size of the weights when none is given.
    mode: Option<Mode>,
    /// Whether the weights are those of the input's gradient.
    turned: bool,
    /// The weights, if they were transformed before.
    transformed: Option<&'a Transformed>,
}

impl Convolution<'_> {
    fn run(&self, tile: Tile, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
        assert!(self.transformed.is_none_or(|t| t.tile == tile && !self.turned), "weights for other tiles");
        match tile {
            Tile::Two => self.tiles::<2>(x, w, bias, y),
            Tile::Four => self.tiles::<4>(x, w, bias, y),
        }
    }

    fn tiles<const M: usize>(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
        let s = self.s;
        let all = Groups::new(s, M, self.level.lanes());
        let loads = all.input_loads(s);
        let panels = s.outputs.div_ceil(PANEL);
        let large = (M + 2) * (M + 2) * weights::stride(s.inputs, panels) > SHARED_WEIGHTS;
        let mode = self.mode.unwrap_or(match (large, self.transformed) {
            (false, _) => Mode::Blocks,
            (true, None) => Mode::Panels,
            (true, Some(_)) => Mode::Points,
        });
        match mode {
            Mode::Blocks => self.blocks::<M>((&all, &loads), x, w, bias, y),
            Mode::Panels => self.panels::<M>((&all, &loads), x, w, bias, y),
            Mode::Points => self.point_by_point::<M>((&all, &loads), x, w, bias, y),
        }
    }

    /// Transforms all weights.
    fn all_weights<const M: usize>(&self, w: &[f32], values: &mut [f32]) {
        let (inputs, panels) = (self.s.inputs, self.s.outputs.div_ceil(PANEL));
        let to = Writer::over(values);
        (0..panels).into_par_iter().for_each(|panel| {
            self.weights::<M>(w, (panel, 0..inputs), (panel, panels), to);
        });
    }

    /// All transformed weights: those from before, or else formed in `values`.
    fn given_or_formed<'v, const M: usize>(
        &'v self,
        w: &[f32],
        values: &'v mut Option<Scratch>,
    ) -> Weights<'v> {
        let (inputs, panels) = (self.s.inputs, self.s.outputs.div_ceil(PANEL));
        let values = match self.transformed {
            Some(transformed) => &transformed.values,
            None => {
                let size = (M + 2) * (M + 2) * weights::stride(inputs, panels);
                let values = values.insert(Scratch::take(size));
                self.all_weights::<M>(w, values);
                &values[..]
            }
        };
        Weights { values, inputs, panels }
    }

    /// Transforms the weights of one panel, for some input channels, into its place of packed weights.
    fn weights<const M: usize>(
        &self,
        w: &[f32],
        (panel, inputs): (usize, Range<usize>),
        place: (usize, usize),
        to: Writer<'_>,
    ) {
        let (s, turned, matrix) = (self.s, self.turned, &transform::filter_matrix(M));
        let size = if turned { (s.inputs, s.outputs) } else { (s.outputs, s.inputs) };
        run_at(self.level, WeightPanel::<M> { w, size, turned, panel, inputs, place, matrix, to });
    }

    /// The points of `groups` groups, of the input and of some panels of output channels.
    fn points(&self, groups: usize, panels: usize) -> (Points, Points) {
        let lanes = self.level.lanes();
        let input = Points { groups, channels: self.s.inputs, lanes, order: Order::Bundles };
        (input, Points { channels: panels * PANEL, ..input })
    }

    /// The products for all points. The weights are those of the input channels from `first` on.
    fn products<const M: usize>(
        &self,
        weights: Weights<'_>,
        first: usize,
        (v, v_points): (&[f32], Points),
        (to, m_points): (Writer<'_>, Points),
    ) {
        let (groups, depth) = (v_points.groups, v_points.channels);
        for point in 0..(M + 2) * (M + 2) {
            let columns = Columns { values: &v[point * v_points.stride()..], groups, depth, first };
            let (weights, panels) = (weights.point(point), 0..weights.panels);
            let start = point * m_points.stride();
            run_at(self.level, Products { weights, panels, columns, to, start });
        }
    }

    fn blocks<const M: usize>(
        &self,
        (all, loads): (&Groups, &Loads),
        x: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        y: Writer<'_>,
    ) {
        let (s, n) = (self.s, (M + 2) * (M + 2));
        let panels = s.outputs.div_ceil(PANEL);
        let mut values = None;
        let weights = self.given_or_formed::<M>(w, &mut values);
        // Whole bundles that fit the cache, as many blocks as threads or a multiple of that.
        let threads = rayon::current_num_threads();
        let group = n * (s.inputs + panels * PANEL) * self.level.lanes();
        let fitting = (BLOCK_VALUES / group / BUNDLE).clamp(1, 2) * BUNDLE;
        let wanted = all.len().div_ceil(fitting).next_multiple_of(threads);
        let blocks = parts(all.len(), wanted);
        blocks.into_par_iter().with_max_len(1).for_each(|block| {
            let (v_points, m_points) = self.points(block.len(), panels);
            let mut v = Scratch::take(n * v_points.stride());
            let mut m = Scratch::take(n * m_points.stride());
            let part = |points| Part { s, all, first: block.start, points };
            let to = Writer::over(&mut v);
            run_at(self.level, InputTiles::<M> { part: part(v_points), loads, x, channels: 0..s.inputs, to });
            self.products::<M>(weights, 0, (&v, v_points), (Writer::over(&mut m), m_points));
            let (part, channels) = (part(m_points), 0..s.outputs);
            run_at(self.level, OutputTiles::<M> { part, from: &m, bias, channels, held: 0, y });
        });
    }

    fn point_by_point<const M: usize>(
        &self,
        (all, loads): (&Groups, &Loads),
        x: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        y: Writer<'_>,
    ) {
        let (s, n, threads) = (self.s, (M + 2) * (M + 2), rayon::current_num_threads());
        let mut values = None;
        let weights = self.given_or_formed::<M>(w, &mut values);
        let panels = weights.panels;
        let group = n * (s.inputs + panels * PANEL) * self.level.lanes();
        for held in chunks(all.len(), (2 * HELD_VALUES / group).max(BUNDLE)) {
            let part = |points| Part { s, all, first: held.start, points };
            let (v_points, m_points) = self.points(held.len(), panels);
            let mut v = Scratch::take(n * v_points.stride());
            let mut m = Scratch::take(n * m_points.stride());
            let to = Writer::over(&mut v);
            parts(s.inputs, 4 * threads).into_par_iter().with_max_len(1).for_each(|channels| {
                run_at(self.level, InputTiles::<M> { part: part(v_points), loads, x, channels, to });
            });
            let to = Writer::over(&mut m);
            (0..n).into_par_iter().with_max_len(1).for_each(|point| {
                let columns = Columns::whole(&v[point * v_points.stride()..], held.len(), s.inputs);
                let (weights, start) = (weights.point(point), point * m_points.stride());
                run_at(self.level, Products { weights, panels: 0..panels, columns, to, start });
            });
            let from = &m[..];
            parts(s.outputs, 4 * threads).into_par_iter().with_max_len(1).for_each(|channels| {
                let part = part(m_points);
                run_at(self.level, OutputTiles::<M> { part, from, bias, channels, held: 0, y });
            });
        }
    }

    fn panels<const M: usize>(
        &self,
        (all, loads): (&Groups, &Loads),
        x: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        y: Writer<'_>,
    ) {
        let (s, n, threads) = (self.s, (M + 2) * (M + 2), rayon::current_num_threads());
        let panels = s.outputs.div_ceil(PANEL);
        let wide = (panels / 16).clamp(1, 2);
        // Input channels whose weights are formed at once.
        let depth = (WEIGHT_VALUES / (n * wide * PANEL)).clamp(1, s.inputs);
        let group = n * s.inputs.max(wide * PANEL) * self.level.lanes();
        let sets = parts(panels, panels.div_ceil(wide).next_multiple_of(threads));
        for held in chunks(all.len(), (HELD_VALUES / group).max(BUNDLE)) {
            let part = |points| Part { s, all, first: held.start, points };
            let v_points = self.points(held.len(), 0).0;
            let mut v = Scratch::take(n * v_points.stride());
            let to = Writer::over(&mut v);
            let channels = parts(s.inputs, 4 * threads);
            channels.into_par_iter().with_max_len(1).for_each(|channels| {
                run_at(self.level, InputTiles::<M> { part: part(v_points), loads, x, channels, to });
            });
            sets.par_iter().with_max_len(1).for_each(|set| {
                let panels = set.len();
                let m_points = self.points(held.len(), panels).1;
                let mut m = Scratch::take(n * m_points.stride());
                let mut values = Scratch::take(n * weights::stride(depth, panels));
                for inputs in chunks(s.inputs, depth) {
                    let to = Writer::over(&mut values);
                    for (place, panel) in set.clone().enumerate() {
                        self.weights::<M>(w, (panel, inputs.clone()), (place, panels), to);
                    }
                    let weights = Weights { values: &values, inputs: inputs.len(), panels };
                    let sums = (Writer::over(&mut m), m_points);
                    self.products::<M>(weights, inputs.start, (&v, v_points), sums);
                }
                let channels = set.start * PANEL..(set.end * PANEL).min(s.outputs);
                let (part, held) = (part(m_points), channels.start);
                run_at(self.level, OutputTiles::<M> { part, from: &m, bias, channels, held, y });
            });
        }
    }
}

fn weight_grad_at<const M: usize>(level: Level, s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    let sizes = sizes_of(s);
    let (n, lanes, threads) = ((M + 2) * (M + 2), level.lanes(), rayon::current_num_threads());
    let (inputs, outputs) = (s.in_channels, s.out_channels);
    let all = Groups::new(&sizes, M, lanes);
    let (x_loads, y_loads) = (all.input_loads(&sizes), all.grad_loads(&sizes));
    let matrix = &transform::filter_matrix(M);
    // Output channels whose sums are held at once.
    let rows = (GRAD_VALUES / (n * inputs)).max(PANEL);
    let groups = (GRAD_VALUES / (n * (inputs + outputs) * lanes)).max(8);
    for (turn, held) in chunks(all.len(), groups).into_iter().enumerate() {
        let of = |channels| Points { groups: held.len(), channels, lanes, order: Order::Channels };
        let (v_points, w_points) = (of(inputs), of(outputs));
        let mut v = Scratch::take(n * v_points.stride());
        let mut w = Scratch::take(n * w_points.stride());
        let part = |points| Part { s: &sizes, all: &all, first: held.start, points };
        let (to_v, to_w) = (Writer::over(&mut v), Writer::over(&mut w));
        rayon::join(
            || {
                parts(inputs, 4 * threads).into_par_iter().with_max_len(1).for_each(|channels| {
                    let part = part(v_points);
                    run_at(level, InputTiles::<M> { part, loads: &x_loads, x, channels, to: to_v });
                });
            },
            || {
                parts(outputs, 4 * threads).into_par_iter().with_max_len(1).for_each(|channels| {
                    let part = part(w_points);
                    run_at(level, GradTiles::<M> { part, loads: &y_loads, dy, channels, to: to_w });
                });
            },
        );
        for channels in chunks(outputs, rows) {
            let sums = Sums::new(level, inputs, channels.len(), held.len());
            let mut values = Scratch::take(n * sums.points.stride());
            let to = Writer::over(&mut values);
            (0..n).into_par_iter().with_max_len(1).for_each(|point| {
                let a = w_points.rows(&w, point, channels.clone());
                let b = v_points.rows(&v, point, 0..inputs);
                sums.product(a, b, to, point);
            });
            channels.into_par_iter().enumerate().for_each(|(row, output)| {
                let size = inputs * 9;
                if turn == 0 {
                    // SAFETY: each task has its own output channel.
                    unsafe { dw.fill(output * size, size, 0.0) };
                }
                // SAFETY: as above, and set before.
                let to = unsafe { dw.slice(output * size, size) };
                let (sums, from) = (sums.points, &values);
                run_at(level, WeightGrad::<M> { from, sums, row, matrix, inputs, add: turn > 0, to });
            });
        }
    }
}

/// Sums over tiles for each pair of channels, for all points.
#[derive(Clone, Copy)]
struct Sums {
    level: Level,
    /// A row for each output channel, with the input channels in its lanes.
    points: Points,
    /// Vectors of tiles that are summed.
    vectors: usize,
}

impl Sums {
    /// Sums for `outputs` rows over so many vectors of tiles.
    fn new(level: Level, inputs: usize, outputs: usize, vectors: usize) -> Self {
        let (order, channels) = if vectors < LONG_SUMS {
            (Order::Bundles, outputs.next_multiple_of(PANEL))
        } else {
            (Order::Channels, outputs)
        };
        let lanes = level.lanes();
        Self { level, points: Points { groups: inputs.div_ceil(lanes), channels, lanes, order }, vectors }
    }

    /// The sums of one point over rows `a` of the output's gradient and `b` of the input. Short ones
    /// over packed operands, since adding up the lanes would cost too much.
    fn product(&self, a: Rows<'_>, b: Rows<'_>, to: Writer<'_>, point: usize) {
        let Self { level, points, vectors } = *self;
        let start = point * points.stride();
        match points.order {
            Order::Channels => {
                let to = Target { writer: to, start, stride: points.row() };
                run_at(level, Dots { a, b, vectors, to, add: false });
            }
            Order::Bundles => {
                let (terms, groups) = (vectors * level.lanes(), points.groups);
                let mut weights = Scratch::take(points.channels * terms);
                run_at(level, Turned { rows: a, terms, width: (PANEL, PANEL), to: &mut weights });
                let mut columns = Scratch::take(points.row() * terms);
                let last = (groups - 1) % BUNDLE + 1;
                let width = (BUNDLE * level.lanes(), last * level.lanes());
                run_at(level, Turned { rows: b, terms, width, to: &mut columns });
                let weights = Panels { values: &weights, depth: terms };
                let (panels, columns) = (0..weights.len(), Columns::whole(&columns, groups, terms));
                run_at(level, Products { weights, panels, columns, to, start });
            }
        }
    }
}
