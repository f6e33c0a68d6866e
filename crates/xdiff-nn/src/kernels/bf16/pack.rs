//! Packing the operands of blocks.
//!
//! Rows and columns beyond the last, and terms beyond the last, are zeros, so that blocks are
//! always whole.

use std::ops::{Deref, DerefMut};

use super::block::{SIDE, TERMS, TILES};
use super::level::Level;
use super::round::{ROW, neighbours};
use crate::kernels::buffer::Scratch;

/// Scratch for words, aligned to 64 bytes; its content is left over from earlier work.
#[derive(Debug)]
pub(super) struct Words(Scratch);

impl Words {
    pub(super) fn take(len: usize) -> Self {
        Self(Scratch::take(len))
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: f32 and u32 have one size and alignment, and every pattern of bits is a u32.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len()) }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and every pattern of bits is an f32; borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len()) }
    }
}

/// Words of a left operand, or of a right one, for [`SIDE`] rows or columns and sums of `terms`.
pub(super) fn block_words(terms: usize) -> usize {
    terms.div_ceil(TERMS) * TILES
}

/// Packs up to [`SIDE`] rows into the left operand of one block: tiles of depth one after another,
/// in each 32 rows of 16 pairs.
pub(super) fn left<'a>(level: Level, rows: impl Iterator<Item = &'a [f32]>, to: &mut [u32]) {
    let mut count = 0;
    for (i, row) in rows.take(SIDE).enumerate() {
        left_row(level, row, i, to);
        count = i + 1;
    }
    clear_from(count, to);
}

/// Packs row `i` of the left operand of one block.
pub(super) fn left_row(level: Level, row: &[f32], i: usize, to: &mut [u32]) {
    neighbours(level, row, &mut to[i * ROW..], TILES);
}

/// Clears the rows of the left operand of one block from `row` on.
pub(super) fn clear_from(row: usize, to: &mut [u32]) {
    for tile in to.chunks_exact_mut(TILES) {
        tile[row * ROW..].fill(0);
    }
}

/// Packs up to [`SIDE`] columns, given as the rows of the transposed matrix, into the right operand
/// of one block: tiles of depth one after another, in each 16 rows of 32 columns.
pub(super) fn right<'a>(level: Level, columns: impl Iterator<Item = &'a [f32]>, to: &mut [u32]) {
    left(level, columns, to);
    for tile in to.chunks_exact_mut(TILES) {
        let mut turned = [0; TILES];
        for (column, pairs) in tile.chunks_exact(ROW).enumerate() {
            for (p, word) in pairs.iter().enumerate() {
                turned[p * SIDE + column] = *word;
            }
        }
        tile.copy_from_slice(&turned);
    }
}

/// Where the tiles of depth start in the right operand of one block, and the words between its
/// rows.
pub(super) fn right_tiles(terms: usize) -> (Vec<usize>, usize) {
    ((0..terms.div_ceil(TERMS)).map(|i| i * TILES).collect(), SIDE)
}
