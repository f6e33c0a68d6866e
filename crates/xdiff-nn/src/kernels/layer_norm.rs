//! Layer norm.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::moments::{Centred, Moments};
use super::simd::{Kernel, Unset, Vector, dispatch, load_part, put_part, store_part};
use super::slices::{Gradients, contiguous, tracked, with_slices, written};

/// Layer norm of x (…, width), weight (width), bias (width).
pub(crate) struct LayerNorm {
    eps: f64,
    moments: OnceLock<Vec<Moments>>,
}

/// Some rows.
struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [Unset],
    weight: &'a [f32],
    bias: &'a [f32],
    moments: &'a mut [Moments],
    eps: f64,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width));
        for ((x, y), m) in rows.zip(self.moments) {
            *m = Moments::of::<V>(x, self.eps);
            let c = Centred::of(*m);
            let (mut xs, mut ys) = (x.chunks_exact(V::LANES), y.chunks_exact_mut(V::LANES));
            let mut ws = self.weight.chunks_exact(V::LANES);
            let mut bs = self.bias.chunks_exact(V::LANES);
            for ((x, y), (w, b)) in (&mut xs).zip(&mut ys).zip((&mut ws).zip(&mut bs)) {
                c.apply(V::load(x)).fma(V::load(w), V::load(b)).put(y);
            }
            let (x, w, b) = (xs.remainder(), ws.remainder(), bs.remainder());
            if !x.is_empty() {
                let x = c.apply(load_part::<V>(x, 0.0));
                put_part(x.fma(load_part(w, 0.0), load_part(b, 0.0)), ys.into_remainder());
            }
        }
    }
}

/// Some rows: dx, and their share of the gradients of weight and bias.
struct RowsBack<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [Unset],
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
            let mut add = Share { centred: c, mean_g: V::splat(0.0), mean_gx: V::splat(0.0) };
            let (mut xs, mut gs) = (x.chunks_exact(V::LANES), g.chunks_exact(V::LANES));
            let mut ws = self.weight.chunks_exact(V::LANES);
            let mut dws = self.dweight.chunks_exact_mut(V::LANES);
            let mut dbs = self.dbias.chunks_exact_mut(V::LANES);
            let inputs = (&mut xs).zip(&mut gs).zip(&mut ws);
            for (((x, g), w), (dw, db)) in inputs.zip((&mut dws).zip(&mut dbs)) {
                let (to_w, to_b) = add.lanes(V::load(x), V::load(g), V::load(w));
                V::load(dw).add(to_w).store(dw);
                V::load(db).add(to_b).store(db);
            }
            let (dw, db) = (dws.into_remainder(), dbs.into_remainder());
            if !dw.is_empty() {
                // Lanes past the end have a gradient of 0 and add nothing.
                let rest = [xs.remainder(), gs.remainder(), ws.remainder()];
                let [x, g, w] = [load_part(rest[0], 0.0), load_part(rest[1], 0.0), load_part(rest[2], 0.0)];
                let (to_w, to_b) = add.lanes(x, g, w);
                store_part(load_part::<V>(dw, 0.0).add(to_w), dw);
                store_part(load_part::<V>(db, 0.0).add(to_b), db);
            }
            // dx = rstd (g w − mean(g w) − x̂ mean(g w x̂)).
            let r = c.rstd / width as f32;
            let (shift, slope) = (V::splat(-r * add.mean_g.sum()), V::splat(-r * add.mean_gx.sum()));
            let rstd = V::splat(c.rstd);
            let (mut xs, mut gs) = (x.chunks_exact(V::LANES), g.chunks_exact(V::LANES));
            let mut ws = self.weight.chunks_exact(V::LANES);
            let mut outs = dx.chunks_exact_mut(V::LANES);
            for (((x, g), w), out) in (&mut xs).zip(&mut gs).zip(&mut ws).zip(&mut outs) {
                let gw = V::load(g).mul(V::load(w)).fma(rstd, shift);
                c.apply(V::load(x)).fma(slope, gw).put(out);
            }
            let out = outs.into_remainder();
            if !out.is_empty() {
                let gw = load_part::<V>(gs.remainder(), 0.0).mul(load_part(ws.remainder(), 0.0));
                let x = c.apply(load_part::<V>(xs.remainder(), 0.0));
                put_part(x.fma(slope, gw.fma(rstd, shift)), out);
            }
        }
    }
}

