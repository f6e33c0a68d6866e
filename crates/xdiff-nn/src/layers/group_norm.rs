//! Group normalisation.

use candle_core::Tensor;

use super::{Activation, cast, working};
use crate::compute::use_kernel;
use crate::kernels::activation::{Identity, Silu};
use crate::kernels::group_norm::{self as kernel, Groups, Statistics};
use crate::params::{Init, Params};
use crate::{Error, Result};

/// Group normalisation (Wu and He, 2018): over each group of channels of each sample,
/// y = (x − mean) / √(variance + ε) · weight + bias, with the biased variance and a weight and bias
/// per channel.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::layers::{Activation, GroupNorm};
/// use xdiff_nn::{Params, Rng};
///
/// let norm = GroupNorm::new(2, 8, 1e-5, &Params::fresh(0, &Device::Cpu))?;
/// let x = Rng::new(1).randn((1, 8, 5, 5), &Device::Cpu)?;
/// assert_eq!(norm.forward_act(&x, Activation::Silu)?.dims(), [1, 8, 5, 5]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GroupNorm {
    groups: usize,
    eps: f64,
    weight: Tensor,
    bias: Tensor,
}

impl GroupNorm {
    /// Asks for `weight` (channels), at first 1, and `bias` (channels), at first 0.
    ///
    /// # Errors
    /// [`Error::Argument`] when the channels do not fall into whole groups or ε is not a
    /// non-negative number; those of [`Params::weight`].
    pub fn new(groups: usize, channels: usize, eps: f64, params: &Params) -> Result<Self> {
        whole_groups(channels, groups)?;
        valid_eps("group norm", eps)?;
        Ok(Self {
            groups,
            eps,
            weight: params.weight("weight", channels, Init::ONES)?,
            bias: params.weight("bias", channels, Init::ZEROS)?,
        })
    }

    /// Normalises.
    ///
    /// # Shapes
    /// x (B, channels, …) → the same.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_act(x, Activation::Identity)
    }

    /// Normalises and applies an activation; SiLU in the same pass.
    ///
    /// # Shapes
    /// x (B, channels, …) → the same.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of channels.
    pub fn forward_act(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        group_norm(x, self.groups, &self.weight, &self.bias, self.eps, act)
    }
}

fn whole_groups(channels: usize, groups: usize) -> Result<()> {
    if groups > 0 && channels.is_multiple_of(groups) {
        return Ok(());
    }
    let reason = format!("{channels} channels do not fall into {groups} groups");
    Err(Error::argument("group norm", reason))
}

/// An ε that can stand under a root.
pub(super) fn valid_eps(layer: &'static str, eps: f64) -> Result<()> {
    if eps >= 0.0 && eps.is_finite() {
        return Ok(());
    }
    Err(Error::argument(layer, format!("eps must be a finite number of at least 0, got {eps}")))
}

/// Group normalisation with an activation behind it; see [`GroupNorm`].
///
/// # Shapes
/// x (B, C, …), weight (C), bias (C) → the shape of x.
///
/// # Errors
/// [`Error::Shape`] when they do not fit, [`Error::Argument`] when the channels do not fall into
/// whole groups.
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    act: Activation,
) -> Result<Tensor> {
    let channels = weight.elem_count();
    if x.rank() < 2 || x.dims()[1] != channels {
        return Err(Error::shape("group norm", format!("(B, {channels}, …)"), x.dims()));
    }
    for p in [weight, bias] {
        if p.dims() != [channels] {
            return Err(Error::shape("group norm", format!("weight and bias ({channels})"), p.dims()));
        }
    }
    whole_groups(channels, groups)?;
    if use_kernel(&[x, weight, bias]) {
        let shape = Groups { groups, channels: channels / groups, inner: x.dims()[2..].iter().product() };
        let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        let own = Statistics::Own(eps);
        return match act {
            Activation::Silu => Ok(x.apply_op3(&weight, &bias, kernel::GroupNorm::new(Silu, shape, own))?),
            _ => act.apply(&x.apply_op3(&weight, &bias, kernel::GroupNorm::new(Identity, shape, own))?),
        };
    }
    act.apply(&plain(x, groups, weight, bias, eps)?)
}

