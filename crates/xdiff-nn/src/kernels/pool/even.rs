//! Windows at even distances, one lane for each of neighbouring windows.
//!
//! The padding to the left and right is written out as −∞, so that pixel v of window j is number
//! j · stride + v of a padded line. For stride 2 lines are split into even and odd numbers: then the
//! pixels v of neighbouring windows are neighbours.

use crate::kernels::buffer::Scratch;
use crate::kernels::simd::{Kernel, Unset, Vector, load_part, put_part, store_part};

use super::{Even, Windows};

/// The longest side of a window that is served here; no more than any vector has lanes.
pub(super) const LARGEST: usize = 8;

impl Even {
    /// Numbers of each part of a padded line, of which a multiple of `lanes` windows is read.
    fn cells(self, windows: &Windows, width: usize, lanes: usize) -> usize {
        let cells = windows.columns.len().next_multiple_of(lanes) + lanes;
        assert!(self.kernel <= LARGEST && LARGEST <= lanes, "a window of {}", self.kernel);
        assert!(self.padding + width <= cells * self.stride, "windows end before the image");
        cells
    }
}

/// The largest value of each window of a plane.
pub(super) struct Maxima<'a> {
    pub(super) windows: &'a Windows,
    pub(super) even: Even,
    pub(super) width: usize,
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [Unset],
}

impl Kernel for Maxima<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Even { kernel, stride, padding } = self.even;
        let width = self.width;
        let mut line = Scratch::take(self.even.cells(self.windows, width, V::LANES) * stride);
        line.fill(f32::NEG_INFINITY);
        let outputs = self.y.chunks_exact_mut(self.windows.columns.len());
        for (rows, y) in self.windows.rows.iter().zip(outputs) {
            let rows = &self.x[rows.start * width..rows.end * width];
            column_maxima::<V>(rows, &mut line[padding..padding + width]);
            for (i, y) in y.chunks_mut(V::LANES).enumerate() {
                let line = &line[i * V::LANES * stride..];
                let mut largest = V::splat(f32::NEG_INFINITY);
                if stride == 1 {
                    for v in 0..kernel {
                        largest = largest.max_or_nan(V::load(&line[v..]));
                    }
                } else {
                    for v in (0..kernel).step_by(2) {
                        let [even, odd] = V::split([V::load(&line[v..]), V::load(&line[v + V::LANES..])]);
                        largest = largest.max_or_nan(even);
                        if v + 1 < kernel {
                            largest = largest.max_or_nan(odd);
                        }
                    }
                }
                if y.len() == V::LANES { largest.put(y) } else { put_part(largest, y) }
            }
        }
    }
}

/// The largest number of each column of some rows as long as `to`.
#[inline(always)]
fn column_maxima<V: Vector>(rows: &[f32], to: &mut [f32]) {
    let width = to.len();
    let (first, others) = rows.split_at(width);
    if width < V::LANES {
        let mut largest = load_part::<V>(first, 0.0);
        for row in others.chunks_exact(width) {
            largest = largest.max_or_nan(load_part(row, 0.0));
        }
        return store_part(largest, to);
    }
    for start in (0..width).step_by(V::LANES) {
        // The last vector may overlap the one before.
        let start = start.min(width - V::LANES);
        let mut largest = V::load(&first[start..]);
        for row in others.chunks_exact(width) {
            largest = largest.max_or_nan(V::load(&row[start..]));
        }
        largest.store(&mut to[start..]);
    }
}

/// dL/dx of a plane whose windows, `STRIDE` apart, all have a number above −∞ and no NaN.
pub(super) struct Shares<'a, const STRIDE: usize> {
    pub(super) windows: &'a Windows,
    pub(super) even: Even,
    pub(super) width: usize,
    pub(super) x: &'a [f32],
    pub(super) y: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) dx: &'a mut [Unset],
}

impl<const STRIDE: usize> Kernel for Shares<'_, STRIDE> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (width, outs) = (self.width, self.windows.columns.len());
        let slots = self.windows.rows.iter().map(|rows| rows.len()).max().unwrap_or(0);
        let cells = self.even.cells(self.windows, width, V::LANES);
        let shape = RowShape { even: self.even, slots, cells };
        let mut scratch = Scratch::take(shape.size(V::LANES));
        let mut rows = OpenRows::<STRIDE>::new::<V>(shape, &mut scratch);
        let x = &self.x[..self.dx.len()];
        // The rows from `done` to `next` are open.
        let (mut done, mut next) = (0, 0);
        let outputs = self.y.chunks_exact(outs).zip(self.dy.chunks_exact(outs));
        for (window, (y, dy)) in self.windows.rows.iter().zip(outputs) {
            for row in done..window.start {
                rows.close::<V>(row, row < next, &mut self.dx[row * width..(row + 1) * width]);
            }
            done = window.start;
            for row in next.max(done)..window.end {
                rows.open::<V>(row, &x[row * width..(row + 1) * width]);
            }
            next = window.end;
            for (i, (y, dy)) in y.chunks(V::LANES).zip(dy.chunks(V::LANES)).enumerate() {
                // Lanes past the end have a gradient of 0 to share out.
                let (y, dy) = if y.len() == V::LANES {
                    (V::load(y), V::load(dy))
                } else {
                    (load_part(y, 0.0), load_part(dy, 0.0))
                };
                let mut left = dy;
                for row in window.clone() {
                    left = rows.share(row, i * V::LANES, y, left);
                }
            }
        }
        for (row, dx) in self.dx.chunks_exact_mut(width).enumerate().skip(done) {
            rows.close::<V>(row, row < next, dx);
        }
    }
}

