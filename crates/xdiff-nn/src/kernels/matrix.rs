//! Products of matrices that lie in slices.

use gemm::Parallelism;

/// A matrix of f32 numbers in a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    /// Where the numbers are; the first is that of row 0, column 0.
    pub(crate) data: &'a [f32],
    /// Rows and columns.
    pub(crate) size: [usize; 2],
    /// How far apart rows and columns are.
    pub(crate) stride: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows one after another.
    pub(crate) fn dense(data: &'a [f32], columns: usize) -> Self {
        Self { data, size: [data.len() / columns.max(1), columns], stride: [columns, 1] }
    }

    /// Rows and columns exchanged.
    pub(crate) fn t(self) -> Self {
        let ([rows, columns], [by_row, by_column]) = (self.size, self.stride);
        Self { data: self.data, size: [columns, rows], stride: [by_column, by_row] }
    }

    /// The numbers of a row whose columns are side by side.
    pub(crate) fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.stride[0]..][..self.size[1]]
    }

    /// Panics unless every number lies within the slice.
    fn check(&self) {
        let last = |i: usize| (self.size[i] - 1) * self.stride[i];
        let needed = if self.size.contains(&0) { 0 } else { last(0) + last(1) + 1 };
        assert!(needed <= self.data.len(), "{:?} by {:?} in {}", self.size, self.stride, self.data.len());
    }
}

/// What becomes of the numbers that a product is written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onto {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// lhs · rhs into `out`, rows one after another. One thread.
pub(crate) fn multiply(out: &mut [f32], onto: Onto, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let ([m, k], [inner, n]) = (lhs.size, rhs.size);
    assert_eq!((k, m * n), (inner, out.len()), "a product of {:?} and {:?}", lhs.size, rhs.size);
    lhs.check();
    rhs.check();
    if m == 0 || n == 0 {
        return;
    }
    let step = |s: usize| s as isize;
    // SAFETY: every number that the product reads or writes lies within its slice: the three
    // checks above; `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            step(n),
            onto == Onto::Add,
            lhs.data.as_ptr(),
            step(lhs.stride[1]),
            step(lhs.stride[0]),
            rhs.data.as_ptr(),
            step(rhs.stride[1]),
            step(rhs.stride[0]),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_transposed_and_empty_matrices() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, -1.0, 2.0, 1.0, 1.0]);
        let mut out = [1.0; 4];
        multiply(&mut out, Onto::Replace, Matrix::dense(&a, 3), Matrix::dense(&b, 2));
        assert_eq!(out, [2.0, 7.0, 5.0, 16.0]);
        multiply(&mut out, Onto::Add, Matrix::dense(&a, 2).t(), Matrix::dense(&b, 2));
        assert_eq!(out, [5.0, 18.0, 9.0, 30.0]);
        let none = Matrix { data: &[], size: [2, 0], stride: [0, 1] };
        let mut out = [7.0; 6];
        multiply(&mut out, Onto::Replace, none, Matrix { data: &[], size: [0, 3], stride: [3, 1] });
        assert_eq!(out, [0.0; 6]);
    }

    #[test]
    #[should_panic(expected = "in 5")]
    fn a_matrix_that_leaves_its_slice_is_refused() {
        let long = Matrix { data: &[0.0; 5], size: [2, 3], stride: [3, 1] };
        multiply(&mut [0.0; 4], Onto::Replace, long, Matrix::dense(&[0.0; 6], 2));
    }
}
