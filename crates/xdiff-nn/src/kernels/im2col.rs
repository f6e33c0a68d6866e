//! Unfolding an image into the columns that a convolution multiplies, and folding them back.
//!
//! For channels c and window taps (u, v), row (c, u, v) of the column matrix holds, for each output
//! position, the pixel under that tap, or 0 in the padding. A [`Plan`] names the pixels of each
//! vector of a row; it is the same for all channels, samples and groups.

use std::ops::Range;

use super::simd::{Kernel, Vector, dispatch};
use crate::layers::ConvShape;

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

/// How the column matrix lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layout {
    /// In rows that are so far apart.
    Rows(usize),
    /// In bundles of up to so many columns, one behind the other.
    Bundles(usize),
}

impl Layout {
    /// Of the bundle that holds a column: its first column, and how far apart its rows are.
    fn bundle(self, column: usize, columns: usize) -> (usize, usize) {
        match self {
            Layout::Rows(stride) => (0, stride),
            Layout::Bundles(width) => {
                let first = column / width * width;
                (first, width.min(columns - first))
            }
        }
    }
}

/// The part of a vector of columns that lies in one row of the image, or several whole vectors.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// The first column of its bundle, which as many numbers stand before for each row.
    bundle: usize,
    /// Where in the bundle the vector stands for the first channel, and how far behind for the next.
    to: usize,
    step: usize,
    /// The pixel under the first lane, which may lie outside.
    pixel: isize,
    /// How many vectors follow each other, in the columns and in the image.
    count: u32,
    /// Which lanes lie inside the image, and which are written.
    inside: u16,
    lanes: u16,
    /// The lanes inside, each bit followed by an empty one: what a stride of 2 reads.
    spread: u32,
}

impl Piece {
    /// Whether `next` goes on where these vectors end, so that it can be one of them.
    fn goes_on(&self, next: &Piece, lanes: usize, stride: usize) -> bool {
        let all = bits(0..lanes);
        let whole = [self.inside, self.lanes, next.inside, next.lanes] == [all; 4];
        let numbers = self.count as usize * lanes;
        whole
            && self.bundle == next.bundle
            && self.to + numbers == next.to
            && self.pixel + (numbers * stride) as isize == next.pixel
            && self.count < u32::MAX
    }

    /// Where the vector stands for a channel, in columns of `height` rows.
    #[inline(always)]
    fn place(&self, height: usize, channel: usize) -> usize {
        self.bundle * height + self.to + channel * self.step
    }
}

/// The bits of a range of lanes.
fn bits(lanes: Range<usize>) -> u16 {
    (((1u32 << lanes.len()) - 1) << lanes.start) as u16
}

/// Which pixels make up the columns of a range of positions.
#[derive(Debug)]
pub(super) struct Plan {
    pieces: Vec<Piece>,
    /// Columns from one pixel to the next.
    stride: usize,
    pixels: usize,
    /// The numbers of a vector.
    lanes: usize,
}

