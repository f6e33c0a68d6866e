//! Max pooling over windows that are given for each axis.

use std::ops::Range;

use rayon::prelude::*;

/// The largest value of each window (the product of a row range and a column range) of each plane
/// of `x`, of `size` (height, width). A NaN counts as largest.
pub(crate) fn max(
    size: (usize, usize),
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    x: &[f32],
) -> Vec<f32> {
    let (pixels, outs) = (size.0 * size.1, rows.len() * columns.len());
    let mut y = vec![0.0; x.len() / pixels * outs];
    y.par_chunks_mut(outs).zip(x.par_chunks(pixels)).for_each(|(y, x)| {
        each_maximum(size.1, rows, columns, x, |out, pixel| y[out] = x[pixel]);
    });
    y
}

/// dL/dx from dL/dy: each output's gradient goes to the first largest value of its window.
pub(crate) fn max_grad(
    size: (usize, usize),
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    x: &[f32],
    dy: &[f32],
) -> Vec<f32> {
    let (pixels, outs) = (size.0 * size.1, rows.len() * columns.len());
    assert_eq!(dy.len(), x.len() / pixels * outs, "gradient length");
    let mut dx = vec![0.0; x.len()];
    let planes = x.par_chunks(pixels).zip(dy.par_chunks(outs));
    dx.par_chunks_mut(pixels).zip(planes).for_each(|(dx, (x, dy))| {
        each_maximum(size.1, rows, columns, x, |out, pixel| dx[pixel] += dy[out]);
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
