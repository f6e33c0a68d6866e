//! Between 3×3 weights and their points.

use super::transform::POINTS;
use crate::kernels::buffer::Writer;
use crate::kernels::panels::PANEL;
use crate::kernels::simd::{Kernel, Vector, load_part};

/// Numbers from one point of packed weights to the next: a line more than needed, against cache
/// conflicts.
pub(super) fn stride(inputs: usize, panels: usize) -> usize {
    inputs * panels * PANEL + 16
}

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
        let (outputs, inputs) = if self.turned { (inner, out) } else { (out, inner) };
        let (place, panels) = self.place;
        let stride = stride(inputs, panels);
        let g = self.matrix;
        let first = self.panel * PANEL;
        let filled = PANEL.min(outputs - first);
        for input in 0..inputs {
            let mut taps = [[0.0f32; PANEL]; 9];
            for lane in 0..filled {
                let output = first + lane;
                let (o, i) = if self.turned { (input, output) } else { (output, input) };
                let w = &self.w[(o * inner + i) * 9..][..9];
                for (k, tap) in taps.iter_mut().enumerate() {
                    tap[lane] = w[if self.turned { 8 - k } else { k }];
                }
            }
            for lane in (0..PANEL).step_by(V::LANES) {
                let mut columns = [[V::splat(0.0); 3]; POINTS];
                for j in 0..3 {
                    let (a, b) = (V::load(&taps[j][lane..]), V::load(&taps[3 + j][lane..]));
                    let c = V::load(&taps[6 + j][lane..]);
                    for (column, g) in columns.iter_mut().zip(g).take(M + 2) {
                        column[j] = combine(g, a, b, c);
                    }
                }
                for (i, [a, b, c]) in columns.iter().enumerate().take(M + 2) {
                    for (j, g) in g.iter().enumerate().take(M + 2) {
                        let place = (place * inputs + input) * PANEL + lane;
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
    /// All points' sums, `stride` numbers apart, from this output channel on.
    pub(super) sums: &'a [f32],
    pub(super) stride: usize,
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
            let mut taps = [[V::splat(0.0); 3]; 3];
            for (i, gi) in g.iter().enumerate().take(M + 2) {
                let mut row = [V::splat(0.0); 3];
                for (j, gj) in g.iter().enumerate().take(M + 2) {
                    let sums = &self.sums[(i * (M + 2) + j) * self.stride..];
                    let sums: V = if n == V::LANES {
                        V::load(&sums[first..])
                    } else {
                        load_part(&sums[first..first + n], 0.0)
                    };
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
            for (k, tap) in taps.iter().flatten().enumerate() {
                let mut lanes = [0.0; 16];
                tap.store(&mut lanes);
                for (input, value) in lanes[..n].iter().enumerate() {
                    let to = &mut self.to[(first + input) * 9 + k];
                    *to = if self.add { *to + value } else { *value };
                }
            }
        }
    }
}
