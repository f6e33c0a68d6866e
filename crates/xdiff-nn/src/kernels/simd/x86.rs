//! The two vectors of x86-64. Their types are private to this module: no code can make one
//! except a kernel that `with_avx2` or `with_avx512` runs, whose contract is that the
//! processor has the features. That is what makes the intrinsics below sound.

use std::arch::x86_64::*;

use super::{Kernel, Vector};

/// # Safety
/// The processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// # Safety
/// The processor must have AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn with_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[derive(Clone, Copy)]
struct Avx2(__m256);

#[derive(Clone, Copy)]
struct Avx512(__m512);

// SAFETY of every block below: the processor has the features (see the module's head), and the
// pointers come of slices whose length is asserted.
impl Vector for Avx512 {
    const LANES: usize = 16;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        assert!(from.len() >= Self::LANES);
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        assert!(to.len() >= Self::LANES);
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    unsafe fn load_at(from: *const f32) -> Self {
        // SAFETY: readable, by the contract.
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store_at(self, to: *mut f32) {
        // SAFETY: writable and unshared, by the contract.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_masked(from: *const f32, mask: u16) -> Self {
        // SAFETY: only lanes in the mask are read.
        Self(unsafe { _mm512_maskz_loadu_ps(mask, from) })
    }
    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, mask: u16) {
        // SAFETY: only lanes in the mask are written.
        unsafe {
            // Some processors write through a mask much more slowly.
            if mask == u16::MAX {
                _mm512_storeu_ps(to, self.0);
            } else {
                _mm512_mask_storeu_ps(to, mask, self.0);
            }
        }
    }
    #[inline(always)]
    fn split<const N: usize>(numbers: [Self; N]) -> [Self; N] {
        assert!(N == 2 || N == 4);
        // No closures here or in `join`: one that is not inlined loses the instruction set.
        let mut parts = numbers;
        let (a, b) = (numbers[0].0, numbers[1].0);
        unsafe {
            if N == 2 {
                let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
                parts[0] = Self(_mm512_permutex2var_ps(a, even, b));
                parts[1] = Self(_mm512_permutex2var_ps(a, odd, b));
            } else {
                let (c, d) = (numbers[2].0, numbers[3].0);
                let low = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
                let high = _mm512_add_epi32(low, _mm512_set1_epi32(2));
                let (x, y) = (_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(c, low, d));
                parts[0] = Self(_mm512_shuffle_f32x4::<0x44>(x, y));
                parts[1] = Self(_mm512_shuffle_f32x4::<0xee>(x, y));
                let (x, y) = (_mm512_permutex2var_ps(a, high, b), _mm512_permutex2var_ps(c, high, d));
                parts[2] = Self(_mm512_shuffle_f32x4::<0x44>(x, y));
                parts[3] = Self(_mm512_shuffle_f32x4::<0xee>(x, y));
            }
        }
        parts
    }
    #[inline(always)]
    fn join<const N: usize>(parts: [Self; N], to: &mut [f32]) {
        assert!(to.len() >= N * Self::LANES && (N == 2 || N == 4));
        let (p, q) = (parts[0].0, parts[1].0);
        unsafe {
            if N == 2 {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
                Self(_mm512_permutex2var_ps(p, low, q)).store(to);
                Self(_mm512_permutex2var_ps(p, high, q)).store(&mut to[16..]);
            } else {
                // Transposes within each quarter of the vectors, then quarters into order.
                let (r, s) = (parts[2].0, parts[3].0);
                let a = _mm512_castps_pd(_mm512_unpacklo_ps(p, q));
                let b = _mm512_castps_pd(_mm512_unpackhi_ps(p, q));
                let c = _mm512_castps_pd(_mm512_unpacklo_ps(r, s));
                let d = _mm512_castps_pd(_mm512_unpackhi_ps(r, s));
                let e = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
                let f = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
                let g = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
                let h = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
                let (x, y) = (_mm512_shuffle_f32x4::<0x44>(e, f), _mm512_shuffle_f32x4::<0x44>(g, h));
                Self(_mm512_shuffle_f32x4::<0x88>(x, y)).store(to);
                Self(_mm512_shuffle_f32x4::<0xdd>(x, y)).store(&mut to[16..]);
                let (x, y) = (_mm512_shuffle_f32x4::<0xee>(e, f), _mm512_shuffle_f32x4::<0xee>(g, h));
                Self(_mm512_shuffle_f32x4::<0x88>(x, y)).store(&mut to[32..]);
                Self(_mm512_shuffle_f32x4::<0xdd>(x, y)).store(&mut to[48..]);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_columns<const N: usize>(from: *const f32, stride: usize, count: usize) -> [Self; N] {
        assert!(N <= 16 && count <= 16);
        let mask = (u16::MAX as u32 >> (16 - N)) as u16;
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (row, to) in rows.iter_mut().enumerate().take(count) {
                // SAFETY: lanes in the mask lie within a row.
                *to = _mm512_maskz_loadu_ps(mask, from.add(row * stride));
            }
            let turned = transpose(rows);
            let mut columns = [Self(_mm512_setzero_ps()); N];
            for (column, turned) in columns.iter_mut().zip(turned) {
                *column = Self(turned);
            }
            columns
        }
    }
    #[inline(always)]
    unsafe fn store_columns<const N: usize>(columns: [Self; N], to: *mut f32, stride: usize, count: usize) {
        assert!(N <= 16 && count <= 16);
        let mask = (u16::MAX as u32 >> (16 - N)) as u16;
        unsafe {
            let mut vectors = [_mm512_setzero_ps(); 16];
            for (vector, column) in vectors.iter_mut().zip(columns) {
                *vector = column.0;
            }
            for (row, numbers) in transpose(vectors).into_iter().enumerate().take(count) {
                // SAFETY: lanes in the mask lie within a row.
                _mm512_mask_storeu_ps(to.add(row * stride), mask, numbers);
            }
        }
    }
    #[inline(always)]
    fn sums<const N: usize>(vectors: [Self; N], to: &mut [f32; 16]) {
        assert!(N <= 16);
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (row, vector) in rows.iter_mut().zip(vectors) {
                *row = vector.0;
            }
            _mm512_storeu_ps(to.as_mut_ptr(), sums(rows));
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max_or_nan(self, other: Self) -> Self {
        Self(unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            _mm512_mask_blend_ps(nan, _mm512_max_ps(self.0, other.0), self.0)
        })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(unsafe { _mm512_roundscale_ps::<8>(self.0) })
    }
    #[inline(always)]
    fn times_power_of_two(self, n: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }
    #[inline(always)]
    fn where_below(self, bound: Self, value: Self, otherwise: Self) -> Self {
        Self(unsafe {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0);
            _mm512_mask_blend_ps(below, otherwise.0, value.0)
        })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

/// Rows and columns of 16 × 16 numbers exchanged.
///
/// # Safety
/// The processor must have AVX-512F.
#[inline(always)]
unsafe fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    let (mut r, mut t) = (rows, rows);
    // SAFETY: by the contract.
    unsafe {
        // Blocks of 4 × 4 within quarters of vectors: pairs of rows, then pairs of pairs.
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            let (a, b) = (_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 1]));
            let (c, d) = (_mm512_castps_pd(t[4 * i + 2]), _mm512_castps_pd(t[4 * i + 3]));
            r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
        // Quarters of vectors: r[4i + k] holds in quarter q the numbers of column 4q + k of rows 4i….
        for k in 0..4 {
            let (a, b) = (r[k], r[k + 4]);
            let (c, d) = (r[k + 8], r[k + 12]);
            let (e, f) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
            let (g, h) = (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
            t[k] = _mm512_shuffle_f32x4::<0x88>(e, f);
            t[k + 4] = _mm512_shuffle_f32x4::<0xdd>(e, f);
            t[k + 8] = _mm512_shuffle_f32x4::<0x88>(g, h);
            t[k + 12] = _mm512_shuffle_f32x4::<0xdd>(g, h);
        }
    }
    t
}

/// The sum of each of 16 vectors, in the lane of its number.
///
/// # Safety
/// The processor must have AVX-512F.
#[inline(always)]
unsafe fn sums(v: [__m512; 16]) -> __m512 {
    let (mut a, mut b) = ([v[0]; 8], [v[0]; 4]);
    // SAFETY: by the contract.
    unsafe {
        // Halve the numbers of each vector, and the vectors by joining two.
        for (i, a) in a.iter_mut().enumerate() {
            let (x, y) = (v[2 * i], v[2 * i + 1]);
            *a = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
        }
        for (i, b) in b.iter_mut().enumerate() {
            let (x, y) = (_mm512_castps_pd(a[2 * i]), _mm512_castps_pd(a[2 * i + 1]));
            let (low, high) = (_mm512_unpacklo_pd(x, y), _mm512_unpackhi_pd(x, y));
            *b = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
        }
        // b[i] holds in each quarter a part of the sums 4i … 4i + 3.
        let [x, y, z, w] = b;
        let first = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(x, y), _mm512_shuffle_f32x4::<0xee>(x, y));
        let second = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(z, w), _mm512_shuffle_f32x4::<0xee>(z, w));
        let (even, odd) =
            (_mm512_shuffle_f32x4::<0x88>(first, second), _mm512_shuffle_f32x4::<0xdd>(first, second));
        _mm512_add_ps(even, odd)
    }
}

