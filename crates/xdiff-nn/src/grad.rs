//! Gradients by name: from a backward pass to an optimiser.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;

use crate::{Error, ParamSet, Result};

/// One gradient for each trainable parameter, by name.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::optim::backward;
/// use xdiff_nn::{Init, Params};
///
/// let scope = Params::fresh(0, &Device::Cpu);
/// let w = scope.weight("w", 2, Init::Const(3.0))?;
/// let params = scope.finish()?;
/// let mut gradients = backward(&w.sqr()?.sum_all()?, &params)?;
/// assert_eq!(gradients.get("w").map(|g| g.to_vec1::<f32>()).transpose()?, Some(vec![6.0, 6.0]));
/// let before = gradients.clip_norm(1.0)?;
/// assert!((before - 72f64.sqrt()).abs() < 1e-6);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    grads: BTreeMap<String, Tensor>,
    absent: BTreeSet<String>,
}

/// The gradients of `loss` (one number) for all trainable parameters.
///
/// # Errors
/// [`Error::MissingGradient`] when the loss does not depend on one of them, [`Error::Shape`] when
/// the loss is not one number.
pub fn backward(loss: &Tensor, params: &ParamSet) -> Result<Gradients> {
    backward_partial(loss, params, |_| false)
}

/// As [`backward`], for a loss that leaves some parameters alone: those whose name satisfies
/// `may_lack` need no gradient, and an optimiser skips them then.
///
/// # Errors
/// As [`backward`], for every parameter that `may_lack` does not name.
pub fn backward_partial(
    loss: &Tensor,
    params: &ParamSet,
    may_lack: impl Fn(&str) -> bool,
) -> Result<Gradients> {
    if loss.elem_count() != 1 {
        return Err(Error::shape("backward", "a loss of one element", loss.dims()));
    }
    let store = loss.backward()?;
    let mut gradients = Gradients::default();
    for (name, var) in params.trainable() {
        match store.get(var) {
            Some(g) => {
                gradients.grads.insert(name.to_owned(), g.detach());
            }
            None if may_lack(name) => {
                gradients.absent.insert(name.to_owned());
            }
            None => return Err(Error::MissingGradient { name: name.to_owned() }),
        }
    }
    Ok(gradients)
}

impl Gradients {
    /// Gradients that were computed elsewhere.
    pub fn new(grads: BTreeMap<String, Tensor>) -> Self {
        Self { grads, absent: BTreeSet::new() }
    }

    /// The gradient of that parameter.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.grads.get(name)
    }

    /// All gradients, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.grads.iter().map(|(n, g)| (n.as_str(), g))
    }

    /// The parameters that were allowed to have no gradient and have none, in order of name.
    pub fn absent(&self) -> impl Iterator<Item = &str> {
        self.absent.iter().map(String::as_str)
    }

    /// The gradient of a parameter that is to be trained; `None` when it is rightly absent.
    pub(crate) fn expect(&self, name: &str) -> Result<Option<&Tensor>> {
        match self.grads.get(name) {
            None if !self.absent.contains(name) => Err(Error::MissingGradient { name: name.to_owned() }),
            found => Ok(found),
        }
    }

    /// Adds the gradients of another batch, for gradient accumulation. A parameter that has a
    /// gradient in only one of them keeps that one.
    ///
    /// # Errors
    /// [`Error::Candle`] when two gradients of one name differ in shape; nothing is changed then.
    pub fn add(&mut self, other: &Gradients) -> Result<()> {
        let mut sums = Vec::with_capacity(other.grads.len());
        for (name, g) in &other.grads {
            let sum = match self.grads.get(name) {
                Some(mine) => (mine + g)?,
                None => g.clone(),
            };
            sums.push((name.clone(), sum));
        }
        self.grads.extend(sums);
        self.absent.extend(other.absent.iter().cloned());
        self.absent.retain(|n| !self.grads.contains_key(n));
        Ok(())
    }

    /// Multiplies all gradients by a number: 1/n after n additions gives their mean.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for g in self.grads.values_mut() {
            *g = g.affine(factor, 0.0)?;
        }
        Ok(())
    }

    /// The Euclidean norm of all gradients taken as one vector, summed in f64 in an order that does
    /// not depend on the number of threads. NaN or infinite when an element is.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn global_norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for g in self.grads.values() {
            sum += sum_of_squares(g)?;
        }
        Ok(sum.sqrt())
    }

    /// Scales all gradients by min(1, `max` / (norm + 1e-6)), as PyTorch's `clip_grad_norm_` does,
    /// and returns the norm from before.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the norm is not finite (the gradients are left as they are),
    /// [`Error::Argument`] when `max` is not a positive number.
    pub fn clip_norm(&mut self, max: f64) -> Result<f64> {
        if !(max.is_finite() && max > 0.0) {
            return Err(Error::argument("clip_norm", format!("{max} is not a positive finite norm")));
        }
        let norm = self.global_norm()?;
        if !norm.is_finite() {
            self.check_finite()?;
            return Err(Error::NonFinite { what: "the norm of the gradients".to_owned(), hint: HINT });
        }
        let factor = max / (norm + 1e-6);
        if factor < 1.0 {
            self.scale(factor)?;
        }
        Ok(norm)
    }

    /// Makes sure that no gradient holds a NaN or an infinity.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the first parameter whose gradient does.
    pub fn check_finite(&self) -> Result<()> {
        for (name, g) in &self.grads {
            if !sum_of_squares(g)?.is_finite() {
                return Err(Error::NonFinite { what: format!("the gradient of `{name}`"), hint: HINT });
            }
        }
        Ok(())
    }
}

