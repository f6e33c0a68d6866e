//! Batch normalisation.

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use super::group_norm::valid_eps;
use super::{Activation, cast, group_norm, working};
use crate::compute::use_kernel;
use crate::kernels::group_norm::{GroupNorm, Groups, Statistics};
use crate::kernels::moments::Moments;
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
        config.validate()?;
        Ok(Self {
            config,
            weight: params.weight("weight", channels, Init::ONES)?,
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
        let channels = self.weight.elem_count();
        if x.rank() != 4 || x.dims()[1] != channels {
            return Err(Error::shape("batch norm", format!("(B, {channels}, H, W)"), x.dims()));
        }
        match mode {
            Mode::Train => self.train(x),
            Mode::Eval => self.eval(x),
        }
    }

    /// The batch's statistics are those of one group per channel, with the samples as pixels.
    fn train(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, h, w) = x.dims4()?;
        let count = batch * h * w;
        if count < 2 {
            let expected = "at least two numbers per channel to train with";
            return Err(Error::shape("batch norm", expected, x.dims()));
        }
        let rows = x.transpose(0, 1)?.contiguous()?.reshape((1, channels, count))?;
        self.follow(&rows.detach().squeeze(0)?, count)?;
        let y = group_norm(&rows, channels, &self.weight, &self.bias, self.config.eps, Activation::Identity)?;
        Ok(y.reshape((channels, batch, h, w))?.transpose(0, 1)?.contiguous()?)
    }

    /// Moves the running statistics towards those of rows (channels, count).
    fn follow(&self, rows: &Tensor, count: usize) -> Result<()> {
        let rows = cast(rows, working(rows))?;
        let mean = rows.mean_keepdim(1)?;
        let squares = rows.broadcast_sub(&mean)?.sqr()?.sum(1)?;
        let variance = (squares / (count - 1) as f64)?;
        for (running, batch) in [(&self.running_mean, mean.squeeze(1)?), (&self.running_var, variance)] {
            let kept = (running.as_detached_tensor() * (1.0 - self.config.momentum))?;
            running.set(&(kept + (cast(&batch, running.dtype())? * self.config.momentum)?)?)?;
        }
        Ok(())
    }

    /// A group norm of one group per channel whose moments are given.
    fn eval_kernel(&self, x: &Tensor) -> Result<Tensor> {
        let (mean, variance) = (self.running_mean.to_vec1::<f32>()?, self.running_var.to_vec1::<f32>()?);
        let moments = mean.iter().zip(&variance).map(|(mean, variance)| Moments {
            mean: f64::from(*mean),
            rstd: 1.0 / (f64::from(*variance) + self.config.eps).sqrt(),
        });
        let (_, channels, h, w) = x.dims4()?;
        let groups = Groups { groups: channels, channels: 1, inner: h * w };
        let op = GroupNorm::plain(groups, Statistics::Given(moments.collect()));
        Ok(x.contiguous()?.apply_op3(&self.weight.contiguous()?, &self.bias.contiguous()?, op)?)
    }

    fn eval(&self, x: &Tensor) -> Result<Tensor> {
        if use_kernel(&[x, &self.weight, &self.bias, &self.running_mean, &self.running_var]) {
            return self.eval_kernel(x);
        }
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
                let run = |x: &[Tensor]| layer(&x[1], &x[2]).forward(&x[0], mode);
                with_path(path, || check(run, &x, Options::default()))
                    .unwrap_or_else(|e| panic!("{mode:?} on {path:?}: {e}"));
            }
        }
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let mut rng = Rng::new(2);
        let mut cases = Vec::new();
        for mode in [Mode::Train, Mode::Eval] {
            for shape in [(3, 5, 7, 3), (1, 2, 2, 3), (2, 1, 33, 5)] {
                let run = move |x: &[Tensor]| layer(&x[1], &x[2]).forward(&x[0], mode);
                cases.push(Case::new(format!("{mode:?} {shape:?}"), inputs(&mut rng, shape), run));
            }
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
        let set = p.finish().unwrap();
        let names: Vec<_> = set.names().collect();
        assert_eq!(names, ["bias", "running_mean", "running_var", "weight"]);
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
