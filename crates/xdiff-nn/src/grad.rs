//! Gradients by name: from a backward pass to an optimiser.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;

use crate::compute::use_kernel;
use crate::optim::in_place::{change_f32, on_each, update_chunks_f32};
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
#[derive(Debug, Default)]
pub struct Gradients {
    grads: BTreeMap<String, Tensor>,
    absent: BTreeSet<String>,
    /// Whether nobody else can hold a tensor here, so that values may change where they lie.
    own: AtomicBool,
}

impl Clone for Gradients {
    fn clone(&self) -> Self {
        self.lend();
        Self { grads: self.grads.clone(), absent: self.absent.clone(), own: AtomicBool::new(false) }
    }
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
    // candle adds every gradient of a variable to zeros, so no two of them share memory.
    let mut gradients = Gradients { own: AtomicBool::new(true), ..Default::default() };
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
        Self { grads, ..Default::default() }
    }

    /// Notes that somebody else may hold the tensors from now on.
    fn lend(&self) {
        self.own.store(false, Ordering::Relaxed);
    }

    /// Whether nobody else can hold the tensors.
    pub(crate) fn are_own(&self) -> bool {
        self.own.load(Ordering::Relaxed)
    }

    /// The gradient of that parameter.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.lend();
        self.grads.get(name)
    }

    /// All gradients, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.lend();
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
    /// [`Error::Shape`] when two gradients of one name differ in shape; nothing is changed then.
    pub fn add(&mut self, other: &Gradients) -> Result<()> {
        for (name, g) in &other.grads {
            if let Some(mine) = self.grads.get(name)
                && mine.dims() != g.dims()
            {
                let expected = format!("a gradient of `{name}` of shape {:?}", mine.dims());
                return Err(Error::shape("addition of gradients", expected, g.dims()));
            }
        }
        let own = self.are_own();
        let mut in_place = Vec::with_capacity(other.grads.len());
        for (name, g) in &other.grads {
            match self.grads.get_mut(name) {
                Some(mine) if own && changeable(mine) && use_kernel(&[g]) => {
                    in_place.push((mine.clone(), g.clone()));
                }
                Some(mine) => *mine = (&*mine + g)?,
                None => {
                    self.grads.insert(name.clone(), g.copy()?);
                }
            }
        }
        on_each(
            &mut in_place,
            |(mine, _)| mine.elem_count(),
            |(mine, g)| {
                update_chunks_f32(mine, g, |mine, g| mine.iter_mut().zip(g).for_each(|(mine, g)| *mine += *g))
            },
        )?;
        self.absent.extend(other.absent.iter().cloned());
        self.absent.retain(|n| !self.grads.contains_key(n));
        Ok(())
    }

    /// Multiplies all gradients by a number: 1/n after n additions gives their mean.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        let own = self.are_own();
        let mut in_place = Vec::with_capacity(self.grads.len());
        for g in self.grads.values_mut() {
            if own && changeable(g) {
                in_place.push(g);
            } else {
                *g = g.affine(factor, 0.0)?;
            }
        }
        let factor = factor as f32;
        on_each(
            &mut in_place,
            |g| g.elem_count(),
            |g| {
                // As `affine` does, which makes a positive zero of a negative one.
                change_f32(g, |g| g.iter_mut().for_each(|v| *v = *v * factor + 0.0))
            },
        )?;
        // What was not changed in place is fresh.
        self.own = AtomicBool::new(true);
        Ok(())
    }

    /// The Euclidean norm of all gradients taken as one vector, summed in f64 in an order that does
    /// not depend on the number of threads. NaN or infinite when an element is.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn global_norm(&self) -> Result<f64> {
        let mut sums: Vec<(&Tensor, f64)> = self.grads.values().map(|g| (g, 0.0)).collect();
        on_each(
            &mut sums,
            |(g, _)| g.elem_count(),
            |(g, sum)| {
                *sum = sum_of_squares(g)?;
                Ok::<_, Error>(())
            },
        )?;
        Ok(sums.iter().map(|(_, sum)| sum).sum::<f64>().sqrt())
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

/// Whether the values can be changed by [`change_f32`].
fn changeable(t: &Tensor) -> bool {
    use_kernel(&[t]) && t.is_contiguous()
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
    fn what_others_hold_is_left_alone_and_the_bits_are_those_of_tensor_operations() {
        let scope = Params::fresh(1, &Device::Cpu);
        let weights: Vec<Tensor> = [3, 70_001, 1, 40_000]
            .iter()
            .enumerate()
            .map(|(i, n)| scope.weight(&format!("w{i}"), *n, Init::Normal(1.0)).unwrap())
            .collect();
        let params = scope.finish().unwrap();
        let fresh = || {
            let squares = weights.iter().map(|w| w.sqr()?.sum_all());
            let loss = squares.reduce(|a, b| a? + b?).unwrap().unwrap();
            backward(&loss, &params).unwrap()
        };
        let work = |gradients: &mut Gradients| {
            gradients.add(&fresh()).unwrap();
            gradients.scale(1.0 / 3.0).unwrap();
            gradients.clip_norm(0.7).unwrap()
        };
        let bits = |gradients: &Gradients| -> Vec<Vec<u32>> {
            let values = gradients.iter().map(|(_, g)| g.to_vec1::<f32>().unwrap());
            values.map(|v| v.iter().map(|v| v.to_bits()).collect()).collect()
        };
        let before = bits(&fresh());
        let mut own = fresh();
        let norm = work(&mut own);
        type Lend = fn(&Gradients);
        let ways: [(&str, Lend); 3] = [
            ("read", |g| drop(g.get("w1").cloned())),
            ("gone through", |g| assert_eq!(g.iter().count(), 4)),
            ("cloned", |g| drop(g.clone())),
        ];
        for (how, lend) in ways {
            let mut lent = fresh();
            lend(&lent);
            assert!(!lent.are_own(), "{how}");
            let held: Vec<Tensor> = lent.iter().map(|(_, g)| g.clone()).collect();
            assert_eq!(work(&mut lent), norm, "{how}");
            assert!(bits(&own) == bits(&lent), "{how}");
            let held: Vec<_> = held.iter().map(|g| g.to_vec1::<f32>().unwrap()).collect();
            let held: Vec<Vec<u32>> = held.iter().map(|v| v.iter().map(|v| v.to_bits()).collect()).collect();
            assert!(held == before, "{how}");
        }
    }

    #[test]
    fn gradients_of_other_shapes_are_not_added() {
        let mut sum = filled(&[1.0, 2.0]);
        assert!(matches!(sum.add(&filled(&[1.0])), Err(Error::Shape { .. })));
        assert_eq!(sum.get("p").unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0]);
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
