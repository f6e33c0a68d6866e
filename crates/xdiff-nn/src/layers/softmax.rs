//! Softmax.

use candle_core::{D, Tensor};

use crate::compute::use_kernel;
use crate::kernels::softmax::{EmptyRow, Op};
use crate::{Error, Result};

/// Softmax over the last dimension: yᵢ = e^(xᵢ − max x) / Σⱼ e^(xⱼ − max x).
///
/// A row that is −∞ everywhere, and a row with NaN or +∞, becomes NaN, as in PyTorch.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::softmax_last_dim;
///
/// let x = Tensor::new(&[[1e4f32, 1e4], [0., f32::NEG_INFINITY]], &Device::Cpu)?;
/// assert_eq!(softmax_last_dim(&x)?.to_vec2::<f32>()?, [[0.5, 0.5], [1., 0.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Shapes
/// (…, n), at least one dimension; the result has the same shape.
///
/// # Errors
/// [`Error::Shape`] for a scalar, [`Error::Argument`] for integers.
pub fn softmax_last_dim(x: &Tensor) -> Result<Tensor> {
    over_last_dim(x, EmptyRow::Nan)
}

/// Softmax over a dimension; see [`softmax_last_dim`].
///
/// # Errors
/// [`Error::Shape`] when there is no such dimension, [`Error::Argument`] for integers.
pub fn softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    if dim >= x.rank() {
        return Err(Error::shape("softmax", format!("more than {dim} dimensions"), x.dims()));
    }
    let last = x.rank() - 1;
    if dim == last {
        return softmax_last_dim(x);
    }
    Ok(softmax_last_dim(&x.transpose(dim, last)?)?.transpose(dim, last)?)
}

/// The logarithm of the softmax over a dimension, with the greatest value taken out first:
/// yᵢ = (xᵢ − max x) − ln Σⱼ e^(xⱼ − max x), finite where the softmax itself underflows to 0.
///
/// # Errors
/// [`Error::Shape`] when there is no such dimension.
pub fn log_softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    if dim >= x.rank() {
        return Err(Error::shape("log_softmax", format!("more than {dim} dimensions"), x.dims()));
    }
    let centred = x.broadcast_sub(&x.detach().max_keepdim(dim)?)?;
    Ok(centred.broadcast_sub(&centred.exp()?.sum_keepdim(dim)?.log()?)?)
}

/// Softmax over the last dimension, with a choice for rows that are −∞ everywhere.
pub(super) fn over_last_dim(x: &Tensor, empty: EmptyRow) -> Result<Tensor> {
    if x.rank() == 0 {
        return Err(Error::shape("softmax", "at least one dimension", x.dims()));
    }
    if !x.dtype().is_float() {
        return Err(Error::argument(
            "softmax",
            format!("takes floating point numbers, got {:?}; convert them with to_dtype", x.dtype()),
        ));
    }
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    if use_kernel(&[x]) {
        return Ok(x.contiguous()?.apply_op1(Op { empty })?);
    }
    let mut top = x.detach().max_keepdim(D::Minus1)?;
    if empty == EmptyRow::Zero {
        top = top.eq(f64::NEG_INFINITY)?.where_cond(&top.zeros_like()?, &top)?;
    }
    let e = x.broadcast_sub(&top)?.exp()?;
    let mut sum = e.sum_keepdim(D::Minus1)?;
    if empty == EmptyRow::Zero {
        sum = sum.eq(0.0)?.where_cond(&sum.ones_like()?, &sum)?;
    }
    Ok(e.broadcast_div(&sum)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::Rng;
    use crate::compute::{Path, with_path};
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare};

    #[test]
    fn gradients_agree_with_differences() {
        let x = Rng::new(1).randn((2, 3, 7), &Device::Cpu).unwrap();
        for path in [Path::Kernels, Path::Plain] {
            for dim in 0..3 {
                with_path(path, || {
                    check(|x| softmax(&x[0], dim), std::slice::from_ref(&x), Options::default())
                })
                .unwrap_or_else(|e| panic!("dimension {dim} on {path:?}: {e}"));
            }
        }
        for dim in 0..3 {
            check(|x| log_softmax(&x[0], dim), std::slice::from_ref(&x), Options::default()).unwrap();
            let (log, plain) = (log_softmax(&x, dim).unwrap(), softmax(&x, dim).unwrap());
            let error = (log.exp().unwrap() - plain).unwrap().abs().unwrap().max_all().unwrap();
            assert!(error.to_scalar::<f32>().unwrap() < 1e-6, "dimension {dim}");
        }
        let far = Tensor::new(&[0f32, -1e4], &Device::Cpu).unwrap();
        assert_eq!(log_softmax(&far, 0).unwrap().to_vec1::<f32>().unwrap(), [0.0, -1e4]);
        assert!(matches!(log_softmax(&far, 1), Err(Error::Shape { .. })));
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut rng = Rng::new(2);
        let mut cases = Vec::new();
        for (what, shape, scale) in [
            ("odd", vec![3, 5, 19], 1.0),
            ("one column", vec![4, 1], 1.0),
            ("one row", vec![133], 1.0),
            ("no row", vec![0, 5], 1.0),
            ("no column", vec![5, 0], 1.0),
            ("large", vec![7, 65], 1e4),
            ("many rows", vec![2_000, 17], 3.0),
            ("wide", vec![2, 20_000], 3.0),
        ] {
            for empty in [EmptyRow::Nan, EmptyRow::Zero] {
                let x = (rng.randn(shape.clone(), &Device::Cpu).unwrap() * scale).unwrap();
                cases.push(Case::new(what, vec![x], move |x| over_last_dim(&x[0], empty)));
            }
        }
        let x = rng.randn((6, 5), &Device::Cpu).unwrap().t().unwrap();
        cases.push(Case::new("transposed", vec![x.clone()], |x| softmax_last_dim(&x[0])));
        cases.push(Case::new("transposed, first dimension", vec![x], |x| softmax(&x[0], 0)));
        compare(&cases, 3e-6);
    }

    #[test]
    fn masked_rows_are_what_the_documentation_says() {
        let inf = f32::INFINITY;
        let x = [[-inf, -inf, -inf], [-inf, 1.0, -inf], [f32::NAN, 1.0, 2.0], [inf, 0.0, 0.0]];
        let x = Tensor::new(&x, &Device::Cpu).unwrap();
        for path in [Path::Kernels, Path::Plain] {
            for (empty, first) in [(EmptyRow::Nan, None), (EmptyRow::Zero, Some(0.0))] {
                let y = with_path(path, || over_last_dim(&x, empty)).unwrap().to_vec2::<f32>().unwrap();
                match first {
                    None => assert!(y[0].iter().all(|v| v.is_nan()), "{path:?}"),
                    Some(v) => assert_eq!(y[0], [v; 3], "{path:?}"),
                }
                assert_eq!(y[1], [0.0, 1.0, 0.0], "{path:?}");
                assert!(y[2].iter().all(|v| v.is_nan()), "{path:?}: {:?}", y[2]);
                assert!(y[3][0].is_nan(), "{path:?}: {:?}", y[3]);
            }
        }
    }

    #[test]
    fn what_it_cannot_take_is_an_error() {
        let scalar = Tensor::new(1f32, &Device::Cpu).unwrap();
        assert!(matches!(softmax_last_dim(&scalar), Err(Error::Shape { .. })));
        assert!(matches!(softmax(&scalar, 0), Err(Error::Shape { .. })));
        let whole = Tensor::new(&[1u32], &Device::Cpu).unwrap();
        assert!(matches!(softmax_last_dim(&whole), Err(Error::Argument { .. })));
    }
}
