//! Max pooling over windows that are given for each axis.

use std::ops::Range;

use rayon::prelude::*;

/// The largest value of each window (the product of a row range and a column range) of each plane
/// of `x`. A NaN counts as largest.
pub(crate) fn max(width: usize, rows: &[Range<usize>], columns: &[Range<usize>], x: &[&[f32]]) -> Vec<f32> {
    let outs = rows.len() * columns.len();
    let mut y = vec![0.0; x.len() * outs];
    y.par_chunks_mut(outs).zip(x).for_each(|(y, x)| {
        each_maximum(width, rows, columns, x, |out, pixel| y[out] = x[pixel]);
    });
    y
}

/// dL/dx from dL/dy: each output's gradient goes to the first largest value of its window.
pub(crate) fn max_grad(
    width: usize,
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    x: &[&[f32]],
    dy: &[f32],
) -> Vec<f32> {
    let outs = rows.len() * columns.len();
    let pixels = x.first().map_or(1, |plane| plane.len());
    assert_eq!(dy.len(), x.len() * outs, "gradient length");
    let mut dx = vec![0.0; x.len() * pixels];
    dx.par_chunks_mut(pixels).zip(x).zip(dy.par_chunks(outs)).for_each(|((dx, x), dy)| {
        each_maximum(width, rows, columns, x, |out, pixel| dx[pixel] += dy[out]);
    });
    dx
}

/// Calls `visit(output, pixel of its maximum)` for each window of a plane.
#[inline(always)]
fn each_maximum(
    width: usize,
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    x: &[f32],
    mut visit: impl FnMut(usize, usize),
) {
    for (i, rows) in rows.iter().enumerate() {
        for (j, cells) in columns.iter().enumerate() {
            let mut best = rows.start * width + cells.start;
            for row in rows.clone() {
                let line = &x[row * width..(row + 1) * width];
                for column in cells.clone() {
                    let value = line[column];
                    if value > x[best] || value.is_nan() {
                        best = row * width + column;
                    }
                }
            }
            visit(i * columns.len() + j, best);
        }
    }
}
