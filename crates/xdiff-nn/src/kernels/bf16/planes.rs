//! An image as the right operand of a convolution's blocks.
//!
//! Some lines of one or more images are laid out in planes, one for each pair of channels, zeros
//! around them. With stride s every s-th pixel of a line stands in a plane of its own phase. Each
//! tap of the window then reads the same planes, only from another place on: output position
//! i · width + j, tap (u, v) and 32 channels are a tile whose rows are planes and whose columns are
//! positions. So nothing is unfolded. Positions beside the image's last column, and lines between
//! two images, yield sums that nobody asks for.

use std::ops::Range;

use super::block::{SIDE, TERMS};
use super::level::Level;
use super::pack::Words;
use super::round::{ROW, interleave};
use crate::layers::ConvShape;

/// Words of planes that should fit into a core's second-level cache beside a block of weights.
const PLANE_WORDS: usize = 100_000;
/// The same where the weights (more than 2 Mi of them) do not fit it anyway: they are then read less
/// often.
const MANY_PLANE_WORDS: usize = 400_000;
const MANY_WEIGHTS: usize = 2 << 20;
/// Fewest positions of a band.
const POSITIONS: usize = 64;

/// Output lines of one sample.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) sample: usize,
    pub(super) lines: Range<usize>,
}

/// How images are laid out.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Phases of lines and columns.
    phases: [usize; 2],
    /// Tiles of 32 channels.
    channel_tiles: usize,
    /// Words of a line.
    pub(super) width: usize,
    /// Lines of a band, and how many more it reads.
    pub(super) lines: usize,
    margin: [usize; 2],
    /// Bands that stand below each other.
    pub(super) bands: usize,
    /// Words of a plane.
    pub(super) stride: usize,
    /// Where each tile of depth starts: channels slowest, then taps.
    pub(super) offsets: Vec<usize>,
}

impl Layout {
    /// The layout for a convolution without groups that is to be divided into at least `tasks`
    /// tasks where it is large enough.
    pub(super) fn new(s: &ConvShape, tasks: usize) -> Self {
        let g = &s.geometry;
        let axis = |taps: usize, dilation: usize, stride: usize| {
            let reach = (taps - 1) * dilation;
            (stride.min(reach + 1), reach / stride)
        };
        let (line_phases, below) = axis(s.kernel.0, g.dilation.0, g.stride.0);
        let (column_phases, beside) = axis(s.kernel.1, g.dilation.1, g.stride.1);
        let channel_tiles = s.in_channels.div_ceil(TERMS);
        let width = s.out_width + beside;
        let planes = line_phases * column_phases * channel_tiles * ROW;

        // As many images as fit, or a part of one; fewer where that leaves threads without work.
        let many = s.in_channels * s.taps() * s.out_channels > MANY_WEIGHTS;
        let fitting = if many { MANY_PLANE_WORDS } else { PLANE_WORDS } / (planes * width);
        let images = (fitting / (s.out_height + below)).clamp(1, s.batch.div_ceil(tasks).max(1));
        let least = POSITIONS.div_ceil(width).min(s.out_height);
        let most = fitting.saturating_sub(below).clamp(least, s.out_height);
        let parts = s.out_height.div_ceil(most).max(tasks.div_ceil(s.batch.max(1)));
        let lines = s.out_height.div_ceil(parts).max(least);
        let bands = if lines == s.out_height { images } else { 1 };

        // An odd number of cache lines, against conflicts.
        let words = (bands * (lines + below) * width).next_multiple_of(ROW);
        let stride = if words.is_multiple_of(2 * ROW) { words + ROW } else { words };
        let mut layout = Self {
            phases: [line_phases, column_phases],
            channel_tiles,
            width,
            lines,
            margin: [below, beside],
            bands,
            stride,
            offsets: Vec::new(),
        };
        for tile in 0..channel_tiles {
            for tap in 0..s.taps() {
                let (u, v) = (tap / s.kernel.1 * g.dilation.0, tap % s.kernel.1 * g.dilation.1);
                let plane = layout.plane([u % g.stride.0, v % g.stride.1], tile * ROW);
                let shift = u / g.stride.0 * width + v / g.stride.1;
                layout.offsets.push(plane * stride + shift);
            }
        }
        layout
    }

    /// The plane of a phase and a pair of channels.
    fn plane(&self, [line, column]: [usize; 2], pair: usize) -> usize {
        (line * self.phases[1] + column) * self.channel_tiles * ROW + pair
    }

