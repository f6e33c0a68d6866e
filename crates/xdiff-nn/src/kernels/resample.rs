//! Separable linear maps of images: each output row is a weighted sum of a few input rows, and
//! likewise for columns. Interpolation and average pooling are such maps, and so are their
//! gradients, which are the transposed maps.

use candle_core::Result;
use rayon::prelude::*;

use super::buffer::{Output, Scratch};
use super::simd::{Kernel, Vector, dispatch};
use super::sum::axpy;

/// A sparse matrix: which inputs of an axis make up each output, with which weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sparse {
    inputs: usize,
    /// Where each output's taps start, and where the last one's end.
    starts: Vec<usize>,
    taps: Vec<(usize, f32)>,
}

impl Sparse {
    /// A matrix from each output's (input, weight) pairs.
    pub(crate) fn new(inputs: usize, rows: impl IntoIterator<Item = Vec<(usize, f32)>>) -> Self {
        let (mut starts, mut taps) = (vec![0], Vec::new());
        for row in rows {
            assert!(row.iter().all(|(i, _)| *i < inputs), "a tap outside of its axis");
            taps.extend(row);
            starts.push(taps.len());
        }
        Self { inputs, starts, taps }
    }

    /// The matrix with inputs and outputs exchanged.
    pub(crate) fn transposed(&self) -> Self {
        let mut rows = vec![Vec::new(); self.inputs];
        for out in 0..self.outputs() {
            for (i, weight) in self.row(out) {
                rows[*i].push((out, *weight));
            }
        }
        Self::new(self.outputs(), rows)
    }

    /// The number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.starts.len() - 1
    }

    fn row(&self, out: usize) -> &[(usize, f32)] {
        &self.taps[self.starts[out]..self.starts[out + 1]]
    }
}

/// Output rows of one plane that one task forms.
const ROWS: usize = 64;

/// Maps each plane of `x` (planes, rows.inputs, columns.inputs).
pub(crate) fn resample(planes: usize, rows: &Sparse, columns: &Sparse, x: &[f32]) -> Result<Vec<f32>> {
    let (height, width) = (rows.outputs(), columns.outputs());
    assert_eq!(x.len(), planes * rows.inputs * columns.inputs, "planes do not fit their maps");
    let mut y = Output::new(planes * height * width)?;
    let writer = y.writer();
    let blocks = height.div_ceil(ROWS);
    (0..planes * blocks).into_par_iter().for_each(|task| {
        let (plane, first) = (task / blocks, task % blocks * ROWS);
        let source = &x[plane * rows.inputs * columns.inputs..][..rows.inputs * columns.inputs];
        let mut mixed = Scratch::take(columns.inputs);
        for row in first..(first + ROWS).min(height) {
            let start = (plane * height + row) * width;
            // SAFETY: each task has its own rows.
            unsafe { writer.fill(start, width, 0.0) };
            // SAFETY: as above, and set just now.
            let out = unsafe { writer.slice(start, width) };
            if row > first && rows.row(row) == rows.row(row - 1) {
                // SAFETY: this task's own row, written in the round before.
                out.copy_from_slice(unsafe { writer.slice(start - width, width) });
                continue;
            }
            dispatch(Row { rows: rows.row(row), columns, plane: source, mixed: &mut mixed, out });
        }
    });
    // SAFETY: the tasks cover all rows of all planes.
    Ok(unsafe { y.finish() })
}

/// One output row: the mixture of input rows, then of its columns.
struct Row<'a> {
    rows: &'a [(usize, f32)],
    columns: &'a Sparse,
    plane: &'a [f32],
    mixed: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = self.mixed.len();
        let line = |row: usize| &self.plane[row * width..(row + 1) * width];
        let line = match self.rows {
            [(row, 1.0)] => line(*row),
            rows => {
                self.mixed.fill(0.0);
                for (row, weight) in rows {
                    axpy::<V>(self.mixed, *weight, line(*row));
                }
                self.mixed
            }
        };
        for (bounds, y) in self.columns.starts.windows(2).zip(self.out) {
            let taps = &self.columns.taps[bounds[0]..bounds[1]];
            *y = taps.iter().map(|(i, weight)| weight * line[*i]).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_is_the_identity() {
        let a = Sparse::new(4, [vec![(0, 1.0), (3, 2.0)], vec![], vec![(3, 0.5)]]);
        assert_eq!(a.transposed().outputs(), 4);
        assert_eq!(a.transposed().transposed(), a);
    }

    #[test]
    fn a_map_of_rows_and_columns() {
        let rows = Sparse::new(2, [vec![(0, 0.5), (1, 0.5)], vec![], vec![(1, 1.0)], vec![(1, 1.0)]]);
        let columns = Sparse::new(3, [vec![(2, 1.0)], vec![(0, 1.0), (1, -1.0)]]);
        let y = resample(1, &rows, &columns, &[1.0, 2.0, 3.0, 5.0, 8.0, 9.0]).unwrap();
        assert_eq!(y, [6.0, -2.0, 0.0, 0.0, 9.0, -3.0, 9.0, -3.0]);
    }
}
