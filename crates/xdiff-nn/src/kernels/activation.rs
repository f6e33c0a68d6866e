//! Activations and their slopes, one vector at a time.

use std::marker::PhantomData;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::simd::{Kernel, Unset, Vector, dispatch, exp, map, map2};
use super::slices::{contiguous, tensor, with_slices, written};

/// How many numbers one task works on.
const CHUNK: usize = 1 << 15;

/// A function of one number with its derivative.
pub(crate) trait Pointwise: Copy + Send + Sync + 'static {
    /// f(x).
    fn value<V: Vector>(x: V) -> V;
    /// f′(x).
    fn slope<V: Vector>(x: V) -> V;
}

/// 1 / (1 + e^−x).
#[inline(always)]
fn sigmoid<V: Vector>(x: V) -> V {
    let one = V::splat(1.0);
    one.div(one.add(exp(V::splat(0.0).sub(x))))
}

/// x.
#[derive(Clone, Copy)]
pub(crate) struct Identity;

impl Pointwise for Identity {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x
    }
    #[inline(always)]
    fn slope<V: Vector>(_x: V) -> V {
        V::splat(1.0)
    }
}

/// x σ(x).
#[derive(Clone, Copy)]
pub(crate) struct Silu;

impl Pointwise for Silu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.div(V::splat(1.0).add(exp(V::splat(0.0).sub(x))))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        let (s, one) = (sigmoid(x), V::splat(1.0));
        s.mul(x.fma(one.sub(s), one))
    }
}

/// x σ(1.702 x).
#[derive(Clone, Copy)]
pub(crate) struct QuickGelu;

impl QuickGelu {
    const RATE: f32 = 1.702;
}

impl Pointwise for QuickGelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(sigmoid(x.mul(V::splat(Self::RATE))))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        let (z, one) = (x.mul(V::splat(Self::RATE)), V::splat(1.0));
        let s = sigmoid(z);
        s.mul(z.fma(one.sub(s), one))
    }
}

/// x σ(2u) with u = √(2/π) (x + 0.044715 x³), which is x (1 + tanh u) / 2.
#[derive(Clone, Copy)]
pub(crate) struct GeluTanh;

impl GeluTanh {
    /// 2 √(2/π).
    const RATE: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
}

impl Pointwise for GeluTanh {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        let inner = x.mul(x).fma(V::splat(Self::CUBIC * Self::RATE), V::splat(Self::RATE));
        x.mul(sigmoid(x.mul(inner)))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        // Beyond ±15 the slope is 1 or 0, and x³ could overflow.
        let x = V::splat(-15.0).max(V::splat(15.0).min(x));
        let (square, one) = (x.mul(x), V::splat(1.0));
        let inner = square.fma(V::splat(Self::CUBIC * Self::RATE), V::splat(Self::RATE));
        let s = sigmoid(x.mul(inner));
        let du = square.fma(V::splat(3.0 * Self::CUBIC * Self::RATE), V::splat(Self::RATE));
        s.mul(x.mul(du).fma(one.sub(s), one))
    }
}

/// x Φ(x), Φ the distribution function of the standard normal.
///
/// Φ − ½ and the slope − ½ are odd functions: x times a polynomial of x², each fitted for the least
/// largest error. As with ½ (1 + erf), what is small is as exact as 1 is, not more.
#[derive(Clone, Copy)]
pub(crate) struct Gelu;

/// A function that is 0 below −end, 1 above end and ½ + x · polynomial(2 x²/end² − 1) between.
struct Rise<const N: usize> {
    end: f32,
    /// 2 / end².
    scale: f32,
    /// From the highest power down.
    coefficients: [f32; N],
}

impl<const N: usize> Rise<N> {
    #[inline(always)]
    fn at<V: Vector>(&self, x: V) -> V {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let (low, high) = (V::splat(-self.end), V::splat(self.end));
        let c = low.max(high.min(x));
        let t = c.mul(c).fma(V::splat(self.scale), V::splat(-1.0));
        let mut p = V::splat(self.coefficients[0]);
        for coefficient in &self.coefficients[1..] {
            p = p.fma(t, V::splat(*coefficient));
        }
        let between = c.fma(p, V::splat(0.5));
        x.where_below(low, zero, high.where_below(x, one, between))
    }
}

impl Gelu {
    /// Φ, off by no more than 1.2e-7 (2 units in the last place of 1).
    const PHI: Rise<15> = Rise {
        end: 5.4,
        scale: 0.068_587_1,
        coefficients: [
            3.881_036_8e-4,
            -1.032_613_1e-3,
            8.919_621_5e-4,
            -1.172_609_3e-3,
            3.634_913e-3,
            -6.732_654_3e-3,
            9.668_197e-3,
            -1.395_285_6e-2,
            1.963_871_3e-2,
            -2.574_958_3e-2,
            3.211_791_4e-2,
            -3.920_638e-2,
            4.849_944e-2,
            -6.532_808e-2,
            0.130_928_11,
        ],
    };