    /// Bands that cover all samples, in groups of [`bands`](Layout::bands).
    pub(super) fn all_bands(&self, s: &ConvShape) -> Vec<Band> {
        let starts = || (0..s.out_height).step_by(self.lines);
        let of = |sample| starts().map(move |i| (sample, i..(i + self.lines).min(s.out_height)));
        (0..s.batch).flat_map(of).map(|(sample, lines)| Band { sample, lines }).collect()
    }

    /// Where the positions of a band start in a plane.
    pub(super) fn first(&self, band: usize) -> usize {
        band * (self.lines + self.margin[0]) * self.width
    }

    /// How many positions `bands` bands have, the unwanted ones included.
    pub(super) fn positions(&self, bands: usize) -> usize {
        self.first(bands - 1) + self.lines * self.width
    }

    /// Lays out bands of the images.
    pub(super) fn fill(&self, level: Level, s: &ConvShape, x: &[f32], bands: &[Band]) -> Words {
        let planes = self.phases[0] * self.phases[1] * self.channel_tiles * ROW;
        // The last block may reach beyond the last position, by any tap.
        let beyond = SIDE + self.margin[0] * self.width + self.margin[1];
        let mut words = Words::take(planes * self.stride + beyond);
        words[planes * self.stride..].fill(0);
        let mut rows = [vec![0.0; self.width], vec![0.0; self.width]];
        for pair in 0..self.channel_tiles * ROW {
            for line_phase in 0..self.phases[0] {
                for column_phase in 0..self.phases[1] {
                    let plane = self.plane([line_phase, column_phase], pair);
                    let plane = &mut words[plane * self.stride..][..self.stride];
                    if 2 * pair >= s.in_channels {
                        plane.fill(0);
                        continue;
                    }
                    for (i, band) in bands.iter().enumerate() {
                        let to = &mut plane[self.first(i)..];
                        for (line, to) in to.chunks_exact_mut(self.width).take(self.height()).enumerate() {
                            let line = (band.lines.start + line) * s.geometry.stride.0 + line_phase;
                            let channels = [2 * pair, 2 * pair + 1];
                            let from = channels.map(|channel| pixels(s, x, band.sample, channel, line));
                            line_of_pairs(level, s, from, column_phase, &mut rows, to);
                        }
                    }
                }
            }
        }
        words
    }

    /// Lines of a band with those below that it reads.
    fn height(&self) -> usize {
        self.lines + self.margin[0]
    }
}

/// A line of a channel, counted from the padding on; none where there is no such line or channel.
fn pixels<'a>(s: &ConvShape, x: &'a [f32], sample: usize, channel: usize, line: usize) -> Option<&'a [f32]> {
    let line = line.checked_sub(s.geometry.padding.top).filter(|line| *line < s.height)?;
    let start = ((sample * s.in_channels + channel) * s.height + line) * s.width;
    (channel < s.in_channels).then(|| &x[start..start + s.width])
}

/// Writes the pixels of one phase of two channels' lines as pairs, zeros where there are none.
fn line_of_pairs(
    level: Level,
    s: &ConvShape,
    from: [Option<&[f32]>; 2],
    phase: usize,
    rows: &mut [Vec<f32>; 2],
    to: &mut [u32],
) {
    // The pixel of word i is i · stride + phase − left.
    let (left, stride) = (s.geometry.padding.left, s.geometry.stride.1);
    let start = left.saturating_sub(phase).div_ceil(stride).min(to.len());
    let end = (s.width + left).saturating_sub(phase).div_ceil(stride).clamp(start, to.len());
    let Some(first) = (start * stride + phase).checked_sub(left).filter(|_| from[0].is_some()) else {
        return to.fill(0);
    };
    to[..start].fill(0);
    to[end..].fill(0);
    let to = &mut to[start..end];
    let [above, below] = rows;
    let above = line_part(from[0], first, stride, &mut above[..to.len()]);
    let below = line_part(from[1], first, stride, &mut below[..to.len()]);
    interleave(level, above, below, to);
}

/// As many pixels as `room` has, from `first` on at a stride: the line itself where that does.
fn line_part<'a>(line: Option<&'a [f32]>, first: usize, stride: usize, room: &'a mut [f32]) -> &'a [f32] {
    let n = room.len();
    match line {
        _ if n == 0 => &[],
        None => {
            room.fill(0.0);
            room
        }
        Some(line) if stride == 1 => &line[first..first + n],
        Some(line) => {
            let pixels = line[first..].iter().step_by(stride);
            room.iter_mut().zip(pixels).for_each(|(to, x)| *to = *x);
            room
        }
    }
}
