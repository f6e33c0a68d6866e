//! The linear layer: matrix products over rows, the bias added on the way.
//!
//! The order in which a matrix product sums depends on how many rows it has. So that a sample does
//! not depend on its batch, samples of one row are multiplied in groups of a fixed size, the last
//! one filled up with zeros; samples of several rows together over packed operands, where each sum
//! has one order, or, where packing does not pay, one by one.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::{Output, Scratch, Writer};
use super::dots::Rows;
use super::matrix::{Matrix, Onto, Target, multiply, multiply_into};
use super::packing::{Turned, pack};
use super::panels::{BUNDLE, Columns, PANEL, Panels, Products};
use super::simd::{Level, run_at};

/// Sizes of y (samples, rows, out) = x (samples, rows, in) · wᵀ (in, out) + b.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearShape {
    pub(crate) samples: usize,
    /// Rows of one sample.
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl LinearShape {
    /// Rows of all samples.
    pub(crate) fn all_rows(&self) -> usize {
        self.samples * self.rows
    }
}

/// Rows and columns of the part of a product that one task forms.
const BLOCK: (usize, usize) = (256, 256);

/// The same where each sample has one row.
const GROUP: (usize, usize) = (4, 64);

/// Fewest columns for which packing pays, and lengths of sums.
const PACKED: usize = 32;
const DEPTHS: Range<usize> = 1..4097;
/// Rows that one task packs.
const ROWS: usize = 64;

/// Rows whose bias gradient is summed in f32 before it is added to an f64 total.
const SUM_ROWS: usize = 256;

/// Calls `work(rows, columns)` in parallel for blocks that cover an m × n result.
fn blocks((m, n): (usize, usize), block: (usize, usize), work: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let across = n.div_ceil(block.1);
    (0..m.div_ceil(block.0) * across).into_par_iter().with_max_len(1).for_each(|task| {
        let (i, j) = (task / across * block.0, task % across * block.1);
        work(i..(i + block.0).min(m), j..(j + block.1).min(n));
    });
}

