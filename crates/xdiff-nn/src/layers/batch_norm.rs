//! Batch normalisation.

use std::sync::{Arc, OnceLock};

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use super::group_norm::valid_eps;
use super::{Activation, cast, group_norm, working};
use crate::compute::use_kernel;
use crate::kernels::activation::{Identity, Pointwise, Relu};
use crate::kernels::batch_norm::{BatchNorm, Planes};
use crate::kernels::group_norm::{GroupNorm, Groups, Statistics};
use crate::kernels::moments::{Moments, Spread};
use crate::params::{Init, Params};
use crate::{Error, Result};

/// Whether a layer learns from the batch that passes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch, which also move the running ones.
    Train,
    /// Running statistics.
    #[default]
    Eval,
}

/// Constants of batch normalisation; PyTorch's by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchNormConfig {
    /// Added to the variance.
    pub eps: f64,
    /// The share of a new batch in the running statistics, in 0..=1.
    pub momentum: f64,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        Self { eps: 1e-5, momentum: 0.1 }
    }
}

impl BatchNormConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the field.
    pub fn validate(&self) -> Result<()> {
        valid_eps("batch norm", self.eps)?;
        if (0.0..=1.0).contains(&self.momentum) {
            return Ok(());
        }
        Err(Error::argument("batch norm", format!("momentum must lie in 0..=1, got {}", self.momentum)))
    }
}

/// Batch normalisation of images (Ioffe and Szegedy, 2015): per channel,
/// y = (x − mean) / √(variance + ε) · weight + bias.
///
/// In [`Mode::Train`] mean and biased variance are those of the batch, and the running ones become
/// (1 − momentum) · running + momentum · batch, with the batch's unbiased variance, as in PyTorch.
/// In [`Mode::Eval`] the running ones are used.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::layers::{BatchNorm2d, BatchNormConfig, Mode};
/// use xdiff_nn::{Params, Rng};
///
/// let norm = BatchNorm2d::new(3, BatchNormConfig::default(), &Params::fresh(0, &Device::Cpu))?;
/// let x = Rng::new(1).randn((4, 3, 5, 5), &Device::Cpu)?;
/// assert!(norm.forward(&x, Mode::Train)?.mean_all()?.to_scalar::<f32>()?.abs() < 1e-6);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchNorm2d {
    config: BatchNormConfig,
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
}

impl BatchNorm2d {
    /// Asks for `weight` (channels), at first 1, `bias`, at first 0, and the buffers
    /// `running_mean`, at first 0, and `running_var`, at first 1.
    ///
    /// # Errors
    /// Those of [`BatchNormConfig::validate`] and [`Params::weight`].
    pub fn new(channels: usize, config: BatchNormConfig, params: &Params) -> Result<Self> {
        Self::with_init(channels, config, Init::ONES, params)
    }

