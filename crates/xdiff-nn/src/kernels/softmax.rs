//! Softmax over the last dimension.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::simd::{Kernel, Unset, Vector, dispatch, exp, load_part, map2, store_part};
use super::slices::{contiguous, tensor, with_slices, written};

/// About how many numbers one task works on.
const CHUNK: usize = 1 << 14;

/// What a row that is −∞ everywhere becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmptyRow {
    /// NaN, as 0/0 is.
    Nan,
    /// Zeros.
    Zero,
}

/// The largest number of a slice; −∞ for an empty one.
#[inline(always)]
fn largest<V: Vector>(x: &[f32]) -> f32 {
    let mut top = V::splat(f32::NEG_INFINITY);
    let mut xs = x.chunks_exact(V::LANES);
    for x in &mut xs {
        top = top.max(V::load(x));
    }
    let rest = xs.remainder();
    if !rest.is_empty() {
        top = top.max(load_part(rest, f32::NEG_INFINITY));
    }
    top.largest()
}

/// Σ x y.
#[inline(always)]
fn dot<V: Vector>(x: &[f32], y: &[f32]) -> f32 {
    let mut total = [V::splat(0.0); 4];
    let (mut xs, mut ys) = (x.chunks_exact(4 * V::LANES), y.chunks_exact(4 * V::LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        for (i, t) in total.iter_mut().enumerate() {
            *t = V::load(&x[i * V::LANES..]).fma(V::load(&y[i * V::LANES..]), *t);
        }
    }
    for (x, y) in xs.remainder().chunks(V::LANES).zip(ys.remainder().chunks(V::LANES)) {
        total[0] = load_part::<V>(x, 0.0).fma(load_part(y, 0.0), total[0]);
    }
    total[0].add(total[1]).add(total[2].add(total[3])).sum()
}

/// e^(x − top) into `y`, and their sum.
#[inline(always)]
fn exponentials<V: Vector>(x: &[f32], y: &mut [Unset], top: f32) -> f32 {
    let shift = V::splat(top);
    let mut total = V::splat(0.0);
    let (mut xs, mut ys) = (x.chunks_exact(V::LANES), y.chunks_exact_mut(V::LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        let e = exp(V::load(x).sub(shift));
        total = total.add(e);
        e.put(y);
    }
    let mut rest = 0.0;
    for (x, y) in xs.remainder().iter().zip(ys.into_remainder()) {
        rest += *y.write((x - top).exp());
    }
    total.sum() + rest
}

struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [Unset],
    width: usize,
    empty: EmptyRow,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (x, y) in self.x.chunks_exact(self.width).zip(self.y.chunks_exact_mut(self.width)) {
            let top = largest::<V>(x);
            if top == f32::NEG_INFINITY && self.empty == EmptyRow::Zero && !x.iter().any(|v| v.is_nan()) {
                y.fill(Unset::new(0.0));
                continue;
            }
            let inverse = V::splat(1.0 / exponentials::<V>(x, y, top));
            // SAFETY: `exponentials` has written the whole row.
            let y = unsafe { y.assume_init_mut() };
            for y in y.chunks_mut(V::LANES) {
                if y.len() == V::LANES {
                    V::load(y).mul(inverse).store(y);
                } else {
                    store_part(load_part::<V>(y, 0.0).mul(inverse), y);
                }
            }
        }
    }
}

struct RowsBack<'a> {
    y: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [Unset],
    width: usize,
}

impl Kernel for RowsBack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let rows = self.y.chunks_exact(self.width).zip(self.g.chunks_exact(self.width));
        for ((y, g), dx) in rows.zip(self.dx.chunks_exact_mut(self.width)) {
            let mean = V::splat(dot::<V>(y, g));
            map2::<V>(
                y,
                g,
                dx,
                #[inline(always)]
                |y, g| y.mul(g.sub(mean)),
            );
        }
    }
}

/// Softmax over the last dimension as an operation of candle's graph.
pub(crate) struct Op {
    pub(crate) empty: EmptyRow,
}

/// A whole number of rows, about [`CHUNK`] numbers, at least one row.
fn chunk(width: usize) -> usize {
    width * (CHUNK / width).max(1)
}

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        let n = chunk(width);
        // SAFETY: `Rows` writes every row, and whole rows make up the chunks.
        let y = unsafe {
            written(x.len(), |y| {
                let chunks = x.par_chunks(n).zip(y.par_chunks_mut(n));
                chunks.for_each(|(x, y)| dispatch(Rows { x, y, width, empty: self.empty }));
            })
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let dx = with_slices([y, grad], |[y, g]| {
            let width = x.dims().last().copied().unwrap_or(1).max(1);
            let n = chunk(width);
            // SAFETY: `map2` writes every row, and whole rows make up the chunks.
            Ok(unsafe {
                written(y.len(), |dx| {
                    let chunks = y.par_chunks(n).zip(g.par_chunks(n)).zip(dx.par_chunks_mut(n));
                    chunks.for_each(|((y, g), dx)| dispatch(RowsBack { y, g, dx, width }));
                })
            })
        })?;
        Ok(Some(tensor(dx, x.shape())?))
    }
}