/// The product of `a` and `b`, plus `bias` in each row, to `y` from `start` on.
fn product(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>, (y, start): (Writer<'_>, usize)) {
    let (m, k, n) = (a.size[0], a.size[1], b.size[1]);
    assert!(bias.is_none_or(|b| b.len() == n), "bias length");
    blocks((m, n), BLOCK, |rows, columns| {
        let mut onto = Onto::Replace;
        if let Some(bias) = bias {
            for i in rows.clone() {
                // SAFETY: each task has its own block.
                unsafe { y.copy(start + i * n + columns.start, &bias[columns.clone()]) };
            }
            onto = Onto::Add;
        }
        let target = Target { writer: y, start: start + rows.start * n + columns.start, stride: n };
        let (a, b) = (a.part(rows, 0..k), b.part(0..k, columns));
        // SAFETY: as above; with a bias the block has been set.
        unsafe { multiply_into(target, onto, a, b) };
    });
}

/// As [`product`], for rows that must not depend on each other's presence.
fn product_of_each_row(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>, y: Writer<'_>) {
    let (m, k, n) = (a.size[0], a.size[1], b.size[1]);
    assert!(bias.is_none_or(|b| b.len() == n), "bias length");
    blocks((m, n), GROUP, |rows, columns| {
        let mut filled = Vec::new();
        let group = if rows.len() == GROUP.0 {
            a.part(rows.clone(), 0..k)
        } else {
            rows.clone().for_each(|i| filled.extend_from_slice(a.row(i)));
            filled.resize(GROUP.0 * k, 0.0);
            Matrix { data: &filled, size: [GROUP.0, k], stride: [k, 1] }
        };
        let width = columns.len();
        let mut sums = [0.0; GROUP.0 * GROUP.1];
        let sums = &mut sums[..GROUP.0 * width];
        multiply(sums, Onto::Replace, group, b.part(0..k, columns.clone()));
        for (i, sums) in rows.zip(sums.chunks_exact_mut(width)) {
            if let Some(bias) = bias {
                sums.iter_mut().zip(&bias[columns.clone()]).for_each(|(sum, b)| *sum += b);
            }
            // SAFETY: each task has its own rows and columns.
            unsafe { y.copy(i * n + columns.start, sums) };
        }
    });
}

/// The rows of a matrix whose columns are side by side and fill whole vectors.
fn whole_rows(m: Matrix<'_>, lanes: usize) -> Option<Rows<'_>> {
    let ([count, len], [stride, side]) = (m.size, m.stride);
    (side == 1 && len % lanes == 0 && len > 0 && count > 0).then_some(Rows { values: m.data, count, stride })
}

/// Packs the columns of `b` for products with panels; those beyond fill up the last vector with zeros.
pub(super) fn pack_matrix(b: Matrix<'_>, level: Level) -> Scratch {
    let ([depth, n], lanes, bundle) = (b.size, level.lanes(), BUNDLE * level.lanes());
    let mut columns = Scratch::take(n.div_ceil(lanes) * lanes * depth);
    columns.par_chunks_mut(bundle * depth).enumerate().for_each(|(i, columns)| {
        let (first, wide) = (i * bundle, columns.len() / depth);
        let part = b.part(0..depth, first..n.min(first + wide)).t();
        if let Some(rows) = whole_rows(part, lanes) {
            let width = (wide, wide);
            return run_at(level, Turned { rows, terms: depth, width, to: columns });
        }
        for (term, row) in columns.chunks_exact_mut(wide).enumerate() {
            let (from, inside) = (term * b.stride[0] + first * b.stride[1], wide.min(n - first));
            let (row, filling) = row.split_at_mut(inside);
            if b.stride[1] == 1 {
                row.copy_from_slice(&b.data[from..from + inside]);
            } else {
                let values = b.data[from..].iter().step_by(b.stride[1]);
                row.iter_mut().zip(values).for_each(|(to, value)| *to = *value);
            }
            filling.fill(0.0);
        }
    });
    columns
}

/// As [`product`], over packed operands: each task packs its own rows, and `b` is packed once. A
/// number's sum has one order, whatever stands beside it, so samples need not be kept apart.
fn packed(a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>, out: Writer<'_>) {
    let ([m, depth], n, level) = (a.size, b.size[1], Level::best());
    let (lanes, bundle) = (level.lanes(), BUNDLE * level.lanes());
    let groups = n.div_ceil(lanes);
    let columns = pack_matrix(b, level);
    let step = ROWS;
    (0..m.div_ceil(step)).into_par_iter().with_max_len(1).for_each(|task| {
        let rows = task * step..((task + 1) * step).min(m);
        let values = match whole_rows(a.part(rows.clone(), 0..depth), lanes) {
            Some(own) => {
                let mut values = Scratch::take(rows.len().next_multiple_of(PANEL) * depth);
                run_at(level, Turned { rows: own, terms: depth, width: (PANEL, PANEL), to: &mut values });
                values
            }
            None => {
                let weight = |row, term| a.data[(rows.start + row) * a.stride[0] + term * a.stride[1]];
                pack(rows.len(), depth, weight)
            }
        };
        let weights = Panels { values: &values, depth };
        let height = weights.len() * PANEL;
        let mut sums = Scratch::take(height * groups * lanes);
        let (panels, to) = (0..weights.len(), Writer::over(&mut sums));
        let columns = Columns::whole(&columns, groups, depth);
        run_at(level, Products { weights, panels, columns, to, start: 0 });
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

/// Whether packing pays for a product with sums of `k` terms to `n` columns.
fn is_packed(k: usize, n: usize) -> bool {
    n >= PACKED && DEPTHS.contains(&k)
}

/// The rows of all samples in `a`, times `b`, plus `bias`.
fn products(s: LinearShape, a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let (k, n) = (a.size[1], b.size[1]);
    let mut out = Output::new(s.all_rows() * n)?;
    let writer = out.writer();
    if s.rows == 1 {
        product_of_each_row(a, b, bias, writer);
    } else if is_packed(k, n) {
        packed(a, b, bias, writer);
    } else {
        (0..s.samples).into_par_iter().for_each(|sample| {
            let rows = sample * s.rows..(sample + 1) * s.rows;
            let start = rows.start * n;
            product(a.part(rows, 0..k), b, bias, (writer, start));
        });
    }
    // SAFETY: all three cover the result.
    Ok(unsafe { out.finish() })
}

/// Rows of `width` numbers.
fn rows(data: &[f32], count: usize, width: usize) -> Matrix<'_> {
    assert_eq!(data.len(), count * width, "a matrix of {count} rows of {width}");
    Matrix::dense(data, width)
}

/// y = x · wᵀ + b.
pub(crate) fn forward(s: LinearShape, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
    products(s, rows(x, s.all_rows(), s.inputs), rows(w, s.outputs, s.inputs).t(), bias)
}

/// dL/dx = dL/dy · w.
pub(crate) fn input_grad(s: LinearShape, dy: &[f32], w: &[f32]) -> Result<Vec<f32>> {
    products(s, rows(dy, s.all_rows(), s.outputs), rows(w, s.outputs, s.inputs), None)
}

/// dL/dw = dL/dyᵀ · x.
pub(crate) fn weight_grad(s: LinearShape, dy: &[f32], x: &[f32]) -> Result<Vec<f32>> {
    let count = s.all_rows();
    let (dy, x) = (rows(dy, count, s.outputs).t(), rows(x, count, s.inputs));
    let mut out = Output::new(s.outputs * s.inputs)?;
    if is_packed(count, s.inputs) {
        packed(dy, x, None, out.writer());
    } else {
        product(dy, x, None, (out.writer(), 0));
    }
    // SAFETY: both cover the result.
    Ok(unsafe { out.finish() })
}

/// dL/db: the sum of dL/dy over its rows.
pub(crate) fn bias_grad(s: LinearShape, dy: &[f32]) -> Vec<f32> {
    assert_eq!(dy.len(), s.all_rows() * s.outputs, "gradient length");
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
