//! Gradients against finite differences.
//!
//! For a function y = f(x₁, …) and a fixed random direction r, the value ⟨r, y⟩ is differentiated by
//! the backward pass and by central differences, element by element.

use candle_core::{DType, Tensor, Var};

use crate::{Error, Result, Rng};

/// How a check is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Half the distance between the two evaluations.
    pub step: f64,
    /// Largest allowed |difference|, as a share of the largest gradient of that input.
    pub tolerance: f64,
    /// How many elements of each input are checked, spread evenly; all when there are fewer.
    pub elements: usize,
}

impl Default for Options {
    /// A step and tolerance that f32 arithmetic allows.
    fn default() -> Self {
        Self { step: 1e-2, tolerance: 1e-2, elements: 200 }
    }
}

/// Checks every input's gradient of `f`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::gradcheck::{Options, check};
///
/// let x = Tensor::new(&[0.3f32, -1.2, 2.0], &Device::Cpu)?;
/// check(|x| Ok(x[0].sqr()?), &[x], Options::default())?;
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::MissingGradient`] when an input gets none, [`Error::Argument`] naming the input and the
/// element when numbers differ, and whatever `f` reports.
pub fn check(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[Tensor], options: Options) -> Result<()> {
    let vars = inputs.iter().map(Var::from_tensor).collect::<std::result::Result<Vec<_>, _>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tracked)?;
    let direction = Rng::new(0).fork("gradcheck").randn(y.shape(), y.device())?.to_dtype(y.dtype())?;
    let grads = (&y * &direction)?.sum_all()?.backward()?;
    let direction = flat(&direction)?;

    for (i, x) in inputs.iter().enumerate() {
        let name = format!("input {i}");
        let grad = grads.get(&vars[i]).ok_or(Error::MissingGradient { name: name.clone() })?;
        if grad.dims() != x.dims() {
            return Err(Error::shape(
                "gradcheck",
                format!("a gradient of shape {:?}", x.dims()),
                grad.dims(),
            ));
        }
        let grad = flat(grad)?;
        let scale = grad.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
        let values = flat(x)?;
        let stride = (values.len() / options.elements.max(1)).max(1);
        for e in (0..values.len()).step_by(stride) {
            let at = |delta: f64| -> Result<f64> {
                let mut moved = values.clone();
                moved[e] += delta;
                let mut args = inputs.to_vec();
                args[i] = Tensor::from_vec(moved, x.shape(), x.device())?.to_dtype(x.dtype())?;
                Ok(flat(&f(&args)?)?.iter().zip(&direction).map(|(a, b)| a * b).sum())
            };
            let numeric = (at(options.step)? - at(-options.step)?) / (2.0 * options.step);
            let difference = (numeric - grad[e]).abs();
            if difference > options.tolerance * scale || difference.is_nan() {
                return Err(Error::argument(
                    "gradcheck",
                    format!("{name}, element {e}: backward gives {}, differences give {numeric}", grad[e]),
                ));
            }
        }
    }
    Ok(())
}

fn flat(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_wrong_gradient_is_caught() {
        // candle's max pooling divides the gradient by the window: the reason for this module.
        let x = Rng::new(1).randn((1, 1, 4, 4), &Device::Cpu).unwrap();
        let outcome = check(|x| Ok(x[0].max_pool2d(2)?), &[x], Options { step: 1e-3, ..Default::default() });
        assert!(matches!(outcome, Err(Error::Argument { .. })));
    }

    #[test]
    fn a_missing_gradient_is_caught() {
        let x = Rng::new(1).randn(3, &Device::Cpu).unwrap();
        let outcome = check(|x| Ok(x[1].sqr()?), &[x.clone(), x], Options::default());
        assert!(matches!(outcome, Err(Error::MissingGradient { name }) if name == "input 0"));
    }
}
