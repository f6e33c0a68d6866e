//! The linear layer: matrix products over rows, the bias added on the way.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::Output;
use super::matrix::{Matrix, Onto, Target, multiply_into};

/// Sizes of y (rows, out) = x (rows, in) · wᵀ (in, out) + b.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearShape {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// Rows and columns of the part of a product that one task forms.
const BLOCK: (usize, usize) = (256, 256);

/// Rows whose bias gradient is summed in f32 before it is added to an f64 total.
const SUM_ROWS: usize = 256;

/// Calls `work(rows, columns)` in parallel for blocks that cover an m × n result.
fn blocks(m: usize, n: usize, work: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let across = n.div_ceil(BLOCK.1);
    (0..m.div_ceil(BLOCK.0) * across).into_par_iter().with_max_len(1).for_each(|task| {
        let (i, j) = (task / across * BLOCK.0, task % across * BLOCK.1);
        work(i..(i + BLOCK.0).min(m), j..(j + BLOCK.1).min(n));
    });
}

/// The product of `a` and `b`, plus `bias` in each row.
fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let (m, k, n) = (a.size[0], a.size[1], b.size[1]);
    assert!(bias.is_none_or(|b| b.len() == n), "bias length");
    let mut out = Output::new(m * n)?;
    let writer = out.writer();
    blocks(m, n, |rows, columns| {
        let mut onto = Onto::Replace;
        if let Some(bias) = bias {
            for i in rows.clone() {
                // SAFETY: each task has its own block.
                unsafe { writer.copy(i * n + columns.start, &bias[columns.clone()]) };
            }
            onto = Onto::Add;
        }
        let target = Target { writer, start: rows.start * n + columns.start, stride: n };
        let (a, b) = (a.part(rows, 0..k), b.part(0..k, columns));
        // SAFETY: as above; with a bias the block has been set.
        unsafe { multiply_into(target, onto, a, b) };
    });
    // SAFETY: the blocks cover the result.
    Ok(unsafe { out.finish() })
}

/// Rows of `width` numbers.
fn rows(data: &[f32], count: usize, width: usize) -> Matrix<'_> {
    assert_eq!(data.len(), count * width, "a matrix of {count} rows of {width}");
    Matrix::dense(data, width)
}

/// y = x · wᵀ + b.
pub(crate) fn forward(s: LinearShape, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
    product(rows(x, s.rows, s.inputs), rows(w, s.outputs, s.inputs).t(), bias)
}

/// dL/dx = dL/dy · w.
pub(crate) fn input_grad(s: LinearShape, dy: &[f32], w: &[f32]) -> Result<Vec<f32>> {
    product(rows(dy, s.rows, s.outputs), rows(w, s.outputs, s.inputs), None)
}

/// dL/dw = dL/dyᵀ · x.
pub(crate) fn weight_grad(s: LinearShape, dy: &[f32], x: &[f32]) -> Result<Vec<f32>> {
    product(rows(dy, s.rows, s.outputs).t(), rows(x, s.rows, s.inputs), None)
}

/// dL/db: the sum of dL/dy over its rows.
pub(crate) fn bias_grad(s: LinearShape, dy: &[f32]) -> Vec<f32> {
    assert_eq!(dy.len(), s.rows * s.outputs, "gradient length");
    let mut db = vec![0.0; s.outputs];
    db.par_chunks_mut(BLOCK.1).enumerate().for_each(|(block, db)| {
        let mut totals = vec![0.0f64; db.len()];
        for rows in dy.chunks(SUM_ROWS * s.outputs) {
            db.fill(0.0);
            for row in rows.chunks_exact(s.outputs) {
                for (db, value) in db.iter_mut().zip(&row[block * BLOCK.1..]) {
                    *db += value;
                }
            }
            for (total, part) in totals.iter_mut().zip(db.iter()) {
                *total += f64::from(*part);
            }
        }
        for (db, total) in db.iter_mut().zip(&totals) {
            *db = *total as f32;
        }
    });
    db
}