    /// Φ(x) + x φ(x), off by no more than 2.5e-7.
    const SLOPE: Rise<18> = Rise {
        end: 5.8,
        scale: 5.945_303e-2,
        coefficients: [
            -2.881_759_3e-3,
            7.371_638e-3,
            -3.149_564e-3,
            2.403_910_8e-4,
            -1.746_349_8e-2,
            3.513_041_5e-2,
            -3.694_673e-2,
            4.363_239e-2,
            -6.009_995e-2,
            6.979_047e-2,
            -6.973_445e-2,
            6.508_532e-2,
            -5.770_786e-2,
            5.016_029_3e-2,
            -4.619_75e-2,
            4.863_595_3e-2,
            -6.165_746_2e-2,
            0.121_998_78,
        ],
    };
}

impl Pointwise for Gelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(Self::PHI.at(x))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        Self::SLOPE.at(x)
    }
}

/// max(x, 0), with slope 0 at 0.
#[derive(Clone, Copy)]
pub(crate) struct Relu;

impl Pointwise for Relu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        V::splat(0.0).max(x)
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        let zero = V::splat(0.0);
        zero.where_below(x, V::splat(1.0), zero)
    }
}

/// min(max(x, 0), 6), with slope 0 at 0 and at 6.
#[derive(Clone, Copy)]
pub(crate) struct Relu6;

impl Pointwise for Relu6 {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        V::splat(6.0).min(V::splat(0.0).max(x))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        let zero = V::splat(0.0);
        let rising = zero.where_below(x, V::splat(1.0), zero);
        x.where_below(V::splat(6.0), rising, zero)
    }
}

/// x tanh(ln(1 + eˣ)), which is x w / (w + 2) with n = eˣ and w = n² + 2n.
#[derive(Clone, Copy)]
pub(crate) struct Mish;

impl Mish {
    /// From here on w / (w + 2) is 1 in f32.
    const STRAIGHT: f32 = 20.0;
}

impl Pointwise for Mish {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        let n = exp(V::splat(Self::STRAIGHT).min(x));
        let w = n.fma(n, n.add(n));
        x.mul(w.div(w.add(V::splat(2.0))))
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        // With r = w / (w + 2): r + x · 2 w′ / (w + 2)², w′ = 2 n (n + 1).
        let n = exp(V::splat(Self::STRAIGHT).min(x));
        let w = n.fma(n, n.add(n));
        let inverse = V::splat(1.0).div(w.add(V::splat(2.0)));
        let rise = n.fma(n, n).mul(V::splat(4.0)).mul(inverse).mul(inverse);
        x.fma(rise, w.mul(inverse))
    }
}

struct Values<'a, P>(PhantomData<P>, &'a [f32], &'a mut [Unset]);

impl<P: Pointwise> Kernel for Values<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        map::<V>(
            self.1,
            self.2,
            #[inline(always)]
            |x| P::value(x),
        );
    }
}

struct Slopes<'a, P>(PhantomData<P>, &'a [f32], &'a [f32], &'a mut [Unset]);

impl<P: Pointwise> Kernel for Slopes<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        map2::<V>(
            self.1,
            self.2,
            self.3,
            #[inline(always)]
            |x, g| g.mul(P::slope(x)),
        );
    }
}

/// The activation as an operation of candle's graph.
pub(crate) struct Op<P>(PhantomData<P>);

impl<P: Pointwise> Op<P> {
    pub(crate) fn new(_function: P) -> Self {
        Self(PhantomData)
    }
}

impl<P: Pointwise> CustomOp1 for Op<P> {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        // SAFETY: `map` writes every number of its chunk, and the chunks make up the whole.
        let y = unsafe {
            written(x.len(), |y| {
                let chunks = x.par_chunks(CHUNK).zip(y.par_chunks_mut(CHUNK));
                chunks.for_each(|(x, y)| dispatch(Values(self.0, x, y)));
            })
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let dx = with_slices([x, grad], |[x, g]| {
            // SAFETY: `map2` writes every number of its chunk, and the chunks make up the whole.
            Ok(unsafe {
                written(x.len(), |dx| {
                    let chunks = x.par_chunks(CHUNK).zip(g.par_chunks(CHUNK)).zip(dx.par_chunks_mut(CHUNK));
                    chunks.for_each(|((x, g), dx)| dispatch(Slopes(self.0, x, g, dx)));
                })
            })
        })?;
        Ok(Some(tensor(dx, x.shape())?))
    }
}
