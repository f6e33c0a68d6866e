//! Batch norm by the moments of the batch, with an activation behind it.
//!
//! A channel is a plane of each sample. Sums over a plane are formed in blocks, those over the
//! planes of a channel in f64 in the order of the samples.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::activation::Pointwise;
use super::buffer::Output;
use super::moments::{BLOCK, Moments, Spread, first_mean};
use super::simd::{Kernel, Unset, Vector, dispatch, load_part, map, map2};
use super::slices::{Gradients, contiguous, tracked, with_slices};

/// Numbers in the planes of one task at least.
const TASK: usize = 1 << 15;

/// Sizes of an activation tensor (B, C, …) of at least one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planes {
    pub(crate) samples: usize,
    pub(crate) channels: usize,
    /// Numbers of a channel in one sample.
    pub(crate) inner: usize,
}

impl Planes {
    /// The samples, in parallel where their planes are large.
    fn samples(self) -> impl IndexedParallelIterator<Item = usize> {
        (0..self.samples).into_par_iter().with_min_len(TASK.div_ceil(self.inner))
    }

    /// Where the plane of a channel starts.
    fn start(self, sample: usize, channel: usize) -> usize {
        (sample * self.channels + channel) * self.inner
    }

    /// That plane.
    fn of(self, x: &[f32], sample: usize, channel: usize) -> &[f32] {
        let start = self.start(sample, channel);
        &x[start..start + self.inner]
    }
}

/// The mean of the first block.
struct FirstMean<'a>(&'a [f32]);

impl Kernel for FirstMean<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        first_mean::<V>(self.0)
    }
}

/// The spread of a plane; the number is near its mean.
struct SpreadOf<'a>(&'a [f32], f64);

impl Kernel for SpreadOf<'_> {
    type Output = Spread;
    #[inline(always)]
    fn run<V: Vector>(self) -> Spread {
        Spread::of::<V>(self.0, self.1)
    }
}

/// A channel's constants: the result is act((x − high) · scale + shift), where high is the mean
/// rounded to f32, and x̂ = (x − high) · rstd + low.
#[derive(Clone, Copy)]
struct Affine {
    high: f32,
    rstd: f64,
    low: f64,
    scale: f64,
    shift: f64,
}

impl Affine {
    fn new(Moments { mean, rstd }: Moments, weight: f32, bias: f32) -> Self {
        let (high, scale) = (mean as f32, rstd * f64::from(weight));
        let rest = mean - f64::from(high);
        Self { high, rstd, low: -rest * rstd, scale, shift: f64::from(bias) - rest * scale }
    }
}

/// A plane of the result.
struct Forward<'a, P> {
    act: PhantomData<P>,
    affine: Affine,
    x: &'a [f32],
    y: &'a mut [Unset],
}

impl<P: Pointwise> Kernel for Forward<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let high = V::splat(self.affine.high);
        let (scale, shift) = (V::splat(self.affine.scale as f32), V::splat(self.affine.shift as f32));
        map::<V>(
            self.x,
            self.y,
            #[inline(always)]
            |x| P::value(x.sub(high).fma(scale, shift)),
        );
    }
}

/// Σ g and Σ g (x − high) over a plane, where g is the gradient before the activation.
struct Sums<'a, P> {
    act: PhantomData<P>,
    affine: Affine,
    x: &'a [f32],
    grad: &'a [f32],
}

impl<P: Pointwise> Kernel for Sums<'_, P> {
    type Output = [f64; 2];
    #[inline(always)]
    fn run<V: Vector>(self) -> [f64; 2] {
        let high = V::splat(self.affine.high);
        let (scale, shift) = (V::splat(self.affine.scale as f32), V::splat(self.affine.shift as f32));
        let mut sums = [0.0; 2];
        for (x, grad) in self.x.chunks(BLOCK).zip(self.grad.chunks(BLOCK)) {
            let (mut of_g, mut of_gx) = ([V::splat(0.0); 2], [V::splat(0.0); 2]);
            let (mut xs, mut grads) = (x.chunks_exact(2 * V::LANES), grad.chunks_exact(2 * V::LANES));
            for (x, grad) in (&mut xs).zip(&mut grads) {
                for i in 0..2 {
                    let x = V::load(&x[i * V::LANES..]).sub(high);
                    let g = V::load(&grad[i * V::LANES..]).mul(P::slope(x.fma(scale, shift)));
                    (of_g[i], of_gx[i]) = (of_g[i].add(g), g.fma(x, of_gx[i]));
                }
            }
            for (x, grad) in xs.remainder().chunks(V::LANES).zip(grads.remainder().chunks(V::LANES)) {
                // Lanes past the end have a gradient of 0 and add nothing.
                let x = load_part_or_all::<V>(x, self.affine.high).sub(high);
                let g = load_part_or_all::<V>(grad, 0.0).mul(P::slope(x.fma(scale, shift)));
                (of_g[0], of_gx[0]) = (of_g[0].add(g), g.fma(x, of_gx[0]));
            }
            sums[0] += f64::from(of_g[0].add(of_g[1]).sum());
            sums[1] += f64::from(of_gx[0].add(of_gx[1]).sum());
        }
        sums
    }
}

/// The numbers of a slice no longer than a vector, filled up with `fill`.
#[inline(always)]
fn load_part_or_all<V: Vector>(from: &[f32], fill: f32) -> V {
    if from.len() == V::LANES { V::load(from) } else { load_part(from, fill) }
}

