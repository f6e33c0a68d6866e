//! The convolution by tiles, forward and for the gradient of the input.

use std::ops::Range;

use rayon::prelude::*;

use super::tiles::{Groups, InputTiles, Loads, Order, OutputTiles, Part, Points, Sizes};
use super::weights::{self, WeightPanel};
use super::{Tile, Transformed, chunks, parts, transform};
use crate::kernels::buffer::{Scratch, Writer};
use crate::kernels::panels::{BUNDLE, Columns, PANEL, Panels, Products};
use crate::kernels::simd::{Level, run_at};

/// Transformed weights larger than this (4 MiB) are formed a few channels at a time.
const SHARED_WEIGHTS: usize = 1 << 20;
/// Transformed weights that are formed at once, about as many as that cache holds.
const WEIGHT_VALUES: usize = 300_000;
/// Points that should fit into a core's second-level cache.
const BLOCK_VALUES: usize = 250_000;
/// Points of the input that are held at once when weights are formed a few channels at a time
/// (20 MiB).
const HELD_VALUES: usize = 5 << 20;
/// In which order points are formed and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All weights; then a block of tiles at a time, from the input to the output.
    Blocks,
    /// The input's points of many tiles; then a few output channels at a time, from their weights
    /// to the output. Large weights never leave the cache.
    Panels,
    /// All weights and the input's points of many tiles; then one point after another, so that
    /// each is read once. For weights that were transformed before.
    Points,
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

/// How one convolution is computed.
pub(super) struct Convolution<'a> {
    pub(super) s: &'a Sizes,
    pub(super) level: Level,
    /// Chosen by the size of the weights when none is given.
    pub(super) mode: Option<Mode>,
    /// Whether the weights are those of the input's gradient.
    pub(super) turned: bool,
    /// The weights, if they were transformed before.
    pub(super) transformed: Option<&'a Transformed>,
}

impl Convolution<'_> {
    pub(super) fn run(&self, tile: Tile, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
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
    pub(super) fn all_weights<const M: usize>(&self, w: &[f32], values: &mut [f32]) {
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

    /// Forms the points of some groups of the input, its channels divided among the threads.
    fn input_points<const M: usize>(&self, part: Part<'_>, loads: &Loads, x: &[f32], v: &mut [f32]) {
        let to = Writer::over(v);
        let channels = parts(self.s.inputs, 4 * rayon::current_num_threads());
        channels.into_par_iter().with_max_len(1).for_each(|channels| {
            run_at(self.level, InputTiles::<M> { part, loads, x, channels, to });
        });
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
            self.input_points::<M>(part(v_points), loads, x, &mut v);
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
            self.input_points::<M>(part(v_points), loads, x, &mut v);
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
