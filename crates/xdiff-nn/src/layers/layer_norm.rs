//! Layer normalisation.

use candle_core::{D, Tensor};

use super::group_norm::valid_eps;
use super::{cast, working};
use crate::compute::use_kernel;
use crate::kernels::layer_norm as kernel;
use crate::params::{Init, Params};
use crate::{Error, Result};

/// Layer normalisation (Ba, Kiros and Hinton, 2016) over the last dimension:
/// y = (x − mean) / √(variance + ε) · weight + bias, with the biased variance.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::layers::LayerNorm;
/// use xdiff_nn::{Params, Rng};
///
/// let norm = LayerNorm::new(16, 1e-5, &Params::fresh(0, &Device::Cpu))?;
/// let y = norm.forward(&Rng::new(1).randn((2, 3, 16), &Device::Cpu)?)?;
/// assert!(y.mean_all()?.to_scalar::<f32>()?.abs() < 1e-6);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LayerNorm {
    eps: f64,
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// Asks for `weight` (width), at first 1, and `bias` (width), at first 0.
    ///
    /// # Errors
    /// [`Error::Argument`] for an ε that is not a non-negative number; those of [`Params::weight`].
    pub fn new(width: usize, eps: f64, params: &Params) -> Result<Self> {
        valid_eps("layer norm", eps)?;
        Ok(Self {
            eps,
            weight: params.weight("weight", width, Init::ONES)?,
            bias: params.weight("bias", width, Init::ZEROS)?,
        })
    }

    /// Normalises.
    ///
    /// # Shapes
    /// x (…, width) → the same.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// Layer normalisation; see [`LayerNorm`].
///
/// # Shapes
/// x (…, width), weight (width), bias (width) → the shape of x.
///
/// # Errors
/// [`Error::Shape`] when they do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = weight.elem_count();
    if x.dims().last() != Some(&width) {
        return Err(Error::shape("layer norm", format!("(…, {width})"), x.dims()));
    }
    for p in [weight, bias] {
        if p.dims() != [width] {
            return Err(Error::shape("layer norm", format!("weight and bias ({width})"), p.dims()));
        }
    }
    if use_kernel(&[x, weight, bias]) {
        let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        return Ok(x.apply_op3(&weight, &bias, kernel::LayerNorm::new(eps))?);
    }
    let dtype = working(x);
    let (weight, bias) = (cast(weight, dtype)?, cast(bias, dtype)?);
    let rows = cast(x, dtype)?;
    let normal = if x.elem_count() == 0 {
        rows
    } else {
        let centred = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
        let rstd = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        centred.broadcast_mul(&rstd)?
    };
    cast(&normal.broadcast_mul(&weight)?.broadcast_add(&bias)?, x.dtype())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::Rng;
    use crate::compute::{Path, with_path};
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare};

    fn inputs(rng: &mut Rng, shape: &[usize]) -> Vec<Tensor> {
        let width = *shape.last().unwrap();
        let x = rng.randn(shape, &Device::Cpu).unwrap();
        let w = rng.rand(0.5, 1.5, width, &Device::Cpu).unwrap();
        vec![x, w, rng.randn(width, &Device::Cpu).unwrap()]
    }

    fn run(x: &[Tensor]) -> Result<Tensor> {
        layer_norm(&x[0], &x[1], &x[2], 1e-5)
    }

    #[test]
    fn gradients_agree_with_differences() {
        let x = inputs(&mut Rng::new(1), &[2, 3, 19]);
        for path in [Path::Kernels, Path::Plain] {
            with_path(path, || check(run, &x, Options::default()))
                .unwrap_or_else(|e| panic!("{path:?}: {e}"));
        }
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut rng = Rng::new(2);
        let mut cases = Vec::new();
        for (name, shape) in [
            ("odd", vec![3, 5, 7]),
            ("one row", vec![33]),
            ("no row", vec![0, 8]),
            ("many rows", vec![3000, 17]),
            ("wide", vec![3, 2500]),
        ] {
            cases.push(Case::new(name, inputs(&mut rng, &shape), run));
        }
        let mut x = inputs(&mut rng, &[4, 96]);
        x[0] = x[0].affine(2.0, 300.0).unwrap();
        cases.push(Case::new("far from zero", x, run));
        let mut x = inputs(&mut rng, &[9, 6]);
        x[0] = rng.randn((6, 9), &Device::Cpu).unwrap().t().unwrap();
        cases.push(Case::new("transposed", x, run));
        compare(&cases, 5e-5);
    }

    #[test]
    fn frozen_parameters_get_no_gradient() {
        let x = inputs(&mut Rng::new(4), &[3, 5]);
        for i in 0..3 {
            let mut args = x.clone();
            let var = Var::from_tensor(&x[i]).unwrap();
            args[i] = var.as_tensor().clone();
            let grads = run(&args).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&var).is_some());
            assert!((0..3).all(|j| j == i || grads.get(&x[j]).is_none()));
        }
    }

    #[test]
    fn half_precision_is_normalised_in_f32() {
        let x = inputs(&mut Rng::new(5), &[3, 64]);
        let short = x[0].to_dtype(DType::BF16).unwrap();
        let y = layer_norm(&short, &x[1], &x[2], 1e-5).unwrap();
        assert_eq!(y.dtype(), DType::BF16);
        let exact = layer_norm(&short.to_dtype(DType::F32).unwrap(), &x[1], &x[2], 1e-5).unwrap();
        let error = (y.to_dtype(DType::F32).unwrap() - exact).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 2e-2);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let p = Params::fresh(0, &Device::Cpu);
        assert!(matches!(LayerNorm::new(8, -1.0, &p), Err(Error::Argument { .. })));
        let norm = LayerNorm::new(8, 1e-5, &p).unwrap();
        for shape in [vec![8, 4], vec![]] {
            let x = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            assert!(matches!(norm.forward(&x), Err(Error::Shape { .. })));
        }
    }
}
