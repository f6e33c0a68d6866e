//! Group norm, and its kin whose statistics are given, with an activation behind it.

use std::marker::PhantomData;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activation::Pointwise;
use super::moments::{BLOCK, Centred, Moments};
use super::simd::{Kernel, Unset, Vector, dispatch, load_part, map, put_part, store_part};
use super::slices::{Gradients, contiguous, tracked, with_slices, written};

/// How an activation tensor (B, C, …) falls into groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Groups per sample.
    pub(crate) groups: usize,
    /// Channels per group.
    pub(crate) channels: usize,
    /// Numbers per channel.
    pub(crate) inner: usize,
}

impl Groups {
    fn width(self) -> usize {
        self.channels * self.inner
    }
}

/// Where mean and variance come from.
#[derive(Clone, Debug)]
pub(crate) enum Statistics {
    /// They are those of each group of each sample, with this ε.
    Own(f64),
    /// They are given for each group, the same for all samples.
    Given(Vec<Moments>),
}

/// One group of one sample.
struct Forward<'a, P> {
    act: PhantomData<P>,
    x: &'a [f32],
    y: &'a mut [Unset],
    weight: &'a [f32],
    bias: &'a [f32],
    inner: usize,
    /// Made here when there is an ε.
    moments: &'a mut Moments,
    eps: Option<f64>,
}

impl<P: Pointwise> Kernel for Forward<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        if let Some(eps) = self.eps {
            *self.moments = Moments::of::<V>(self.x, eps);
        }
        let m = *self.moments;
        let high = V::splat(m.mean as f32);
        let low = m.mean - f64::from(m.mean as f32);
        let channels = self.x.chunks_exact(self.inner).zip(self.y.chunks_exact_mut(self.inner));
        for ((x, y), (w, b)) in channels.zip(self.weight.iter().zip(self.bias)) {
            let scale = m.rstd * f64::from(*w);
            let (a, c) = (V::splat(scale as f32), V::splat((f64::from(*b) - low * scale) as f32));
            map::<V>(
                x,
                y,
                #[inline(always)]
                |x| P::value(x.sub(high).fma(a, c)),
            );
        }
    }
}

/// One group of one sample: dx, and per channel Σ g x̂ and Σ g, where g is the gradient before
/// weight and bias.
struct Backward<'a, P> {
    act: PhantomData<P>,
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [Unset],
    sums: &'a mut [[f64; 2]],
    weight: &'a [f32],
    bias: &'a [f32],
    inner: usize,
    moments: Moments,
    /// Whether the moments depend on x.
    own: bool,
}

impl<P: Pointwise> Kernel for Backward<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let n = self.x.len() as f64;
        let centred = Centred::of(self.moments);
        let (mut mean_g, mut mean_gx) = (0.0, 0.0);
        let channels = self.x.chunks_exact(self.inner).zip(self.grad.chunks_exact(self.inner));
        let outputs = self.dx.chunks_exact_mut(self.inner).zip(self.sums.iter_mut());
        let affine = self.weight.iter().zip(self.bias);
        for (((x, g), (dx, sums)), (w, b)) in channels.zip(outputs).zip(affine) {
            *sums = before_affine::<V, P>(x, g, dx, centred, *w, *b);
            mean_gx += f64::from(*w) * sums[0] / n;
            mean_g += f64::from(*w) * sums[1] / n;
        }
        if !self.own {
            (mean_g, mean_gx) = (0.0, 0.0);
        }
        // SAFETY: `before_affine` has written every channel, and the channels make up the group.
        let dx = unsafe { self.dx.assume_init_mut() };
        // dx = rstd (g w − mean(g w) − x̂ mean(g w x̂)).
        let r = self.moments.rstd;
        let (shift, slope) = (V::splat((-r * mean_g) as f32), V::splat((-r * mean_gx) as f32));
        let channels = self.x.chunks_exact(self.inner).zip(dx.chunks_exact_mut(self.inner));
        for ((x, dx), w) in channels.zip(self.weight) {
            let scale = V::splat((r * f64::from(*w)) as f32);
            let (mut xs, mut dxs) = (x.chunks_exact(V::LANES), dx.chunks_exact_mut(V::LANES));
            for (x, dx) in (&mut xs).zip(&mut dxs) {
                let g = V::load(dx).fma(scale, shift);
                centred.apply(V::load(x)).fma(slope, g).store(dx);
            }
            let (x, dx) = (xs.remainder(), dxs.into_remainder());
            if !x.is_empty() {
                let g = load_part::<V>(dx, 0.0).fma(scale, shift);
                store_part(centred.apply(load_part::<V>(x, 0.0)).fma(slope, g), dx);
            }
        }
    }
}