const HINT: &str = "lower the learning rate, or look for NaN in the batch";

/// Σ x² in f64. Chunks of fixed size are summed in order, so that threads do not change the result.
fn sum_of_squares(t: &Tensor) -> Result<f64> {
    const CHUNK: usize = 1 << 16;
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((from, to))) =
        (&*storage, layout.contiguous_offsets())
    {
        let chunks: Vec<f64> = values[from..to]
            .par_chunks(CHUNK)
            .map(|chunk| {
                let mut lanes = [0f64; 8];
                let (blocks, rest) = chunk.as_chunks::<8>();
                for block in blocks {
                    for (lane, v) in lanes.iter_mut().zip(block) {
                        *lane += f64::from(*v) * f64::from(*v);
                    }
                }
                lanes.iter().sum::<f64>() + rest.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
            })
            .collect();
        return Ok(chunks.iter().sum());
    }
    drop(storage);
    // Metal has no f64.
    let wide = if matches!(t.device(), Device::Metal(_)) { DType::F32 } else { DType::F64 };
    Ok(t.to_dtype(wide)?
        .sqr()?
        .sum_all()?
        .to_dtype(wide)?
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .to_scalar()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Params};

    fn two() -> (Tensor, Tensor, ParamSet) {
        let scope = Params::fresh(1, &Device::Cpu);
        let a = scope.weight("a", 3, Init::Const(1.0)).unwrap();
        let b = scope.weight("b", (2, 2), Init::Const(2.0)).unwrap();
        (a, b, scope.finish().unwrap())
    }

    fn filled(values: &[f32]) -> Gradients {
        let t = Tensor::new(values, &Device::Cpu).unwrap();
        Gradients::new(BTreeMap::from([("p".to_owned(), t)]))
    }

    #[test]
    fn a_parameter_that_the_loss_leaves_alone_is_an_error_unless_named() {
        let (a, _b, params) = two();
        let loss = a.sqr().unwrap().sum_all().unwrap();
        let Err(Error::MissingGradient { name }) = backward(&loss, &params) else { panic!("must be missed") };
        assert_eq!(name, "b");
        let partial = backward_partial(&loss, &params, |n| n == "b").unwrap();
        assert_eq!(partial.absent().collect::<Vec<_>>(), ["b"]);
        assert!(matches!(partial.expect("b"), Ok(None)));
        assert!(matches!(partial.expect("c"), Err(Error::MissingGradient { .. })));
        assert!(matches!(backward(&a, &params), Err(Error::Shape { .. })));
    }

    #[test]
    fn accumulation_is_the_sum_over_batches() {
        let (a, b, params) = two();
        let first = (a.sum_all().unwrap() + b.sqr().unwrap().sum_all().unwrap()).unwrap();
        let second = a.sqr().unwrap().sum_all().unwrap();
        let mut sum = backward_partial(&second, &params, |_| true).unwrap();
        sum.add(&backward(&first, &params).unwrap()).unwrap();
        sum.scale(0.5).unwrap();
        assert_eq!(sum.get("a").unwrap().to_vec1::<f32>().unwrap(), [1.5; 3]);
        assert_eq!(sum.get("b").unwrap().to_vec2::<f32>().unwrap(), [[2.0; 2]; 2]);
        assert_eq!(sum.absent().count(), 0);
    }

    #[test]
    fn clipping_is_pytorchs() {
        // torch.nn.utils.clip_grad_norm_([3, -4, 12], 2)
        let mut g = filled(&[3.0, -4.0, 12.0]);
        assert_eq!(g.clip_norm(2.0).unwrap(), 13.0);
        let got = g.get("p").unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in got.iter().zip([0.461_538_43, -0.615_384_6, 1.846_153_7]) {
            assert!((a - b).abs() < 1e-6, "{got:?}");
        }
        let mut small = filled(&[0.5]);
        assert_eq!(small.clip_norm(2.0).unwrap(), 0.5);
        assert_eq!(small.get("p").unwrap().to_vec1::<f32>().unwrap(), [0.5]);
    }

    #[test]
    fn what_is_not_finite_is_named() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut g = filled(&[1.0, bad]);
            let Err(Error::NonFinite { what, .. }) = g.clip_norm(1.0) else { panic!("{bad} must be found") };
            assert_eq!(what, "the gradient of `p`");
        }
        let mut g = filled(&[1.0]);
        for max in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(g.clip_norm(max), Err(Error::Argument { .. })), "{max}");
        }
    }

    #[test]
    fn the_norm_is_right_on_every_layout_and_length() {
        for n in [1, 7, 8, 70_001] {
            let x = Tensor::arange(0f32, n as f32, &Device::Cpu).unwrap();
            let expected = (0..n).map(|i| f64::from(i).powi(2)).sum::<f64>().sqrt();
            for t in [x.clone(), x.to_dtype(DType::F64).unwrap()] {
                let norm = Gradients::new(BTreeMap::from([("x".to_owned(), t)])).global_norm().unwrap();
                assert!((norm - expected).abs() <= 1e-12 * expected, "{n}: {norm} {expected}");
            }
        }
        let t = Tensor::arange(0f32, 6., &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        let turned = t.t().unwrap().narrow(0, 1, 2).unwrap();
        let norm = Gradients::new(BTreeMap::from([("x".to_owned(), turned)])).global_norm().unwrap();
        assert_eq!(norm, (1f64 + 16. + 4. + 25.).sqrt());
    }
}
