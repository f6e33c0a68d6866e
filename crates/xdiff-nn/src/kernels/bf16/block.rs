//! A block of products: 32 × 32 sums.
//!
//! The left operand stands in tiles of 16 rows × 32 terms, pairs of terms in a word; two tiles of
//! one depth follow each other. The right operand has a row for each pair of terms, a word for each
//! column: 16 rows at a stride are a tile, the next 16 columns another. This is what AMX wants, and
//! serves AVX-512 as well. A list of offsets says where each tile of the right operand starts, so
//! that a convolution can slide over one image instead of unfolding it.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::marker::PhantomData;

#[cfg(any(test, target_arch = "x86_64"))]
use super::amx;
use super::level::Level;
use super::round::ROW;

/// Rows and columns of a block.
pub(super) const SIDE: usize = 32;
/// Terms of a tile.
pub(super) const TERMS: usize = 2 * ROW;
/// Words of the left operand's two tiles of one depth.
pub(super) const TILES: usize = SIDE * ROW;

/// The sums of a block, row by row.
pub(super) type Sums = [f32; SIDE * SIDE];

/// What is multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    /// The left operand: [`TILES`] words for each tile of depth.
    pub(super) left: &'a [u32],
    /// The right operand.
    pub(super) right: &'a [u32],
    /// Where in `right` each tile of depth starts.
    pub(super) offsets: &'a [usize],
    /// Words from one row of the right operand to the next.
    pub(super) stride: usize,
}

impl Block<'_> {
    fn check(&self) {
        let last = self.offsets.iter().max().map_or(0, |o| o + (ROW - 1) * self.stride + SIDE);
        assert!(self.left.len() >= self.offsets.len() * TILES, "a left operand that is too short");
        assert!(self.right.len() >= last, "a right operand that is too short");
    }
}

/// The unit that multiplies, for one thread while one task runs.
///
/// AMX's tiles are set up when it is made and released when it is dropped, so a thread must not
/// make a second one in between.
#[derive(Debug)]
pub(super) struct Unit {
    level: Level,
    /// It belongs to its thread.
    here: PhantomData<*const ()>,
}

impl Unit {
    /// The unit of this thread.
    pub(super) fn new(level: Level) -> Self {
        #[cfg(target_arch = "x86_64")]
        if level == Level::Amx {
            // SAFETY: this level names processors with AMX, where the system permits it.
            unsafe { amx::configure() };
        }
        Self { level, here: PhantomData }
    }

    /// The products of a block. Every sum has the same order, wherever it stands.
    pub(super) fn multiply(&mut self, block: Block<'_>, sums: &mut Sums) {
        block.check();
        match self.level {
            Level::Portable => multiply_portable(block, sums),
            // SAFETY: checked above; the emulation needs no configuration.
            #[cfg(test)]
            Level::Emulated => unsafe { amx::multiply(&mut amx::Emulated::default(), block, sums) },
            // SAFETY: checked above; this level names processors with these instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { multiply_avx512(block, sums) },
            // SAFETY: checked above; the tiles were configured when this unit was made.
            #[cfg(target_arch = "x86_64")]
            Level::Amx => unsafe { amx::multiply(&mut amx::Registers, block, sums) },
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.level == Level::Amx {
            // SAFETY: they were configured when this unit was made.
            unsafe { amx::release() };
        }
    }
}

/// Plain loops.
fn multiply_portable(block: Block<'_>, sums: &mut Sums) {
    let halves = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
    sums.fill(0.0);
    for (left, offset) in block.left.chunks_exact(TILES).zip(block.offsets) {
        for p in 0..ROW {
            let right = &block.right[offset + p * block.stride..][..SIDE];
            for (row, sums) in sums.chunks_exact_mut(SIDE).enumerate() {
                let [a, b] = halves(left[row * ROW + p]);
                for (sum, word) in sums.iter_mut().zip(right) {
                    let [c, d] = halves(*word);
                    *sum += a * c + b * d;
                }
            }
        }
    }
}

/// Tiles of depth that are summed before the next rows are taken: 16 KiB of each operand.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = 8;
/// Rows whose sums stand in registers.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 8;

/// # Safety
/// The processor has AVX-512 with BF16, and the block passes [`Block::check`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply_avx512(block: Block<'_>, sums: &mut Sums) {
    sums.fill(0.0);
    for (left, offsets) in block.left.chunks(DEPTH * TILES).zip(block.offsets.chunks(DEPTH)) {
        for first in (0..SIDE).step_by(ROWS) {
            // SAFETY: rows `first..first + 8` of as many tiles as there are offsets, all inside by
            // the contract; likewise the sums of these rows.
            unsafe {
                let left = left.as_ptr().add(first * ROW);
                let sums = sums.as_mut_ptr().add(first * SIDE);
                rows_avx512(left, (block.right.as_ptr(), block.stride), offsets, sums);
            }
        }
    }
}

/// Adds the products of 8 rows and 32 columns.
///
/// # Safety
/// The processor has AVX-512 with BF16; 8 rows of [`ROW`] words can be read every [`TILES`] words
/// of `left` for each offset; 16 rows of 32 words, at the stride, from each offset of `right`; and
/// 8 rows of [`SIDE`] sums be read and written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_avx512(left: *const u32, right: (*const u32, usize), offsets: &[usize], sums: *mut f32) {
    let mut totals = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: all addresses lie within what the contract grants.
    unsafe {
        for (r, totals) in totals.iter_mut().enumerate() {
            for (j, total) in totals.iter_mut().enumerate() {
                *total = _mm512_loadu_ps(sums.add(r * SIDE + j * ROW));
            }
        }
        for (i, offset) in offsets.iter().enumerate() {
            let left = left.add(i * TILES);
            let mut from = right.0.add(*offset);
            for p in 0..ROW {
                let columns: [__m512bh; 2] = [
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())),
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.add(ROW).cast())),
                ];
                for (r, totals) in totals.iter_mut().enumerate() {
                    let word = _mm512_set1_epi32(left.add(r * ROW + p).read() as i32);
                    let pair = std::mem::transmute::<__m512i, __m512bh>(word);
                    totals[0] = _mm512_dpbf16_ps(totals[0], pair, columns[0]);
                    totals[1] = _mm512_dpbf16_ps(totals[1], pair, columns[1]);
                }
                from = from.wrapping_add(right.1);
            }
        }
        for (r, totals) in totals.iter().enumerate() {
            for (j, total) in totals.iter().enumerate() {
                _mm512_storeu_ps(sums.add(r * SIDE + j * ROW), *total);
            }
        }
    }
}