/// A plane of dL/dx = g · scale + (x − high) · slope + shift.
struct Backward<'a, P> {
    act: PhantomData<P>,
    affine: Affine,
    slope: f64,
    shift: f64,
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [Unset],
}

impl<P: Pointwise> Kernel for Backward<'_, P> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let high = V::splat(self.affine.high);
        let (scale, bias) = (V::splat(self.affine.scale as f32), V::splat(self.affine.shift as f32));
        let (slope, shift) = (V::splat(self.slope as f32), V::splat(self.shift as f32));
        map2::<V>(
            self.x,
            self.grad,
            self.dx,
            #[inline(always)]
            |x, grad| {
                let x = x.sub(high);
                let g = grad.mul(P::slope(x.fma(scale, bias)));
                x.fma(slope, g.fma(scale, shift))
            },
        );
    }
}

/// Batch norm of x (B, C, …), weight (C), bias (C).
pub(crate) struct BatchNorm<P> {
    act: PhantomData<P>,
    planes: Planes,
    eps: f64,
    spreads: Arc<OnceLock<Vec<Spread>>>,
}

impl<P: Pointwise> BatchNorm<P> {
    /// The forward pass leaves the spread of each channel in `spreads`.
    pub(crate) fn new(_act: P, planes: Planes, eps: f64, spreads: Arc<OnceLock<Vec<Spread>>>) -> Self {
        Self { act: PhantomData, planes, eps, spreads }
    }

    /// The spread of a channel.
    fn spread(&self, x: &[f32], channel: usize) -> Spread {
        let centre = dispatch(FirstMean(self.planes.of(x, 0, channel)));
        let plane = |sample| dispatch(SpreadOf(self.planes.of(x, sample, channel), centre));
        let parts: Vec<Spread> = self.planes.samples().map(plane).collect();
        parts.into_iter().fold(Spread::default(), Spread::joined)
    }

    /// The result, and the spread of each channel.
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> Result<(Vec<f32>, Vec<Spread>)> {
        let planes = self.planes;
        let mut out = Output::new(x.len())?;
        let y = out.writer();
        let channels = (0..planes.channels).into_par_iter();
        let spreads = channels.map(|channel| {
            let spread = self.spread(x, channel);
            let affine = Affine::new(spread.moments(self.eps), weight[channel], bias[channel]);
            planes.samples().for_each(|sample| {
                // SAFETY: each task has its own plane.
                let y = unsafe { y.part(planes.start(sample, channel), planes.inner) };
                dispatch(Forward { act: self.act, affine, x: planes.of(x, sample, channel), y });
            });
            spread
        });
        let spreads = spreads.collect();
        // SAFETY: `Forward` writes its whole plane, and the planes make up the whole.
        Ok((unsafe { out.finish() }, spreads))
    }

    /// The gradients of x (empty unless asked for), of weight and of bias.
    fn backward(
        &self,
        [x, weight, bias, grad]: [&[f32]; 4],
        spreads: &[Spread],
        to_x: bool,
    ) -> Result<[Vec<f32>; 3]> {
        let planes = self.planes;
        let count = (planes.samples * planes.inner) as f64;
        let mut out = if to_x { Some(Output::new(x.len())?) } else { None };
        let dx = out.as_mut().map(Output::writer);
        let channels = (0..planes.channels).into_par_iter();
        let sums = channels.map(|channel| {
            let affine = Affine::new(spreads[channel].moments(self.eps), weight[channel], bias[channel]);
            let plane = |sample| {
                let (x, grad) = (planes.of(x, sample, channel), planes.of(grad, sample, channel));
                dispatch(Sums { act: self.act, affine, x, grad })
            };
            let parts: Vec<[f64; 2]> = planes.samples().map(plane).collect();
            let [g, gx] = parts.iter().fold([0.0; 2], |s, p| [s[0] + p[0], s[1] + p[1]]);
            let gx = affine.rstd * gx + affine.low * g;
            if let Some(dx) = dx {
                // scale · (g − mean(g) − x̂ mean(g x̂)), with x̂ written out.
                let slope = -affine.scale * gx / count * affine.rstd;
                let shift = -affine.scale * (g + affine.low * gx) / count;
                planes.samples().for_each(|sample| {
                    let (x, grad) = (planes.of(x, sample, channel), planes.of(grad, sample, channel));
                    // SAFETY: each task has its own plane.
                    let dx = unsafe { dx.part(planes.start(sample, channel), planes.inner) };
                    dispatch(Backward { act: self.act, affine, slope, shift, x, grad, dx });
                });
            }
            (gx as f32, g as f32)
        });
        let (dw, db) = sums.unzip();
        let dx = match out {
            // SAFETY: `Backward` writes its whole plane, and the planes make up the whole.
            Some(out) => unsafe { out.finish() },
            None => Vec::new(),
        };
        Ok([dx, dw, db])
    }
}

impl<P: Pointwise> CustomOp3 for BatchNorm<P> {
    fn name(&self) -> &'static str {
        "batch_norm"
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
        let (y, spreads) = self.forward(x, weight, bias)?;
        let _ = self.spreads.set(spreads);
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Gradients> {
        with_slices([x, w, b, grad], |slices| {
            let spreads = self.spreads.get_or_init(|| {
                (0..self.planes.channels).into_par_iter().map(|c| self.spread(slices[0], c)).collect()
            });
            let [dx, dw, db] = self.backward(slices, spreads, x.track_op())?;
            Ok((tracked(x, dx)?, tracked(w, dw)?, tracked(b, db)?))
        })
    }
}
