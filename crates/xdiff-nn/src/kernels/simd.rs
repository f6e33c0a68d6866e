//! One source for every width of the processor's vectors.
//!
//! A [`Kernel`] is written once over the trait [`Vector`]. [`dispatch`] runs it with AVX-512, with
//! AVX2 and FMA, or with plain arrays, whichever the processor has. The plain arrays are the
//! portable twin that the tests hold the others to.
//!
//! Whatever stands between a kernel and its vectors must be `#[inline(always)]`, closures too: a
//! function of its own would be compiled without the instruction set, and call every instruction.

use std::mem::MaybeUninit;
use std::ops::Range;

/// Memory for a number that is not written yet.
pub(crate) type Unset = MaybeUninit<f32>;

/// As many f32 numbers as fit one register, worked on lane by lane.
pub(crate) trait Vector: Copy {
    /// How many numbers.
    const LANES: usize;
    /// The same number in every lane.
    fn splat(value: f32) -> Self;
    /// The first [`LANES`](Vector::LANES) numbers of a slice.
    fn load(from: &[f32]) -> Self;
    /// Writes the lanes to the front of a slice.
    fn store(self, to: &mut [f32]);
    /// The numbers at an address.
    ///
    /// # Safety
    /// [`LANES`](Vector::LANES) numbers can be read there.
    unsafe fn load_at(from: *const f32) -> Self;
    /// Writes the lanes to an address.
    ///
    /// # Safety
    /// [`LANES`](Vector::LANES) numbers can be written there, which nobody else uses meanwhile.
    unsafe fn store_at(self, to: *mut f32);
    /// Writes the lanes to the front of memory that need not be set.
    #[inline(always)]
    fn put(self, to: &mut [Unset]) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: the memory is long enough, and borrowed alone.
        unsafe { self.store_at(to.as_mut_ptr().cast()) }
    }
    /// `from[first + i]` in each lane i of `lanes`, 0 in the others.
    #[inline(always)]
    fn load_lanes(from: &[f32], first: isize, lanes: Range<usize>) -> Self {
        if lanes == (0..Self::LANES) {
            return Self::load(&from[first as usize..]);
        }
        let mut all = [0.0; 16];
        for i in lanes {
            all[i] = from[(first + i as isize) as usize];
        }
        Self::load(&all)
    }
    /// Every N-th number of the first N · [`LANES`](Vector::LANES), from the j-th on, in vector j.
    #[inline(always)]
    fn split<const N: usize>(from: &[f32]) -> [Self; N] {
        let mut parts = [[0.0; 16]; N];
        for (i, numbers) in from.chunks_exact(N).take(Self::LANES).enumerate() {
            for (part, number) in parts.iter_mut().zip(numbers) {
                part[i] = *number;
            }
        }
        parts.map(|part| Self::load(&part))
    }
    /// The inverse of [`split`](Vector::split).
    #[inline(always)]
    fn join<const N: usize>(parts: [Self; N], to: &mut [f32]) {
        let mut all = [[0.0; 16]; N];
        for (part, lanes) in parts.into_iter().zip(&mut all) {
            part.store(lanes);
        }
        for (i, numbers) in to.chunks_exact_mut(N).take(Self::LANES).enumerate() {
            for (part, number) in all.iter().zip(numbers) {
                *number = part[i];
            }
        }
    }
    /// self + other.
    fn add(self, other: Self) -> Self;
    /// self − other.
    fn sub(self, other: Self) -> Self;
    /// self · other.
    fn mul(self, other: Self) -> Self;
    /// self / other.
    fn div(self, other: Self) -> Self;
    /// self · factor + term, rounded once where the processor can.
    fn fma(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` where either is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; `other` where either is NaN.
    fn min(self, other: Self) -> Self;
    /// The nearest whole number, for |self| < 2²².
    fn round(self) -> Self;
    /// self · 2ⁿ for whole n in −126..=127.
    fn times_power_of_two(self, n: Self) -> Self;
    /// `value` where self < bound, self's lane of `otherwise` elsewhere (also for NaN).
    fn where_below(self, bound: Self, value: Self, otherwise: Self) -> Self;
    /// The sum of the lanes.
    fn sum(self) -> f32;
    /// The largest lane.
    fn largest(self) -> f32;
}

/// Work that is written once for every [`Vector`].
pub(crate) trait Kernel {
    /// What it yields.
    type Output;
    /// Does the work. Implementations are `#[inline(always)]`, so that they are compiled for the
    /// instruction set of the function that [`dispatch`] calls.
    fn run<V: Vector>(self) -> Self::Output;
}