// SAFETY of every block below: as for `Avx512`.
impl Vector for Avx2 {
    const LANES: usize = 8;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        assert!(from.len() >= Self::LANES);
        Self(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        assert!(to.len() >= Self::LANES);
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    unsafe fn load_at(from: *const f32) -> Self {
        // SAFETY: readable, by the contract.
        Self(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store_at(self, to: *mut f32) {
        // SAFETY: writable and unshared, by the contract.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(unsafe { _mm256_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn fma(self, factor: Self, term: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn max_or_nan(self, other: Self) -> Self {
        Self(unsafe {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            _mm256_blendv_ps(_mm256_max_ps(self.0, other.0), self.0, nan)
        })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn round(self) -> Self {
        Self(unsafe { _mm256_round_ps::<8>(self.0) })
    }
    #[inline(always)]
    fn times_power_of_two(self, n: Self) -> Self {
        Self(unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
            _mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        })
    }
    #[inline(always)]
    fn where_below(self, bound: Self, value: Self, otherwise: Self) -> Self {
        Self(unsafe {
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
            _mm256_blendv_ps(otherwise.0, value.0, below)
        })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        super::portable::F32x8::load(&lanes(self)).sum()
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        super::portable::F32x8::load(&lanes(self)).largest()
    }
}

#[inline(always)]
fn lanes(v: Avx2) -> [f32; 8] {
    let mut lanes = [0.0; 8];
    v.store(&mut lanes);
    lanes
}
