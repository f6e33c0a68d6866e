//! The gradient of a convolution's weight: products of the output's gradient with unfolded pixels,
//! summed along positions.

use std::ops::Range;

use rayon::prelude::*;

use super::{TASKS, chunks};
use crate::kernels::buffer::{Scratch, Writer};
use crate::kernels::dots::{Dots, Rows};
use crate::kernels::im2col::{Layout, Plan};
use crate::kernels::matrix::Target;
use crate::kernels::simd::{Level, run_at};
use crate::layers::ConvShape;

/// Values of the columns of a weight's gradient that should fit into a core's second-level cache.
const TILE_VALUES: usize = 300_000;
/// Fewest and most positions of it that are summed at once.
const TILE_WIDTH: Range<usize> = 256..2048;

/// Positions of one sample, as a part of the rows that a weight's gradient sums over.
struct Piece {
    sample: usize,
    /// Which of the ranges that the positions are divided into.
    tile: usize,
    /// Where they stand in the rows; filled up with zeros to a whole number of vectors.
    start: usize,
}

/// Pieces of all samples and tiles, in sets of about `wanted` numbers a row, and how many numbers
/// each set has.
fn pieces(s: &ConvShape, tiles: &[Range<usize>], lanes: usize, wanted: usize) -> Vec<(usize, Vec<Piece>)> {
    let mut sets: Vec<(usize, Vec<Piece>)> = Vec::new();
    for (sample, tile) in (0..s.batch).flat_map(|sample| (0..tiles.len()).map(move |tile| (sample, tile))) {
        let width = tiles[tile].len().next_multiple_of(lanes);
        match sets.last_mut() {
            Some((filled, set)) if *filled + width <= wanted => {
                set.push(Piece { sample, tile, start: *filled });
                *filled += width;
            }
            _ => sets.push((width, vec![Piece { sample, tile, start: 0 }])),
        }
    }
    sets
}

/// dL/dw from dL/dy.
pub(super) fn products(s: &ConvShape, dy: &[f32], x: &[f32], dw: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (taps, positions, pixels) = (s.taps(), s.positions(), s.pixels());
    let (depth, level) = (group_in * taps, Level::best());
    let lanes = level.lanes();
    // Each task sums over all samples and positions for its own part of the weight.
    let ins = chunks(group_in, group_in.div_ceil(TASKS).max(48usize.div_ceil(taps)));
    let parts = s.geometry.groups * ins.len();
    let outs = chunks(group_out, group_out.div_ceil(TASKS.div_ceil(parts)).max(16));
    let height = ins.first().map_or(0, Range::len) * taps + outs.first().map_or(0, Range::len);
    let wanted = (TILE_VALUES / height.max(1)).clamp(TILE_WIDTH.start, TILE_WIDTH.end);
    let tiles = chunks(positions, wanted.next_multiple_of(lanes));
    let sets = pieces(s, &tiles, lanes, wanted);
    // A line more than needed, against cache conflicts.
    let stride = sets.iter().map(|(width, _)| width).max().map_or(0, |width| width + 16);
    let plans: Vec<Plan> =
        tiles.par_iter().map(|tile| Plan::new(s, tile.clone(), Layout::Rows(stride), lanes, false)).collect();
    (0..parts * outs.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rest, outs) = (task / outs.len(), outs[task % outs.len()].clone());
        let (group, ins) = (rest / ins.len(), ins[rest % ins.len()].clone());
        let channel = group * group_out + outs.start;
        let to = Target { writer: dw, start: channel * depth + ins.start * taps, stride: depth };
        for (turn, (width, set)) in sets.iter().enumerate() {
            let mut columns = Scratch::take(ins.len() * taps * stride);
            let mut grads = Scratch::take(outs.len() * stride);
            for piece in set {
                let (from, to) = (&tiles[piece.tile], piece.start);
                let first_in = (piece.sample * s.in_channels + group * group_in + ins.start) * pixels;
                let planes = &x[first_in..first_in + ins.len() * pixels];
                plans[piece.tile].unfold(planes, ins.len() * taps, &mut columns[to..]);
                let first_out = (piece.sample * s.out_channels + channel) * positions;
                let dy = dy[first_out..first_out + outs.len() * positions].chunks_exact(positions);
                for (row, dy) in grads.chunks_exact_mut(stride).zip(dy) {
                    row[to..to + from.len()].copy_from_slice(&dy[from.clone()]);
                }
                let padding = to + from.len()..to + from.len().next_multiple_of(lanes);
                for row in grads.chunks_exact_mut(stride) {
                    row[padding.clone()].fill(0.0);
                }
            }
            let a = Rows { values: &grads, count: outs.len(), stride };
            let b = Rows { values: &columns, count: ins.len() * taps, stride };
            run_at(level, Dots { a, b, vectors: *width / lanes, to, add: turn > 0 });
        }
    });
}
