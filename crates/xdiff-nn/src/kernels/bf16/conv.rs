//! Convolution: blocks of weights and of images laid out in planes.

use candle_core::Result;
use rayon::prelude::*;

use super::block::{Block, SIDE, Sums, TERMS, Unit};
use super::level::Level;
use super::pack::{self, Words};
use super::planes::{Band, Layout};
use crate::kernels::buffer::{Output, Scratch, Writer};
use crate::layers::ConvShape;

/// Terms of a sum, each tap's channels filled up to whole tiles.
fn terms(s: &ConvShape) -> usize {
    s.in_channels.next_multiple_of(TERMS) * s.taps()
}

/// How many words [`pack_weight`] writes.
pub(super) fn weight_words(s: &ConvShape) -> usize {
    s.out_channels.div_ceil(SIDE) * pack::block_words(terms(s))
}

/// Packs a weight (O, I, kh, kw): blocks of 32 outputs, whose terms are ordered as
/// [`Layout::offsets`] are.
pub(super) fn pack_weight(level: Level, s: &ConvShape, w: &[f32], to: &mut [u32]) {
    let (taps, terms) = (s.taps(), terms(s));
    let blocks = w.par_chunks(SIDE * s.in_channels * taps);
    to.par_chunks_exact_mut(pack::block_words(terms)).zip(blocks).for_each(|(to, w)| {
        let mut row = Scratch::take(terms);
        row.fill(0.0);
        for (i, w) in w.chunks_exact(s.in_channels * taps).enumerate() {
            for (w, row) in w.chunks(TERMS * taps).zip(row.chunks_exact_mut(TERMS * taps)) {
                for (tap, row) in row.chunks_exact_mut(TERMS).enumerate() {
                    row.iter_mut().zip(w.chunks_exact(taps)).for_each(|(to, w)| *to = w[tap]);
                }
            }
            pack::left_row(level, &row, i, to);
        }
        pack::clear_from(w.len() / (s.in_channels * taps), to);
    });
}

/// y = w ∗ x + b, the factors rounded to bf16. There are no groups.
pub(crate) fn forward(
    level: Level,
    s: &ConvShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
) -> Result<Vec<f32>> {
    assert_eq!(s.geometry.groups, 1, "groups");
    assert_eq!(x.len(), s.batch * s.in_channels * s.pixels(), "image length");
    assert_eq!(w.len(), s.out_channels * s.in_channels * s.taps(), "weight length");
    assert!(bias.is_none_or(|b| b.len() == s.out_channels), "bias length");
    let mut weight = Words::take(weight_words(s));
    pack_weight(level, s, w, &mut weight);
    let mut y = Output::new(s.out_dims().iter().product())?;
    products(level, s, x, &weight, bias, y.writer());
    // SAFETY: every channel and position is written.
    Ok(unsafe { y.finish() })
}

/// Writes all of y.
fn products(level: Level, s: &ConvShape, x: &[f32], weight: &[u32], bias: Option<&[f32]>, y: Writer<'_>) {
    let threads = rayon::current_num_threads();
    let layout = Layout::new(s, if threads == 1 { 1 } else { 2 * threads });
    let all = layout.all_bands(s);
    let words = pack::block_words(terms(s));
    let blocks = s.out_channels.div_ceil(SIDE);
    // Output channels are divided too where there are few bands.
    let tasks = all.len().div_ceil(layout.bands).max(1);
    let parts = threads.div_ceil(tasks).min(blocks);
    let step = blocks.div_ceil(parts);
    let tasks: Vec<_> = all
        .chunks(layout.bands)
        .flat_map(|bands| (0..blocks).step_by(step).map(move |i| (bands, i..(i + step).min(blocks))))
        .collect();
    tasks.into_par_iter().with_max_len(1).for_each(|(bands, blocks)| {
        let planes = layout.fill(level, s, x, bands);
        let mut unit = Unit::new(level);
        let mut sums = [0.0; SIDE * SIDE];
        for block in blocks {
            let left = &weight[block * words..][..words];
            for first in (0..layout.positions(bands.len())).step_by(SIDE) {
                let block_of =
                    Block { left, right: &planes[first..], offsets: &layout.offsets, stride: layout.stride };
                unit.multiply(block_of, &mut sums);
                // SAFETY: each task has its own bands and output channels.
                unsafe { store(s, &layout, bands, (block * SIDE, first), &sums, bias, y) };
            }
        }
    });
}

/// Writes the wanted sums of a block at channel and position `(channel, first)`, plus the bias.
///
/// # Safety
/// No other task has these bands and channels.
unsafe fn store(
    s: &ConvShape,
    layout: &Layout,
    bands: &[Band],
    (channel, first): (usize, usize),
    sums: &Sums,
    bias: Option<&[f32]>,
    y: Writer<'_>,
) {
    let rows = || sums.chunks_exact(SIDE).zip(channel..s.out_channels);
    for (i, band) in bands.iter().enumerate() {
        for (line, number) in band.lines.clone().enumerate() {
            let start = layout.first(i) + line * layout.width;
            let (from, to) = (start.max(first), (start + s.out_width).min(first + SIDE));
            if from >= to {
                continue;
            }
            for (sums, channel) in rows() {
                let at = ((band.sample * s.out_channels + channel) * s.out_height + number) * s.out_width;
                let bias = bias.map_or(0.0, |b| b[channel]);
                // SAFETY: this task's own, by the contract.
                unsafe { y.add(at + from - start, &sums[from - first..to - first], bias) };
            }
        }
    }
}
