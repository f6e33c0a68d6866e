//! Sums of activations.

use candle_core::Tensor;

use crate::compute::use_kernel;
use crate::kernels::add as kernel;
use crate::{Error, Result};

/// a + b on all threads, where `b` has the shape of `a` or one number for each of its planes.
///
/// # Shapes
/// a (B, C, …), b the same or (B, C, 1, …) → the shape of a. Any rank where both have one shape.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit each other; [`Error::Candle`] when the types or
/// devices differ.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::add;
///
/// let x = Tensor::new(&[[[[1f32, 2.]], [[3., 4.]]]], &Device::Cpu)?;
/// let shift = Tensor::new(&[[[[10f32]], [[20.]]]], &Device::Cpu)?;
/// assert_eq!(add(&x, &shift)?.flatten_all()?.to_vec1::<f32>()?, [11., 12., 23., 24.]);
/// assert_eq!(add(&x, &x)?.flatten_all()?.to_vec1::<f32>()?, [2., 4., 6., 8.]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = if a.dims() == b.dims() {
        kernel::Add::Each
    } else if a.rank() > 2
        && a.rank() == b.rank()
        && a.dims()[..2] == b.dims()[..2]
        && b.dims()[2..].iter().all(|n| *n == 1)
    {
        kernel::Add::ToPlanes(a.dims()[2..].iter().product())
    } else {
        return Err(Error::shape("add", format!("{:?} or one number for each plane", a.dims()), b.dims()));
    };
    if use_kernel(&[a, b]) {
        return Ok(a.contiguous()?.apply_op2(&b.contiguous()?, op)?);
    }
    Ok(a.broadcast_add(b)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::compute::{Path, with_path};
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare, randn};

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut cases = Vec::new();
        for (a, b) in [
            (vec![3], vec![3]),
            (vec![], vec![]),
            (vec![2, 3, 5, 7], vec![2, 3, 5, 7]),
            (vec![2, 3, 5, 7], vec![2, 3, 1, 1]),
            (vec![1, 2, 33], vec![1, 2, 1]),
            (vec![1, 3, 150, 150], vec![1, 3, 1, 1]),
            (vec![2, 20_000], vec![2, 20_000]),
            (vec![0, 3, 4], vec![0, 3, 4]),
            (vec![0, 3, 4], vec![0, 3, 1]),
            (vec![2, 3, 0], vec![2, 3, 1]),
        ] {
            let inputs = vec![randn(1, &a), randn(2, &b)];
            cases.push(Case::new(format!("{a:?} and {b:?}"), inputs, |t| add(&t[0], &t[1])));
        }
        let turned = vec![randn(1, &[5, 3]).t().unwrap(), randn(2, &[3, 5])];
        cases.push(Case::new("transposed", turned, |t| add(&t[0], &t[1])));
        compare(&cases, 1e-5);
    }

    #[test]
    fn gradients_agree_with_differences() {
        for path in [Path::Kernels, Path::Plain] {
            for shape in [&[2, 3, 4, 5], &[2, 3, 1, 1]] {
                let x = [randn(1, &[2, 3, 4, 5]), randn(2, shape)];
                with_path(path, || check(|t| add(&t[0], &t[1]), &x, Options::default()))
                    .unwrap_or_else(|e| panic!("{shape:?} on {path:?}: {e}"));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let x = randn(1, &[2, 3, 4, 5]);
        for shape in [&[2usize, 3, 4][..], &[2, 3, 4, 1], &[1, 3, 1, 1], &[2, 1, 1, 1], &[]] {
            assert!(matches!(add(&x, &randn(1, shape)), Err(Error::Shape { .. })), "{shape:?}");
        }
        assert!(add(&x, &x.to_dtype(DType::F64).unwrap()).is_err());
        let numbers = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
        assert_eq!(add(&numbers, &numbers).unwrap().to_vec1::<u32>().unwrap(), [2, 4]);
    }
}