/// Sums of a row: of g w and of g w x̂.
struct Share<V> {
    centred: Centred,
    mean_g: V,
    mean_gx: V,
}

impl<V: Vector> Share<V> {
    /// Adds some lanes; what they add to the gradients of weight and bias.
    #[inline(always)]
    fn lanes(&mut self, x: V, g: V, w: V) -> (V, V) {
        let (x, gw) = (self.centred.apply(x), g.mul(w));
        (self.mean_g, self.mean_gx) = (self.mean_g.add(gw), gw.fma(x, self.mean_gx));
        (g.mul(x), g)
    }
}

/// How many rows one task works on: a function of the shape alone, at most 64 tasks so that the
/// shares of the parameters' gradients stay small.
fn rows_per_task(rows: usize, width: usize) -> usize {
    ((1 << 14) / width).max(1).max(rows.div_ceil(64))
}

impl LayerNorm {
    pub(crate) fn new(eps: f64) -> Self {
        Self { eps, moments: OnceLock::new() }
    }

    /// The result, and the moments of every row.
    fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<Moments>) {
        let (width, eps) = (weight.len(), self.eps);
        let mut moments = vec![Moments::default(); x.len() / width];
        let rows = rows_per_task(moments.len(), width);
        // SAFETY: `Rows` writes each of its rows, and the rows make up the whole.
        let y = unsafe {
            written(x.len(), |y| {
                x.par_chunks(rows * width)
                    .zip(y.par_chunks_mut(rows * width))
                    .zip(moments.par_chunks_mut(rows))
                    .for_each(|((x, y), moments)| dispatch(Rows { x, y, weight, bias, moments, eps }));
            })
        };
        (y, moments)
    }

    /// dx, and the gradients of weight and bias.
    fn backward(&self, [x, weight, grad]: [&[f32]; 3], moments: &[Moments]) -> [Vec<f32>; 3] {
        let width = weight.len();
        let rows = rows_per_task(moments.len(), width);
        let mut shares = vec![0.0; moments.len().div_ceil(rows) * 2 * width];
        // SAFETY: `RowsBack` writes each of its rows, and the rows make up the whole.
        let dx = unsafe {
            written(x.len(), |dx| {
                x.par_chunks(rows * width)
                    .zip(grad.par_chunks(rows * width))
                    .zip(dx.par_chunks_mut(rows * width))
                    .zip(moments.par_chunks(rows).zip(shares.par_chunks_mut(2 * width)))
                    .for_each(|(((x, grad), dx), (moments, share))| {
                        let (dweight, dbias) = share.split_at_mut(width);
                        dispatch(RowsBack { x, grad, dx, dweight, dbias, weight, moments });
                    });
            })
        };
        let mut total = vec![0.0f64; 2 * width];
        for share in shares.chunks_exact(2 * width) {
            total.iter_mut().zip(share).for_each(|(t, s)| *t += f64::from(*s));
        }
        let (dw, db) = total.split_at(width);
        let narrow = |sums: &[f64]| sums.iter().map(|s| *s as f32).collect();
        [dx, narrow(dw), narrow(db)]
    }
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
        if x.is_empty() {
            return Ok((CpuStorage::F32(Vec::new()), l1.shape().clone()));
        }
        let (y, moments) = self.forward(x, weight, bias);
        let _ = self.moments.set(moments);
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Gradients> {
        with_slices([x, w, b, grad], |[xs, ws, bs, grads]| {
            if xs.is_empty() {
                let zeros = |t: &Tensor| tracked(t, vec![0.0; t.elem_count()]);
                return Ok((zeros(x)?, zeros(w)?, zeros(b)?));
            }
            let moments = self.moments.get_or_init(|| self.forward(xs, ws, bs).1);
            let [dx, dw, db] = self.backward([xs, ws, grads], moments);
            Ok((tracked(x, dx)?, tracked(w, dw)?, tracked(b, db)?))
        })
    }
}
