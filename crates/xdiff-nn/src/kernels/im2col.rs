//! Unfolding an image into the columns that a convolution multiplies, and folding them back.
//!
//! For channels c and window taps (u, v), row (c, u, v) of the column matrix holds, for each output
//! position, the pixel under that tap, or 0 in the padding.

use std::ops::Range;

use super::simd::{Kernel, Vector, dispatch};
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
fn inside(
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

/// A run of one tap's row of the column matrix.
#[derive(Clone, Debug)]
struct Copy {
    /// Where it stands among the rows of one channel.
    line: Range<usize>,
    /// Which part of it lies inside the image, and the pixel under the first of that.
    inner: Range<usize>,
    pixel: usize,
}

/// What makes up the rows of one channel, the same for every channel.
fn copies(s: &ConvShape, positions: Range<usize>, width: usize) -> Vec<Copy> {
    let g = &s.geometry;
    let runs = runs(s, &positions);
    let mut copies = Vec::with_capacity(s.taps() * runs.len());
    for tap in 0..s.taps() {
        let (u, v) = (tap / s.kernel.1, tap % s.kernel.1);
        let rows = inside(u, g.padding.top, g.stride.0, g.dilation.0, s.height, s.out_height);
        let columns = inside(v, g.padding.left, g.stride.1, g.dilation.1, s.width, s.out_width);
        for run in &runs {
            let start = tap * width + run.offset;
            let lo = columns.start.clamp(run.first, run.first + run.len);
            let hi = columns.end.clamp(lo, run.first + run.len);
            let (inner, pixel) = if rows.contains(&run.row) && lo < hi {
                let y = run.row * g.stride.0 + u * g.dilation.0 - g.padding.top;
                let x = lo * g.stride.1 + v * g.dilation.1 - g.padding.left;
                (lo - run.first..hi - run.first, y * s.width + x)
            } else {
                (0..0, 0)
            };
            copies.push(Copy { line: start..start + run.len, inner, pixel });
        }
    }
    copies
}

/// Writes the columns of `positions` for the channels in `planes` (each of H·W pixels).
///
/// `columns` has channels·taps rows of `width` values, of which those of the positions are written.
pub(super) fn unfold(
    s: &ConvShape,
    planes: &[f32],
    positions: Range<usize>,
    width: usize,
    columns: &mut [f32],
) {
    let copies = copies(s, positions, width);
    let planes = planes.chunks_exact(s.pixels());
    for (plane, rows) in planes.zip(columns.chunks_exact_mut(s.taps() * width)) {
        dispatch(Gather { plane, copies: &copies, stride: s.geometry.stride.1, rows });
    }
}

/// Fills one channel's rows of the column matrix.
struct Gather<'a> {
    plane: &'a [f32],
    copies: &'a [Copy],
    stride: usize,
    rows: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for Copy { line, inner, pixel } in self.copies {
            let line = &mut self.rows[line.clone()];
            if inner.len() < line.len() {
                line.fill(0.0);
            }
            let (line, from) = (&mut line[inner.clone()], &self.plane[*pixel..]);
            match self.stride {
                1 => line.copy_from_slice(&from[..line.len()]),
                2 => every_second::<V>(from, line),
                stride => line.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, x)| *to = *x),
            }
        }
    }
}

/// Copies every second number.
#[inline(always)]
fn every_second<V: Vector>(from: &[f32], to: &mut [f32]) {
    let whole = (to.len() / V::LANES).min(from.len() / (2 * V::LANES)) * V::LANES;
    let (vectors, rest) = to.split_at_mut(whole);
    for (to, from) in vectors.chunks_exact_mut(V::LANES).zip(from.chunks_exact(2 * V::LANES)) {
        let [even, _] = V::split([V::load(from), V::load(&from[V::LANES..])]);
        even.store(to);
    }
    for (to, pair) in rest.iter_mut().zip(from[2 * whole..].chunks(2)) {
        *to = pair[0];
    }
}

/// Adds the columns of `positions` to the pixels they were taken from: the transpose of [`unfold`].
pub(super) fn fold(
    s: &ConvShape,
    columns: &[f32],
    positions: Range<usize>,
    width: usize,
    planes: &mut [f32],
) {
    let (copies, stride) = (copies(s, positions, width), s.geometry.stride.1);
    let planes = planes.chunks_exact_mut(s.pixels());
    for (plane, rows) in planes.zip(columns.chunks_exact(s.taps() * width)) {
        for Copy { line, inner, pixel } in &copies {
            let line = &rows[line.clone()][inner.clone()];
            if stride == 1 {
                for (x, v) in plane[*pixel..].iter_mut().zip(line) {
                    *x += v;
                }
            } else {
                for (x, v) in plane[*pixel..].iter_mut().step_by(stride).zip(line) {
                    *x += v;
                }
            }
        }
    }
}
