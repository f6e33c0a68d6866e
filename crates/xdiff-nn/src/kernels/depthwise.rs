//! Convolution of each channel by itself (groups = input channels), tap by tap.

use rayon::prelude::*;

use super::buffer::Writer;
use super::im2col::inside;
use super::simd::{Kernel, Vector, dispatch, load_part};
use super::sum::axpy;
use crate::layers::ConvShape;

/// Whether each group has one input channel, and there is more than one group.
pub(super) fn serves(s: &ConvShape) -> bool {
    s.geometry.groups > 1 && s.group_channels().0 == 1
}

pub(super) fn forward(s: &ConvShape, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
    let (multiplier, positions, taps) = (s.group_channels().1, s.positions(), s.taps());
    (0..s.batch * s.out_channels).into_par_iter().for_each(|plane| {
        let (sample, channel) = (plane / s.out_channels, plane % s.out_channels);
        let source = (sample * s.in_channels + channel / multiplier) * s.pixels();
        let start = plane * positions;
        // SAFETY: each task has its own output plane.
        unsafe { y.fill(start, positions, bias.map_or(0.0, |b| b[channel])) };
        // SAFETY: as above, and set just now.
        let y = unsafe { y.slice(start, positions) };
        let (w, x) = (&w[channel * taps..(channel + 1) * taps], &x[source..source + s.pixels()]);
        dispatch(AddTaps { s, w, x, y });
    });
}

pub(super) fn input_grad(s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    let (multiplier, positions, taps) = (s.group_channels().1, s.positions(), s.taps());
    (0..s.batch * s.in_channels).into_par_iter().for_each(|plane| {
        let (sample, channel) = (plane / s.in_channels, plane % s.in_channels);
        let start = plane * s.pixels();
        // SAFETY: each task has its own input plane.
        unsafe { dx.fill(start, s.pixels(), 0.0) };
        // SAFETY: as above, and set just now.
        let dx = unsafe { dx.slice(start, s.pixels()) };
        for out in channel * multiplier..(channel + 1) * multiplier {
            let source = (sample * s.out_channels + out) * positions;
            let w = &w[out * taps..(out + 1) * taps];
            dispatch(SpreadTaps { s, w, dy: &dy[source..source + positions], dx });
        }
    });
}

pub(super) fn weight_grad(s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    let (multiplier, positions, taps) = (s.group_channels().1, s.positions(), s.taps());
    (0..s.out_channels).into_par_iter().for_each(|out| {
        let mut totals = vec![0.0f64; taps];
        for sample in 0..s.batch {
            let source = (sample * s.in_channels + out / multiplier) * s.pixels();
            let grad = (sample * s.out_channels + out) * positions;
            let (x, dy) = (&x[source..source + s.pixels()], &dy[grad..grad + positions]);
            dispatch(TapProducts { s, dy, x, totals: &mut totals });
        }
        for (tap, total) in totals.iter().enumerate() {
            // SAFETY: each task has its own output channel.
            unsafe { dw.fill(out * taps + tap, 1, *total as f32) };
        }
    });
}

/// Calls `visit(tap, first output, first pixel, number of outputs)` for each output row and tap.
#[inline(always)]
fn each_row(s: &ConvShape, mut visit: impl FnMut(usize, usize, usize, usize)) {
    let g = &s.geometry;
    let (stride, dilation, before) = (g.stride, g.dilation, (g.padding.top, g.padding.left));
    for tap in 0..s.taps() {
        let (u, v) = (tap / s.kernel.1, tap % s.kernel.1);
        let columns = inside(v, before.1, stride.1, dilation.1, s.width, s.out_width);
        if columns.is_empty() {
            continue;
        }
        let pixel = columns.start * stride.1 + v * dilation.1 - before.1;
        for row in inside(u, before.0, stride.0, dilation.0, s.height, s.out_height) {
            let y = row * stride.0 + u * dilation.0 - before.0;
            visit(tap, row * s.out_width + columns.start, y * s.width + pixel, columns.len());
        }
    }
}

/// y += Σ over taps of w · (x under the tap).
struct AddTaps<'a> {
    s: &'a ConvShape,
    w: &'a [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for AddTaps<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let stride = self.s.geometry.stride.1;
        each_row(self.s, |tap, out, pixel, n| {
            let (y, a) = (&mut self.y[out..out + n], self.w[tap]);
            if stride == 1 {
                axpy::<V>(y, a, &self.x[pixel..pixel + n]);
            } else {
                for (y, x) in y.iter_mut().zip(self.x[pixel..].iter().step_by(stride)) {
                    *y += a * x;
                }
            }
        });
    }
}

/// dx += the transpose of [`AddTaps`] applied to dy.
struct SpreadTaps<'a> {
    s: &'a ConvShape,
    w: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for SpreadTaps<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let stride = self.s.geometry.stride.1;
        each_row(self.s, |tap, out, pixel, n| {
            let (dy, a) = (&self.dy[out..out + n], self.w[tap]);
            if stride == 1 {
                axpy::<V>(&mut self.dx[pixel..pixel + n], a, dy);
            } else {
                for (x, y) in self.dx[pixel..].iter_mut().step_by(stride).zip(dy) {
                    *x += a * y;
                }
            }
        });
    }
}

/// totals += for each tap, the inner product of dy and the pixels under the tap.
struct TapProducts<'a> {
    s: &'a ConvShape,
    dy: &'a [f32],
    x: &'a [f32],
    totals: &'a mut [f64],
}

impl Kernel for TapProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let stride = self.s.geometry.stride.1;
        each_row(self.s, |tap, out, pixel, n| {
            let dy = &self.dy[out..out + n];
            let product = if stride == 1 {
                let (mut a, mut b) =
                    (dy.chunks_exact(V::LANES), self.x[pixel..pixel + n].chunks_exact(V::LANES));
                let sum =
                    (&mut a).zip(&mut b).fold(V::splat(0.0), |sum, (a, b)| V::load(a).fma(V::load(b), sum));
                load_part::<V>(a.remainder(), 0.0).fma(load_part(b.remainder(), 0.0), sum).sum()
            } else {
                dy.iter().zip(self.x[pixel..].iter().step_by(stride)).map(|(a, b)| a * b).sum()
            };
            self.totals[tap] += f64::from(product);
        });
    }
}
