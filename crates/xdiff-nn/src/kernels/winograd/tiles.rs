//! Between images and the points of their tiles.
//!
//! The outputs of all samples are divided into tiles of m × m; as many tiles as a vector has lanes
//! form a group, one tile a lane. A group's tiles are neighbours in a row of tiles, or several such
//! runs.

use std::ops::Range;

use super::transform::{self, Column, POINTS};
use crate::kernels::buffer::Writer;
use crate::kernels::dots::Rows;
use crate::kernels::panels::BUNDLE;
use crate::kernels::simd::{Kernel, Vector, prefetch};

/// The sizes of a 3×3 convolution with stride 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) samples: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    /// Padding above and on the left; negative where the first rows or columns are not used.
    pub(super) top: isize,
    pub(super) left: isize,
}

/// Neighbouring tiles in one row of tiles.
#[derive(Clone, Copy, Debug)]
struct Run {
    lane: usize,
    count: usize,
    sample: usize,
    row: usize,
    column: usize,
}

/// All groups of tiles.
#[derive(Debug)]
pub(super) struct Groups {
    m: usize,
    lanes: usize,
    runs: Vec<Run>,
    starts: Vec<usize>,
}

impl Groups {
    /// The groups of `lanes` tiles of `m` × `m` outputs.
    pub(super) fn new(s: &Sizes, m: usize, lanes: usize) -> Self {
        let (down, across) = (s.out_height.div_ceil(m), s.out_width.div_ceil(m));
        let total = s.samples * down * across;
        let (mut runs, mut starts) = (Vec::new(), vec![0]);
        let mut tile = 0;
        while tile < total {
            let end = (tile + lanes).min(total);
            let first = tile;
            while tile < end {
                let (line, column) = (tile / across, tile % across);
                let count = (across - column).min(end - tile);
                runs.push(Run { lane: tile - first, count, sample: line / down, row: line % down, column });
                tile += count;
            }
            starts.push(runs.len());
        }
        Self { m, lanes, runs, starts }
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn runs(&self, group: usize) -> &[Run] {
        &self.runs[self.starts[group]..self.starts[group + 1]]
    }

    /// What each group loads of images of `channels` × `height` × `width`, whose pixel (0, 0) is
    /// the tile row and column (`top`, `left`): a line of the tiles' own columns, m a tile, and,
    /// with `next`, one of their right neighbours'.
    fn loads(
        &self,
        (channels, height, width): (usize, usize, usize),
        (top, left): (isize, isize),
        next: bool,
    ) -> Loads {
        let m = self.m;
        let (mut pieces, mut starts) = (Vec::new(), vec![0]);
        let vectors = if next { 2 * m } else { m };
        for group in 0..self.len() {
            for vector in 0..vectors {
                for run in self.runs(group) {
                    // In columns of the group's line: the run, and what this vector holds of it.
                    let line = vector % m * self.lanes;
                    let (start, end) = (run.lane * m, (run.lane + run.count) * m);
                    let (start, end) = (start.max(line), end.min(line + self.lanes));
                    if start >= end {
                        continue;
                    }
                    let y = (run.row * m) as isize - top;
                    let shift = if vector < m { 0 } else { m };
                    // The pixel in lane 0, which may lie outside of the image.
                    let x = (run.column * m + line + shift) as isize - (run.lane * m) as isize - left;
                    let inside = |lane: &usize| (0..width as isize).contains(&(x + *lane as isize));
                    let lanes = (start - line..end - line).filter(inside);
                    let mask = lanes.fold(0u16, |mask, lane| mask | 1 << lane);
                    let plane = (run.sample * channels * height) as isize;
                    let offset = (plane + y) * width as isize + x;
                    // Rows that lie inside the image, counted from the tiles' first.
                    let rows = (-y).max(0) as usize..(height as isize - y).max(0) as usize;
                    if mask != 0 {
                        pieces.push(Piece { vector, offset, rows, mask });
                    }
                }
            }
            starts.push(pieces.len());
        }
        Loads { channels, height, width, pieces, starts }
    }

    /// What each group loads of the input.
    pub(super) fn input_loads(&self, s: &Sizes) -> Loads {
        self.loads((s.inputs, s.height, s.width), (s.top, s.left), true)
    }

    /// What each group loads of the output's gradient.
    pub(super) fn grad_loads(&self, s: &Sizes) -> Loads {
        self.loads((s.outputs, s.out_height, s.out_width), (0, 0), false)
    }
}

/// Lanes of one vector of a group's line that lie together in the image.
#[derive(Clone, Debug)]
struct Piece {
    /// Which vector of the line, or, from m on, of the line of right neighbours.
    vector: usize,
    /// From the image's first pixel to that in lane 0 of the first row.
    offset: isize,
    /// The rows of the tiles that lie inside the image.
    rows: Range<usize>,
    /// The lanes that lie inside the image, in those rows.
    mask: u16,
}

/// What each group loads of images.
#[derive(Debug)]
pub(super) struct Loads {
    channels: usize,
    height: usize,
    width: usize,
    pieces: Vec<Piece>,
    starts: Vec<usize>,
}

impl Loads {
    /// One row of a group's line of N vectors, from one channel of `x`.
    ///
    /// # Safety
    /// `x` holds whole images of this size, of all samples that the groups were made for.
    #[inline(always)]
    unsafe fn row<V: Vector, const N: usize>(
        &self,
        x: &[f32],
        channel: usize,
        pieces: &[Piece],
        row: usize,
    ) -> [V; N] {
        let base = x.as_ptr().wrapping_add((channel * self.height + row) * self.width);
        let mut line = [V::splat(0.0); N];
        let mut pieces = pieces.iter().peekable();
        for (vector, sum) in line.iter_mut().enumerate() {
            while let Some(piece) = pieces.next_if(|piece| piece.vector == vector) {
                if piece.rows.contains(&row) {
                    // SAFETY: the pixels of the mask, in these rows, lie inside the image.
                    let part = unsafe { V::load_masked(base.wrapping_offset(piece.offset), piece.mask) };
                    *sum = sum.add(part);
                }
            }
        }
        line
    }

