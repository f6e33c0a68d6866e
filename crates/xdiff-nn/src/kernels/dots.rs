//! Products of a matrix with a transposed one, where both lie in rows: sums along the rows, which
//! need no packing.
//!
//! The gradient of a convolution's weight is such a product: a row of the output's gradient and a
//! row of unfolded pixels, or of Winograd's points, for each pair of channels.

use std::hint::black_box;

use super::matrix::Target;
use super::simd::{Kernel, Vector};

/// Vectors of each row that are multiplied before the next rows' turn: six rows stay in the
/// first-level cache.
const DEPTH: usize = 64;

/// Rows of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    /// How many rows.
    pub(crate) count: usize,
    /// Numbers from one to the next.
    pub(crate) stride: usize,
}

impl Rows<'_> {
    /// Panics unless all rows hold `len` numbers.
    pub(super) fn check(&self, len: usize) {
        assert!(self.count > 0 && (self.count - 1) * self.stride + len <= self.values.len(), "rows");
    }

    /// The addresses of N rows from `first` on; the last row stands in for those beyond it.
    #[inline(always)]
    fn pointers<const N: usize>(&self, first: usize, column: usize) -> [*const f32; N] {
        let mut pointers = [self.values.as_ptr(); N];
        for (i, pointer) in pointers.iter_mut().enumerate() {
            *pointer = pointer.wrapping_add((first + i).min(self.count - 1) * self.stride + column);
        }
        pointers
    }
}

/// to[i][j] (+)= Σ over k of a[i][k] · b[j][k], for k below `vectors` times the numbers of a vector.
///
/// Each sum has one order, given by the number of vectors.
#[derive(Debug)]
pub(super) struct Dots<'a> {
    pub(super) a: Rows<'a>,
    pub(super) b: Rows<'a>,
    pub(super) vectors: usize,
    /// Where the result goes: a row for each row of `a`. Each task writes its own.
    pub(super) to: Target<'a>,
    /// Whether it is added to what is there, which has been set then.
    pub(super) add: bool,
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        if V::LANES == 16 {
            self.blocks::<V, 4, 6>();
        } else {
            self.blocks::<V, 2, 4>();
        }
    }
}

impl Dots<'_> {
    /// Sums R rows of `a` with C rows of `b` at once.
    #[inline(always)]
    fn blocks<V: Vector, const R: usize, const C: usize>(self) {
        let Self { a, b, vectors, to, add } = self;
        a.check(vectors * V::LANES);
        b.check(vectors * V::LANES);
        assert!(b.count <= to.stride || a.count == 1, "rows of results overlap");
        let out = to.writer.at(to.start, (a.count - 1) * to.stride + b.count);
        for k in (0..vectors.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(vectors - k);
            for j in (0..b.count).step_by(C) {
                for i in (0..a.count).step_by(R) {
                    let mut sums = [[0.0; 16]; 2];
                    // SAFETY: all rows hold the numbers from column k · LANES on, by the checks.
                    unsafe {
                        let a = a.pointers::<R>(i, k * V::LANES);
                        let b = b.pointers::<C>(j, k * V::LANES);
                        block::<V, R, C>(depth, a, b, &mut sums);
                    }
                    let sums = sums.as_flattened();
                    for row in 0..R.min(a.count - i) {
                        for column in 0..C.min(b.count - j) {
                            // SAFETY: inside, by `at` above; this task's own, and set before where
                            // it is read.
                            unsafe {
                                let to = out.add((i + row) * to.stride + j + column);
                                let before = if add || k > 0 { *to } else { 0.0 };
                                *to = before + sums[row * C + column];
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The sums of R · C ≤ 24 pairs of rows, in order.
///
/// # Safety
/// `depth` vectors can be read at every address.
#[inline(always)]
unsafe fn block<V: Vector, const R: usize, const C: usize>(
    depth: usize,
    a: [*const f32; R],
    b: [*const f32; C],
    to: &mut [[f32; 16]; 2],
) {
    let mut sums = [[V::splat(0.0); C]; R];
    for k in 0..depth {
        let at = k * V::LANES;
        let mut x = [V::splat(0.0); R];
        // SAFETY: by the contract.
        unsafe {
            for (x, a) in x.iter_mut().zip(a) {
                *x = V::load_at(a.wrapping_add(at));
            }
            for (column, b) in b.iter().enumerate() {
                let y = V::load_at(b.wrapping_add(at));
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums[column] = x.fma(y, sums[column]);
                }
            }
        }
    }
    // By way of memory: the lanes' sums would otherwise take registers from the loop above.
    let sums = black_box(sums);
    let mut pairs = [V::splat(0.0); 32];
    for (pair, sum) in pairs.iter_mut().zip(sums.as_flattened()) {
        *pair = *sum;
    }
    let [first, second] = to;
    let mut half = [V::splat(0.0); 16];
    half.copy_from_slice(&pairs[..16]);
    V::sums(half, first);
    if R * C > 16 {
        let mut half = [V::splat(0.0); 8];
        half.copy_from_slice(&pairs[16..24]);
        V::sums(half, second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::buffer::Writer;
    use crate::kernels::simd::run_at;
    use crate::kernels::simd::tests::levels;

    #[test]
    fn sums_of_whole_numbers_are_exact_on_every_level() {
        for level in levels() {
            for (m, n, vectors) in [(1, 1, 1), (4, 6, 3), (5, 7, 2), (9, 13, 64), (3, 20, 130)] {
                let len = vectors * level.lanes();
                let (a_stride, b_stride, stride) = (len + 3, len, n + 2);
                let number = |i: usize| ((i * 7 + i / 13) % 11) as f32 - 5.0;
                let a: Vec<f32> = (0..m * a_stride).map(number).collect();
                let b: Vec<f32> = (0..n * b_stride).map(|i| number(i + 5)).collect();
                let mut out = vec![1.0; m * stride];
                for add in [false, true] {
                    let to = Target { writer: Writer::over(&mut out), start: 0, stride };
                    let a = Rows { values: &a, count: m, stride: a_stride };
                    let b = Rows { values: &b, count: n, stride: b_stride };
                    run_at(level, Dots { a, b, vectors, to, add });
                }
                for i in 0..m {
                    for j in 0..stride {
                        let exact: f32 = if j < n {
                            2.0 * (0..len).map(|k| a[i * a_stride + k] * b[j * b_stride + k]).sum::<f32>()
                        } else {
                            1.0
                        };
                        assert_eq!(out[i * stride + j], exact, "{level:?} {m} {n} {vectors}: {i} {j}");
                    }
                }
            }
        }
    }
}
