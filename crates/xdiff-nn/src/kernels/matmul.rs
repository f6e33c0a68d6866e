//! The one door to the `gemm` crate: checked f32 matrix products on one thread.

use super::buffer::Writer;

/// A matrix inside a slice: element (i, j) stands at `i * row + j * col`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` values, one behind the other.
    pub(crate) fn rows(values: &'a [f32], width: usize) -> Self {
        Self { values, row: width, col: 1 }
    }

    /// The transposed matrix, over the same values.
    pub(crate) fn t(self) -> Self {
        Self { values: self.values, row: self.col, col: self.row }
    }
}

/// Where a product goes: element (i, j) stands at `start + i * row + j`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) writer: Writer<'a>,
    pub(crate) start: usize,
    pub(crate) row: usize,
}

/// What happens to the former content of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Former {
    /// Nothing is read; the memory may be unset.
    Replace,
    /// The product is added to it.
    Add,
}

/// The (m, k)·(k, n) product of `a` and `b`.
///
/// The order of each sum depends on the sizes and strides alone.
///
/// # Safety
/// No other task touches the m·n elements of the target meanwhile; they are set when `former` is
/// [`Former::Add`].
pub(crate) unsafe fn multiply(
    (m, n, k): (usize, usize, usize),
    a: Matrix<'_>,
    b: Matrix<'_>,
    target: Target<'_>,
    former: Former,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if former == Former::Replace {
            for i in 0..m {
                // SAFETY: these are elements of the target; `fill` checks that they lie inside.
                unsafe { target.writer.fill(target.start + i * target.row, n, 0.0) };
            }
        }
        return;
    }
    assert!((m - 1) * a.row + (k - 1) * a.col < a.values.len(), "left matrix too small");
    assert!((k - 1) * b.row + (n - 1) * b.col < b.values.len(), "right matrix too small");
    let first = target.writer.at(target.start, (m - 1) * target.row + n);
    // SAFETY: all three matrices lie inside their memory by the checks above; the target is
    // unshared, and set where it is read, by the contract.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            first,
            1,
            target.row as isize,
            former == Former::Add,
            a.values.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.col as isize,
            b.row as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views() {
        // a = [1 2 3; 4 5 6], b = a transposed, into columns 1..3 of rows of 4.
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let m = Matrix::rows(&a, 3);
        let mut out = [1.0; 8];
        let target = Target { writer: Writer::over(&mut out), start: 1, row: 4 };
        // SAFETY: one task, all values set.
        unsafe {
            multiply((2, 2, 3), m, m.t(), target, Former::Add);
            multiply((2, 1, 0), m, m.t(), Target { start: 3, ..target }, Former::Replace);
        }
        assert_eq!(out, [1.0, 15.0, 33.0, 0.0, 1.0, 33.0, 78.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "right matrix too small")]
    fn a_short_matrix_is_caught() {
        let a = [1.0; 6];
        let mut out = [0.0; 4];
        let target = Target { writer: Writer::over(&mut out), start: 0, row: 2 };
        // SAFETY: one task, all values set.
        unsafe { multiply((2, 2, 3), Matrix::rows(&a, 3), Matrix::rows(&a[..4], 2), target, Former::Add) };
    }
}
