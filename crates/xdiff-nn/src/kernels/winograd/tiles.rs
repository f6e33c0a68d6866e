//! Between images and the points of their tiles.
//!
//! The outputs of all samples are divided into tiles of m × m; as many tiles as a vector has lanes
//! form a group, one tile a lane. A group's tiles are neighbours in a row of tiles, or several such
//! runs.

use std::ops::Range;

use super::transform::{self, Column, POINTS};
use crate::kernels::buffer::Writer;
use crate::kernels::simd::{Kernel, Vector};

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
pub(super) struct Run {
    lane: usize,
    count: usize,
    sample: usize,
    row: usize,
    column: usize,
}

/// All groups of tiles.
#[derive(Debug)]
pub(super) struct Groups {
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
        Self { runs, starts }
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn runs(&self, group: usize) -> &[Run] {
        &self.runs[self.starts[group]..self.starts[group + 1]]
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
    /// Panels of this many channels; in each, group after group.
    Panels(usize),
}

/// Groups whose products are formed together.
pub(super) const BUNDLE: usize = 3;

impl Points {
    /// Numbers from one point to the next: a vector more than needed, so that the points do not
    /// all fall into the same lines of the cache.
    pub(super) fn stride(&self) -> usize {
        let channels = match self.order {
            Order::Bundles => self.channels,
            Order::Panels(wide) => self.channels.next_multiple_of(wide),
        };
        channels * self.groups * self.lanes + self.lanes
    }

    /// Where point 0 of a channel's tiles stands.
    fn place(&self, group: usize, channel: usize) -> usize {
        let vector = match self.order {
            Order::Bundles => {
                let first = group / BUNDLE * BUNDLE;
                let wide = (self.groups - first).min(BUNDLE);
                first * self.channels + channel * wide + group - first
            }
            Order::Panels(wide) => channel / wide * wide * self.groups + group * wide + channel % wide,
        };
        vector * self.lanes
    }
}

/// Numbers of one line of scratch: tiles of four columns in 16 lanes, and what a vector may write
/// beyond.
const LINE: usize = 96;

/// Which tile rows of which buffer a task works on.
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
    pub(super) x: &'a [f32],
    pub(super) channels: Range<usize>,
    /// Where the points go; each task writes its own channels.
    pub(super) to: Writer<'a>,
}

impl<const M: usize> Kernel for InputTiles<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Part { s, all, first, points } = self.part;
        let mut lines = [0.0; 2 * POINTS * LINE];
        for channel in self.channels {
            for group in 0..points.groups {
                let runs = all.runs(first + group);
                let shifted = input_lines::<V, M>(s, self.x, channel, runs, &mut lines);
                let place = points.place(group, channel);
                for i in 0..M + 2 {
                    let own = V::split::<M>(&lines[i * LINE..]);
                    let next = V::split::<M>(&lines[shifted + i * LINE..]);
                    let mut d: Column<V> = [V::splat(0.0); POINTS];
                    d[..M].copy_from_slice(&own);
                    d[M] = next[0];
                    d[M + 1] = next[1];
                    // SAFETY: this task's own channels.
                    unsafe { put(self.to, place, points.stride(), i, M + 2, &transform::input::<V, M>(&d)) };
                }
            }
        }
    }
}

/// The vertical transform of one group's input, as lines of tile after tile. Returns where the
/// lines of each tile's right neighbour start.
#[inline(always)]
fn input_lines<V: Vector, const M: usize>(
    s: &Sizes,
    x: &[f32],
    channel: usize,
    runs: &[Run],
    lines: &mut [f32; 2 * POINTS * LINE],
) -> usize {
    if runs.iter().map(|run| run.count).sum::<usize>() < V::LANES {
        lines.fill(0.0);
    }
    let (own, next) = lines.split_at_mut(POINTS * LINE);
    for run in runs {
        let plane = &x[(run.sample * s.inputs + channel) * s.height * s.width..][..s.height * s.width];
        let (y, x) = ((run.row * M) as isize - s.top, (run.column * M) as isize - s.left);
        let columns = run.count * M + 2;
        for c in (0..columns).step_by(V::LANES) {
            let lane = |column: isize| column.clamp(0, V::LANES as isize) as usize;
            let from = x + c as isize;
            let end = lane((s.width as isize - from).min((columns - c) as isize));
            let lanes = lane(-from).min(end)..end;
            let mut d: Column<V> = [V::splat(0.0); POINTS];
            for (i, d) in d.iter_mut().enumerate().take(M + 2) {
                let row = y + i as isize;
                if (0..s.height as isize).contains(&row) {
                    *d = V::load_lanes(&plane[row as usize * s.width..][..s.width], from, lanes.clone());
                }
            }
            let r = transform::input::<V, M>(&d);
            for i in 0..M + 2 {
                r[i].store(&mut own[i * LINE + run.lane * M + c..]);
            }
        }
        if runs.len() > 1 {
            // The next run overwrites what this one's last tile has to its right.
            let (from, len) = ((run.lane + 1) * M, columns - M);
            for i in 0..M + 2 {
                next[i * LINE + from - M..][..len].copy_from_slice(&own[i * LINE + from..][..len]);
            }
        }
    }
    if runs.len() > 1 { POINTS * LINE } else { M }
}

