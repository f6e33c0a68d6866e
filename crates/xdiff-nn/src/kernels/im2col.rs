//! Unfolding an image into the columns that a convolution multiplies, and folding them back.
//!
//! For channels c and window taps (u, v), row (c, u, v) of the column matrix holds, for each output
//! position, the pixel under that tap, or 0 in the padding.

use std::ops::Range;

use crate::layers::ConvShape;

/// A run of output positions in one output row.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where it starts in the range of positions.
    offset: usize,
    row: usize,
    first: usize,
    len: usize,
}

fn runs(s: &ConvShape, positions: &Range<usize>) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut p = positions.start;
    while p < positions.end {
        let (row, first) = (p / s.out_width, p % s.out_width);
        let len = (s.out_width - first).min(positions.end - p);
        runs.push(Run { offset: p - positions.start, row, first, len });
        p += len;
    }
    runs
}

/// The outputs whose tap `tap` lies inside an axis of `size` pixels, of `out` outputs.
pub(super) fn inside(
    tap: usize,
    before: usize,
    stride: usize,
    dilation: usize,
    size: usize,
    out: usize,
) -> Range<usize> {
    // The pixel under the tap is i · stride + shift − before.
    let shift = tap * dilation;
    let end = (size + before).saturating_sub(shift).div_ceil(stride).min(out);
    before.saturating_sub(shift).div_ceil(stride).min(end)..end
}

/// Calls `visit(column range, first pixel, inside)` for each run of each tap of one channel: the
/// part of the row buffer, the pixel under its first inner element, and which part of it lies
/// inside the image.
fn each_run(
    s: &ConvShape,
    runs: &[Run],
    tap: usize,
    mut visit: impl FnMut(Range<usize>, usize, Range<usize>),
) {
    let g = &s.geometry;
    let (u, v) = (tap / s.kernel.1, tap % s.kernel.1);
    let rows = inside(u, g.padding.top, g.stride.0, g.dilation.0, s.height, s.out_height);
    let columns = inside(v, g.padding.left, g.stride.1, g.dilation.1, s.width, s.out_width);
    for run in runs {
        let line = run.offset..run.offset + run.len;
        let lo = columns.start.clamp(run.first, run.first + run.len);
        let hi = columns.end.clamp(lo, run.first + run.len);
        if !rows.contains(&run.row) || lo == hi {
            visit(line, 0, 0..0);
            continue;
        }
        let y = run.row * g.stride.0 + u * g.dilation.0 - g.padding.top;
        let x = lo * g.stride.1 + v * g.dilation.1 - g.padding.left;
        visit(line, y * s.width + x, lo - run.first..hi - run.first);
    }
}

/// Writes the columns of `positions` for the channels in `planes` (each of H·W pixels).
///
/// `columns` has channels·taps rows of `positions.len()` values.
pub(super) fn unfold(s: &ConvShape, planes: &[f32], positions: Range<usize>, columns: &mut [f32]) {
    let (taps, width, stride) = (s.taps(), positions.len(), s.geometry.stride.1);
    let runs = runs(s, &positions);
    for (plane, rows) in planes.chunks_exact(s.pixels()).zip(columns.chunks_exact_mut(taps * width)) {
        for (tap, row) in rows.chunks_exact_mut(width).enumerate() {
            each_run(s, &runs, tap, |line, pixel, inner| {
                let line = &mut row[line];
                line[..inner.start].fill(0.0);
                line[inner.end..].fill(0.0);
                let line = &mut line[inner];
                if stride == 1 {
                    line.copy_from_slice(&plane[pixel..pixel + line.len()]);
                } else {
                    for (v, x) in line.iter_mut().zip(plane[pixel..].iter().step_by(stride)) {
                        *v = *x;
                    }
                }
            });
        }
    }
}

/// Adds the columns of `positions` to the pixels they were taken from: the transpose of [`unfold`].
pub(super) fn fold(s: &ConvShape, columns: &[f32], positions: Range<usize>, planes: &mut [f32]) {
    let (taps, width, stride) = (s.taps(), positions.len(), s.geometry.stride.1);
    let runs = runs(s, &positions);
    for (plane, rows) in planes.chunks_exact_mut(s.pixels()).zip(columns.chunks_exact(taps * width)) {
        for (tap, row) in rows.chunks_exact(width).enumerate() {
            each_run(s, &runs, tap, |line, pixel, inner| {
                let line = &row[line][inner];
                if stride == 1 {
                    for (x, v) in plane[pixel..pixel + line.len()].iter_mut().zip(line) {
                        *x += v;
                    }
                } else if !line.is_empty() {
                    for (x, v) in plane[pixel..].iter_mut().step_by(stride).zip(line) {
                        *x += v;
                    }
                }
            });
        }
    }
}
