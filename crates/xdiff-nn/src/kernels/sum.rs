//! Sums with one order.

use super::simd::{Kernel, Vector, dispatch, load_part, store_part};

/// Values that are summed in f32 before they are added to an f64 total.
const BLOCK: usize = 4096;

/// The sum of `x`: in lanes of f32 by blocks, the blocks in f64.
pub(super) fn sum(x: &[f32]) -> f64 {
    x.chunks(BLOCK).map(|block| f64::from(dispatch(Sum(block)))).sum()
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        let mut chunks = self.0.chunks_exact(V::LANES);
        let total = (&mut chunks).fold(V::splat(0.0), |sum, x| sum.add(V::load(x)));
        total.add(load_part(chunks.remainder(), 0.0)).sum()
    }
}

/// y += a · x for slices of one length.
#[inline(always)]
pub(super) fn axpy<V: Vector>(y: &mut [f32], a: f32, x: &[f32]) {
    let factor = V::splat(a);
    let (mut xs, mut ys) = (x.chunks_exact(V::LANES), y.chunks_exact_mut(V::LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        V::load(x).fma(factor, V::load(y)).store(y);
    }
    let (x, y) = (xs.remainder(), ys.into_remainder());
    if !x.is_empty() {
        store_part(load_part::<V>(x, 0.0).fma(factor, load_part(y, 0.0)), y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_any_length() {
        for n in [0, 1, 15, 16, 17, 4096, 10_000] {
            let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 2.5).collect();
            let exact: f64 = x.iter().map(|v| f64::from(*v)).sum();
            assert_eq!(sum(&x), exact, "{n}");
        }
    }
}
