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
    fn max_or_nan(self, other: Self) -> Self {
        Self::lanes(|i| if self.0[i] > other.0[i] || self.0[i].is_nan() { self.0[i] } else { other.0[i] })
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
