//! The linear layer: matrix products over rows, the bias added on the way.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::{Output, Scratch, Writer};
use super::matrix::{Matrix, Onto, Target, multiply_into};
use super::panels::{BUNDLE, PANEL, Panels, Products, pack};
use super::simd::{Level, run_at};

/// Sizes of y (rows, out) = x (rows, in) · wᵀ (in, out) + b.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearShape {
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// About how many tasks a product is divided into, and the least rows or columns of one.
const TASKS: usize = 8;
const LEAST: usize = 128;
/// Most rows or columns of the part of a product that one task forms.
const MOST: usize = 1024;
/// Products of fewer terms are formed by one task.
const SMALL: usize = 1 << 18;

/// Fewest rows and columns for which packing pays, and lengths of sums.
const PACKED: usize = 32;
const DEPTHS: Range<usize> = 1..4097;
/// Numbers of a result that inner products of rows form, when both operands lie that way.
const INNER: usize = 256;
/// Rows that one task packs at most.
const ROWS: usize = 128;

/// Columns whose bias gradient one task sums.
const SUM_COLUMNS: usize = 256;
/// Rows whose bias gradient is summed in f32 before it is added to an f64 total.
const SUM_ROWS: usize = 256;

/// Rows and columns of the blocks of an m × n result with sums of `k` terms.
///
/// Each block packs its operands, so that few and square blocks are best.
fn block(m: usize, n: usize, k: usize) -> (usize, usize) {
    let (mut rows, mut columns) = (m.clamp(1, MOST), n.clamp(1, MOST));
    if m.saturating_mul(n).saturating_mul(k) < SMALL {
        return (rows, columns);
    }
    while m.div_ceil(rows) * n.div_ceil(columns) < TASKS && rows.max(columns) > LEAST {
        if rows > columns {
            rows = rows.div_ceil(2);
        } else {
            columns = columns.div_ceil(2);
        }
    }
    (rows, columns)
}

/// Calls `work(rows, columns)` in parallel for blocks that cover an m × n result.
fn blocks((m, n): (usize, usize), block: (usize, usize), work: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let across = n.div_ceil(block.1);
    let one = |task: usize| {
        let (i, j) = (task / across * block.0, task % across * block.1);
        work(i..(i + block.0).min(m), j..(j + block.1).min(n));
    };
    match m.div_ceil(block.0) * across {
        1 => one(0),
        tasks => (0..tasks).into_par_iter().with_max_len(1).for_each(one),
    }
}

/// The product of `a` and `b`, plus `bias` in each row.
fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let (m, n) = (a.size[0], b.size[1]);
    assert!(bias.is_none_or(|b| b.len() == n) && a.size[1] == b.size[0], "sizes of a product");
    let mut out = Output::new(m * n)?;
    if m < PACKED || n < PACKED || !DEPTHS.contains(&a.size[1]) {
        unpacked(a, b, bias, out.writer());
    } else {
        packed(a, b, bias, out.writer());
    }
    // SAFETY: both write every number.
    Ok(unsafe { out.finish() })
}

/// Blocks of the product one by one.
fn unpacked(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>, out: Writer<'_>) {
    let (m, k, n) = (a.size[0], a.size[1], b.size[1]);
    // A few rows against many: the matrix product takes inner products only for small results.
    let few = m < PACKED && a.stride[1] == 1 && b.stride[0] == 1;
    let block = if few { (m.max(1), INNER / m.max(1)) } else { block(m, n, k) };
    blocks((m, n), block, |rows, columns| {
        let mut onto = Onto::Replace;
        if let Some(bias) = bias {
            for i in rows.clone() {
                // SAFETY: each task has its own block.
                unsafe { out.copy(i * n + columns.start, &bias[columns.clone()]) };
            }
            onto = Onto::Add;
        }
        let target = Target { writer: out, start: rows.start * n + columns.start, stride: n };
        let (a, b) = (a.part(rows, 0..k), b.part(0..k, columns));
        // SAFETY: as above; with a bias the block has been set.
        unsafe { multiply_into(target, onto, a, b) };
    });
}

/// The product by rows, of which each task packs its own; `b` is packed once.
fn packed(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>, out: Writer<'_>) {
    let ([m, depth], n, level) = (a.size, b.size[1], Level::best());
    let (lanes, bundle) = (level.lanes(), BUNDLE * level.lanes());
    let groups = n.div_ceil(lanes);
    let mut columns = Scratch::take(groups * lanes * depth);
    columns.par_chunks_mut(bundle * depth).enumerate().for_each(|(i, columns)| {
        let (first, wide) = (i * bundle, columns.len() / depth);
        for (term, row) in columns.chunks_exact_mut(wide).enumerate() {
            let from = term * b.stride[0] + first * b.stride[1];
            for (column, value) in row.iter_mut().enumerate() {
                let inside = first + column < n;
                *value = if inside { b.data[from + column * b.stride[1]] } else { 0.0 };
            }
        }
    });
    let step = m.div_ceil(TASKS).next_multiple_of(PANEL).min(ROWS);
    (0..m.div_ceil(step)).into_par_iter().with_max_len(1).for_each(|task| {
        let rows = task * step..((task + 1) * step).min(m);
        let weight = |row, term| a.data[(rows.start + row) * a.stride[0] + term * a.stride[1]];
        let values = pack(rows.len(), depth, weight);
        let weights = Panels { values: &values, depth };
        let height = weights.len() * PANEL;
        let mut sums = Scratch::take(height * groups * lanes);
        let (panels, to) = (0..weights.len(), Writer::over(&mut sums));
        run_at(level, Products { weights, panels, columns: &columns, groups, to, start: 0 });
        for (i, sums) in sums.chunks_mut(height * bundle).enumerate() {
            let columns = i * bundle..((i + 1) * bundle).min(n);
            for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(sums.len() / height)) {
                let sums = &mut sums[..columns.len()];
                if let Some(bias) = bias {
                    sums.iter_mut().zip(&bias[columns.clone()]).for_each(|(sum, b)| *sum += b);
                }
                // SAFETY: each task has its own rows; the sums are other memory.
                unsafe { out.copy(row * n + columns.start, sums) };
            }
        }
    });
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
    db.par_chunks_mut(SUM_COLUMNS).enumerate().for_each(|(block, db)| {
        let mut totals = vec![0.0f64; db.len()];
        for rows in dy.chunks(SUM_ROWS * s.outputs) {
            db.fill(0.0);
            for row in rows.chunks_exact(s.outputs) {
                for (db, value) in db.iter_mut().zip(&row[block * SUM_COLUMNS..]) {
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
