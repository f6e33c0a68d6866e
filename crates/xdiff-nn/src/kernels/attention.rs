//! Attention in blocks: no buffer of queries × keys, forward or backward.
//!
//! Forward keeps, for each query, the largest score and the sum of exponentials so far, and rescales
//! what it has summed when a larger score appears (Milakov and Gimelshein, "Online normalizer
//! calculation for softmax", 2018; Dao et al., "FlashAttention", 2022). Backward makes the
//! probabilities again from these two numbers. Scores are held in units of log₂, so that the
//! exponential is a power of two.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::buffer::Scratch;
use super::matrix::{Matrix, Onto, multiply};
use super::simd::{Kernel, Vector, dispatch, exp2, load_part, store_part};
use super::slices::{Gradients, tracked};

/// Queries per block.
const QUERIES: usize = 128;
/// Keys per block.
const KEYS: usize = 512;
/// Backward makes about this many tasks of a sample, or one per head.
const TASKS: usize = 16;
/// How many numbers the shares of one head may take: 64 MiB.
const SHARES: usize = 1 << 24;

/// A tensor (B, heads, rows, width) whose last dimension is dense, as its layout gives it.
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [f32],
    size: [usize; 4],
    stride: [usize; 4],
}

impl<'a> Heads<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (batch, heads, rows, width) = layout.shape().dims4()?;
        let &[b, h, r, w] = layout.stride() else { bail!("attention takes four dimensions") };
        if w != 1 && width > 1 {
            bail!("attention was given a last dimension with stride {w}");
        }
        let data = storage.as_slice::<f32>()?.get(layout.start_offset()..).unwrap_or(&[]);
        Ok(Self { data, size: [batch, heads, rows, width], stride: [b, h, r, w] })
    }

    /// Heads of all samples.
    fn count(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// `count` rows of a head (counted over all samples) from row `start`.
    fn rows(&self, head: usize, start: usize, count: usize) -> Matrix<'a> {
        let ([_, heads, _, width], [b, h, r, _]) = (self.size, self.stride);
        let offset = head / heads * b + head % heads * h + start * r;
        let data = self.data.get(offset..).unwrap_or(&[]);
        Matrix { data, size: [count, width], stride: [r, 1] }
    }
}

/// An additive mask (B or 1, heads or 1, queries or 1, keys).
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    /// The numbers, one after another.
    pub(crate) values: Vec<f32>,
    /// The shape.
    pub(crate) size: [usize; 4],
}

impl Mask {
    /// The numbers of a query for `count` keys from `start`.
    #[inline(always)]
    fn row(&self, head: [usize; 2], query: usize, start: usize, count: usize) -> &[f32] {
        let [batch, heads, queries, keys] = self.size;
        let at = |i: usize, size: usize| if size == 1 { 0 } else { i };
        let row = (at(head[0], batch) * heads + at(head[1], heads)) * queries + at(query, queries);
        &self.values[row * keys + start..][..count]
    }
}

/// The mask as one block of queries and keys sees it.
#[derive(Clone, Copy)]
struct Window<'a> {
    mask: Option<&'a Mask>,
    head: [usize; 2],
    query: usize,
    key: usize,
}

impl<'a> Window<'a> {
    /// The mask of the block's row `i` with `n` keys; empty where there is no mask.
    #[inline(always)]
    fn row(&self, i: usize, n: usize) -> &'a [f32] {
        self.mask.map_or(&[], |m| m.row(self.head, self.query + i, self.key, n))
    }
}

/// How products of queries and keys become scores in units of log₂.
#[derive(Clone, Copy)]
struct Scores {
    /// The scale times log₂ e.
    factor: f32,
}

impl Scores {
    /// product · factor + mask · log₂ e − top.
    #[inline(always)]
    fn of<V: Vector>(self, product: V, mask: V, top: V) -> V {
        let shift = mask.fma(V::splat(std::f32::consts::LOG2_E), V::splat(0.0).sub(top));
        product.fma(V::splat(self.factor), shift)
    }
}

