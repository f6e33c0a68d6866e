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
#[derive(Clone, Copy)]
pub(crate) struct Gelu;

impl Gelu {
    /// Φ(x) and e^(−x²/2).
    ///
    /// Φ(−u) = e^(−u²/2) R(u) for u ≥ 0, with R(u) = t · polynomial(t) and t = 1 / (1 + 0.3 u):
    /// the form of Abramowitz and Stegun 7.1.26 with ten coefficients, fitted to a relative error
    /// of 1.7e-8 for u ≤ 14. |x| above 14 is taken for 14, where Φ is 0 or 1.
    #[inline(always)]
    fn normal<V: Vector>(x: V) -> (V, V) {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let u = V::splat(14.0).min(zero.sub(x).max(x));
        let bell = exp(u.mul(V::splat(-0.5)).mul(u));
        let t = one.div(u.fma(V::splat(0.3), one));
        let mut p = V::splat(-2.061_282_5e-2);
        for c in [
            0.112_375_75,
            -0.228_067_44,
            0.191_581_6,
            -7.924_726e-2,
            9.605_778e-2,
            7.842_559e-2,
            0.110_227_32,
            0.119_572_84,
            0.119_686_63,
        ] {
            p = p.fma(t, V::splat(c));
        }
        let tail = p.mul(t).mul(bell);
        (x.where_below(zero, tail, one.sub(tail)), bell)
    }
}

impl Pointwise for Gelu {
    #[inline(always)]
    fn value<V: Vector>(x: V) -> V {
        x.mul(Self::normal(x).0)
    }
    #[inline(always)]
    fn slope<V: Vector>(x: V) -> V {
        // Φ(x) + x φ(x), with 1/√(2π).
        let (phi, bell) = Self::normal(x);
        x.mul(bell).fma(V::splat(0.398_942_3), phi)
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
