//! Products of matrices that lie in slices.

use std::ops::Range;

use gemm::Parallelism;

use super::buffer::Writer;

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

    /// Some rows and columns, over the same numbers.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.size[0] && columns.end <= self.size[1], "a part outside of {:?}", self.size);
        let size = [rows.len(), columns.len()];
        let first = rows.start * self.stride[0] + columns.start * self.stride[1];
        let data = if size.contains(&0) { &[] } else { &self.data[first..] };
        Self { data, size, stride: self.stride }
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

/// Where a product goes in memory that several tasks write: number (i, j) to
/// `start + i · stride + j`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) writer: Writer<'a>,
    pub(crate) start: usize,
    pub(crate) stride: usize,
}

/// lhs · rhs into `out`, rows one after another. One thread.
pub(crate) fn multiply(out: &mut [f32], onto: Onto, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let stride = rhs.size[1];
    assert_eq!(lhs.size[0] * stride, out.len(), "a product of {:?} and {:?}", lhs.size, rhs.size);
    // SAFETY: `out` is set and borrowed alone.
    unsafe { multiply_into(Target { writer: Writer::over(out), start: 0, stride }, onto, lhs, rhs) }
}

/// lhs · rhs into a part of shared memory. One thread.
///
/// The order of each sum depends on sizes and strides alone.
///
/// # Safety
/// No other task touches the numbers of the target meanwhile; they are set if `onto` is
/// [`Onto::Add`].
pub(crate) unsafe fn multiply_into(target: Target<'_>, onto: Onto, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    let ([m, k], [inner, n]) = (lhs.size, rhs.size);
    assert_eq!(k, inner, "a product of {:?} and {:?}", lhs.size, rhs.size);
    lhs.check();
    rhs.check();
    if m == 0 || n == 0 {
        return;
    }
    assert!(m == 1 || target.stride >= n, "rows of {n} numbers overlap");
    let first = target.writer.at(target.start, (m - 1) * target.stride + n);
    let step = |s: usize| s as isize;
    // SAFETY: every number that the product reads or writes lies within its memory: the checks
    // above; what it writes is unshared, and set where it is read, by the contract.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            first,
            1,
            step(target.stride),
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
    fn a_product_goes_where_it_is_told() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let m = Matrix::dense(&a, 3);
        let mut out = [1.0; 8];
        let target = Target { writer: Writer::over(&mut out), start: 1, stride: 4 };
        // SAFETY: one task, all numbers set.
        unsafe { multiply_into(target, Onto::Add, m, m.t()) };
        assert_eq!(out, [1.0, 15.0, 33.0, 1.0, 1.0, 33.0, 78.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "in 5")]
    fn a_matrix_that_leaves_its_slice_is_refused() {
        let long = Matrix { data: &[0.0; 5], size: [2, 3], stride: [3, 1] };
        multiply(&mut [0.0; 4], Onto::Replace, long, Matrix::dense(&[0.0; 6], 2));
    }
}