fn plain(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let dtype = working(x);
    let (batch, channels) = (x.dims()[0], x.dims()[1]);
    let rows = cast(x, dtype)?.reshape((batch, groups, ()))?;
    let centred = rows.broadcast_sub(&rows.mean_keepdim(2)?)?;
    let rstd = (centred.sqr()?.mean_keepdim(2)? + eps)?.sqrt()?.recip()?;
    let normal = centred.broadcast_mul(&rstd)?.reshape((batch, channels, ()))?;
    let per_channel = |p: &Tensor| -> Result<Tensor> { Ok(cast(p, dtype)?.reshape((1, channels, 1))?) };
    let y = normal.broadcast_mul(&per_channel(weight)?)?.broadcast_add(&per_channel(bias)?)?;
    cast(&y.reshape(x.shape())?, x.dtype())
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
        let x = rng.randn(shape, &Device::Cpu).unwrap();
        let w = rng.rand(0.5, 1.5, shape[1], &Device::Cpu).unwrap();
        vec![x, w, rng.randn(shape[1], &Device::Cpu).unwrap()]
    }

    #[test]
    fn gradients_agree_with_differences() {
        let x = inputs(&mut Rng::new(1), &[2, 6, 3, 5]);
        for path in [Path::Kernels, Path::Plain] {
            for act in [Activation::Identity, Activation::Silu, Activation::Gelu] {
                let run = |x: &[Tensor]| group_norm(&x[0], 3, &x[1], &x[2], 1e-5, act);
                with_path(path, || check(run, &x, Options::default()))
                    .unwrap_or_else(|e| panic!("{act:?} on {path:?}: {e}"));
            }
        }
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut rng = Rng::new(2);
        let mut cases = Vec::new();
        for act in [Activation::Identity, Activation::Silu] {
            for (name, shape, groups) in [
                ("odd", vec![3, 6, 7, 5], 3),
                ("a group per channel", vec![2, 5, 33], 5),
                ("one group", vec![2, 5, 3, 3, 3], 1),
                ("no pixels", vec![3, 8], 2),
                ("one number per channel", vec![1, 9, 1, 1], 3),
                ("no sample", vec![0, 4, 3, 3], 2),
                ("longer than a block", vec![1, 4, 41, 53], 2),
            ] {
                let run = move |x: &[Tensor]| group_norm(&x[0], groups, &x[1], &x[2], 1e-5, act);
                cases.push(Case::new(format!("{name}, {act:?}"), inputs(&mut rng, &shape), run));
            }
            let mut x = inputs(&mut rng, &[2, 6, 9, 9]);
            x[0] = (x[0].affine(3.0, 200.0)).unwrap();
            let run = move |x: &[Tensor]| group_norm(&x[0], 2, &x[1], &x[2], 1e-5, act);
            cases.push(Case::new(format!("far from zero, {act:?}"), x, run));
            let mut x = inputs(&mut rng, &[2, 6, 4, 7]);
            x[0] = x[0].transpose(2, 3).unwrap();
            let run = move |x: &[Tensor]| group_norm(&x[0], 2, &x[1], &x[2], 1e-5, act);
            cases.push(Case::new(format!("transposed, {act:?}"), x, run));
        }
        compare(&cases, 5e-5);
    }

    #[test]
    fn statistics_are_exact_far_from_zero() {
        let mut rng = Rng::new(3);
        let x = inputs(&mut rng, &[2, 4, 64, 64]);
        for offset in [0.0, 1e2, 1e4] {
            let far = (&x[0] + offset).unwrap();
            let run = |t: DType| {
                let [x, w, b] = [&far, &x[1], &x[2]].map(|v| v.to_dtype(t).unwrap());
                group_norm(&x, 2, &w, &b, 1e-5, Activation::Silu).unwrap().to_dtype(DType::F64).unwrap()
            };
            let error = (run(DType::F32) - run(DType::F64)).unwrap().abs().unwrap().max_all().unwrap();
            let error = error.to_scalar::<f64>().unwrap();
            assert!(error < 3e-6, "offset {offset}: {error}");
        }
    }

    #[test]
    fn frozen_parameters_get_no_gradient() {
        let x = inputs(&mut Rng::new(4), &[1, 4, 3, 3]);
        for i in 0..3 {
            let mut args = x.clone();
            let var = Var::from_tensor(&x[i]).unwrap();
            args[i] = var.as_tensor().clone();
            let y = group_norm(&args[0], 2, &args[1], &args[2], 1e-5, Activation::Silu).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&var).is_some());
            assert!((0..3).all(|j| j == i || grads.get(&x[j]).is_none()));
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let p = Params::fresh(0, &Device::Cpu);
        assert!(matches!(GroupNorm::new(3, 8, 1e-5, &p), Err(Error::Argument { .. })));
        assert!(matches!(GroupNorm::new(0, 8, 1e-5, &p), Err(Error::Argument { .. })));
        assert!(matches!(GroupNorm::new(2, 8, f64::NAN, &p), Err(Error::Argument { .. })));
        let norm = GroupNorm::new(2, 8, 1e-5, &p).unwrap();
        for shape in [vec![8], vec![1, 4, 2], vec![]] {
            let x = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            assert!(matches!(norm.forward(&x), Err(Error::Shape { .. })));
        }
    }
}