/// Writes one row of points of a group of tiles.
///
/// # Safety
/// No other task touches these points meanwhile.
#[inline(always)]
unsafe fn put<V: Vector>(
    to: Writer<'_>,
    place: usize,
    stride: usize,
    row: usize,
    n: usize,
    values: &Column<V>,
) {
    for (j, v) in values.iter().enumerate().take(n) {
        // SAFETY: inside, by `at`; unshared, by the contract.
        unsafe { v.store_at(to.at(place + (row * n + j) * stride, V::LANES)) };
    }
}

/// A dy Aᵀ of the tiles of the output's gradient, for some channels.
#[derive(Debug)]
pub(super) struct GradTiles<'a, const M: usize> {
    pub(super) part: Part<'a>,
    pub(super) dy: &'a [f32],
    pub(super) channels: Range<usize>,
    /// Where the points go; each task writes its own channels.
    pub(super) to: Writer<'a>,
}

impl<const M: usize> Kernel for GradTiles<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Part { s, all, first, points } = self.part;
        let mut lines = [0.0; POINTS * LINE];
        for channel in self.channels {
            for group in 0..points.groups {
                let runs = all.runs(first + group);
                grad_lines::<V, M>(s, self.dy, channel, runs, &mut lines);
                let place = points.place(group, channel);
                for i in 0..M + 2 {
                    let mut d: Column<V> = [V::splat(0.0); POINTS];
                    d[..M].copy_from_slice(&V::split::<M>(&lines[i * LINE..]));
                    let r = transform::output_transposed::<V, M>(&d);
                    // SAFETY: this task's own channels.
                    unsafe { put(self.to, place, points.stride(), i, M + 2, &r) };
                }
            }
        }
    }
}

/// The vertical transform of one group's gradient, as lines of tile after tile.
#[inline(always)]
fn grad_lines<V: Vector, const M: usize>(
    s: &Sizes,
    dy: &[f32],
    channel: usize,
    runs: &[Run],
    lines: &mut [f32; POINTS * LINE],
) {
    if runs.iter().map(|run| run.count).sum::<usize>() < V::LANES {
        lines.fill(0.0);
    }
    let pixels = s.out_height * s.out_width;
    for run in runs {
        let plane = &dy[(run.sample * s.outputs + channel) * pixels..][..pixels];
        let (y, x) = (run.row * M, run.column * M);
        let columns = run.count * M;
        for c in (0..columns).step_by(V::LANES) {
            let end = (s.out_width.saturating_sub(x + c)).min(columns - c).min(V::LANES);
            let mut d: Column<V> = [V::splat(0.0); POINTS];
            for (i, d) in d.iter_mut().enumerate().take(M) {
                if y + i < s.out_height && end > 0 {
                    let line = &plane[(y + i) * s.out_width..][..s.out_width];
                    *d = V::load_lanes(line, (x + c) as isize, 0..end);
                }
            }
            let r = transform::output_transposed::<V, M>(&d);
            for i in 0..M + 2 {
                r[i].store(&mut lines[i * LINE + run.lane * M + c..]);
            }
        }
    }
}

/// Aᵀ m A + bias of some channels, into the output.
#[derive(Debug)]
pub(super) struct OutputTiles<'a, const M: usize> {
    pub(super) part: Part<'a>,
    /// The points.
    pub(super) from: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
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
        for channel in self.channels {
            let bias = V::splat(self.bias.map_or(0.0, |b| b[channel]));
            for group in 0..points.groups {
                let place = points.place(group, channel);
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
                    let r: [V; M] = std::array::from_fn(|j| r[j].add(bias));
                    V::join(r, &mut line);
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