    /// Asks for all rows of a channel of `x`. A group's rows are short and far apart, so that they
    /// would otherwise be waited for one by one.
    #[inline(always)]
    fn prefetch(&self, x: &[f32], channel: usize, pieces: &[Piece], own: usize) {
        let plane = x.as_ptr().wrapping_add(channel * self.height * self.width);
        for piece in pieces.iter().take_while(|piece| piece.vector < own) {
            for row in piece.rows.start..piece.rows.end.min(own + 2) {
                prefetch(plane.wrapping_offset(piece.offset + (row * self.width) as isize));
            }
        }
    }

    fn pieces(&self, group: usize) -> &[Piece] {
        &self.pieces[self.starts[group]..self.starts[group + 1]]
    }

    /// Panics unless `x` holds `samples` images.
    fn check(&self, samples: usize, x: &[f32]) {
        assert_eq!(x.len(), samples * self.channels * self.height * self.width, "images of other sizes");
    }
}

/// Where the points of some groups' tiles stand in a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Points {
    /// How many groups the buffer holds.
    pub(super) groups: usize,
    /// How many channels.
    pub(super) channels: usize,
    /// Numbers of a vector.
    pub(super) lanes: usize,
    /// How groups and channels are nested.
    pub(super) order: Order,
}

/// How a buffer nests groups and channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Bundles of up to [`BUNDLE`] groups; in each, channel after channel.
    Bundles,
    /// Channel after channel; in each, all groups, and a vector more against cache conflicts.
    Channels,
}

impl Points {
    /// Numbers from one point to the next: a vector more than needed, so that the points do not
    /// all fall into the same lines of the cache.
    pub(super) fn stride(&self) -> usize {
        self.channels * self.row() + self.lanes
    }

