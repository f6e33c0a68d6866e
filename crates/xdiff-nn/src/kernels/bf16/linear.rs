//! The linear layer: blocks of y = x · wᵀ + b.

use candle_core::Result;
use rayon::prelude::*;

use super::block::{Block, SIDE, Unit};
use super::level::Level;
use super::pack::{self, Words};
use crate::kernels::buffer::{Output, Writer};
use crate::kernels::linear::LinearShape;

/// Words of packed rows that one task holds, beside a block of the weight, in a core's second-level
/// cache.
const ROWS_WORDS: usize = 80_000;
/// Most blocks of rows of a task.
const MOST_BLOCKS: usize = 4;

/// How many words [`pack_weight`] writes.
pub(super) fn weight_words(s: LinearShape) -> usize {
    s.outputs.div_ceil(SIDE) * pack::block_words(s.inputs)
}

/// Packs a weight (out, in): blocks of 32 outputs.
pub(super) fn pack_weight(level: Level, s: LinearShape, w: &[f32], to: &mut [u32]) {
    let blocks = w.par_chunks(SIDE * s.inputs);
    to.par_chunks_exact_mut(pack::block_words(s.inputs))
        .zip(blocks)
        .for_each(|(to, w)| pack::right(level, w.chunks_exact(s.inputs), to));
}

/// y = x · wᵀ + b, the factors rounded to bf16.
pub(crate) fn forward(
    level: Level,
    s: LinearShape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
) -> Result<Vec<f32>> {
    assert_eq!((x.len(), w.len()), (s.all_rows() * s.inputs, s.outputs * s.inputs), "lengths");
    assert!(bias.is_none_or(|b| b.len() == s.outputs), "bias length");
    let mut weight = Words::take(weight_words(s));
    pack_weight(level, s, w, &mut weight);
    let mut y = Output::new(s.all_rows() * s.outputs)?;
    products(level, s, x, &weight, bias, y.writer());
    // SAFETY: every row and column is written.
    Ok(unsafe { y.finish() })
}

/// Writes all of y.
fn products(level: Level, s: LinearShape, x: &[f32], weight: &[u32], bias: Option<&[f32]>, y: Writer<'_>) {
    let words = pack::block_words(s.inputs);
    let (offsets, stride) = pack::right_tiles(s.inputs);
    let rows = (ROWS_WORDS / words).clamp(1, MOST_BLOCKS) * SIDE;
    x.par_chunks(rows * s.inputs).enumerate().with_max_len(1).for_each(|(task, x)| {
        let mut unit = Unit::new(level);
        let mut left = Words::take(x.len().div_ceil(SIDE * s.inputs) * words);
        for (x, to) in x.chunks(SIDE * s.inputs).zip(left.chunks_exact_mut(words)) {
            pack::left(level, x.chunks_exact(s.inputs), to);
        }
        let count = x.len() / s.inputs;
        let mut sums = [0.0; SIDE * SIDE];
        for (right, first) in weight.chunks_exact(words).zip((0..s.outputs).step_by(SIDE)) {
            let width = SIDE.min(s.outputs - first);
            for (left, top) in left.chunks_exact(words).zip((0..count).step_by(SIDE)) {
                unit.multiply(Block { left, right, offsets: &offsets, stride }, &mut sums);
                for (i, sums) in sums.chunks_exact_mut(SIDE).take(count - top).enumerate() {
                    let sums = &mut sums[..width];
                    if let Some(bias) = bias {
                        sums.iter_mut().zip(&bias[first..]).for_each(|(sum, b)| *sum += b);
                    }
                    let start = (task * rows + top + i) * s.outputs + first;
                    // SAFETY: each task has its own rows; the sums are other memory.
                    unsafe { y.copy(start, sums) };
                }
            }
        }
    });
}