impl Plan {
    /// The plan for `positions`; with `reversed`, each channel's taps stand in reverse order.
    ///
    /// Whole vectors of `lanes` columns are written, those beyond the positions with 0.
    pub(super) fn new(
        s: &ConvShape,
        positions: Range<usize>,
        layout: Layout,
        lanes: usize,
        reversed: bool,
    ) -> Self {
        let g = &s.geometry;
        let (taps, columns) = (s.taps(), positions.len().next_multiple_of(lanes));
        // Bundles are too narrow for a loop over their vectors to pay.
        let long = matches!(layout, Layout::Rows(_));
        let mut pieces: Vec<Piece> = Vec::new();
        for row in 0..taps {
            let tap = if reversed { taps - 1 - row } else { row };
            let (u, v) = (tap / s.kernel.1, tap % s.kernel.1);
            let rows = inside(u, g.padding.top, g.stride.0, g.dilation.0, s.height, s.out_height);
            let cols = inside(v, g.padding.left, g.stride.1, g.dilation.1, s.width, s.out_width);
            let (mut y, mut x) = (positions.start / s.out_width, positions.start % s.out_width);
            for column in (0..columns).step_by(lanes) {
                let (bundle, wide) = layout.bundle(column, columns);
                let (to, step) = (row * wide + column - bundle, wide * taps);
                let wanted = lanes.min(positions.len() - column);
                let mut lane = 0;
                while lane < wanted {
                    let len = (s.out_width - x).min(wanted - lane);
                    let (lo, hi) = (cols.start.clamp(x, x + len), cols.end.clamp(x, x + len));
                    let end = if lane + len == wanted { lanes } else { lane + len };
                    let mask = bits(lane..end);
                    let mut piece =
                        Piece { bundle, to, step, pixel: 0, count: 1, inside: 0, lanes: mask, spread: 0 };
                    if rows.contains(&y) && lo < hi {
                        let first = lo - x + lane..hi - x + lane;
                        let pixel = (y * g.stride.0 + u * g.dilation.0 - g.padding.top) * s.width
                            + (lo * g.stride.1 + v * g.dilation.1 - g.padding.left);
                        assert!(pixel + (hi - 1 - lo) * g.stride.1 < s.pixels(), "a pixel outside");
                        piece.pixel = pixel as isize - (first.start * g.stride.1) as isize;
                        piece.inside = bits(first);
                        piece.spread = spread(piece.inside);
                    }
                    match pieces.last_mut() {
                        Some(last) if long && last.goes_on(&piece, lanes, g.stride.1) => last.count += 1,
                        _ => pieces.push(piece),
                    }
                    lane += len;
                    x += len;
                    if x == s.out_width {
                        (y, x) = (y + 1, 0);
                    }
                }
            }
        }
        Self { pieces, stride: g.stride.1, pixels: s.pixels(), lanes }
    }

    /// Writes the columns, of `height` rows in all, of the channels in `planes`.
    pub(super) fn unfold(&self, planes: &[f32], height: usize, columns: &mut [f32]) {
        dispatch(Unfold { plan: self, planes, height, columns });
    }

    /// Adds columns to the pixels they were taken from: the transpose of [`Plan::unfold`].
    pub(super) fn fold(&self, columns: &[f32], height: usize, planes: &mut [f32]) {
        dispatch(Fold { plan: self, columns, height, planes });
    }

    /// Panics unless the columns of all channels in `pixels` pixels lie within `len` numbers, in
    /// vectors of `lanes`.
    fn check(&self, pixels: usize, height: usize, len: usize, lanes: usize) {
        let before = (pixels / self.pixels).saturating_sub(1);
        let end = |piece: &Piece| piece.place(height, before) + piece.count as usize * lanes;
        let fits = self.pieces.iter().map(end).max().is_none_or(|end| end <= len);
        assert!(fits && lanes == self.lanes && pixels.is_multiple_of(self.pixels), "columns of another size");
    }
}

struct Unfold<'a> {
    plan: &'a Plan,
    planes: &'a [f32],
    height: usize,
    columns: &'a mut [f32],
}

impl Kernel for Unfold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { plan, planes, height, columns } = self;
        plan.check(planes.len(), height, columns.len(), V::LANES);
        for (channel, plane) in planes.chunks_exact(plan.pixels).enumerate() {
            for piece in &plan.pieces {
                // SAFETY: lanes in `inside` lie in the plane, by the plan; the vectors lie in the
                // columns, by the check.
                unsafe {
                    let to = columns.as_mut_ptr().add(piece.place(height, channel));
                    for i in 0..piece.count as usize {
                        let pixels = pixels_at::<V>(plane, piece, i, plan.stride);
                        pixels.store_masked(to.add(i * V::LANES), piece.lanes);
                    }
                }
            }
        }
    }
}

