//! The products of points: for each of them a small matrix product over channels or over tiles.

use super::tiles::{BUNDLE, Points};
use super::transform::POINTS;
use crate::kernels::buffer::Writer;
use crate::kernels::simd::{Kernel, Vector};

/// Output channels whose weights stand side by side.
pub(super) const PANEL: usize = 8;

/// Input channels that are summed before the next weights are fetched.
const DEPTH: usize = 160;

/// Transformed weights: for each point, panel of [`PANEL`] output channels and input channel, one
/// number for each channel of the panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a> {
    pub(super) values: &'a [f32],
    pub(super) inputs: usize,
    pub(super) panels: usize,
}

impl Weights<'_> {
    /// Numbers from one point to the next: a line more than needed, against cache conflicts.
    pub(super) fn stride(inputs: usize, panels: usize) -> usize {
        inputs * panels * PANEL + 16
    }
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
    pub(super) panel: usize,
    pub(super) panels: usize,
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
        let stride = Weights::stride(inputs, self.panels);
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
            let mut columns = [[[0.0f32; PANEL]; 3]; POINTS];
            for (column, g) in columns.iter_mut().zip(g).take(M + 2) {
                for (j, value) in column.iter_mut().enumerate() {
                    for (lane, v) in value.iter_mut().enumerate() {
                        *v = g[0] * taps[j][lane] + g[1] * taps[3 + j][lane] + g[2] * taps[6 + j][lane];
                    }
                }
            }
            for (i, column) in columns.iter().enumerate().take(M + 2) {
                for (j, g) in g.iter().enumerate().take(M + 2) {
                    let [a, b, c] = column;
                    let values: [f32; PANEL] =
                        std::array::from_fn(|l| g[0] * a[l] + g[1] * b[l] + g[2] * c[l]);
                    let start = (i * (M + 2) + j) * stride + (self.panel * inputs + input) * PANEL;
                    // SAFETY: this task's own panel; the values are other memory.
                    unsafe { self.to.copy(start, &values) };
                }
            }
        }
    }
}

/// The sums over input channels for one point and some panels of output channels.
#[derive(Debug)]
pub(super) struct Products<'a> {
    pub(super) weights: Weights<'a>,
    pub(super) point: usize,
    pub(super) panels: std::ops::Range<usize>,
    /// The points of the input.
    pub(super) v: &'a [f32],
    pub(super) v_points: Points,
    /// Where the sums go; each task writes its own point and panels.
    pub(super) to: Writer<'a>,
    pub(super) to_points: Points,
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Weights { values, inputs, panels } = self.weights;
        let (groups, outputs) = (self.v_points.groups, self.to_points.channels);
        let u = &values[self.point * Weights::stride(inputs, panels)..][..panels * inputs * PANEL];
        let v = &self.v[self.point * self.v_points.stride()..][..inputs * groups * V::LANES];
        let out = self.to.at(self.point * self.to_points.stride(), outputs * groups * V::LANES);
        assert!(self.panels.end <= panels && outputs == panels * PANEL && self.v_points.channels == inputs);
        let depth = inputs.div_ceil(inputs.div_ceil(DEPTH));
        for k in (0..inputs).step_by(depth) {
            let n = depth.min(inputs - k);
            for bundle in (0..groups).step_by(BUNDLE) {
                let wide = BUNDLE.min(groups - bundle);
                for panel in self.panels.clone() {
                    // SAFETY: the offsets stay below the lengths checked above: panel · inputs · 8
                    // plus n · 8 in the weights; (bundle · inputs + (k + n) · wide) vectors in the
                    // input's points and (bundle · outputs + (panel + 1) · 8 · wide) in the sums,
                    // of groups · inputs and groups · outputs. The sums are this task's own, and
                    // were written before when k > 0.
                    unsafe {
                        let u = u.as_ptr().add((panel * inputs + k) * PANEL);
                        let v = v.as_ptr().add((bundle * inputs + k * wide) * V::LANES);
                        let out = out.add((bundle * outputs + panel * PANEL * wide) * V::LANES);
                        match wide {
                            3 => panel_product::<V, 3>(n, u, v, out, k > 0),
                            2 => panel_product::<V, 2>(n, u, v, out, k > 0),
                            _ => panel_product::<V, 1>(n, u, v, out, k > 0),
                        }
                    }
                }
            }
        }
    }
}

/// As many output channels at once as registers allow.
///
/// # Safety
/// As [`rows_product`], for 8 channels.
#[inline(always)]
unsafe fn panel_product<V: Vector, const N: usize>(
    n: usize,
    u: *const f32,
    v: *const f32,
    out: *mut f32,
    add: bool,
) {
    // SAFETY: handed on; the second half starts 4 weights and 4 · N vectors later.
    unsafe {
        if V::LANES == 16 {
            rows_product::<V, 8, N>(n, u, v, out, add);
        } else {
            rows_product::<V, 4, N>(n, u, v, out, add);
            rows_product::<V, 4, N>(n, u.add(4), v, out.add(4 * N * V::LANES), add);
        }
    }
}

