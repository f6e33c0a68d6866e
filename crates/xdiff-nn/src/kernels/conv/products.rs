//! Products of unfolded images with packed weights: a convolution, and the gradient of its input.
//!
//! A block of columns is unfolded into bundles, and multiplied while it is in the cache. Without a
//! stride, the gradient of the input is a convolution of the output's gradient, with the channels of
//! the weight exchanged and its taps reversed; with one, or where the input has few channels, the
//! transposed products are folded back.

use std::ops::Range;

use rayon::prelude::*;

use super::{TASKS, chunks};
use crate::kernels::buffer::{Scratch, Writer};
use crate::kernels::im2col::{Layout, Plan};
use crate::kernels::packing::{pack_columns, pack_rows};
use crate::kernels::panels::{BUNDLE, Columns, PANEL, Panels, Products, RowProducts};
use crate::kernels::simd::{Level, run_at};
use crate::layers::{ConvGeometry, ConvShape, Padding};

/// Values of a block of columns and of what is kept with them that should fit into a core's
/// second-level cache.
const BLOCK_VALUES: usize = 100_000;
/// From how many positions on the gradient of the input is a convolution: then it pays to turn the
/// weights.
const TURNED_POSITIONS: usize = 256;

/// Ranges of positions in whole bundles, about as many in each, of up to [`BLOCK_VALUES`] values
/// with `height` values a position.
fn blocks(positions: usize, height: usize, level: Level) -> Vec<Range<usize>> {
    let width = BUNDLE * level.lanes();
    let bundles = positions.div_ceil(width);
    let blocks = bundles.div_ceil((BLOCK_VALUES / (height * width)).clamp(1, 16));
    chunks(positions, bundles.div_ceil(blocks) * width)
}

/// The layout that products take.
fn bundles(level: Level) -> Layout {
    Layout::Bundles(BUNDLE * level.lanes())
}

/// The weights of a convolution.
#[derive(Clone, Copy, Debug)]
enum Weights<'a> {
    /// (O, I / groups, kh, kw).
    Plain(&'a [f32]),
    /// (I, O / groups, kh, kw), each window reversed.
    Turned(&'a [f32]),
}

impl Weights<'_> {
    /// Packs the weights of some output channels of a group.
    fn pack(self, s: &ConvShape, group: usize, outs: &Range<usize>) -> Scratch {
        let (group_in, group_out) = s.group_channels();
        let (taps, depth) = (s.taps(), group_in * s.taps());
        match self {
            Weights::Plain(w) => pack_rows(&w[(group * group_out + outs.start) * depth..], outs.len(), depth),
            Weights::Turned(w) => {
                let (from, stride) = (group * group_in * group_out + outs.start, group_out * taps);
                pack_columns(&w[from * taps..], (outs.len(), taps), group_in, stride)
            }
        }
    }
}

/// y = w ∗ x + b.
pub(super) fn forward(s: &ConvShape, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: Writer<'_>) {
    products(s, x, Weights::Plain(w), bias, y);
}

fn products(s: &ConvShape, x: &[f32], w: Weights<'_>, bias: Option<&[f32]>, y: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (depth, positions, level) = (group_in * s.taps(), s.positions(), Level::best());
    let (layout, reversed) = (bundles(level), matches!(w, Weights::Turned(_)));
    let blocks: Vec<(Range<usize>, Plan)> = blocks(positions, depth, level)
        .into_par_iter()
        .map(|block| (block.clone(), Plan::new(s, block, layout, level.lanes(), reversed)))
        .collect();
    let parts = s.batch.max(1) * s.geometry.groups * blocks.len();
    // Output channels are divided too where there are few blocks; each sum stays the same.
    let step = group_out.div_ceil(TASKS.div_ceil(parts)).max(64);
    let outs: Vec<(usize, Range<usize>)> = (0..s.geometry.groups)
        .flat_map(|group| chunks(group_out, step).into_iter().map(move |outs| (group, outs)))
        .collect();
    let packed: Vec<Scratch> = outs.par_iter().map(|(group, outs)| w.pack(s, *group, outs)).collect();
    (0..s.batch * blocks.len() * outs.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (rest, part) = (task / outs.len(), task % outs.len());
        let (sample, (block, plan)) = (rest / blocks.len(), &blocks[rest % blocks.len()]);
        let (group, outs) = &outs[part];
        let groups = block.len().div_ceil(level.lanes());
        let mut columns = Scratch::take(groups * level.lanes() * depth);
        let first_in = (sample * s.in_channels + group * group_in) * s.pixels();
        plan.unfold(&x[first_in..first_in + group_in * s.pixels()], depth, &mut columns);
        let channel = group * group_out + outs.start;
        // Each task has its own sample, channels and positions.
        let product = RowProducts {
            weights: Panels { values: &packed[part], depth },
            rows: outs.len(),
            columns: Columns::whole(&columns, groups, depth),
            width: block.len(),
            bias: bias.map(|bias| &bias[channel..channel + outs.len()]),
            to: y,
            start: (sample * s.out_channels + channel) * positions + block.start,
            stride: positions,
        };
        run_at(level, product);
    });
}