    /// As [`new`](Self::new), with another initial weight.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_init(
        channels: usize,
        config: BatchNormConfig,
        weight: Init,
        params: &Params,
    ) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            weight: params.weight("weight", channels, weight)?,
            bias: params.weight("bias", channels, Init::ZEROS)?,
            running_mean: params.buffer("running_mean", channels, Init::ZEROS)?,
            running_var: params.buffer("running_var", channels, Init::ONES)?,
        })
    }

    /// Normalises.
    ///
    /// # Shapes
    /// x (B, channels, H, W) → the same.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of channels, and in [`Mode::Train`] for fewer than two
    /// numbers per channel.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_act(x, mode, Activation::Identity)
    }

    /// Normalises and applies an activation. ReLU costs nothing more on the CPU.
    ///
    /// # Shapes
    /// As [`BatchNorm2d::forward`].
    ///
    /// # Errors
    /// As [`BatchNorm2d::forward`].
    pub fn forward_act(&self, x: &Tensor, mode: Mode, act: Activation) -> Result<Tensor> {
        let channels = self.weight.elem_count();
        if x.rank() != 4 || x.dims()[1] != channels {
            return Err(Error::shape("batch norm", format!("(B, {channels}, H, W)"), x.dims()));
        }
        if mode == Mode::Train && x.elem_count() < 2 * channels {
            let expected = "at least two numbers per channel to train with";
            return Err(Error::shape("batch norm", expected, x.dims()));
        }
        if use_kernel(&[x, &self.weight, &self.bias, &self.running_mean, &self.running_var]) {
            let x = x.contiguous()?;
            return match act {
                Activation::Relu => self.kernel(&x, mode, Relu),
                _ => act.apply(&self.kernel(&x, mode, Identity)?),
            };
        }
        act.apply(&match mode {
            Mode::Train => self.train(x)?,
            Mode::Eval => self.eval(x)?,
        })
    }

    fn kernel(&self, x: &Tensor, mode: Mode, act: impl Pointwise) -> Result<Tensor> {
        match mode {
            Mode::Train => self.train_kernel(x, act),
            Mode::Eval => self.eval_kernel(x, act),
        }
    }

    fn train_kernel(&self, x: &Tensor, act: impl Pointwise) -> Result<Tensor> {
        let (samples, channels, h, w) = x.dims4()?;
        let planes = Planes { samples, channels, inner: h * w };
        let spreads = Arc::new(OnceLock::new());
        let op = BatchNorm::new(act, planes, self.config.eps, Arc::clone(&spreads));
        let y = x.apply_op3(&self.weight.contiguous()?, &self.bias.contiguous()?, op)?;
        // The forward pass has set them.
        if let Some(spreads) = spreads.get() {
            let of = |value: fn(&Spread) -> f64| -> Result<Tensor> {
                let values: Vec<f32> = spreads.iter().map(|s| value(s) as f32).collect();
                Ok(Tensor::new(values, x.device())?)
            };
            self.follow(&of(|s| s.mean)?, &of(|s| s.unbiased_variance())?)?;
        }
        Ok(y)
    }

    /// The batch's statistics are those of one group per channel, with the samples as pixels.
    fn train(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, h, w) = x.dims4()?;
        let count = batch * h * w;
        let rows = x.transpose(0, 1)?.contiguous()?.reshape((1, channels, count))?;
        let seen = rows.detach().squeeze(0)?;
        let seen = cast(&seen, working(&seen))?;
        let mean = seen.mean_keepdim(1)?;
        let squares = seen.broadcast_sub(&mean)?.sqr()?.sum(1)?;
        self.follow(&mean.squeeze(1)?, &(squares / (count - 1) as f64)?)?;
        let y = group_norm(&rows, channels, &self.weight, &self.bias, self.config.eps, Activation::Identity)?;
        Ok(y.reshape((channels, batch, h, w))?.transpose(0, 1)?.contiguous()?)
    }

    /// Moves the running statistics towards those of a batch.
    fn follow(&self, mean: &Tensor, variance: &Tensor) -> Result<()> {
        for (running, batch) in [(&self.running_mean, mean), (&self.running_var, variance)] {
            let kept = (running.as_detached_tensor() * (1.0 - self.config.momentum))?;
            running.set(&(kept + (cast(batch, running.dtype())? * self.config.momentum)?)?)?;
        }
        Ok(())
    }

    /// A group norm of one group per channel whose moments are given.
    fn eval_kernel(&self, x: &Tensor, act: impl Pointwise) -> Result<Tensor> {
        let (mean, variance) = (self.running_mean.to_vec1::<f32>()?, self.running_var.to_vec1::<f32>()?);
        let moments = mean.iter().zip(&variance).map(|(mean, variance)| Moments {
            mean: f64::from(*mean),
            rstd: 1.0 / (f64::from(*variance) + self.config.eps).sqrt(),
        });
        let (_, channels, h, w) = x.dims4()?;
        let groups = Groups { groups: channels, channels: 1, inner: h * w };
        let op = GroupNorm::new(act, groups, Statistics::Given(moments.collect()));
        Ok(x.apply_op3(&self.weight.contiguous()?, &self.bias.contiguous()?, op)?)
    }

    fn eval(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = working(x);
        let channels = self.weight.elem_count();
        let own = |t: &Tensor| -> Result<Tensor> { cast(t, dtype) };
        let rstd = (own(&self.running_var.as_detached_tensor())? + self.config.eps)?.sqrt()?.recip()?;
        let scale = (own(&self.weight)? * rstd)?;
        let shift = (own(&self.bias)? - (own(&self.running_mean.as_detached_tensor())? * &scale)?)?;
        let per_channel = |t: Tensor| t.reshape((1, channels, 1, 1));
        let y = own(x)?.broadcast_mul(&per_channel(scale)?)?.broadcast_add(&per_channel(shift)?)?;
        cast(&y, x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{DType, Device};

    use super::*;
    use crate::Rng;
    use crate::compute::{Path, with_path};
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare};

    fn layer(weight: &Tensor, bias: &Tensor) -> BatchNorm2d {
        let channels = weight.elem_count();
        let mut norm =
            BatchNorm2d::new(channels, BatchNormConfig::default(), &Params::fresh(0, &Device::Cpu)).unwrap();
        norm.running_mean.set(&Rng::new(7).randn(channels, &Device::Cpu).unwrap()).unwrap();
        norm.running_var.set(&Rng::new(8).rand(0.5, 2.0, channels, &Device::Cpu).unwrap()).unwrap();
        (norm.weight, norm.bias) = (weight.clone(), bias.clone());
        norm
    }

    fn inputs(rng: &mut Rng, shape: (usize, usize, usize, usize)) -> Vec<Tensor> {
        let w = rng.rand(0.5, 1.5, shape.1, &Device::Cpu).unwrap();
        vec![rng.randn(shape, &Device::Cpu).unwrap(), w, rng.randn(shape.1, &Device::Cpu).unwrap()]
    }

    #[test]
    fn gradients_agree_with_differences() {
        let x = inputs(&mut Rng::new(1), (3, 4, 3, 5));
        for path in [Path::Kernels, Path::Plain] {
            for mode in [Mode::Train, Mode::Eval] {
                for act in [Activation::Identity, Activation::Gelu] {
                    let run = |x: &[Tensor]| layer(&x[1], &x[2]).forward_act(&x[0], mode, act);
                    with_path(path, || check(run, &x, Options::default()))
                        .unwrap_or_else(|e| panic!("{mode:?}, {act:?} on {path:?}: {e}"));
                }
            }
        }
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut rng = Rng::new(2);
        let mut cases = Vec::new();
        for mode in [Mode::Train, Mode::Eval] {
            for act in [Activation::Identity, Activation::Relu, Activation::Silu] {
                for shape in [(3, 5, 7, 3), (1, 2, 2, 3), (2, 1, 33, 5), (5, 3, 1, 1), (2, 2, 41, 53)] {
                    let run = move |x: &[Tensor]| layer(&x[1], &x[2]).forward_act(&x[0], mode, act);
                    cases.push(Case::new(
                        format!("{mode:?} {act:?} {shape:?}"),
                        inputs(&mut rng, shape),
                        run,
                    ));
                }
            }
            let run = move |x: &[Tensor]| layer(&x[1], &x[2]).forward(&x[0], mode);
            let mut x = inputs(&mut rng, (3, 4, 5, 6));
            x[0] = x[0].transpose(2, 3).unwrap();
            cases.push(Case::new(format!("{mode:?} transposed"), x, run));
            let mut x = inputs(&mut rng, (3, 4, 5, 6));
            x[0] = x[0].affine(3.0, 200.0).unwrap();
            cases.push(Case::new(format!("{mode:?} far from zero"), x, run));
        }
        compare(&cases, 2e-5);
    }

    #[test]
    fn running_statistics_follow_pytorchs_rule() {
        // Per channel 1, 2, 3, 6: mean 3, unbiased variance 14/3.
        let x = Tensor::new(&[1f32, 2., 3., 6.], &Device::Cpu).unwrap().reshape((2, 1, 1, 2)).unwrap();
        let p = Params::fresh(0, &Device::Cpu);
        let norm = BatchNorm2d::new(1, BatchNormConfig::default(), &p).unwrap();
        norm.forward(&x, Mode::Eval).unwrap();
        let before = norm.running_var.to_vec1::<f32>().unwrap();
        norm.forward(&x, Mode::Train).unwrap();
        assert_eq!(before, [1.0]);
        let mean = norm.running_mean.to_vec1::<f32>().unwrap()[0];
        let variance = norm.running_var.to_vec1::<f32>().unwrap()[0];
        assert!((mean - 0.3).abs() < 1e-6 && (variance - (0.9 + 0.1 * 14.0 / 3.0)).abs() < 1e-6);
        let plain = BatchNorm2d::new(1, BatchNormConfig::default(), &Params::fresh(0, &Device::Cpu)).unwrap();
        with_path(Path::Plain, || plain.forward(&x, Mode::Train)).unwrap();
        for (own, plain) in
            [(&norm.running_mean, &plain.running_mean), (&norm.running_var, &plain.running_var)]
        {
            let (own, plain) = (own.to_vec1::<f32>().unwrap()[0], plain.to_vec1::<f32>().unwrap()[0]);
            assert!((own - plain).abs() < 1e-6, "{own} {plain}");
        }
        let set = p.finish().unwrap();
        let names: Vec<_> = set.names().collect();
        assert_eq!(names, ["bias", "running_mean", "running_var", "weight"]);
    }

    #[test]
    fn samples_far_apart_keep_their_digits() {
        let mut rng = Rng::new(3);
        let mut x = inputs(&mut rng, (3, 2, 40, 41));
        let apart = Tensor::new(&[0f32, 1e4, -3e3], &Device::Cpu).unwrap().reshape((3, 1, 1, 1)).unwrap();
        x[0] = x[0].broadcast_add(&apart).unwrap();
        let run = |dtype: DType| {
            let [x, w, b] = [&x[0], &x[1], &x[2]].map(|t| t.to_dtype(dtype).unwrap());
            let y = layer(&w, &b).forward(&x, Mode::Train).unwrap();
            y.to_dtype(DType::F64).unwrap()
        };
        let error = (run(DType::F32) - run(DType::F64)).unwrap().abs().unwrap().max_all().unwrap();
        let error = error.to_scalar::<f64>().unwrap();
        assert!(error < 3e-6, "{error}");
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let x = inputs(&mut Rng::new(4), (3, 3, 150, 151));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let vars: Vec<Var> = x.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
                let y =
                    layer(&vars[1], &vars[2]).forward_act(&vars[0], Mode::Train, Activation::Relu).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                let mut bits = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for v in &vars {
                    bits.extend(grads.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
                }
                bits
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn frozen_parameters_get_no_gradient() {
        let x = inputs(&mut Rng::new(5), (2, 4, 3, 3));
        for i in 0..3 {
            let mut args = x.clone();
            let var = Var::from_tensor(&x[i]).unwrap();
            args[i] = var.as_tensor().clone();
            let y = layer(&args[1], &args[2]).forward(&args[0], Mode::Train).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&var).is_some());
            assert!((0..3).all(|j| j == i || grads.get(&x[j]).is_none()));
        }
    }

    #[test]
    fn eval_uses_the_loaded_statistics() {
        let t = |v: f32| Tensor::new(&[v], &Device::Cpu).unwrap();
        let map = BTreeMap::from([
            ("weight".to_owned(), t(2.0)),
            ("bias".to_owned(), t(1.0)),
            ("running_mean".to_owned(), t(3.0)),
            ("running_var".to_owned(), t(4.0)),
        ]);
        let config = BatchNormConfig { eps: 0.0, momentum: 0.1 };
        let norm = BatchNorm2d::new(1, config, &Params::frozen(map, &Device::Cpu)).unwrap();
        let x = Tensor::full(5f32, (1, 1, 1, 1), &Device::Cpu).unwrap();
        let y = norm.forward(&x, Mode::Eval).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(y, [3.0]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let p = Params::fresh(0, &Device::Cpu);
        let bad = BatchNormConfig { momentum: 1.5, ..Default::default() };
        assert!(matches!(BatchNorm2d::new(2, bad, &p), Err(Error::Argument { .. })));
        let norm = BatchNorm2d::new(2, BatchNormConfig::default(), &p).unwrap();
        let x = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(norm.forward(&x(&[1, 3, 2, 2]), Mode::Eval), Err(Error::Shape { .. })));
        assert!(matches!(norm.forward(&x(&[1, 2, 1, 1]), Mode::Train), Err(Error::Shape { .. })));
        assert!(norm.forward(&x(&[0, 2, 1, 1]), Mode::Eval).is_ok());
        assert!(serde_json::from_str::<BatchNormConfig>(r#"{"epsilon": 1}"#).is_err());
    }
}
