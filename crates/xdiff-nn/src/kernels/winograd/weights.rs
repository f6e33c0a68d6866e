//! Between 3×3 weights and their points.

use std::ops::Range;

use super::tiles::Points;
use super::transform::POINTS;
use crate::kernels::buffer::Writer;
use crate::kernels::panels::PANEL;
use crate::kernels::simd::{Kernel, Vector, prefetch};

/// Numbers from one point of packed weights to the next: a line more than needed, against cache
/// conflicts.
pub(super) fn stride(inputs: usize, panels: usize) -> usize {
    inputs * panels * PANEL + 16
}

/// For how many input channels ahead weights are asked for: their rows are far apart.
const AHEAD: usize = 16;

/// Transforms the weights of one panel of output channels: G w Gᵀ.
#[derive(Debug)]
pub(super) struct WeightPanel<'a, const M: usize> {
    /// (O, I, 3, 3).
    pub(super) w: &'a [f32],
    /// O and I.
    pub(super) size: (usize, usize),
    /// Whether the weights are those of the input's gradient: channels exchanged, taps turned.
    pub(super) turned: bool,
    /// Which panel of all.
    pub(super) panel: usize,
    /// The input channels.
    pub(super) inputs: Range<usize>,
    /// Which panel of the packed weights, and how many they have.
    pub(super) place: (usize, usize),
    pub(super) matrix: &'a [[f32; 3]; POINTS],
    /// Where they go; each task writes its own panel.
    pub(super) to: Writer<'a>,
}

impl<const M: usize> Kernel for WeightPanel<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (out, inner) = self.size;
        let (outputs, all) = if self.turned { (inner, out) } else { (out, inner) };
        let inputs = self.inputs.len();
        let (place, panels) = self.place;
        let stride = stride(inputs, panels);
        let g = self.matrix;
        let first = self.panel * PANEL;
        assert!(self.w.len() == out * inner * 9 && first < outputs && self.inputs.end <= all);
        // From one output channel's taps to the next one's, and from one input channel's.
        let (step, next) = if self.turned { (9, inner * 9) } else { (inner * 9, 9) };
        for (row, input) in self.inputs.enumerate() {
            for lane in (0..PANEL).step_by(V::LANES) {
                let output = first + lane;
                let count = V::LANES.min(outputs.saturating_sub(output));
                let (o, i) = if self.turned { (input, output) } else { (output, input) };
                let from = self.w.as_ptr().wrapping_add((o * inner + i) * 9);
                for row in 0..count {
                    prefetch(from.wrapping_add(row * step + AHEAD * next));
                }
                // SAFETY: taps of `count` output channels from this one on, all of them in `w`.
                let taps: [V; 9] = unsafe { V::load_columns(from, step, count) };
                let mut columns = [[V::splat(0.0); 3]; POINTS];
                for j in 0..3 {
                    let (a, b, c) = if self.turned {
                        (taps[8 - j], taps[5 - j], taps[2 - j])
                    } else {
                        (taps[j], taps[3 + j], taps[6 + j])
                    };
                    for (column, g) in columns.iter_mut().zip(g).take(M + 2) {
                        column[j] = combine(g, a, b, c);
                    }
                }
                for (i, [a, b, c]) in columns.iter().enumerate().take(M + 2) {
                    for (j, g) in g.iter().enumerate().take(M + 2) {
                        let place = (place * inputs + row) * PANEL + lane;
                        let start = (i * (M + 2) + j) * stride + place;
                        // SAFETY: inside, by `at`; this task's own panel.
                        unsafe { combine(g, *a, *b, *c).store_at(self.to.at(start, V::LANES)) };
                    }
                }
            }
        }
    }
}

/// g[0] · a + g[1] · b + g[2] · c.
#[inline(always)]
fn combine<V: Vector>(g: &[f32; 3], a: V, b: V, c: V) -> V {
    a.fma(V::splat(g[0]), b.fma(V::splat(g[1]), c.mul(V::splat(g[2]))))
}

/// Gᵀ s G of the sums for one output channel: its gradient (I, 3, 3).
#[derive(Debug)]
pub(super) struct WeightGrad<'a, const M: usize> {
    /// The sums of all points, and where they stand: the input channels in lanes.
    pub(super) from: &'a [f32],
    pub(super) sums: Points,
    /// The row of this output channel.
    pub(super) row: usize,
    pub(super) matrix: &'a [[f32; 3]; POINTS],
    pub(super) inputs: usize,
    /// Whether the gradient is added to what is there.
    pub(super) add: bool,
    pub(super) to: &'a mut [f32],
}

impl<const M: usize> Kernel for WeightGrad<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let g = self.matrix;
        for first in (0..self.inputs).step_by(V::LANES) {
            let n = V::LANES.min(self.inputs - first);
            let place = self.sums.place(first / V::LANES, self.row);
            let next = self.sums.place((first / V::LANES + 3).min(self.sums.groups - 1), self.row);
            let mut taps = [[V::splat(0.0); 3]; 3];
            for (i, gi) in g.iter().enumerate().take(M + 2) {
                let mut row = [V::splat(0.0); 3];
                for (j, gj) in g.iter().enumerate().take(M + 2) {
                    let start = (i * (M + 2) + j) * self.sums.stride() + place;
                    prefetch(self.from.as_ptr().wrapping_add(start - place + next));
                    let sums = V::load(&self.from[start..]);
                    for (row, g) in row.iter_mut().zip(gj) {
                        *row = sums.fma(V::splat(*g), *row);
                    }
                }
                for (taps, g) in taps.iter_mut().zip(gi) {
                    for (tap, row) in taps.iter_mut().zip(row) {
                        *tap = row.fma(V::splat(*g), *tap);
                    }
                }
            }
            let [[a, b, c], [d, e, f], [h, k, l]] = taps;
            let mut taps = [a, b, c, d, e, f, h, k, l];
            assert!(self.to.len() >= (first + n) * 9);
            // SAFETY: the taps of `n` input channels from the first on, checked just now.
            unsafe {
                let to = self.to.as_mut_ptr().add(first * 9);
                if self.add {
                    let before: [V; 9] = V::load_columns(to, 9, n);
                    for (tap, before) in taps.iter_mut().zip(before) {
                        *tap = before.add(*tap);
                    }
                }
                V::store_columns(taps, to, 9, n);
            }
        }
    }
}