/// dL/dx from dL/dy.
pub(super) fn input_grad(s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    match turned(s) {
        Some(turned) => products(&turned, dy, Weights::Turned(w), None, dx),
        None => folded(s, dy, w, dx),
    }
}

/// The convolution that yields dL/dx from dL/dy, if there is one and it pays.
fn turned(s: &ConvShape) -> Option<ConvShape> {
    let (g, (group_in, group_out)) = (s.geometry, s.group_channels());
    let pays = s.taps() == 1 || (2 * group_in > group_out && s.pixels() >= TURNED_POSITIONS);
    if g.stride != (1, 1) || !pays {
        return None;
    }
    let top = ((s.kernel.0 - 1) * g.dilation.0).checked_sub(g.padding.top)?;
    let left = ((s.kernel.1 - 1) * g.dilation.1).checked_sub(g.padding.left)?;
    Some(ConvShape {
        in_channels: s.out_channels,
        height: s.out_height,
        width: s.out_width,
        out_channels: s.in_channels,
        out_height: s.height,
        out_width: s.width,
        geometry: ConvGeometry { padding: Padding { top, left, ..Padding::default() }, ..g },
        ..*s
    })
}

/// The products with the transposed weights, folded back.
fn folded(s: &ConvShape, dy: &[f32], w: &[f32], dx: Writer<'_>) {
    let (group_in, group_out) = s.group_channels();
    let (taps, positions, pixels) = (s.taps(), s.positions(), s.pixels());
    let (depth, level) = (group_in * taps, Level::best());
    let lanes = level.lanes();
    // Whole input channels for each task, so that no two tasks add to one pixel.
    let step = group_in.div_ceil(TASKS).max(64usize.div_ceil(taps));
    let ins: Vec<(usize, Range<usize>)> = (0..s.geometry.groups)
        .flat_map(|group| chunks(group_in, step).into_iter().map(move |ins| (group, ins)))
        .collect();
    let packed: Vec<Scratch> = ins
        .par_iter()
        .map(|(group, ins)| {
            let from = group * group_out * depth + ins.start * taps;
            pack_columns(&w[from..], (ins.len() * taps, 1), group_out, depth)
        })
        .collect();
    // The columns of dy are its positions as they are.
    let plain = ConvShape {
        in_channels: s.out_channels,
        height: s.out_height,
        width: s.out_width,
        kernel: (1, 1),
        geometry: ConvGeometry::default(),
        ..*s
    };
    let blocks: Vec<(usize, [Plan; 2])> = blocks(positions, step.min(group_in) * taps + group_out, level)
        .into_par_iter()
        .map(|block| {
            let plans = [&plain, s].map(|s| Plan::new(s, block.clone(), bundles(level), lanes, false));
            (block.len().div_ceil(lanes), plans)
        })
        .collect();
    (0..s.batch * ins.len()).into_par_iter().with_max_len(1).for_each(|task| {
        let (sample, part) = (task / ins.len(), task % ins.len());
        let (group, ins) = &ins[part];
        let start = (sample * s.in_channels + group * group_in + ins.start) * pixels;
        // SAFETY: each task has its own sample and input channels.
        unsafe { dx.fill(start, ins.len() * pixels, 0.0) };
        // SAFETY: as above, and set just now.
        let planes = unsafe { dx.slice(start, ins.len() * pixels) };
        let first_out = (sample * s.out_channels + group * group_out) * positions;
        let dy = &dy[first_out..first_out + group_out * positions];
        let weights = Panels { values: &packed[part], depth: group_out };
        let rows = weights.len() * PANEL;
        for (groups, [unfolded, folded]) in &blocks {
            let groups = *groups;
            let mut columns = Scratch::take(groups * lanes * group_out);
            unfolded.unfold(dy, group_out, &mut columns);
            let mut sums = Scratch::take(groups * lanes * rows);
            let (panels, to) = (0..weights.len(), Writer::over(&mut sums));
            let columns = Columns::whole(&columns, groups, group_out);
            run_at(level, Products { weights, panels, columns, to, start: 0 });
            folded.fold(&sums, rows, planes);
        }
    });
}
