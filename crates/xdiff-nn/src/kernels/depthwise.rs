//! Convolution of each channel by itself (groups = input channels), tap by tap.

use rayon::prelude::*;

use super::buffer::Writer;
use super::im2col::inside;
use super::vector::widest;
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
        add_taps(s, &w[channel * taps..(channel + 1) * taps], &x[source..source + s.pixels()], y);
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
            spread_taps(s, w, &dy[source..source + positions], dx);
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
            tap_products(s, dy, x, &mut totals);
        }
        for (tap, total) in totals.iter().enumerate() {
            // SAFETY: each task has its own output channel.
            unsafe { dw.fill(out * taps + tap, 1, *total as f32) };
        }
    });
}

widest! {
    /// y += Σ over taps of w · (x under the tap).
    fn add_taps(s: &ConvShape, w: &[f32], x: &[f32], y: &mut [f32]) = add_taps_body;
}
widest! {
    /// dx += the transpose of [`add_taps`] applied to dy.
    fn spread_taps(s: &ConvShape, w: &[f32], dy: &[f32], dx: &mut [f32]) = spread_taps_body;
}
widest! {
    /// totals += for each tap, the inner product of dy and the pixels under the tap.
    fn tap_products(s: &ConvShape, dy: &[f32], x: &[f32], totals: &mut [f64]) = tap_products_body;
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

#[inline(always)]
fn add_taps_body(s: &ConvShape, w: &[f32], x: &[f32], y: &mut [f32]) {
    let stride = s.geometry.stride.1;
    each_row(s, |tap, out, pixel, n| {
        let (y, a) = (&mut y[out..out + n], w[tap]);
        if stride == 1 {
            for (y, x) in y.iter_mut().zip(&x[pixel..pixel + n]) {
                *y += a * x;
            }
        } else {
            for (y, x) in y.iter_mut().zip(x[pixel..].iter().step_by(stride)) {
                *y += a * x;
            }
        }
    });
}

#[inline(always)]
fn spread_taps_body(s: &ConvShape, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let stride = s.geometry.stride.1;
    each_row(s, |tap, out, pixel, n| {
        let (dy, a) = (&dy[out..out + n], w[tap]);
        if stride == 1 {
            for (x, y) in dx[pixel..pixel + n].iter_mut().zip(dy) {
                *x += a * y;
            }
        } else {
            for (x, y) in dx[pixel..].iter_mut().step_by(stride).zip(dy) {
                *x += a * y;
            }
        }
    });
}

#[inline(always)]
fn tap_products_body(s: &ConvShape, dy: &[f32], x: &[f32], totals: &mut [f64]) {
    const LANES: usize = 16;
    let stride = s.geometry.stride.1;
    each_row(s, |tap, out, pixel, n| {
        let dy = &dy[out..out + n];
        let mut lanes = [0.0f32; LANES];
        if stride == 1 {
            for (dy, x) in dy.chunks(LANES).zip(x[pixel..pixel + n].chunks(LANES)) {
                for (l, (a, b)) in lanes.iter_mut().zip(dy.iter().zip(x)) {
                    *l += a * b;
                }
            }
        } else {
            for (i, (a, b)) in dy.iter().zip(x[pixel..].iter().step_by(stride)).enumerate() {
                lanes[i % LANES] += a * b;
            }
        }
        totals[tap] += f64::from(lanes.iter().sum::<f32>());
    });
}