/// An instruction set that a kernel can be compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Arrays, left to the compiler.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// How many numbers a vector holds.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Level::Portable => portable::F32x8::LANES,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => 8,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => 16,
        }
    }

    /// The widest that this processor has; in tests, the one that a thread is held to.
    pub(crate) fn best() -> Self {
        #[cfg(test)]
        if let Some(level) = tests::held() {
            return level;
        }
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Level::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Level::Avx2;
            }
        }
        Level::Portable
    }
}

/// Runs a kernel with the widest vectors of this processor.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    run_at(Level::best(), kernel)
}

/// Runs a kernel with the vectors of `level`, which must come of [`Level::best`].
pub(super) fn run_at<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        Level::Portable => kernel.run::<portable::F32x8>(),
        // SAFETY: `Level::best` and the tests' list of levels name a level only after its features
        // were detected on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::with_avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::with_avx512(kernel) },
    }
}

/// eˣ with a relative error below 1.2e-7; 0 below −87.3, ∞ above 88.37, NaN for NaN.
///
/// e^x = 2ⁿ e^r with n = round(x / ln 2); e^r is a polynomial fitted to |r| ≤ 0.35 with a relative
/// error of 3.3e-9.
#[inline(always)]
pub(crate) fn exp<V: Vector>(x: V) -> V {
    let (lowest, highest) = (V::splat(-87.3), V::splat(88.37));
    let safe = lowest.max(highest.min(x));
    let n = safe.mul(V::splat(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts: n times the first is exact.
    let r = n.fma(V::splat(-0.693_359_4), safe);
    let r = n.fma(V::splat(2.121_944_4e-4), r);
    let mut q = V::splat(1.381_316_1e-3);
    for c in [8.369_41e-3, 4.166_845_6e-2, 1.666_651_5e-1, 4.999_999_4e-1] {
        q = q.fma(r, V::splat(c));
    }
    let p = q.mul(r).fma(r, r).add(V::splat(1.0));
    let y = x.where_below(lowest, V::splat(0.0), p.times_power_of_two(n));
    highest.where_below(x, V::splat(f32::INFINITY), y)
}

/// 2ᵗ for t ≤ 1 with a relative error below 1.2e-7; 0 below −125, NaN for NaN.
#[inline(always)]
pub(crate) fn exp2<V: Vector>(t: V) -> V {
    const LOWEST: f32 = -125.0;
    let safe = V::splat(LOWEST).max(t);
    let n = safe.round();
    let f = safe.sub(n);
    let mut p = V::splat(1.534_581_2e-4);
    for c in [1.339_993_1e-3, 9.618_489e-3, 5.550_328_6e-2, 2.402_264_6e-1, std::f32::consts::LN_2, 1.0] {
        p = p.fma(f, V::splat(c));
    }
    t.where_below(V::splat(LOWEST), V::splat(0.0), p.times_power_of_two(n))
}

/// The numbers of a slice shorter than a vector, filled up with `fill`.
#[inline(always)]
pub(crate) fn load_part<V: Vector>(from: &[f32], fill: f32) -> V {
    let mut lanes = [fill; 16];
    lanes[..from.len()].copy_from_slice(from);
    V::load(&lanes)
}

/// Writes the first lanes to a slice shorter than a vector.
#[inline(always)]
pub(crate) fn store_part<V: Vector>(vector: V, to: &mut [f32]) {
    let mut lanes = [0.0; 16];
    vector.store(&mut lanes);
    to.copy_from_slice(&lanes[..to.len()]);
}

/// Writes the first lanes to memory shorter than a vector that need not be set.
#[inline(always)]
pub(crate) fn put_part<V: Vector>(vector: V, to: &mut [Unset]) {
    let mut lanes = [0.0; 16];
    vector.store(&mut lanes);
    to.write_copy_of_slice(&lanes[..to.len()]);
}

/// y = f(x) for each number.
#[inline(always)]
pub(crate) fn map<V: Vector>(x: &[f32], y: &mut [Unset], f: impl Fn(V) -> V) {
    let (mut xs, mut ys) = (x.chunks_exact(V::LANES), y.chunks_exact_mut(V::LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        f(V::load(x)).put(y);
    }
    let (x, y) = (xs.remainder(), ys.into_remainder());
    if !x.is_empty() {
        put_part(f(load_part(x, 0.0)), y);
    }
}

/// z = f(x, y) for each pair of numbers.
#[inline(always)]
pub(crate) fn map2<V: Vector>(x: &[f32], y: &[f32], z: &mut [Unset], f: impl Fn(V, V) -> V) {
    let (mut xs, mut ys) = (x.chunks_exact(V::LANES), y.chunks_exact(V::LANES));
    let mut zs = z.chunks_exact_mut(V::LANES);
    for ((x, y), z) in (&mut xs).zip(&mut ys).zip(&mut zs) {
        f(V::load(x), V::load(y)).put(z);
    }
    let (x, y, z) = (xs.remainder(), ys.remainder(), zs.into_remainder());
    if !x.is_empty() {
        put_part(f(load_part(x, 0.0), load_part(y, 0.0)), z);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The two vectors of x86-64. Their types are private to this module: no code can make one
    //! except a kernel that `with_avx2` or `with_avx512` runs, whose contract is that the
    //! processor has the features. That is what makes the intrinsics below sound.

    use std::arch::x86_64::*;
    use std::ops::Range;

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
        fn load_lanes(from: &[f32], first: isize, lanes: Range<usize>) -> Self {
            if lanes.is_empty() {
                return Self::splat(0.0);
            }
            let (start, end) = (first + lanes.start as isize, first + lanes.end as isize);
            assert!(start >= 0 && end as usize <= from.len() && lanes.end <= Self::LANES);
            let mask = (((1u32 << lanes.end) - 1) & !((1u32 << lanes.start) - 1)) as u16;
            // The address may lie before the slice; only lanes inside of it are read.
            Self(unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr().wrapping_offset(first)) })
        }
        #[inline(always)]
        fn split<const N: usize>(from: &[f32]) -> [Self; N] {
            assert!(from.len() >= N * Self::LANES && (N == 2 || N == 4));
            let v = |i: usize| Self::load(&from[i * Self::LANES..]).0;
            unsafe {
                if N == 2 {
                    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
                    let parts =
                        [_mm512_permutex2var_ps(v(0), even, v(1)), _mm512_permutex2var_ps(v(0), odd, v(1))];
                    std::array::from_fn(|j| Self(parts[j]))
                } else {
                    let low = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
                    let high = _mm512_add_epi32(low, _mm512_set1_epi32(2));
                    let pick =
                        |i| (_mm512_permutex2var_ps(v(0), i, v(1)), _mm512_permutex2var_ps(v(2), i, v(3)));
                    let ((a, b), (c, d)) = (pick(low), pick(high));
                    let parts = [
                        _mm512_shuffle_f32x4::<0x44>(a, b),
                        _mm512_shuffle_f32x4::<0xee>(a, b),
                        _mm512_shuffle_f32x4::<0x44>(c, d),
                        _mm512_shuffle_f32x4::<0xee>(c, d),
                    ];
                    std::array::from_fn(|j| Self(parts[j]))
                }
            }
        }
        #[inline(always)]
        fn join<const N: usize>(parts: [Self; N], to: &mut [f32]) {
            assert!(to.len() >= N * Self::LANES && (N == 2 || N == 4));
            let p = |j: usize| parts[j].0;
            let mut put = |i: usize, v: __m512| Self(v).store(&mut to[i * Self::LANES..]);
            unsafe {
                if N == 2 {
                    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
                    put(0, _mm512_permutex2var_ps(p(0), low, p(1)));
                    put(1, _mm512_permutex2var_ps(p(0), high, p(1)));
                } else {
                    // Transposes within each quarter of the vectors, then quarters into order.
                    let (a, b) = (_mm512_unpacklo_ps(p(0), p(1)), _mm512_unpackhi_ps(p(0), p(1)));
                    let (c, d) = (_mm512_unpacklo_ps(p(2), p(3)), _mm512_unpackhi_ps(p(2), p(3)));
                    let pairs = |x, y| {
                        let (x, y) = (_mm512_castps_pd(x), _mm512_castps_pd(y));
                        let (low, high) = (_mm512_unpacklo_pd(x, y), _mm512_unpackhi_pd(x, y));
                        (_mm512_castpd_ps(low), _mm512_castpd_ps(high))
                    };
                    let ((e, f), (g, h)) = (pairs(a, c), pairs(b, d));
                    let low = (_mm512_shuffle_f32x4::<0x44>(e, f), _mm512_shuffle_f32x4::<0x44>(g, h));
                    let high = (_mm512_shuffle_f32x4::<0xee>(e, f), _mm512_shuffle_f32x4::<0xee>(g, h));
                    put(0, _mm512_shuffle_f32x4::<0x88>(low.0, low.1));
                    put(1, _mm512_shuffle_f32x4::<0xdd>(low.0, low.1));
                    put(2, _mm512_shuffle_f32x4::<0x88>(high.0, high.1));
                    put(3, _mm512_shuffle_f32x4::<0xdd>(high.0, high.1));
                }
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
}

mod portable {
    //! The vector of every other processor: an array that the compiler may put into registers.

    use super::Vector;

    #[derive(Clone, Copy)]
    pub(super) struct F32x8([f32; 8]);

    impl F32x8 {
        #[inline(always)]
        fn lanes(f: impl Fn(usize) -> f32) -> Self {
            Self(std::array::from_fn(f))
        }
    }

    impl Vector for F32x8 {
        const LANES: usize = 8;
        #[inline(always)]
        fn splat(value: f32) -> Self {
            Self([value; 8])
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            Self::lanes(|i| from[..8][i])
        }
        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            to[..8].copy_from_slice(&self.0);
        }
        #[inline(always)]
        unsafe fn load_at(from: *const f32) -> Self {
            // SAFETY: readable, by the contract; an array of numbers is aligned as they are.
            Self(unsafe { from.cast::<[f32; 8]>().read() })
        }
        #[inline(always)]
        unsafe fn store_at(self, to: *mut f32) {
            // SAFETY: writable and unshared, by the contract.
            unsafe { to.cast::<[f32; 8]>().write(self.0) }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self::lanes(|i| self.0[i] + other.0[i])
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self::lanes(|i| self.0[i] - other.0[i])
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Self::lanes(|i| self.0[i] * other.0[i])
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            Self::lanes(|i| self.0[i] / other.0[i])
        }
        #[inline(always)]
        fn fma(self, factor: Self, term: Self) -> Self {
            // Two roundings: a fused product would be a library call on processors without one.
            Self::lanes(|i| self.0[i] * factor.0[i] + term.0[i])
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Self::lanes(|i| if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] })
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Self::lanes(|i| if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] })
        }
        #[inline(always)]
        fn round(self) -> Self {
            // Adding 1.5 · 2²³ leaves no bits for a fraction.
            const SHIFT: f32 = 12_582_912.0;
            Self::lanes(|i| (self.0[i] + SHIFT) - SHIFT)
        }
        #[inline(always)]
        fn times_power_of_two(self, n: Self) -> Self {
            Self::lanes(|i| self.0[i] * f32::from_bits((((n.0[i] as i32) + 127) as u32) << 23))
        }
        #[inline(always)]
        fn where_below(self, bound: Self, value: Self, otherwise: Self) -> Self {
            Self::lanes(|i| if self.0[i] < bound.0[i] { value.0[i] } else { otherwise.0[i] })
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            let v = self.0;
            ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
        }
        #[inline(always)]
        fn largest(self) -> f32 {
            self.0.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::kernels::slices::written;

    thread_local! {
        static HELD: Cell<Option<Level>> = const { Cell::new(None) };
    }

    /// The level that this thread is held to.
    pub(crate) fn held() -> Option<Level> {
        HELD.get()
    }

    /// Runs `work` once for every level, on threads that are held to it.
    pub(crate) fn on_every_level(work: impl Fn(Level) + Sync) {
        for level in levels() {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
            let pool = pool.start_handler(move |_| HELD.set(Some(level))).build().unwrap();
            pool.install(|| work(level));
        }
    }

    /// Every instruction set that this processor has.
    pub(crate) fn levels() -> Vec<Level> {
        #[allow(unused_mut)]
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Level::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                levels.push(Level::Avx512);
            }
        }
        levels
    }

    struct Rearranged<const N: usize>;

    impl<const N: usize> Kernel for Rearranged<N> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector>(self) {
            let x: Vec<f32> = (0..(N + 1) * V::LANES).map(|i| i as f32).collect();
            let parts = V::split::<N>(&x);
            let mut lanes = vec![0.0; V::LANES];
            for (j, part) in parts.iter().enumerate() {
                part.store(&mut lanes);
                assert!(lanes.iter().enumerate().all(|(i, v)| *v == (i * N + j) as f32), "{N}: {lanes:?}");
            }
            let mut back = vec![-1.0; N * V::LANES];
            V::join(parts, &mut back);
            assert_eq!(back, x[..N * V::LANES]);
            for (first, part) in [(-2, 2..V::LANES), (3, 0..5), (0, 0..V::LANES), (7, 4..4)] {
                V::load_lanes(&x, first, part.clone()).store(&mut lanes);
                let expected = |i: usize| if part.contains(&i) { (i as isize + first) as f32 } else { 0.0 };
                assert!(lanes.iter().enumerate().all(|(i, v)| *v == expected(i)), "{first}, {part:?}");
            }
        }
    }

    #[test]
    fn numbers_are_rearranged_alike_on_every_level() {
        for level in levels() {
            run_at(level, Rearranged::<2>);
            run_at(level, Rearranged::<4>);
        }
    }

    struct Exp<'a>(&'a [f32], &'a mut [Unset], bool);

    impl Kernel for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector>(self) {
            let Exp(x, y, binary) = self;
            if binary {
                map::<V>(
                    x,
                    y,
                    #[inline(always)]
                    |x| exp2(x),
                )
            } else {
                map::<V>(
                    x,
                    y,
                    #[inline(always)]
                    |x| exp(x),
                )
            }
        }
    }

    fn apply(level: Level, x: &[f32], binary: bool) -> Vec<f32> {
        // SAFETY: `map` writes every number.
        unsafe { written(x.len(), |y| run_at(level, Exp(x, y, binary))) }
    }

    #[test]
    fn the_exponential_is_within_its_bound_on_every_level() {
        let x: Vec<f32> = (0..175_011).map(|i| -87.29 + i as f32 * 1e-3).collect();
        let mut failed = Vec::new();
        for level in levels() {
            let worst = |binary: bool, limit: f32| {
                apply(level, &x, binary)
                    .iter()
                    .zip(&x)
                    .filter(|(_, x)| **x < limit)
                    .map(|(y, x)| {
                        let exact = if binary { f64::from(*x).exp2() } else { f64::from(*x).exp() };
                        (f64::from(*y) / exact - 1.0).abs()
                    })
                    .fold(0.0, f64::max)
            };
            let (e, two) = (worst(false, 88.3), worst(true, 1.0));
            if e > 1.2e-7 || two > 1.2e-7 {
                failed.push((level, e, two));
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[test]
    fn the_exponential_keeps_its_ends_on_every_level() {
        let x = [f32::NEG_INFINITY, -1e30, -90.0, 0.0, 1e30, f32::INFINITY, f32::NAN];
        for level in levels() {
            let y = apply(level, &x, false);
            assert_eq!(&y[..4], [0.0, 0.0, 0.0, 1.0], "{level:?}");
            assert!(y[4] == f32::INFINITY && y[5] == f32::INFINITY && y[6].is_nan(), "{level:?}: {y:?}");
            let y = apply(level, &[f32::NEG_INFINITY, -126.0, 0.0, f32::NAN], true);
            assert_eq!(&y[..2], [0.0, 0.0], "{level:?}");
            assert!((y[2] - 1.0).abs() < 2e-7 && y[3].is_nan(), "{level:?}: {y:?}");
        }
    }

    #[test]
    fn the_best_level_is_one_that_the_processor_has() {
        assert!(levels().contains(&Level::best()));
    }
}