/// The pixels of a piece's vector `i`, 0 outside of the image.
///
/// # Safety
/// Those of the lanes inside lie in the plane.
#[inline(always)]
unsafe fn pixels_at<V: Vector>(plane: &[f32], piece: &Piece, i: usize, stride: usize) -> V {
    let from = plane.as_ptr().wrapping_offset(piece.pixel).wrapping_add(i * V::LANES * stride);
    // SAFETY: by the contract.
    unsafe {
        if stride == 1 {
            V::load_masked(from, piece.inside)
        } else if stride == 2 && V::LANES == 16 {
            let (low, high) = (piece.spread as u16, (piece.spread >> 16) as u16);
            V::split([V::load_masked(from, low), V::load_masked(from.wrapping_add(16), high)])[0]
        } else {
            let mut pixels = [0.0; 16];
            for (lane, pixel) in pixels.iter_mut().enumerate().take(V::LANES) {
                if piece.inside & (1 << lane) != 0 {
                    *pixel = *from.wrapping_add(lane * stride);
                }
            }
            V::load(&pixels)
        }
    }
}

/// Bit i of a mask as bit 2i.
fn spread(mask: u16) -> u32 {
    let mut wide = u32::from(mask);
    wide = (wide | wide << 8) & 0x00ff_00ff;
    wide = (wide | wide << 4) & 0x0f0f_0f0f;
    wide = (wide | wide << 2) & 0x3333_3333;
    (wide | wide << 1) & 0x5555_5555
}

struct Fold<'a> {
    plan: &'a Plan,
    columns: &'a [f32],
    height: usize,
    planes: &'a mut [f32],
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { plan, planes, height, columns } = self;
        plan.check(planes.len(), height, columns.len(), V::LANES);
        for (channel, plane) in planes.chunks_exact_mut(plan.pixels).enumerate() {
            for piece in plan.pieces.iter().filter(|piece| piece.inside != 0) {
                // SAFETY: lanes in `inside` lie in the plane, by the plan; the vectors lie in the
                // columns, by the check.
                unsafe {
                    let from = columns.as_ptr().add(piece.place(height, channel));
                    for i in 0..piece.count as usize {
                        let values = V::load_masked(from.add(i * V::LANES), piece.inside);
                        add_at(values, plane, piece, i, plan.stride);
                    }
                }
            }
        }
    }
}

/// Adds to the pixels of a piece's vector `i` values that are 0 outside of the image.
///
/// # Safety
/// Those of the lanes inside lie in the plane.
#[inline(always)]
unsafe fn add_at<V: Vector>(values: V, plane: &mut [f32], piece: &Piece, i: usize, stride: usize) {
    let pixel = piece.pixel + (i * V::LANES * stride) as isize;
    let to = plane.as_mut_ptr().wrapping_offset(pixel);
    // Where all numbers around lie in the plane, 0 is added to those between: a mask is slower.
    let around = stride * V::LANES;
    let whole = usize::try_from(pixel).is_ok_and(|first| first + around <= plane.len());
    // SAFETY: by the contract, or all numbers lie in the plane.
    unsafe {
        if stride == 1 {
            let mask = if whole { u16::MAX >> (16 - V::LANES) } else { piece.inside };
            V::load_masked(to, mask).add(values).store_masked(to, mask);
        } else if stride == 2 && V::LANES == 16 {
            let mut spaced = [0.0; 32];
            V::join([values, V::splat(0.0)], &mut spaced);
            let masks =
                if whole { [u16::MAX; 2] } else { [piece.spread as u16, (piece.spread >> 16) as u16] };
            for (i, mask) in masks.into_iter().enumerate() {
                let to = to.wrapping_add(16 * i);
                V::load_masked(to, mask).add(V::load(&spaced[16 * i..])).store_masked(to, mask);
            }
        } else {
            let mut numbers = [0.0; 16];
            values.store(&mut numbers);
            for (lane, value) in numbers.iter().enumerate().take(V::LANES) {
                if piece.inside & (1 << lane) != 0 {
                    *to.wrapping_add(lane * stride) += value;
                }
            }
        }
    }
}
