//! Activation functions.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::compute::use_kernel;
use crate::kernels::activation as kernel;
use crate::{Error, Result};

/// A function that is applied number by number.
///
/// Slopes at the corners are PyTorch's: 0 for ReLU at 0 and for ReLU6 at 0 and 6.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::Activation;
///
/// let x = Tensor::new(&[-1f32, 0., 2.], &Device::Cpu)?;
/// assert_eq!(Activation::Relu.apply(&x)?.to_vec1::<f32>()?, [0., 0., 2.]);
/// assert_eq!(serde_json::from_str::<Activation>("\"swish\"")?, Activation::Silu);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x.
    #[serde(alias = "linear", alias = "none")]
    Identity,
    /// x σ(x), also called swish.
    #[default]
    #[serde(alias = "swish")]
    Silu,
    /// x Φ(x) with the distribution function Φ of the standard normal (Hendrycks and Gimpel, 2016).
    Gelu,
    /// The approximation x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2 of GELU.
    #[serde(alias = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// The approximation x σ(1.702 x) of GELU, as in CLIP.
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// x tanh(ln(1 + eˣ)) (Misra, 2019).
    Mish,
}

impl Activation {
    /// Applies the function.
    ///
    /// # Shapes
    /// Any shape; the result has the same.
    ///
    /// # Errors
    /// [`Error::Argument`] for integers; [`Error::Candle`] when the device refuses.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        if self == Activation::Identity {
            return Ok(x.clone());
        }
        if !x.dtype().is_float() {
            return Err(Error::argument(
                "activation",
                format!("takes floating point numbers, got {:?}; convert them with to_dtype", x.dtype()),
            ));
        }
        if !use_kernel(&[x]) {
            return self.plain(x);
        }
        let x = x.contiguous()?;
        Ok(match self {
            Activation::Identity => x,
            Activation::Silu => x.apply_op1(kernel::Op::new(kernel::Silu))?,
            Activation::Gelu => x.apply_op1(kernel::Op::new(kernel::Gelu))?,
            Activation::GeluTanh => x.apply_op1(kernel::Op::new(kernel::GeluTanh))?,
            Activation::QuickGelu => x.apply_op1(kernel::Op::new(kernel::QuickGelu))?,
            Activation::Relu => x.apply_op1(kernel::Op::new(kernel::Relu))?,
            Activation::Relu6 => x.apply_op1(kernel::Op::new(kernel::Relu6))?,
            Activation::Mish => x.apply_op1(kernel::Op::new(kernel::Mish))?,
        })
    }

    fn plain(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Identity => x.clone(),
            Activation::Silu => x.silu()?,
            // candle's own gelu_erf has six digits of 1/√(2π) in its gradient.
            Activation::Gelu => (x * ((x / 2f64.sqrt())?.erf()? + 1.0)?.affine(0.5, 0.0)?)?,
            Activation::GeluTanh => {
                let inner = (x * (x.sqr()? * 0.044715)?.affine(1.0, 1.0)?)?;
                let tanh = (inner * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
                (x * tanh.affine(0.5, 0.5)?)?
            }
            Activation::QuickGelu => ((x * 1.702)?.silu()? / 1.702)?,
            // candle's relu has slope 1 at 0, and its clamp slope 1/2 at both ends.
            Activation::Relu => x.le(0.0)?.where_cond(&x.zeros_like()?, x)?,
            Activation::Relu6 => {
                let low = x.le(0.0)?.where_cond(&x.zeros_like()?, x)?;
                x.ge(6.0)?.where_cond(&(x.ones_like()? * 6.0)?, &low)?
            }
            Activation::Mish => {
                // With n = eˣ: tanh(ln(1 + n)) = w / (w + 2), w = n² + 2n; 1 in the type's
                // precision from the limit on, before n² can overflow.
                let limit = if x.dtype() == DType::F16 { 5.0 } else { 20.0 };
                let n = x.minimum(limit)?.exp()?;
                let w = (n.sqr()? + (&n * 2.0)?)?;
                (x * (&w / (&w + 2.0)?)?)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::Rng;
    use crate::compute::{Path, with_path};
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare};

    const ALL: [Activation; 8] = [
        Activation::Identity,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Relu6,
        Activation::Mish,
    ];

    #[test]
    fn gradients_agree_with_differences() {
        let x = (Rng::new(1).randn((3, 7), &Device::Cpu).unwrap() * 3.0).unwrap();
        for act in ALL {
            for path in [Path::Kernels, Path::Plain] {
                with_path(path, || check(|x| act.apply(&x[0]), std::slice::from_ref(&x), Options::default()))
                    .unwrap_or_else(|e| panic!("{act:?} on {path:?}: {e}"));
            }
        }
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut rng = Rng::new(2);
        let mut cases = Vec::new();
        for act in ALL {
            for (what, shape, scale) in [
                ("odd", vec![3, 5, 7], 2.0),
                ("one number", vec![1], 1.0),
                ("no sample", vec![0, 4], 1.0),
                ("large", vec![257], 50.0),
                ("long", vec![40_000], 3.0),
            ] {
                let x = (rng.randn(shape, &Device::Cpu).unwrap() * scale).unwrap();
                let run = move |x: &[Tensor]| act.apply(&x[0]);
                cases.push(Case::new(format!("{act:?}, {what}"), vec![x], run));
            }
            let x = rng.randn((6, 5), &Device::Cpu).unwrap().t().unwrap();
            cases.push(Case::new(format!("{act:?}, transposed"), vec![x], move |x| act.apply(&x[0])));
        }
        compare(&cases, 2e-6);
    }

    #[test]
    fn values_are_those_of_the_definitions_in_f64() {
        let x: Vec<f64> = (-4000..4000).map(|i| f64::from(i) * 0.01).collect();
        let wide = Tensor::new(&x[..], &Device::Cpu).unwrap();
        let narrow = wide.to_dtype(DType::F32).unwrap();
        for act in ALL {
            let exact = act.apply(&wide).unwrap().to_vec1::<f64>().unwrap();
            let got = act.apply(&narrow).unwrap().to_vec1::<f32>().unwrap();
            for ((x, e), g) in x.iter().zip(&exact).zip(&got) {
                let error = (e - f64::from(*g)).abs();
                assert!(error <= 4e-7 * x.abs().max(1e-3), "{act:?}({x}): {g}, exactly {e}");
            }
        }
    }

    #[test]
    fn the_slope_of_gelu_is_that_of_f64() {
        let x: Vec<f64> = (-8000..8000).map(|i| f64::from(i) * 1e-3).collect();
        let wide = Tensor::new(&x[..], &Device::Cpu).unwrap();
        let slopes = |x: &Tensor| {
            let x = Var::from_tensor(x).unwrap();
            let grads = Activation::Gelu.apply(&x).unwrap().backward().unwrap();
            grads.get(&x).unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
        };
        let (exact, got) = (slopes(&wide), slopes(&wide.to_dtype(DType::F32).unwrap()));
        for ((x, e), g) in x.iter().zip(&exact).zip(&got) {
            assert!((e - g).abs() <= 4e-7, "{x}: {g}, exactly {e}");
        }
    }

    #[test]
    fn corners_have_the_slopes_of_pytorch() {
        for path in [Path::Kernels, Path::Plain] {
            for (act, at, slope) in [
                (Activation::Relu, 0.0f32, 0.0),
                (Activation::Relu6, 0.0, 0.0),
                (Activation::Relu6, 6.0, 0.0),
                (Activation::Relu6, 5.9, 1.0),
                (Activation::Relu, f32::NEG_INFINITY, 0.0),
                (Activation::Silu, -1e38, 0.0),
                (Activation::GeluTanh, 1e4, 1.0),
                (Activation::Gelu, 1e4, 1.0),
                (Activation::Gelu, -1e4, 0.0),
                (Activation::Mish, 1e4, 1.0),
            ] {
                let x = Var::new(&[at], &Device::Cpu).unwrap();
                let got = with_path(path, || act.apply(&x).unwrap().backward().unwrap());
                let got = got.get(&x).unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(got, [slope], "{act:?} at {at} on {path:?}");
            }
        }
    }

    #[test]
    fn nan_stays_nan() {
        let x = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        for act in ALL {
            for path in [Path::Kernels, Path::Plain] {
                let y = with_path(path, || act.apply(&x).unwrap().to_vec1::<f32>().unwrap());
                assert!(y[0].is_nan(), "{act:?} on {path:?}");
            }
        }
    }

    #[test]
    fn names_are_those_of_published_configurations() {
        for (name, act) in [
            ("silu", Activation::Silu),
            ("swish", Activation::Silu),
            ("gelu", Activation::Gelu),
            ("gelu_new", Activation::GeluTanh),
            ("quick_gelu", Activation::QuickGelu),
            ("relu", Activation::Relu),
            ("relu6", Activation::Relu6),
            ("mish", Activation::Mish),
        ] {
            assert_eq!(serde_json::from_str::<Activation>(&format!("\"{name}\"")).unwrap(), act);
        }
        assert!(serde_json::from_str::<Activation>("\"glu\"").is_err());
    }

    #[test]
    fn integers_are_refused() {
        let x = Tensor::new(&[1u32], &Device::Cpu).unwrap();
        assert!(matches!(Activation::Silu.apply(&x), Err(Error::Argument { .. })));
    }
}