/// out[r][j] (+)= Σ over k of u[k][r] · v[k][j] for R channels and N vectors.
///
/// # Safety
/// `u` can be read at (n − 1) · 8 + R numbers, `v` at n · N vectors; `out` can be written (and read,
/// with `add`) at R · N vectors that nobody else uses meanwhile.
#[inline(always)]
unsafe fn rows_product<V: Vector, const R: usize, const N: usize>(
    n: usize,
    mut u: *const f32,
    mut v: *const f32,
    out: *mut f32,
    add: bool,
) {
    let mut sums = [[V::splat(0.0); N]; R];
    // SAFETY: all addresses lie within what the contract grants.
    unsafe {
        if add {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load_at(out.add((r * N + j) * V::LANES));
                }
            }
        }
        for _ in 0..n {
            let mut x = [V::splat(0.0); N];
            for (j, x) in x.iter_mut().enumerate() {
                *x = V::load_at(v.add(j * V::LANES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*u.add(r));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = x.fma(weight, *sum);
                }
            }
            u = u.wrapping_add(PANEL);
            v = v.wrapping_add(N * V::LANES);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store_at(out.add((r * N + j) * V::LANES));
            }
        }
    }
}

/// Channels of a panel of the output's gradient, and of the input.
pub(super) const GRAD_PANEL: usize = 4;
pub(super) const INPUT_PANEL: usize = 6;

/// Groups that are summed in registers before they are added to memory.
const TILES: usize = 64;

/// Panels of the output's gradient whose lanes are summed up together.
const STRIP: usize = 8;

/// The sums over tiles for one point: (output channels) × (input channels), both rounded up to
/// whole panels.
#[derive(Debug)]
pub(super) struct TileProducts<'a> {
    pub(super) point: usize,
    /// The points of the input and of the output's gradient.
    pub(super) v: &'a [f32],
    pub(super) v_points: Points,
    pub(super) w: &'a [f32],
    pub(super) w_points: Points,
    /// Whether the sums are added to what is there.
    pub(super) add: bool,
    pub(super) sums: &'a mut [f32],
}

impl Kernel for TileProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let groups = self.v_points.groups;
        let inputs = self.v_points.channels.next_multiple_of(INPUT_PANEL);
        let outputs = self.w_points.channels.next_multiple_of(GRAD_PANEL);
        let v = &self.v[self.point * self.v_points.stride()..][..inputs * groups * V::LANES];
        let w = &self.w[self.point * self.w_points.stride()..][..outputs * groups * V::LANES];
        assert!(groups == self.w_points.groups && self.sums.len() == inputs * outputs);
        let mut lanes = [0.0; STRIP * GRAD_PANEL * INPUT_PANEL * 16];
        for group in (0..groups).step_by(TILES) {
            let n = TILES.min(groups - group);
            for input in (0..inputs).step_by(INPUT_PANEL) {
                let v = &v[(input * groups + group * INPUT_PANEL) * V::LANES..][..n * INPUT_PANEL * V::LANES];
                for strip in (0..outputs).step_by(STRIP * GRAD_PANEL) {
                    let end = (strip + STRIP * GRAD_PANEL).min(outputs);
                    let panels = (strip..end).step_by(GRAD_PANEL);
                    let size = GRAD_PANEL * INPUT_PANEL * V::LANES;
                    for (output, lanes) in panels.clone().zip(lanes.chunks_exact_mut(size)) {
                        let w = &w[(output * groups + group * GRAD_PANEL) * V::LANES..];
                        panel_sums::<V>(&w[..n * GRAD_PANEL * V::LANES], v, lanes);
                    }
                    for (output, lanes) in panels.zip(lanes.chunks_exact(size)) {
                        for (at, lanes) in lanes.chunks_exact(V::LANES).enumerate() {
                            let (r, j) = (at / INPUT_PANEL, at % INPUT_PANEL);
                            let sum = &mut self.sums[(output + r) * inputs + input + j];
                            let new = V::load(lanes).sum();
                            *sum = if self.add || group > 0 { *sum + new } else { new };
                        }
                    }
                }
            }
        }
    }
}

/// lanes[r][j] = Σ over groups of w[r] · v[j], lane by lane, for one panel of each.
#[inline(always)]
fn panel_sums<V: Vector>(w: &[f32], v: &[f32], lanes: &mut [f32]) {
    if V::LANES == 16 {
        row_sums::<V, 4>(w, v, 0, lanes);
    } else {
        row_sums::<V, 2>(w, v, 0, lanes);
        row_sums::<V, 2>(w, v, 2, lanes);
    }
}

/// As [`panel_sums`], for R channels from `first` on.
#[inline(always)]
fn row_sums<V: Vector, const R: usize>(w: &[f32], v: &[f32], first: usize, lanes: &mut [f32]) {
    let mut sums = [[V::splat(0.0); INPUT_PANEL]; R];
    let groups = w.chunks_exact(GRAD_PANEL * V::LANES).zip(v.chunks_exact(INPUT_PANEL * V::LANES));
    for (w, v) in groups {
        let w: [V; R] = std::array::from_fn(|r| V::load(&w[(first + r) * V::LANES..]));
        for j in 0..INPUT_PANEL {
            let v = V::load(&v[j * V::LANES..]);
            for (sums, w) in sums.iter_mut().zip(w) {
                sums[j] = w.fma(v, sums[j]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            sum.store(&mut lanes[((first + r) * INPUT_PANEL + j) * V::LANES..]);
        }
    }
}

/// Gᵀ s G of the sums for one output channel: its gradient (I, 3, 3).
#[derive(Debug)]
pub(super) struct WeightGrad<'a, const M: usize> {
    /// All points' sums, `stride` numbers apart, from this output channel on.
    pub(super) sums: &'a [f32],
    pub(super) stride: usize,
    pub(super) matrix: &'a [[f32; 3]; POINTS],
    pub(super) inputs: usize,
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
                    let sums = V::load_lanes(sums, first as isize, 0..n);
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
                    self.to[(first + input) * 9 + k] = *value;
                }
            }
        }
    }
}