/// Writes g = grad · act′ and returns [Σ g x̂, Σ g].
#[inline(always)]
fn before_affine<V: Vector, P: Pointwise>(
    x: &[f32],
    grad: &[f32],
    out: &mut [Unset],
    centred: Centred,
    weight: f32,
    bias: f32,
) -> [f64; 2] {
    let (w, b) = (V::splat(weight), V::splat(bias));
    let mut sums = [0.0; 2];
    for ((x, grad), out) in x.chunks(BLOCK).zip(grad.chunks(BLOCK)).zip(out.chunks_mut(BLOCK)) {
        let (mut gx, mut gs) = (V::splat(0.0), V::splat(0.0));
        let (mut xs, mut grads) = (x.chunks_exact(V::LANES), grad.chunks_exact(V::LANES));
        let mut outs = out.chunks_exact_mut(V::LANES);
        for ((x, grad), out) in (&mut xs).zip(&mut grads).zip(&mut outs) {
            let x = centred.apply(V::load(x));
            let g = V::load(grad).mul(P::slope(x.fma(w, b)));
            (gx, gs) = (g.fma(x, gx), gs.add(g));
            g.put(out);
        }
        let (x, grad) = (xs.remainder(), grads.remainder());
        if !x.is_empty() {
            // Lanes past the end have a gradient of 0 and add nothing.
            let x = centred.apply(load_part::<V>(x, centred.high));
            let g = load_part::<V>(grad, 0.0).mul(P::slope(x.fma(w, b)));
            (gx, gs) = (g.fma(x, gx), gs.add(g));
            put_part(g, outs.into_remainder());
        }
        sums[0] += f64::from(gx.sum());
        sums[1] += f64::from(gs.sum());
    }
    sums
}

/// Group norm of x (B, C, …), weight (C), bias (C), with an activation behind it.
pub(crate) struct GroupNorm<P> {
    act: PhantomData<P>,
    shape: Groups,
    statistics: Statistics,
    moments: OnceLock<Vec<Moments>>,
}

impl<P: Pointwise> GroupNorm<P> {
    pub(crate) fn new(_act: P, shape: Groups, statistics: Statistics) -> Self {
        Self { act: PhantomData, shape, statistics, moments: OnceLock::new() }
    }

    /// The result, and the moments of every group of every sample.
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<Moments>) {
        let Groups { groups, channels, inner } = self.shape;
        let width = self.shape.width();
        let (mut moments, eps) = match &self.statistics {
            Statistics::Own(eps) => (vec![Moments::default(); x.len() / width], Some(*eps)),
            Statistics::Given(moments) => {
                (moments.iter().copied().cycle().take(x.len() / width).collect(), None)
            }
        };
        // SAFETY: `map` writes every channel, the channels make up a group, the groups the whole.
        let y = unsafe {
            written(x.len(), |y| {
                let parts = x.par_chunks(width).zip(y.par_chunks_mut(width));
                parts.zip(&mut moments).enumerate().for_each(|(i, ((x, y), moments))| {
                    let own = (i % groups) * channels..(i % groups + 1) * channels;
                    let (weight, bias) = (&weight[own.clone()], &bias[own]);
                    dispatch(Forward { act: self.act, x, y, weight, bias, inner, moments, eps });
                });
            })
        };
        (y, moments)
    }

    /// dx, and the gradients of weight and bias.
    fn backward(&self, [x, weight, bias, grad]: [&[f32]; 4], moments: &[Moments]) -> [Vec<f32>; 3] {
        let Groups { groups, channels, inner } = self.shape;
        let width = self.shape.width();
        let own = matches!(self.statistics, Statistics::Own(_));
        let mut sums = vec![[0.0; 2]; moments.len() * channels];
        // SAFETY: `Backward` writes its whole group, and the groups make up the whole.
        let dx = unsafe {
            written(x.len(), |dx| {
                x.par_chunks(width)
                    .zip(grad.par_chunks(width))
                    .zip(dx.par_chunks_mut(width).zip(sums.par_chunks_mut(channels)))
                    .zip(moments)
                    .enumerate()
                    .for_each(|(i, (((x, grad), (dx, sums)), moments))| {
                        let part = (i % groups) * channels..(i % groups + 1) * channels;
                        let (weight, bias, moments) = (&weight[part.clone()], &bias[part], *moments);
                        let act = self.act;
                        dispatch(Backward { act, x, grad, dx, sums, weight, bias, inner, moments, own });
                    });
            })
        };
        let mut total = vec![[0.0f64; 2]; weight.len()];
        for sample in sums.chunks_exact(weight.len()) {
            for (t, s) in total.iter_mut().zip(sample) {
                t[0] += s[0];
                t[1] += s[1];
            }
        }
        let column = |i: usize| total.iter().map(|t| t[i] as f32).collect();
        [dx, column(0), column(1)]
    }
}

impl<P: Pointwise> CustomOp3 for GroupNorm<P> {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (contiguous(s1, l1)?, contiguous(s2, l2)?, contiguous(s3, l3)?);
        if x.is_empty() {
            return Ok((CpuStorage::F32(Vec::new()), l1.shape().clone()));
        }
        let (y, moments) = self.forward(x, weight, bias);
        let _ = self.moments.set(moments);
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Gradients> {
        with_slices([x, w, b, grad], |slices| {
            let [xs, ws, bs, _] = slices;
            if xs.is_empty() {
                let zeros = |t: &Tensor| tracked(t, vec![0.0; t.elem_count()]);
                return Ok((zeros(x)?, zeros(w)?, zeros(b)?));
            }
            let moments = self.moments.get_or_init(|| self.forward(xs, ws, bs).1);
            let [dx, dw, db] = self.backward(slices, moments);
            Ok((tracked(x, dx)?, tracked(w, dw)?, tracked(b, db)?))
        })
    }
}
