//! Convolution of each channel by itself (groups = input channels).
//!
//! A plane is put into scratch with its padding, so that a window's taps stand at fixed distances
//! from its first one, for a whole vector of windows at once. With a stride, all windows of a row
//! are summed and the wanted ones kept. Gradients spread the output's gradient by the stride in the
//! same way.

use rayon::prelude::*;

use super::buffer::{Scratch, Writer};
use super::simd::{Kernel, Vector, dispatch};
use crate::layers::ConvShape;

/// Whether each group has one input channel, and there is more than one group.
pub(super) fn serves(s: &ConvShape) -> bool {
    s.geometry.groups > 1 && s.group_channels().0 == 1
}

/// Numbers behind each line, which a vector may read.
const SLACK: usize = 16;

/// A plane in scratch, with zeros around it.
struct Plane {
    lines: Scratch,
    line: usize,
}

impl Plane {
    /// A plane of `size` (rows, columns) pixels, all 0.
    fn new(size: (usize, usize)) -> Self {
        let line = size.1 + SLACK;
        let mut lines = Scratch::take(size.0 * line);
        lines.fill(0.0);
        Self { lines, line }
    }

    /// Writes an image of `width` columns, pixel (0, 0) to `first` and the others `step` apart.
    /// What falls outside is left out.
    fn put(&mut self, image: &[f32], width: usize, first: (isize, isize), step: (usize, usize)) {
        let columns = (self.line - SLACK) as isize;
        for (y, row) in image.chunks_exact(width).enumerate() {
            let Ok(y) = usize::try_from((y * step.0) as isize + first.0) else { continue };
            let Some(line) = self.lines.get_mut(y * self.line..(y + 1) * self.line) else { break };
            let skipped = ((-first.1).max(0) as usize).div_ceil(step.1).min(width);
            let start = (skipped * step.1) as isize + first.1;
            let fitting = ((columns - start).max(0) as usize).div_ceil(step.1);
            let row = row[skipped..].iter().take(fitting);
            if fitting > 0 {
                line[start as usize..].iter_mut().step_by(step.1).zip(row).for_each(|(to, x)| *to = *x);
            }
        }
    }
}

/// Rows and columns that a window's taps reach beyond its first one.
fn reach(s: &ConvShape) -> (usize, usize) {
    let d = s.geometry.dilation;
    ((s.kernel.0 - 1) * d.0, (s.kernel.1 - 1) * d.1)
}

/// Rows and columns that the windows reach in the padded image.
fn padded(s: &ConvShape) -> (usize, usize) {
    let (stride, reach) = (s.geometry.stride, reach(s));
    ((s.out_height - 1) * stride.0 + reach.0 + 1, (s.out_width - 1) * stride.1 + reach.1 + 1)
}

fn before(s: &ConvShape) -> (isize, isize) {
    (s.geometry.padding.top as isize, s.geometry.padding.left as isize)
}

/// From a window's first tap to each of them, in lines of this length.
fn offsets(s: &ConvShape, line: usize) -> Vec<usize> {
    let d = s.geometry.dilation;
    let (kh, kw) = s.kernel;
    (0..kh).flat_map(|u| (0..kw).map(move |v| u * d.0 * line + v * d.1)).collect()
}

pub(super) fn forward(s: &ConvShape, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
    let (multiplier, positions, taps) = (s.group_channels().1, s.positions(), s.taps());
    (0..s.batch * s.in_channels).into_par_iter().for_each(|source| {
        let (sample, channel) = (source / s.in_channels, source % s.in_channels);
        let mut plane = Plane::new(padded(s));
        plane.put(&x[source * s.pixels()..][..s.pixels()], s.width, before(s), (1, 1));
        let offsets = offsets(s, plane.line);
        for out in channel * multiplier..(channel + 1) * multiplier {
            let start = (sample * s.out_channels + out) * positions;
            // SAFETY: each task has its own output planes.
            unsafe { y.fill(start, positions, bias.map_or(0.0, |b| b[out])) };
            // SAFETY: as above, and set just now.
            let to = unsafe { y.slice(start, positions) };
            let weights = &w[out * taps..(out + 1) * taps];
            let (step, width) = (s.geometry.stride, s.out_width);
            dispatch(Correlation { plane: &plane, offsets: &offsets, weights, step, width, to });
        }
    });
}

pub(super) fn input_grad(s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    let (multiplier, positions, taps) = (s.group_channels().1, s.positions(), s.taps());
    let (reach, before) = (reach(s), before(s));
    let first = (reach.0 as isize - before.0, reach.1 as isize - before.1);
    (0..s.batch * s.in_channels).into_par_iter().for_each(|target| {
        let (sample, channel) = (target / s.in_channels, target % s.in_channels);
        let start = target * s.pixels();
        // SAFETY: each task has its own input plane.
        unsafe { dx.fill(start, s.pixels(), 0.0) };
        // SAFETY: as above, and set just now.
        let to = unsafe { dx.slice(start, s.pixels()) };
        for out in channel * multiplier..(channel + 1) * multiplier {
            let source = (sample * s.out_channels + out) * positions;
            let mut plane = Plane::new((s.height + reach.0, s.width + reach.1));
            plane.put(&dy[source..source + positions], s.out_width, first, s.geometry.stride);
            let mut offsets = offsets(s, plane.line);
            offsets.reverse();
            let (weights, step, width) = (&w[out * taps..(out + 1) * taps], (1, 1), s.width);
            dispatch(Correlation { plane: &plane, offsets: &offsets, weights, step, width, to });
        }
    });
}

