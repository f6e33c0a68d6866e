//! Means and variances.
//!
//! They are those of blocks of [`BLOCK`] numbers, joined in f64 by the rule of Chan, Golub and
//! LeVeque: as accurate for numbers far from zero as for centred ones.

use rayon::prelude::*;

use super::simd::{Kernel, Vector, dispatch, load_part};

/// How many numbers are summed in f32 before the sum goes to f64.
pub(crate) const BLOCK: usize = 1024;

/// The mean of some numbers and 1/√(variance + ε).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub(crate) mean: f64,
    pub(crate) rstd: f64,
}

/// The mean and the biased variance of a slice.
struct Moment<'a>(&'a [f32]);

impl Kernel for Moment<'_> {
    type Output = (f64, f64);
    #[inline(always)]
    fn run<V: Vector>(self) -> (f64, f64) {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for block in self.0.chunks(BLOCK) {
            let n = block.len() as f64;
            let centre = fold::<V>(
                block,
                #[inline(always)]
                |v| v,
            ) / block.len() as f32;
            let c = V::splat(centre);
            let off = f64::from(fold::<V>(
                block,
                #[inline(always)]
                |v| v.sub(c),
            ));
            let around = f64::from(fold::<V>(
                block,
                #[inline(always)]
                |v| v.sub(c).mul(v.sub(c)),
            ));
            let block_mean = f64::from(centre) + off / n;
            let gap = block_mean - mean;
            squares += (around - off * off / n).max(0.0) + gap * gap * count * n / (count + n);
            count += n;
            mean += gap * n / count;
        }
        (mean, if count > 0.0 { squares / count } else { 0.0 })
    }
}

/// Σ f(v) over a block.
#[inline(always)]
fn fold<V: Vector>(block: &[f32], f: impl Fn(V) -> V) -> f32 {
    let mut total = [V::splat(0.0); 4];
    let mut wide = block.chunks_exact(4 * V::LANES);
    for four in &mut wide {
        for (i, t) in total.iter_mut().enumerate() {
            *t = t.add(f(V::load(&four[i * V::LANES..])));
        }
    }
    let mut narrow = wide.remainder().chunks_exact(V::LANES);
    for one in &mut narrow {
        total[0] = total[0].add(f(V::load(one)));
    }
    let mut sum = total[0].add(total[1]).add(total[2].add(total[3])).sum();
    let rest = narrow.remainder();
    if !rest.is_empty() {
        let mut lanes = [0.0; 16];
        f(load_part(rest, 0.0)).store(&mut lanes);
        sum += lanes[..rest.len()].iter().sum::<f32>();
    }
    sum
}

/// The moments of every `width` numbers of `x`.
pub(crate) fn moments(x: &[f32], width: usize, eps: f64) -> Vec<Moments> {
    x.par_chunks(width.max(1))
        .with_min_len((BLOCK / width.max(1)).max(1))
        .map(|x| {
            let (mean, variance) = dispatch(Moment(x));
            Moments { mean, rstd: 1.0 / (variance + eps).sqrt() }
        })
        .collect()
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