/// Calls `f` with the lanes of a row and of the numbers beside it, and writes back what it returns.
/// Beside an empty slice stand zeros; past the end of the row stands −∞.
#[inline(always)]
fn each<V: Vector>(row: &mut [f32], beside: &[f32], mut f: impl FnMut(V, V) -> Option<V>) {
    let n = row.len();
    let whole = n / V::LANES * V::LANES;
    let zero = V::splat(0.0);
    for at in (0..whole).step_by(V::LANES) {
        let b = if beside.is_empty() { zero } else { V::load(&beside[at..]) };
        if let Some(v) = f(V::load(&row[at..]), b) {
            v.store(&mut row[at..]);
        }
    }
    if whole < n {
        let b = if beside.is_empty() { &[0.0; 16][..n - whole] } else { &beside[whole..] };
        if let Some(v) = f(load_part(&row[whole..], 0.0), load_part(b, f32::NEG_INFINITY)) {
            store_part(v, &mut row[whole..]);
        }
    }
}

/// The largest score of a query so far, and the sum of 2^(score − largest).
#[derive(Clone, Copy)]
struct Running {
    top: f32,
    sum: f64,
}

/// A block of products, turned into 2^(score − largest), row by row.
struct Exponentials<'a> {
    products: &'a mut [f32],
    keys: usize,
    window: Window<'a>,
    scores: Scores,
    running: &'a mut [Running],
    /// The weighted sums of values so far, which follow when the largest score moves.
    out: &'a mut [f32],
    width: usize,
}

impl Kernel for Exponentials<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (scores, width, zero) = (self.scores, self.width, V::splat(0.0));
        let rows = self.products.chunks_exact_mut(self.keys).zip(self.running);
        for (i, (row, running)) in rows.enumerate() {
            let mask = self.window.row(i, self.keys);
            let mut largest = V::splat(running.top);
            each::<V>(
                row,
                mask,
                #[inline(always)]
                |p, m| {
                    largest = largest.max(scores.of(p, m, zero));
                    None
                },
            );
            let top = largest.largest();
            // While every key is masked there is no largest score: 2^(−∞ − 0) is 0.
            let shift = V::splat(if top == f32::NEG_INFINITY { 0.0 } else { top });
            let mut sum = zero;
            each::<V>(
                row,
                mask,
                #[inline(always)]
                |p, m| {
                    let e = exp2(scores.of(p, m, shift));
                    sum = sum.add(e);
                    Some(e)
                },
            );
            if top != running.top {
                let shrink = (running.top - top).exp2();
                running.sum *= f64::from(shrink);
                for o in &mut self.out[i * width..][..width] {
                    *o *= shrink;
                }
                running.top = top;
            }
            running.sum += f64::from(sum.sum());
        }
    }
}

/// The probability of a score is 2^(score − top) · inverse.
#[derive(Clone, Copy, Debug, Default)]
struct Normaliser {
    top: f32,
    inverse: f32,
}

impl Normaliser {
    fn of(running: Running) -> Self {
        let top = if running.top == f32::NEG_INFINITY { 0.0 } else { running.top };
        // A query whose keys are all masked attends to nothing.
        let inverse = if running.sum == 0.0 { 0.0 } else { (1.0 / running.sum) as f32 };
        Self { top, inverse }
    }
}

/// A block of products and one of probability gradients, turned into probabilities P and
/// P ∘ (gradient − delta) · scale.
struct Slopes<'a> {
    products: &'a mut [f32],
    grads: &'a mut [f32],
    keys: usize,
    window: Window<'a>,
    scores: Scores,
    scale: f32,
    normalisers: &'a [Normaliser],
    /// Σ P ∘ gradient of each row.
    delta: &'a [f32],
}

impl Kernel for Slopes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (scores, scale) = (self.scores, V::splat(self.scale));
        let rows = self.products.chunks_exact_mut(self.keys).zip(self.grads.chunks_exact_mut(self.keys));
        for (i, ((row, grads), (norm, delta))) in
            rows.zip(self.normalisers.iter().zip(self.delta)).enumerate()
        {
            let (top, inverse) = (V::splat(norm.top), V::splat(norm.inverse));
            each::<V>(
                row,
                self.window.row(i, self.keys),
                #[inline(always)]
                |p, m| Some(exp2(scores.of(p, m, top)).mul(inverse)),
            );
            let delta = V::splat(*delta);
            each::<V>(
                grads,
                row,
                #[inline(always)]
                |g, p| Some(p.mul(g.sub(delta)).mul(scale)),
            );
        }
    }
}

/// Attention of q, k and v as an operation of candle's graph.
pub(crate) struct Op {
    scale: f32,
    mask: Option<Mask>,
    normalisers: OnceLock<Vec<Normaliser>>,
}