/// Sizes of [`OpenRows`].
#[derive(Clone, Copy)]
struct RowShape {
    even: Even,
    /// How many rows are open at a time.
    slots: usize,
    /// Numbers of each part of a line.
    cells: usize,
}

impl RowShape {
    /// Numbers of the lines of a row, and of its shares: those of pixel v of every window, with
    /// zeros before and after.
    fn row(self, lanes: usize) -> (usize, usize) {
        (self.even.stride * self.cells, self.even.kernel * (self.cells + lanes))
    }

    /// Numbers in all.
    fn size(self, lanes: usize) -> usize {
        let (line, shares) = self.row(lanes);
        2 * line + self.slots * (line + shares)
    }
}

/// The rows that the windows at work cover, split into `STRIDE` parts, and the gradients that they
/// have been given.
struct OpenRows<'a, const STRIDE: usize> {
    shape: RowShape,
    /// A padded line, −∞ at its ends.
    padded: &'a mut [f32],
    /// A padded line of gradients.
    gradient: &'a mut [f32],
    x: &'a mut [f32],
    shares: &'a mut [f32],
}

impl<'a, const STRIDE: usize> OpenRows<'a, STRIDE> {
    #[inline(always)]
    fn new<V: Vector>(shape: RowShape, scratch: &'a mut [f32]) -> Self {
        let (line, shares) = shape.row(V::LANES);
        let (padded, scratch) = scratch.split_at_mut(line);
        let (gradient, scratch) = scratch.split_at_mut(line);
        let (x, scratch) = scratch.split_at_mut(shape.slots * line);
        let shares = &mut scratch[..shape.slots * shares];
        padded.fill(f32::NEG_INFINITY);
        shares.fill(0.0);
        Self { shape, padded, gradient, x, shares }
    }

    /// Takes a row of pixels, without gradients yet.
    #[inline(always)]
    fn open<V: Vector>(&mut self, row: usize, pixels: &[f32]) {
        let RowShape { even: Even { padding, .. }, slots, cells } = self.shape;
        let (line, shares) = self.shape.row(V::LANES);
        let slot = row % slots;
        self.padded[padding..padding + pixels.len()].copy_from_slice(pixels);
        let x = &mut self.x[slot * line..(slot + 1) * line];
        if STRIDE == 1 {
            x.copy_from_slice(self.padded);
        } else {
            let (evens, odds) = x.split_at_mut(cells);
            let parts = evens.chunks_exact_mut(V::LANES).zip(odds.chunks_exact_mut(V::LANES));
            for ((evens, odds), padded) in parts.zip(self.padded.chunks_exact(2 * V::LANES)) {
                let [even, odd] = V::split([V::load(padded), V::load(&padded[V::LANES..])]);
                even.store(evens);
                odd.store(odds);
            }
        }
        self.shares[slot * shares..(slot + 1) * shares].fill(0.0);
    }

    /// Gives what is left of the gradients of the windows from `first` on, whose maxima are `y`, to
    /// the pixels of a row that are as large; what is left then.
    #[inline(always)]
    fn share<V: Vector>(&mut self, row: usize, first: usize, y: V, mut left: V) -> V {
        let RowShape { even: Even { kernel, .. }, slots, cells } = self.shape;
        let (line, shares) = self.shape.row(V::LANES);
        let slot = row % slots;
        let x = &self.x[slot * line..(slot + 1) * line];
        let shares = &mut self.shares[slot * shares..(slot + 1) * shares];
        let zero = V::splat(0.0);
        for (v, shares) in shares.chunks_exact_mut(cells + V::LANES).enumerate().take(kernel) {
            let x = V::load(&x[v % STRIDE * cells + first + v / STRIDE..]);
            let shares = &mut shares[V::LANES + first..];
            V::load(shares).add(x.where_below(y, zero, left)).store(shares);
            left = x.where_below(y, left, zero);
        }
        left
    }

    /// Writes the gradients of a row; zeros when it was never open.
    #[inline(always)]
    fn close<V: Vector>(&mut self, row: usize, open: bool, dx: &mut [Unset]) {
        if !open {
            dx.fill(Unset::new(0.0));
            return;
        }
        let RowShape { even: Even { padding, kernel, .. }, slots, cells } = self.shape;
        let (_, shares) = self.shape.row(V::LANES);
        let slot = row % slots;
        let shares = &self.shares[slot * shares..(slot + 1) * shares];
        for cell in (0..cells - V::LANES + 1).step_by(V::LANES) {
            let mut sums = [V::splat(0.0); STRIDE];
            for (part, sum) in sums.iter_mut().enumerate() {
                for v in (part..kernel).step_by(STRIDE) {
                    let shares = &shares[v * (cells + V::LANES) + V::LANES + cell - v / STRIDE..];
                    *sum = sum.add(V::load(shares));
                }
            }
            let to = &mut self.gradient[cell * STRIDE..];
            if STRIDE == 1 { sums[0].store(to) } else { V::join(sums, to) }
        }
        dx.write_copy_of_slice(&self.gradient[padding..padding + dx.len()]);
    }
}
