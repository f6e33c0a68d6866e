//! Means and variances.
//!
//! They are those of blocks of [`BLOCK`] numbers, joined in f64 by the rule of Chan, Golub and
//! LeVeque. Within a block sums are taken around the mean of all numbers before it (of the first
//! block itself): as accurate for numbers far from zero as for centred ones, since what cancels in a
//! block is no more than the block adds to the variance.

use super::simd::{Vector, load_part};

/// How many numbers are summed in f32 before the sum goes to f64.
pub(crate) const BLOCK: usize = 1024;

/// The mean of some numbers and 1/√(variance + ε).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub(crate) mean: f64,
    pub(crate) rstd: f64,
}

impl Moments {
    /// The moments of a slice.
    #[inline(always)]
    pub(crate) fn of<V: Vector>(x: &[f32], eps: f64) -> Self {
        Spread::of::<V>(x, first_mean::<V>(x)).moments(eps)
    }
}

/// The count of some numbers, their mean, and the sum of their squared distances from it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    count: f64,
    pub(crate) mean: f64,
    squares: f64,
}

impl Spread {
    /// That of a slice, whose first block is summed around `centre`.
    #[inline(always)]
    pub(crate) fn of<V: Vector>(x: &[f32], centre: f64) -> Self {
        let mut all = Self { count: 0.0, mean: centre, squares: 0.0 };
        for block in x.chunks(BLOCK) {
            let n = block.len() as f64;
            let centre = all.mean as f32;
            let (off, around) = sums::<V>(block, centre);
            let (off, around) = (f64::from(off), f64::from(around));
            let mean = f64::from(centre) + off / n;
            all = all.joined(Self { count: n, mean, squares: (around - off * off / n).max(0.0) });
        }
        all
    }

    /// That of two sets of numbers together.
    #[inline(always)]
    pub(crate) fn joined(self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        let count = self.count + other.count;
        let gap = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + gap * other.count / count,
            squares: self.squares + other.squares + gap * gap * self.count * other.count / count,
        }
    }

    /// Mean and 1/√(biased variance + ε).
    #[inline(always)]
    pub(crate) fn moments(self, eps: f64) -> Moments {
        let variance = if self.count > 0.0 { self.squares / self.count } else { 0.0 };
        Moments { mean: self.mean, rstd: 1.0 / (variance + eps).sqrt() }
    }

    /// The variance as estimated from a sample of two numbers or more.
    pub(crate) fn unbiased_variance(self) -> f64 {
        self.squares / (self.count - 1.0)
    }
}

/// The mean of the first block of some numbers; 0 of none.
#[inline(always)]
pub(crate) fn first_mean<V: Vector>(x: &[f32]) -> f64 {
    let first = &x[..x.len().min(BLOCK)];
    f64::from(sums::<V>(first, 0.0).0) / first.len().max(1) as f64
}

/// Σ (x − centre) and Σ (x − centre)² over a block.
#[inline(always)]
fn sums<V: Vector>(block: &[f32], centre: f32) -> (f32, f32) {
    let c = V::splat(centre);
    let (mut first, mut second) = ([V::splat(0.0); 4], [V::splat(0.0); 4]);
    let mut wide = block.chunks_exact(4 * V::LANES);
    for four in &mut wide {
        for i in 0..4 {
            let v = V::load(&four[i * V::LANES..]).sub(c);
            (first[i], second[i]) = (first[i].add(v), v.fma(v, second[i]));
        }
    }
    for part in wide.remainder().chunks(V::LANES) {
        let v = if part.len() == V::LANES { V::load(part) } else { load_part(part, centre) }.sub(c);
        (first[0], second[0]) = (first[0].add(v), v.fma(v, second[0]));
    }
    let ([a, b, c, d], [e, f, g, h]) = (first, second);
    (a.add(b).add(c.add(d)).sum(), e.add(f).add(g.add(h)).sum())
}

/// The numbers (x − mean) are formed first and the rest of the mean, which f32 cannot hold, is
/// added after: nothing cancels when the mean is large.
#[derive(Clone, Copy)]
pub(crate) struct Centred {
    pub(crate) high: f32,
    pub(crate) rstd: f32,
    /// −(mean − high) · rstd.
    low: f32,
}

impl Centred {
    #[inline(always)]
    pub(crate) fn of(m: Moments) -> Self {
        let high = m.mean as f32;
        Self { high, rstd: m.rstd as f32, low: (-(m.mean - f64::from(high)) * m.rstd) as f32 }
    }

    /// (x − mean) · rstd.
    #[inline(always)]
    pub(crate) fn apply<V: Vector>(self, x: V) -> V {
        x.sub(V::splat(self.high)).fma(V::splat(self.rstd), V::splat(self.low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::kernels::simd::{Kernel, dispatch, tests::on_every_level};

    struct Of<'a>(&'a [f32]);

    impl Kernel for Of<'_> {
        type Output = Moments;
        #[inline(always)]
        fn run<V: Vector>(self) -> Moments {
            Moments::of::<V>(self.0, 0.0)
        }
    }

    #[test]
    fn moments_are_those_of_f64_wherever_the_numbers_lie() {
        let noise = Rng::new(1).normals(5003);
        let shaped = |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
            noise.iter().enumerate().map(|(i, v)| f(i, *v)).collect()
        };
        let cases = [
            ("normal", shaped(&|_, v| v)),
            ("far from zero", shaped(&|_, v| v + 1e4)),
            ("a first number far off", shaped(&|i, v| if i == 0 { 1e6 } else { v })),
            ("a first block far off", shaped(&|i, v| if i < BLOCK { v + 1e4 } else { v })),
            ("a last block far off", shaped(&|i, v| if i > 4 * BLOCK { v - 1e4 } else { v })),
            ("rising", shaped(&|i, v| i as f32 + v)),
            ("three numbers", vec![1.0, 2.0, 6.0]),
        ];
        on_every_level(|level| {
            for (name, x) in &cases {
                let n = x.len() as f64;
                let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
                let got = dispatch(Of(x));
                let off =
                    [(got.mean - mean).abs() / variance.sqrt(), (got.rstd * variance.sqrt() - 1.0).abs()];
                assert!(off.iter().all(|e| *e < 1e-6), "{name}, {level:?}: {off:?}");
            }
        });
    }
}