impl Op {
    /// Scores are q · k times `scale`, plus the mask.
    pub(crate) fn new(scale: f64, mask: Option<Mask>) -> Self {
        Self { scale: scale as f32, mask, normalisers: OnceLock::new() }
    }

    fn scores(&self) -> Scores {
        Scores { factor: self.scale * std::f32::consts::LOG2_E }
    }

    fn window(&self, heads: usize, head: usize, query: usize, key: usize) -> Window<'_> {
        Window { mask: self.mask.as_ref(), head: [head / heads, head % heads], query, key }
    }

    fn forward(&self, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>) -> (Vec<f32>, Vec<Normaliser>) {
        let (queries, width) = (q.size[2], v.size[3]);
        let mut out = vec![0.0; q.count() * queries * width];
        let mut normalisers = vec![Normaliser::default(); q.count() * queries];
        if out.is_empty() {
            return (out, normalisers);
        }
        out.par_chunks_mut(queries * width)
            .zip(normalisers.par_chunks_mut(queries))
            .enumerate()
            .flat_map(|(head, (out, normalisers))| {
                let blocks = out.par_chunks_mut(QUERIES * width).zip(normalisers.par_chunks_mut(QUERIES));
                blocks.enumerate().map(move |(i, block)| (head, i * QUERIES, block))
            })
            .for_each(|(head, start, (out, normalisers))| {
                self.forward_block([q, k, v], head, start, out, normalisers);
            });
        (out, normalisers)
    }

    fn forward_block(
        &self,
        [q, k, v]: [Heads<'_>; 3],
        head: usize,
        start: usize,
        out: &mut [f32],
        normalisers: &mut [Normaliser],
    ) {
        let (rows, keys, width) = (normalisers.len(), k.size[2], v.size[3]);
        let queries = q.rows(head, start, rows);
        let mut running = vec![Running { top: f32::NEG_INFINITY, sum: 0.0 }; rows];
        let mut products = Scratch::take(rows * KEYS.min(keys));
        for key in (0..keys).step_by(KEYS) {
            let n = KEYS.min(keys - key);
            let products = &mut products[..rows * n];
            multiply(products, Onto::Replace, queries, k.rows(head, key, n).t());
            dispatch(Exponentials {
                products,
                keys: n,
                window: self.window(q.size[1], head, start, key),
                scores: self.scores(),
                running: &mut running,
                out,
                width,
            });
            let weights = Matrix::dense(products, n);
            multiply(out, if key == 0 { Onto::Replace } else { Onto::Add }, weights, v.rows(head, key, n));
        }
        for ((out, norm), running) in out.chunks_exact_mut(width).zip(normalisers).zip(running) {
            *norm = Normaliser::of(running);
            out.iter_mut().for_each(|o| *o *= norm.inverse);
        }
    }

    /// The gradients of q, k and v; zeros where not wanted.
    ///
    /// The queries of a head are cut into parts whose shares of dk and dv are added in order. Shape
    /// alone says how many: one sample's gradients do not depend on its batch.
    fn backward(&self, x: &Backward<'_>) -> [Vec<f32>; 3] {
        let ([batch, heads, queries, d], [_, _, keys, width]) = (x.q.size, x.v.size);
        let count = batch * heads;
        let mut dq = vec![0.0; count * queries * d];
        let (mut dk, mut dv) = (vec![0.0; count * keys * d], vec![0.0; count * keys * width]);
        if dq.is_empty() || dv.is_empty() {
            return [dq, dk, dv];
        }
        let blocks = queries.div_ceil(QUERIES);
        let parts = TASKS.div_ceil(heads).min(SHARES / (keys * (d + width))).clamp(1, blocks);
        let part = blocks.div_ceil(parts) * QUERIES;
        dq.par_chunks_mut(queries * d)
            .zip(dk.par_chunks_mut(keys * d).zip(dv.par_chunks_mut(keys * width)))
            .enumerate()
            .for_each(|(head, (dq, (dk, dv)))| {
                if parts == 1 {
                    return self.backward_part(x, head, 0, dq, [dk, dv]);
                }
                let shares: Vec<_> = dq
                    .par_chunks_mut(part * d)
                    .enumerate()
                    .map(|(i, dq)| {
                        let (mut k, mut v) = (vec![0.0; dk.len()], vec![0.0; dv.len()]);
                        self.backward_part(x, head, i * part, dq, [&mut k, &mut v]);
                        (k, v)
                    })
                    .collect();
                for (k, v) in shares {
                    dk.iter_mut().zip(k).for_each(|(sum, share)| *sum += share);
                    dv.iter_mut().zip(v).for_each(|(sum, share)| *sum += share);
                }
            });
        [dq, dk, dv]
    }

    /// The gradient of some queries, and their share of those of keys and values.
    fn backward_part(
        &self,
        x: &Backward<'_>,
        head: usize,
        start: usize,
        dq: &mut [f32],
        [dk, dv]: [&mut [f32]; 2],
    ) {
        for (i, dq) in dq.chunks_mut(QUERIES * x.q.size[3]).enumerate() {
            self.backward_block(x, head, start + i * QUERIES, dq, [dk, dv]);
        }
    }

    fn backward_block(
        &self,
        x: &Backward<'_>,
        head: usize,
        start: usize,
        dq: &mut [f32],
        [dk, dv]: [&mut [f32]; 2],
    ) {
        let (d, width, keys, total) = (x.q.size[3], x.v.size[3], x.k.size[2], x.q.size[2]);
        let rows = dq.len() / d;
        let queries = x.q.rows(head, start, rows);
        let (grad, out) = (x.grad.rows(head, start, rows), x.out.rows(head, start, rows));
        let delta: Vec<f32> = (0..rows)
            .map(|i| {
                grad.row(i).iter().zip(out.row(i)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            })
            .map(|sum| sum as f32)
            .collect();
        let normalisers = &x.normalisers[head * total + start..][..rows];
        let size = rows * KEYS.min(keys);
        let (mut products, mut grads) = (Scratch::take(size), Scratch::take(size));
        for key in (0..keys).step_by(KEYS) {
            let n = KEYS.min(keys - key);
            let (k, v) = (x.k.rows(head, key, n), x.v.rows(head, key, n));
            let (products, grads) = (&mut products[..rows * n], &mut grads[..rows * n]);
            multiply(products, Onto::Replace, queries, k.t());
            multiply(grads, Onto::Replace, grad, v.t());
            dispatch(Slopes {
                products,
                grads,
                keys: n,
                window: self.window(x.q.size[1], head, start, key),
                scores: self.scores(),
                scale: self.scale,
                normalisers,
                delta: &delta,
            });
            let (weights, slopes) = (Matrix::dense(products, n), Matrix::dense(grads, n));
            if x.wanted[2] {
                multiply(&mut dv[key * width..][..n * width], Onto::Add, weights.t(), grad);
            }
            if x.wanted[1] {
                multiply(&mut dk[key * d..][..n * d], Onto::Add, slopes.t(), queries);
            }
            if x.wanted[0] {
                multiply(dq, Onto::Add, slopes, k);
            }
        }
    }
}

/// What the backward pass reads.
struct Backward<'a> {
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    out: Heads<'a>,
    grad: Heads<'a>,
    normalisers: &'a [Normaliser],
    wanted: [bool; 3],
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "attention"
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
        let (q, k, v) = (Heads::new(s1, l1)?, Heads::new(s2, l2)?, Heads::new(s3, l3)?);
        let (out, normalisers) = self.forward(q, k, v);
        let _ = self.normalisers.set(normalisers);
        Ok((CpuStorage::F32(out), (q.size[0], q.size[1], q.size[2], v.size[3]).into()))
    }

    fn bwd(&self, q: &Tensor, k: &Tensor, v: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Gradients> {
        let grad = grad.contiguous()?;
        let guards = [q, k, v, out, &grad].map(|t| t.storage_and_layout());
        let heads = guards
            .iter()
            .map(|(storage, layout)| match &**storage {
                Storage::Cpu(storage) => Heads::new(storage, layout),
                _ => bail!("a CPU kernel was given another device"),
            })
            .collect::<Result<Vec<_>>>()?;
        let &[qs, ks, vs, outs, grads] = &heads[..] else { bail!("attention has five tensors") };
        let normalisers = self.normalisers.get_or_init(|| self.forward(qs, ks, vs).1);
        let [dq, dk, dv] = self.backward(&Backward {
            q: qs,
            k: ks,
            v: vs,
            out: outs,
            grad: grads,
            normalisers,
            wanted: [q, k, v].map(|t| t.track_op()),
        });
        Ok((tracked(q, dq)?, tracked(k, dk)?, tracked(v, dv)?))
    }
}
