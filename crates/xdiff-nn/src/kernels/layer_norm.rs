//! Layer norm.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::moments::{Centred, Moments, moments};
use super::simd::{Kernel, Vector, dispatch, load_part, store_part};
use super::slices::{Gradients, contiguous, tracked, with_slices};

/// Layer norm of x (…, width), weight (width), bias (width).
pub(crate) struct LayerNorm {
    eps: f64,
    moments: OnceLock<Vec<Moments>>,
}

impl LayerNorm {
    pub(crate) fn new(eps: f64) -> Self {
        Self { eps, moments: OnceLock::new() }
    }
}

/// Some rows.
struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    moments: &'a [Moments],
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width));
        for ((x, y), m) in rows.zip(self.moments) {
            let c = Centred::of(*m);
            each_lane::<V>(
                width,
                #[inline(always)]
                |at, n| {
                    let affine = (part::<V>(self.weight, at, n), part::<V>(self.bias, at, n));
                    put(y, at, n, c.apply(part::<V>(x, at, n)).fma(affine.0, affine.1));
                },
            );
        }
    }
}

/// Some rows: dx, and their share of the gradients of weight and bias.
struct RowsBack<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
    weight: &'a [f32],
    moments: &'a [Moments],
}

impl Kernel for RowsBack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.grad.chunks_exact(width));
        for (((x, g), dx), m) in rows.zip(self.dx.chunks_exact_mut(width)).zip(self.moments) {
            let c = Centred::of(*m);
            let (mut mean_g, mut mean_gx) = (V::splat(0.0), V::splat(0.0));
            each_lane::<V>(
                width,
                #[inline(always)]
                |at, n| {
                    let (x, g) = (c.apply(part::<V>(x, at, n)), part::<V>(g, at, n));
                    let gw = g.mul(part(self.weight, at, n));
                    mean_g = mean_g.add(gw);
                    // Lanes past the end have a gradient of 0 and add nothing.
                    mean_gx = gw.fma(x, mean_gx);
                    put(self.dweight, at, n, g.fma(x, part(self.dweight, at, n)));
                    put(self.dbias, at, n, part::<V>(self.dbias, at, n).add(g));
                },
            );
            let r = c.rstd / width as f32;
            let (shift, slope) = (V::splat(-r * mean_g.sum()), V::splat(-r * mean_gx.sum()));
            let rstd = V::splat(c.rstd);
            each_lane::<V>(
                width,
                #[inline(always)]
                |at, n| {
                    let x = c.apply(part::<V>(x, at, n));
                    let gw = part::<V>(g, at, n).mul(part(self.weight, at, n));
                    put(dx, at, n, x.fma(slope, gw.fma(rstd, shift)));
                },
            );
        }
    }
}

/// Calls `f` with the start and the length of each run of lanes.
#[inline(always)]
fn each_lane<V: Vector>(width: usize, mut f: impl FnMut(usize, usize)) {
    let whole = width / V::LANES * V::LANES;
    for at in (0..whole).step_by(V::LANES) {
        f(at, V::LANES);
    }
    if whole < width {
        f(whole, width - whole);
    }
}

/// `n` numbers from `at`, the rest of the lanes 0.
#[inline(always)]
fn part<V: Vector>(from: &[f32], at: usize, n: usize) -> V {
    if n == V::LANES { V::load(&from[at..]) } else { load_part(&from[at..at + n], 0.0) }
}

#[inline(always)]
fn put<V: Vector>(to: &mut [f32], at: usize, n: usize, v: V) {
    if n == V::LANES { v.store(&mut to[at..]) } else { store_part(v, &mut to[at..at + n]) }
}

/// How many rows one task works on: a function of the shape alone, at most 64 tasks so that the
/// shares of the parameters' gradients stay small.
fn rows_per_task(rows: usize, width: usize) -> usize {
    ((1 << 14) / width.max(1)).max(1).max(rows.div_ceil(64))
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let width = weight.len();
        let mut y = vec![0.0; x.len()];
        if !x.is_empty() {
            let moments = self.moments.get_or_init(|| moments(x, width, self.eps));
            let rows = rows_per_task(moments.len(), width);
            x.par_chunks(rows * width)
                .zip(y.par_chunks_mut(rows * width))
                .zip(moments.par_chunks(rows))
                .for_each(|((x, y), moments)| dispatch(Rows { x, y, weight, bias, moments }));
        }
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let (dx, dw, db) = with_slices([x, w, grad], |[x, weight, grad]| {
            let width = weight.len();
            let mut dx = vec![0.0; x.len()];
            let mut total = vec![[0.0f64; 2]; width];
            if !x.is_empty() {
                let moments = self.moments.get_or_init(|| moments(x, width, self.eps));
                let rows = rows_per_task(moments.len(), width);
                let shares: Vec<Vec<f32>> = x
                    .par_chunks(rows * width)
                    .zip(grad.par_chunks(rows * width))
                    .zip(dx.par_chunks_mut(rows * width))
                    .zip(moments.par_chunks(rows))
                    .map(|(((x, grad), dx), moments)| {
                        let mut share = vec![0.0; 2 * width];
                        let (dweight, dbias) = share.split_at_mut(width);
                        dispatch(RowsBack { x, grad, dx, dweight, dbias, weight, moments });
                        share
                    })
                    .collect();
                for share in &shares {
                    for (i, t) in total.iter_mut().enumerate() {
                        t[0] += f64::from(share[i]);
                        t[1] += f64::from(share[width + i]);
                    }
                }
            }
            let column = |i: usize| total.iter().map(|t| t[i] as f32).collect::<Vec<_>>();
            Ok((dx, column(0), column(1)))
        })?;
        Ok((tracked(x, dx)?, tracked(w, dw)?, tracked(b, db)?))
    }
}