pub(super) fn weight_grad(s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    let (multiplier, positions, taps) = (s.group_channels().1, s.positions(), s.taps());
    (0..s.in_channels).into_par_iter().for_each(|channel| {
        let mut totals = vec![0.0f64; multiplier * taps];
        for sample in 0..s.batch {
            let source = (sample * s.in_channels + channel) * s.pixels();
            let mut plane = Plane::new(padded(s));
            plane.put(&x[source..source + s.pixels()], s.width, before(s), (1, 1));
            let offsets = offsets(s, plane.line);
            for (i, totals) in totals.chunks_exact_mut(taps).enumerate() {
                let grad = (sample * s.out_channels + channel * multiplier + i) * positions;
                // The gradient spread by the stride over the columns of the windows.
                let columns = (s.out_width - 1) * s.geometry.stride.1 + 1;
                let mut spread = Plane::new((s.out_height, columns));
                spread.put(&dy[grad..grad + positions], s.out_width, (0, 0), (1, s.geometry.stride.1));
                let (plane, step) = (&plane, s.geometry.stride.0);
                dispatch(TapProducts { plane, offsets: &offsets, spread: &spread, columns, step, totals });
            }
        }
        for (tap, total) in totals.iter().enumerate() {
            // SAFETY: each task has its own input channel, and so its own weights.
            unsafe { dw.fill(channel * multiplier * taps + tap, 1, *total as f32) };
        }
    });
}

/// to += Σ over taps of weight · plane, at windows that are `step` apart.
struct Correlation<'a> {
    plane: &'a Plane,
    offsets: &'a [usize],
    weights: &'a [f32],
    step: (usize, usize),
    /// Columns of `to`.
    width: usize,
    to: &'a mut [f32],
}

impl Kernel for Correlation<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let columns = (self.width - 1) * self.step.1 + 1;
        let mut sums = Scratch::take(columns.next_multiple_of(V::LANES));
        for (y, to) in self.to.chunks_exact_mut(self.width).enumerate() {
            let lines = &self.plane.lines[y * self.step.0 * self.plane.line..];
            let mut column = 0;
            while column < columns {
                column += if columns - column > 3 * V::LANES {
                    window_sums::<V, 4>(lines, column, self.offsets, self.weights, &mut sums)
                } else {
                    window_sums::<V, 1>(lines, column, self.offsets, self.weights, &mut sums)
                };
            }
            if self.step.1 == 1 {
                for (to, sum) in to.iter_mut().zip(&sums[..]) {
                    *to += sum;
                }
            } else {
                for (to, sum) in to.iter_mut().zip(sums.iter().step_by(self.step.1)) {
                    *to += sum;
                }
            }
        }
    }
}

/// The sums of N vectors of windows from `column` on. Returns how many windows those are.
#[inline(always)]
fn window_sums<V: Vector, const N: usize>(
    lines: &[f32],
    column: usize,
    offsets: &[usize],
    weights: &[f32],
    sums: &mut [f32],
) -> usize {
    let mut all = [V::splat(0.0); N];
    for (offset, weight) in offsets.iter().zip(weights) {
        let (from, weight) = (&lines[column + offset..], V::splat(*weight));
        for (i, sum) in all.iter_mut().enumerate() {
            *sum = V::load(&from[i * V::LANES..]).fma(weight, *sum);
        }
    }
    for (i, sum) in all.iter().enumerate() {
        sum.store(&mut sums[column + i * V::LANES..]);
    }
    N * V::LANES
}

/// totals += for each tap, the inner product of the gradient and the pixels under the tap.
struct TapProducts<'a> {
    plane: &'a Plane,
    offsets: &'a [usize],
    /// The output's gradient, a line for each row.
    spread: &'a Plane,
    columns: usize,
    /// Lines of the plane from one row of windows to the next.
    step: usize,
    totals: &'a mut [f64],
}

impl Kernel for TapProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (offset, total) in self.offsets.iter().zip(self.totals) {
            let mut sums = [V::splat(0.0); 2];
            for (y, dy) in self.spread.lines.chunks_exact(self.spread.line).enumerate() {
                let x = &self.plane.lines[y * self.step * self.plane.line + offset..];
                let mut column = 0;
                while column < self.columns {
                    let i = column / V::LANES % 2;
                    sums[i] = V::load(&dy[column..]).fma(V::load(&x[column..]), sums[i]);
                    column += V::LANES;
                }
            }
            *total += f64::from(sums[0].add(sums[1]).sum());
        }
    }
}