    /// Numbers of one channel.
    pub(super) fn row(&self) -> usize {
        match self.order {
            Order::Bundles => self.groups * self.lanes,
            Order::Channels => (self.groups + 1) * self.lanes,
        }
    }

    /// The tiles of one point, a row for each of some channels; for [`Order::Channels`].
    pub(super) fn rows<'a>(&self, values: &'a [f32], point: usize, channels: Range<usize>) -> Rows<'a> {
        let values = &values[point * self.stride() + channels.start * self.row()..];
        Rows { values, count: channels.len(), stride: self.row() }
    }

    /// Where point 0 of a channel's tiles stands.
    pub(super) fn place(&self, group: usize, channel: usize) -> usize {
        match self.order {
            Order::Bundles => {
                let first = group / BUNDLE * BUNDLE;
                let wide = (self.groups - first).min(BUNDLE);
                (first * self.channels + channel * wide + group - first) * self.lanes
            }
            Order::Channels => channel * self.row() + group * self.lanes,
        }
    }
}

/// Which groups of which buffer a task works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) s: &'a Sizes,
    pub(super) all: &'a Groups,
    /// The first of the groups that the buffer holds.
    pub(super) first: usize,
    pub(super) points: Points,
}

/// Bᵀ d B of the input tiles of some channels.
#[derive(Debug)]
pub(super) struct InputTiles<'a, const M: usize> {
    pub(super) part: Part<'a>,
    pub(super) loads: &'a Loads,
    pub(super) x: &'a [f32],
    pub(super) channels: Range<usize>,
    /// Where the points go; each task writes its own channels.
    pub(super) to: Writer<'a>,
}

impl<const M: usize> Kernel for InputTiles<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Part { s, first, points, .. } = self.part;
        self.loads.check(s.samples, self.x);
        assert!(self.channels.end <= self.loads.channels);
        let mut rows = [[V::splat(0.0); POINTS]; POINTS];
        for channel in self.channels {
            for group in 0..points.groups {
                let pieces = self.loads.pieces(first + group);
                self.loads.prefetch(self.x, channel + 1, pieces, M);
                for (i, row) in rows.iter_mut().enumerate().take(M + 2) {
                    let mut d = [V::splat(0.0); POINTS];
                    // SAFETY: the images were checked above.
                    let neighbours = unsafe {
                        if M == 2 {
                            let [a, b, c, e] = self.loads.row::<V, 4>(self.x, channel, pieces, i);
                            d[..2].copy_from_slice(&V::split([a, b]));
                            V::split([c, e])
                        } else {
                            let line = self.loads.row::<V, 8>(self.x, channel, pieces, i);
                            let [a, b, c, e, f, g, h, k] = line;
                            d[..4].copy_from_slice(&V::split([a, b, c, e]));
                            let [first, second, ..] = V::split([f, g, h, k]);
                            [first, second]
                        }
                    };
                    d[M..M + 2].copy_from_slice(&neighbours);
                    *row = transform::input::<V, M>(&d);
                }
                let place = points.place(group, channel);
                for j in 0..M + 2 {
                    let mut d: Column<V> = [V::splat(0.0); POINTS];
                    for (d, row) in d.iter_mut().zip(&rows) {
                        *d = row[j];
                    }
                    let r = transform::input::<V, M>(&d);
                    // SAFETY: this task's own channels.
                    unsafe { put(self.to, place, points.stride(), j, M + 2, &r) };
                }
            }
        }
    }
}

/// Writes one column of points of a group of tiles.
///
/// # Safety
/// No other task touches these points meanwhile.
#[inline(always)]
unsafe fn put<V: Vector>(
    to: Writer<'_>,
    place: usize,
    stride: usize,
    j: usize,
    n: usize,
    values: &Column<V>,
) {
    for (i, v) in values.iter().enumerate().take(n) {
        // SAFETY: inside, by `at`; unshared, by the contract.
        unsafe { v.store_at(to.at(place + (i * n + j) * stride, V::LANES)) };
    }
}

