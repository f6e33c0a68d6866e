//! One source for every width of the processor's vectors.
//!
//! A [`Kernel`] is written once over the trait [`Vector`]. [`dispatch`] runs it with AVX-512, with
//! AVX2 and FMA, or with plain arrays, whichever the processor has. The plain arrays are the
//! portable twin that the tests hold the others to.
//!
//! Whatever stands between a kernel and its vectors must be `#[inline(always)]`, closures too: a
//! function of its own would be compiled without the instruction set, and call every instruction.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::mem::MaybeUninit;

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
    /// The numbers at an address in the lanes whose bit in `mask` is set, 0 in the others.
    ///
    /// # Safety
    /// The numbers of the lanes in `mask` can be read; the address itself may lie outside.
    #[inline(always)]
    unsafe fn load_masked(from: *const f32, mask: u16) -> Self {
        if mask == u16::MAX >> (16 - Self::LANES) {
            // SAFETY: all lanes can be read.
            return unsafe { Self::load_at(from) };
        }
        let mut all = [0.0; 16];
        for (i, lane) in all.iter_mut().enumerate() {
            if mask & (1 << i) != 0 {
                // SAFETY: this lane can be read.
                *lane = unsafe { *from.wrapping_add(i) };
            }
        }
        Self::load(&all)
    }
    /// Writes the lanes whose bit in `mask` is set to an address.
    ///
    /// # Safety
    /// The numbers of the lanes in `mask` can be written, and nobody else uses them meanwhile; the
    /// address itself may lie outside.
    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, mask: u16) {
        if mask == u16::MAX >> (16 - Self::LANES) {
            // SAFETY: all lanes can be written.
            return unsafe { self.store_at(to) };
        }
        let mut all = [0.0; 16];
        self.store(&mut all);
        for (i, lane) in all.iter().enumerate().take(Self::LANES) {
            if mask & (1 << i) != 0 {
                // SAFETY: this lane can be written.
                unsafe { *to.wrapping_add(i) = *lane };
            }
        }
    }
    /// Of N · [`LANES`](Vector::LANES) numbers in order, every N-th from the j-th on in vector j.
    #[inline(always)]
    fn split<const N: usize>(numbers: [Self; N]) -> [Self; N] {
        let mut all = [[0.0; 16]; N];
        for (part, lanes) in numbers.into_iter().zip(&mut all) {
            part.store(lanes);
        }
        let mut parts = [Self::splat(0.0); N];
        for (j, part) in parts.iter_mut().enumerate() {
            let mut lanes = [0.0; 16];
            for (i, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
                let at = i * N + j;
                *lane = all[at / Self::LANES][at % Self::LANES];
            }
            *part = Self::load(&lanes);
        }
        parts
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
    /// Of `count` rows of N numbers, number j of every row in vector j; 0 in the lanes of absent
    /// rows. At most 16 numbers and [`LANES`](Vector::LANES) rows.
    ///
    /// # Safety
    /// The rows, `stride` numbers apart, can be read.
    #[inline(always)]
    unsafe fn load_columns<const N: usize>(from: *const f32, stride: usize, count: usize) -> [Self; N] {
        assert!(count <= Self::LANES);
        let mut columns = [[0.0; 16]; N];
        for row in 0..count {
            for (j, column) in columns.iter_mut().enumerate() {
                // SAFETY: within a row.
                column[row] = unsafe { *from.add(row * stride + j) };
            }
        }
        let mut vectors = [Self::splat(0.0); N];
        for (vector, column) in vectors.iter_mut().zip(&columns) {
            *vector = Self::load(column);
        }
        vectors
    }
    /// The inverse of [`load_columns`](Vector::load_columns): writes `count` rows of N numbers.
    ///
    /// # Safety
    /// The rows, `stride` numbers apart, can be written, and nobody else uses them meanwhile.
    #[inline(always)]
    unsafe fn store_columns<const N: usize>(columns: [Self; N], to: *mut f32, stride: usize, count: usize) {
        assert!(count <= Self::LANES);
        for (j, column) in columns.into_iter().enumerate() {
            let mut lanes = [0.0; 16];
            column.store(&mut lanes);
            for (row, number) in lanes.iter().enumerate().take(count) {
                // SAFETY: within a row.
                unsafe { *to.add(row * stride + j) = *number };
            }
        }
    }
    /// The sums of the lanes of each of N ≤ 16 vectors, in the first N numbers of `to`.
    #[inline(always)]
    fn sums<const N: usize>(vectors: [Self; N], to: &mut [f32; 16]) {
        for (vector, to) in vectors.into_iter().zip(to) {
            *to = vector.sum();
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
    /// The larger; NaN where either is NaN.
    fn max_or_nan(self, other: Self) -> Self;
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

/// Asks for the line of memory at an address, which may be any, to be brought near.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has this instruction, and it never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
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
            let x: Vec<f32> = (0..N * V::LANES).map(|i| i as f32).collect();
            let mut numbers = [V::splat(0.0); N];
            for (i, v) in numbers.iter_mut().enumerate() {
                *v = V::load(&x[i * V::LANES..]);
            }
            let parts = V::split::<N>(numbers);
            let mut lanes = vec![0.0; V::LANES];
            for (j, part) in parts.iter().enumerate() {
                part.store(&mut lanes);
                assert!(lanes.iter().enumerate().all(|(i, v)| *v == (i * N + j) as f32), "{N}: {lanes:?}");
            }
            let mut back = vec![-1.0; N * V::LANES];
            V::join(parts, &mut back);
            assert_eq!(back, x);
            for mask in [0, 1, 0b1100_0101, u16::MAX >> (16 - V::LANES)] {
                // SAFETY: as many numbers as a vector holds.
                unsafe { V::load_masked(x.as_ptr(), mask) }.store(&mut lanes);
                let expected = |i: usize| if mask & (1 << i) != 0 { x[i] } else { 0.0 };
                assert!(lanes.iter().enumerate().all(|(i, v)| *v == expected(i)), "{mask}: {lanes:?}");
                let mut written = vec![-1.0; V::LANES];
                // SAFETY: as many numbers as a vector holds.
                unsafe { V::load(&x).store_masked(written.as_mut_ptr(), mask) };
                let expected = |i: usize| if mask & (1 << i) != 0 { x[i] } else { -1.0 };
                assert!(written.iter().enumerate().all(|(i, v)| *v == expected(i)), "{mask}: {written:?}");
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
