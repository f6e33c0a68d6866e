//! Vectors in an order of their own, and products of many of them at a time.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::features::matrix;

/// Vectors, sorted by their values.
///
/// A statistic that goes through them in this order is the same, to the last bit, in whatever order
/// and in however many shards they arrived.
pub(super) struct Sorted<'a> {
    rows: MatRef<'a, f64>,
    order: Vec<usize>,
}

/// Vectors that are multiplied at a time.
pub(super) const BLOCK: usize = 256;

impl<'a> Sorted<'a> {
    /// `rows` holds vectors of length `dim`, one after the other.
    pub(super) fn new(rows: &'a [f64], dim: usize) -> Self {
        let row = |i: usize| &rows[i * dim..(i + 1) * dim];
        let compare = |a: &usize, b: &usize| {
            let pairs = row(*a).iter().zip(row(*b));
            pairs.map(|(x, y)| x.total_cmp(y)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        };
        let mut order: Vec<usize> = (0..rows.len() / dim).collect();
        order.sort_unstable_by(compare);
        Self { rows: matrix(rows, dim), order }
    }

    pub(super) fn n(&self) -> usize {
        self.order.len()
    }

    pub(super) fn dim(&self) -> usize {
        self.rows.ncols()
    }

    /// How many blocks of [`BLOCK`] vectors there are; the last may be shorter.
    pub(super) fn blocks(&self) -> usize {
        self.n().div_ceil(BLOCK)
    }

    /// The vectors of a block, one a column.
    pub(super) fn block(&self, block: usize) -> Mat<f64> {
        let from = block * BLOCK;
        self.gather(&self.order[from..(from + BLOCK).min(self.n())])
    }

    /// Copies of the vectors at these places of the order, one after the other.
    pub(super) fn pick(&self, places: impl IntoIterator<Item = usize>) -> Vec<f64> {
        let rows = places.into_iter().map(|place| self.rows.row(self.order[place]));
        rows.flat_map(|row| row.iter().copied()).collect()
    }

    /// The mean of all vectors.
    pub(super) fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.dim()];
        for row in &self.order {
            mean.iter_mut().zip(self.rows.row(*row).iter()).for_each(|(m, v)| *m += v);
        }
        mean.iter_mut().for_each(|m| *m /= self.n() as f64);
        mean
    }

    fn gather(&self, rows: &[usize]) -> Mat<f64> {
        Mat::from_fn(self.dim(), rows.len(), |i, j| self.rows[(rows[j], i)])
    }
}

/// `scale`·xᵢ·yⱼ of the columns of two blocks.
pub(super) fn products(x: &Mat<f64>, y: &Mat<f64>, scale: f64) -> Mat<f64> {
    let mut products = Mat::zeros(x.ncols(), y.ncols());
    matmul(&mut products, Accum::Replace, x.transpose(), y, scale, Par::Seq);
    products
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_depend_on_how_the_vectors_arrived() {
        let rows = [3.0, 1.0, -0.0, 5.0, 3.0, 0.5, 0.0, 5.0];
        let turned = [0.0, 5.0, 3.0, 0.5, 3.0, 1.0, -0.0, 5.0];
        let want = [-0.0, 5.0, 0.0, 5.0, 3.0, 0.5, 3.0, 1.0];
        for rows in [rows, turned] {
            let sorted = Sorted::new(&rows, 2);
            assert_eq!((sorted.n(), sorted.dim(), sorted.blocks()), (4, 2, 1));
            let block = sorted.block(0);
            assert!((0..8).all(|i| block[(i % 2, i / 2)].to_bits() == f64::to_bits(want[i])));
            assert_eq!(sorted.mean(), [1.5, 2.875]);
            assert_eq!(sorted.pick([2, 0]), [3.0, 0.5, 0.0, 5.0]);
        }
    }

    #[test]
    fn products_are_those_of_the_columns() {
        let (x, y) =
            (Mat::from_fn(3, 2, |i, j| (i + 2 * j) as f64), Mat::from_fn(3, 4, |i, j| (i * j) as f64));
        let got = products(&x, &y, 0.5);
        assert_eq!((got.nrows(), got.ncols()), (2, 4));
        // (2, 3, 4)·(0, 3, 6) / 2
        assert_eq!(got[(1, 3)], 16.5);
    }
}