/// A dy Aᵀ of the tiles of the output's gradient, for some channels.
#[derive(Debug)]
pub(super) struct GradTiles<'a, const M: usize> {
    pub(super) part: Part<'a>,
    pub(super) loads: &'a Loads,
    pub(super) dy: &'a [f32],
    pub(super) channels: Range<usize>,
    /// Where the points go; each task writes its own channels.
    pub(super) to: Writer<'a>,
}

impl<const M: usize> Kernel for GradTiles<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Part { s, first, points, .. } = self.part;
        self.loads.check(s.samples, self.dy);
        assert!(self.channels.end <= self.loads.channels);
        let mut rows = [[V::splat(0.0); POINTS]; M];
        for channel in self.channels {
            for group in 0..points.groups {
                let pieces = self.loads.pieces(first + group);
                self.loads.prefetch(self.dy, channel + 1, pieces, M);
                for (i, row) in rows.iter_mut().enumerate() {
                    // SAFETY: the images were checked above.
                    let line = unsafe { self.loads.row::<V, M>(self.dy, channel, pieces, i) };
                    let mut d = [V::splat(0.0); POINTS];
                    d[..M].copy_from_slice(&V::split(line));
                    *row = transform::output_transposed::<V, M>(&d);
                }
                let place = points.place(group, channel);
                for j in 0..M + 2 {
                    let mut d: Column<V> = [V::splat(0.0); POINTS];
                    for (d, row) in d.iter_mut().zip(&rows) {
                        *d = row[j];
                    }
                    let r = transform::output_transposed::<V, M>(&d);
                    // SAFETY: this task's own channels.
                    unsafe { put(self.to, place, points.stride(), j, M + 2, &r) };
                }
            }
        }
    }
}

/// Numbers of one line of outputs of a group: tiles of four columns in 16 lanes.
const LINE: usize = 64;

/// Aᵀ m A + bias of some channels, into the output.
#[derive(Debug)]
pub(super) struct OutputTiles<'a, const M: usize> {
    pub(super) part: Part<'a>,
    /// The points.
    pub(super) from: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    /// The channels, of which the points hold these alone.
    pub(super) channels: Range<usize>,
    /// The output; each task writes its own groups of its own channels.
    pub(super) y: Writer<'a>,
}

impl<const M: usize> Kernel for OutputTiles<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Part { s, all, first, points } = self.part;
        let stride = points.stride();
        let mut line = [0.0; LINE];
        let held = self.channels.start;
        for channel in self.channels {
            let bias = V::splat(self.bias.map_or(0.0, |b| b[channel]));
            for group in 0..points.groups {
                let place = points.place(group, channel - held);
                let mut rows = [[V::splat(0.0); POINTS]; M];
                for j in 0..M + 2 {
                    let mut d: Column<V> = [V::splat(0.0); POINTS];
                    for (i, d) in d.iter_mut().enumerate().take(M + 2) {
                        *d = V::load(&self.from[place + (i * (M + 2) + j) * stride..]);
                    }
                    let r = transform::output::<V, M>(&d);
                    for (row, value) in rows.iter_mut().zip(r) {
                        row[j] = value;
                    }
                }
                for (i, row) in rows.iter().enumerate() {
                    let r = transform::output::<V, M>(row);
                    let mut outputs = [bias; M];
                    for (output, value) in outputs.iter_mut().zip(r) {
                        *output = value.add(bias);
                    }
                    V::join(outputs, &mut line);
                    for run in all.runs(first + group) {
                        let y = run.row * M + i;
                        if y < s.out_height {
                            let n = (run.count * M).min(s.out_width - run.column * M);
                            let plane = (run.sample * s.outputs + channel) * s.out_height;
                            let start = (plane + y) * s.out_width + run.column * M;
                            // SAFETY: this task's own outputs; the line is other memory.
                            unsafe { self.y.copy(start, &line[run.lane * M..][..n]) };
                        }
                    }
                }
            }
        }
    }
}
