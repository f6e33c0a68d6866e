//! Blocks of products by AMX's tiles.
//!
//! The block is written over [`Tiles`], one function an instruction, of which there are two: the
//! processor's registers, and, for tests on processors without AMX, an emulation by the pseudocode
//! of Intel's manual (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2:
//! TILELOADD, TDPBF16PS, TILESTORED).

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

use super::block::{Block, SIDE, Sums, TILES};
use super::round::ROW;

/// Eight tiles of 16 rows of 16 words.
pub(super) trait Tiles {
    /// Clears tile `T`.
    ///
    /// # Safety
    /// The tiles are configured.
    unsafe fn clear<const T: usize>(&mut self);

    /// Fills tile `T` with 16 rows that stand `stride` words apart.
    ///
    /// # Safety
    /// The tiles are configured, and 16 words can be read from each row.
    unsafe fn load<const T: usize>(&mut self, from: *const u32, stride: usize);

    /// Adds to the sums of tile `C` the products of `A`, rows of pairs, and `B`, rows of columns.
    ///
    /// # Safety
    /// The tiles are configured.
    unsafe fn add_product<const C: usize, const A: usize, const B: usize>(&mut self);

    /// Writes tile `T` as 16 rows of sums that stand `stride` numbers apart.
    ///
    /// # Safety
    /// The tiles are configured, and 16 numbers can be written to each row.
    unsafe fn store<const T: usize>(&mut self, to: *mut f32, stride: usize);
}

/// The products of a block: four tiles of sums, two of each operand.
///
/// # Safety
/// The tiles are configured, and the block was checked.
pub(super) unsafe fn multiply<T: Tiles>(tiles: &mut T, block: Block<'_>, sums: &mut Sums) {
    let (left, right, stride) = (block.left.as_ptr(), block.right.as_ptr(), block.stride);
    let half = ROW * ROW;
    // SAFETY: configured, by the contract; the addresses lie inside the operands, which was
    // checked, and inside the sums: the lower half starts after 16 rows, the right one after 16
    // columns.
    unsafe {
        tiles.clear::<0>();
        tiles.clear::<1>();
        tiles.clear::<2>();
        tiles.clear::<3>();
        for (i, offset) in block.offsets.iter().enumerate() {
            let (left, right) = (left.add(i * TILES), right.add(*offset));
            tiles.load::<4>(left, ROW);
            tiles.load::<6>(right, stride);
            tiles.add_product::<0, 4, 6>();
            tiles.load::<7>(right.add(ROW), stride);
            tiles.add_product::<1, 4, 7>();
            tiles.load::<5>(left.add(half), ROW);
            tiles.add_product::<2, 5, 6>();
            tiles.add_product::<3, 5, 7>();
        }
        let sums = sums.as_mut_ptr();
        tiles.store::<0>(sums, SIDE);
        tiles.store::<1>(sums.add(ROW), SIDE);
        tiles.store::<2>(sums.add(ROW * SIDE), SIDE);
        tiles.store::<3>(sums.add(ROW * SIDE + ROW), SIDE);
    }
}

/// What LDTILECFG reads: palette 1, and the rows and bytes a row of each tile.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
static WHOLE_TILES: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = (ROW * size_of::<u32>()) as u16;
        rows[tile] = ROW as u8;
        tile += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Sets up this thread's eight tiles, 16 rows of 64 bytes each.
///
/// # Safety
/// The processor has AMX, and the system permits it.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn configure() {
    let from = &raw const WHOLE_TILES;
    // SAFETY: as the contract; reads the 64 bytes of the configuration.
    unsafe { asm!("ldtilecfg [{from}]", from = in(reg) from, options(nostack, readonly, preserves_flags)) };
}

/// Gives up this thread's tiles.
///
/// # Safety
/// The processor has AMX, and the system permits it.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn release() {
    // SAFETY: as the contract; touches no memory.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
}

/// The processor's tiles. The compiler does not know them, so it leaves them alone from one
/// instruction to the next.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub(super) struct Registers;

// SAFETY of every block below: the tiles are configured and the addresses good for 16 rows of 64
// bytes, by the trait's contracts; strides are in bytes.
#[cfg(target_arch = "x86_64")]
impl Tiles for Registers {
    #[inline(always)]
    unsafe fn clear<const T: usize>(&mut self) {
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem, preserves_flags)) };
    }

    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u32, stride: usize) {
        unsafe {
            asm!(
                "tileloadd tmm{t}, [{from} + {stride}*1]",
                t = const T,
                from = in(reg) from,
                stride = in(reg) stride * size_of::<u32>(),
                options(nostack, readonly, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn add_product<const C: usize, const A: usize, const B: usize>(&mut self) {
        unsafe {
            asm!(
                "tdpbf16ps tmm{c}, tmm{a}, tmm{b}",
                c = const C,
                a = const A,
                b = const B,
                options(nostack, nomem, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut f32, stride: usize) {
        unsafe {
            asm!(
                "tilestored [{to} + {stride}*1], tmm{t}",
                t = const T,
                to = in(reg) to,
                stride = in(reg) stride * size_of::<f32>(),
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Tiles in memory.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Emulated([[[u32; ROW]; ROW]; 8]);

#[cfg(test)]
impl Default for Emulated {
    /// Tiles whose content is left over: NaN.
    fn default() -> Self {
        Self([[[u32::MAX; ROW]; ROW]; 8])
    }
}

// SAFETY of every block below: 16 rows of 16 words, by the trait's contracts.
#[cfg(test)]
impl Tiles for Emulated {
    unsafe fn clear<const T: usize>(&mut self) {
        self.0[T] = [[0; ROW]; ROW];
    }

    unsafe fn load<const T: usize>(&mut self, from: *const u32, stride: usize) {
        for (i, row) in self.0[T].iter_mut().enumerate() {
            *row = unsafe { from.add(i * stride).cast::<[u32; ROW]>().read() };
        }
    }

    unsafe fn add_product<const C: usize, const A: usize, const B: usize>(&mut self) {
        for m in 0..ROW {
            // Sums of the first and of the second numbers of all pairs, added at the end.
            let mut parts = [[0.0f32; 2]; ROW];
            for k in 0..ROW {
                let a = super::round::unpair(self.0[A][m][k]);
                for (n, part) in parts.iter_mut().enumerate() {
                    let b = super::round::unpair(self.0[B][k][n]);
                    *part = [a[0].mul_add(b[0], part[0]), a[1].mul_add(b[1], part[1])];
                }
            }
            for (sum, part) in self.0[C][m].iter_mut().zip(parts) {
                *sum = (f32::from_bits(*sum) + (part[0] + part[1])).to_bits();
            }
        }
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut f32, stride: usize) {
        for (i, row) in self.0[T].iter().enumerate() {
            unsafe { to.add(i * stride).cast::<[f32; ROW]>().write(row.map(f32::from_bits)) };
        }
    }
}
