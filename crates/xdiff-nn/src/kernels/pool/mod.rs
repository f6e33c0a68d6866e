//! Max pooling over windows that are given for each axis.

mod even;

use std::ops::Range;

use rayon::prelude::*;

use self::even::{Maxima, Shares};
use super::simd::{Unset, dispatch};
use super::slices::written;

/// The windows of planes: every product of a row range and a column range. Ranges are not empty,
/// and neither their starts nor their ends ever fall.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    /// The pixels that windows cover vertically, inside the plane.
    pub(crate) rows: Vec<Range<usize>>,
    /// The same horizontally.
    pub(crate) columns: Vec<Range<usize>>,
    /// The rule that the columns follow, when there is one.
    pub(crate) even: Option<Even>,
}

/// Ranges of one length at even distances: range i covers the pixels from i · stride − padding on,
/// as far as they lie in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Even {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl Windows {
    /// Windows per plane.
    fn count(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// The columns' rule, where vectors of neighbouring windows serve it.
    fn vectors(&self) -> Option<Even> {
        let low = self.rows.iter().all(|rows| rows.len() <= even::LARGEST);
        self.even.filter(|e| low && e.kernel <= even::LARGEST && matches!(e.stride, 1 | 2))
    }
}

/// The largest value of each window of each plane of `x`, of `size` (height, width). A NaN counts
/// as largest.
pub(crate) fn max(size: (usize, usize), windows: &Windows, x: &[f32]) -> Vec<f32> {
    let (pixels, outs, even) = (size.0 * size.1, windows.count(), windows.vectors());
    // SAFETY: both ways write every window of a plane, and the planes make up the whole.
    unsafe {
        written(x.len() / pixels * outs, |y| {
            y.par_chunks_mut(outs).zip(x.par_chunks_exact(pixels)).for_each(|(y, x)| match even {
                Some(even) => dispatch(Maxima { windows, even, width: size.1, x, y }),
                None => each_maximum(size.1, windows, x, |out, pixel| {
                    y[out].write(x[pixel]);
                }),
            });
        })
    }
}

/// dL/dx from dL/dy: each output's gradient goes to the first largest value of its window, or to
/// its last NaN. `y` is what [`max`] gave.
pub(crate) fn max_grad(
    size: (usize, usize),
    windows: &Windows,
    x: &[f32],
    y: &[f32],
    dy: &[f32],
) -> Vec<f32> {
    let (pixels, outs, even) = (size.0 * size.1, windows.count(), windows.vectors());
    let expected = x.len() / pixels * outs;
    assert!(y.len() == expected && dy.len() == expected, "gradient length");
    // SAFETY: both ways write every pixel of a plane, and the planes make up the whole.
    unsafe {
        written(x.len(), |dx| {
            let outputs = y.par_chunks_exact(outs).zip(dy.par_chunks_exact(outs));
            let planes = x.par_chunks_exact(pixels).zip(outputs);
            dx.par_chunks_mut(pixels).zip(planes).for_each(|(dx, (x, (y, dy)))| {
                // A window without a number above −∞ is told apart by its pixels' places only.
                let even = even.filter(|_| y.iter().all(|y| *y > f32::NEG_INFINITY));
                let width = size.1;
                match even {
                    Some(even) if even.stride == 1 => {
                        dispatch(Shares::<1> { windows, even, width, x, y, dy, dx });
                    }
                    Some(even) => dispatch(Shares::<2> { windows, even, width, x, y, dy, dx }),
                    None => {
                        let dx = zeros(dx);
                        each_maximum(width, windows, x, |out, pixel| dx[pixel] += dy[out]);
                    }
                }
            });
        })
    }
}

/// Memory set to zero.
fn zeros(memory: &mut [Unset]) -> &mut [f32] {
    memory.fill(Unset::new(0.0));
    // SAFETY: set just now.
    unsafe { memory.assume_init_mut() }
}

/// Calls `visit(output, pixel of its maximum)` for each window of a plane.
#[inline(always)]
fn each_maximum(width: usize, windows: &Windows, x: &[f32], mut visit: impl FnMut(usize, usize)) {
    let columns = &windows.columns;
    for (i, rows) in windows.rows.iter().enumerate() {
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
