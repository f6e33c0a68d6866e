//! The forward process: how much noise each training step holds.

mod beta;
mod conversion;

use candle_core::{DType, Device, Tensor};

pub use beta::{BetaSchedule, ScheduleConfig};
pub use conversion::conversion_weights;

pub(crate) use beta::linspace;
pub(crate) use conversion::{convert, weighted_sum};

use crate::{Error, Prediction, Result};

/// The tables of a forward process x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε, in f64 and never changed.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_core::schedule::{NoiseSchedule, ScheduleConfig};
///
/// let schedule = NoiseSchedule::new(&ScheduleConfig::default())?;
/// let x0 = Tensor::ones((2, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let t = Tensor::new(&[0u32, 999], &Device::Cpu)?;
/// let x_t = schedule.add_noise(&x0, &x0.zeros_like()?, &t)?;
/// let signal = x_t.flatten_from(1)?.mean(1)?.to_vec1::<f32>()?;
/// assert!(signal[0] > 0.999 && signal[1] < 0.01);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    betas: Vec<f64>,
    alphas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// The tables of a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] when a field cannot be used.
    pub fn new(config: &ScheduleConfig) -> Result<Self> {
        Self::from_betas(config.betas()?)
    }

    /// The tables of given β, one for each training step.
    ///
    /// # Errors
    /// [`Error::Config`] when there are fewer than two or one lies outside (0, 1].
    pub fn from_betas(betas: Vec<f64>) -> Result<Self> {
        if betas.len() < 2 {
            return Err(Error::config("betas", format!("has {} values; give at least 2", betas.len())));
        }
        beta::check_betas("betas", &betas)?;
        let alphas = betas.iter().map(|beta| 1. - beta).collect();
        let alphas_cumprod = beta::cumulative_product(&betas).collect();
        Ok(Self { betas, alphas, alphas_cumprod })
    }

    /// The same process with another ᾱ at its last step, for samplers that divide by it.
    pub(crate) fn with_last_alpha_bar(mut self, alpha_bar: f64) -> Self {
        if let Some(last) = self.alphas_cumprod.last_mut() {
            *last = alpha_bar;
        }
        self
    }

    /// The number of training steps T.
    pub fn steps(&self) -> usize {
        self.betas.len()
    }

    /// β_t, the variance that step t adds.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// α_t = 1 − β_t.
    pub fn alphas(&self) -> &[f64] {
        &self.alphas
    }

    /// ᾱ_t = Π α_s over s ≤ t.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// ᾱ_t.
    ///
    /// # Errors
    /// [`Error::Input`] when t is not below T.
    pub fn alpha_bar(&self, t: usize) -> Result<f64> {
        self.alphas_cumprod.get(t).copied().ok_or_else(|| self.out_of_range(t as f64))
    }

    /// The signal-to-noise ratio ᾱ_t/(1 − ᾱ_t).
    ///
    /// # Errors
    /// [`Error::Input`] when t is not below T.
    pub fn snr(&self, t: usize) -> Result<f64> {
        let alpha_bar = self.alpha_bar(t)?;
        Ok(alpha_bar / (1. - alpha_bar))
    }

    /// ᾱ at each of a tensor's time steps.
    ///
    /// # Shapes
    /// `t` (B), any number type, whole numbers.
    ///
    /// # Errors
    /// [`Error::Input`] when a step is not a whole number below T.
    pub fn alpha_bars(&self, t: &Tensor) -> Result<Vec<f64>> {
        time_steps(t)?.into_iter().map(|t| self.alpha_bar(self.whole_step(t)?)).collect()
    }

    /// x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε (Ho et al. 2020, Eq. 4).
    ///
    /// # Shapes
    /// `x0` and `noise` (B, …); `t` (B); the result is shaped like `x0`.
    ///
    /// # Errors
    /// [`Error::Input`] when shapes differ or a step is not a whole number below T.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.per_sample(("x0", x0), ("noise", noise), t, |a| Ok((a.sqrt(), (1. - a).sqrt())))
    }

    /// v = √ᾱ_t·ε − √(1−ᾱ_t)·x0, the target of a model that predicts velocity (Salimans and Ho
    /// 2022).
    ///
    /// # Shapes
    /// As [`add_noise`](Self::add_noise).
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise).
    pub fn velocity(&self, x0: &Tensor, noise: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.per_sample(("x0", x0), ("noise", noise), t, |a| Ok((-(1. - a).sqrt(), a.sqrt())))
    }

    /// What a model that predicts `kind` is trained to return.
    ///
    /// # Shapes
    /// As [`add_noise`](Self::add_noise).
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise).
    pub fn target(&self, kind: Prediction, x0: &Tensor, noise: &Tensor, t: &Tensor) -> Result<Tensor> {
        match kind {
            Prediction::Epsilon => Ok(noise.clone()),
            Prediction::Sample => Ok(x0.clone()),
            Prediction::Velocity => self.velocity(x0, noise, t),
        }
    }

    /// Turns a prediction of one kind into another; see [`conversion_weights`].
    ///
    /// # Shapes
    /// `x_t` and `output` (B, …); `t` (B); the result is shaped like `x_t`.
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise); also where the conversion would divide by zero.
    pub fn convert(
        &self,
        (from, output): (Prediction, &Tensor),
        to: Prediction,
        x_t: &Tensor,
        t: &Tensor,
    ) -> Result<Tensor> {
        self.per_sample(("x_t", x_t), ("prediction", output), t, |a| conversion_weights(from, to, a))
    }

    /// w_a·a + w_b·b with weights that each sample's ᾱ gives.
    fn per_sample(
        &self,
        (name_a, a): (&'static str, &Tensor),
        (name_b, b): (&'static str, &Tensor),
        t: &Tensor,
        weights: impl Fn(f64) -> Result<(f64, f64)>,
    ) -> Result<Tensor> {
        same_shape((name_a, a), (name_b, b))?;
        let alpha_bars = self.alpha_bars(t)?;
        if a.dims().first() != Some(&alpha_bars.len()) {
            let reason = format!("has {} values for {name_a} of shape {:?}", alpha_bars.len(), a.dims());
            return Err(Error::input("t", reason));
        }
        let weights = alpha_bars.into_iter().map(weights).collect::<Result<Vec<_>>>()?;
        let (wa, wb): (Vec<f64>, Vec<f64>) = weights.into_iter().unzip();
        Ok((a.broadcast_mul(&per_sample(&wa, a)?)? + b.broadcast_mul(&per_sample(&wb, a)?)?)?)
    }

    /// A time step as an index into the tables.
    pub(crate) fn whole_step(&self, t: f64) -> Result<usize> {
        if t.fract() == 0. && t >= 0. && t < self.steps() as f64 {
            Ok(t as usize)
        } else {
            Err(self.out_of_range(t))
        }
    }

    fn out_of_range(&self, t: f64) -> Error {
        let last = self.steps() - 1;
        Error::input("t", format!("time step {t} is not a whole number from 0 to {last}"))
    }
}

/// One number for each sample, shaped to broadcast over `like`.
pub(crate) fn per_sample(values: &[f64], like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    if let Some(batch) = shape.first_mut() {
        *batch = values.len();
    }
    Ok(Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(like.dtype())?.to_device(like.device())?)
}

/// The numbers of a (B) tensor of time steps.
pub(crate) fn time_steps(t: &Tensor) -> Result<Vec<f64>> {
    if t.rank() != 1 {
        return Err(Error::input(
            "t",
            format!("has shape {:?}; give one time step for each sample", t.dims()),
        ));
    }
    Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?)
}

/// Refuses two tensors of different shapes.
pub(crate) fn same_shape(
    (name_a, a): (&'static str, &Tensor),
    (name_b, b): (&'static str, &Tensor),
) -> Result<()> {
    if a.shape() == b.shape() {
        return Ok(());
    }
    Err(Error::input(name_b, format!("has shape {:?}, but {name_a} has {:?}", b.dims(), a.dims())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> (NoiseSchedule, Tensor, Tensor, Tensor) {
        let mut rng = xdiff_nn::Rng::new(1);
        let x0 = rng.randn((3, 2, 3, 5), &Device::Cpu).unwrap();
        let noise = rng.randn((3, 2, 3, 5), &Device::Cpu).unwrap();
        let t = Tensor::new(&[0u32, 421, 999], &Device::Cpu).unwrap();
        (NoiseSchedule::new(&ScheduleConfig::default()).unwrap(), x0, noise, t)
    }

    fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn noise_and_velocity_are_undone_by_conversion() {
        let (schedule, x0, noise, t) = setting();
        let x_t = schedule.add_noise(&x0, &noise, &t).unwrap();
        for kind in [Prediction::Epsilon, Prediction::Sample, Prediction::Velocity] {
            let target = schedule.target(kind, &x0, &noise, &t).unwrap();
            let back = schedule.convert((kind, &target), Prediction::Sample, &x_t, &t).unwrap();
            assert!(max_difference(&back, &x0) < 2e-4, "{kind:?}");
        }
    }

    #[test]
    fn snr_falls_and_alpha_bar_is_the_product() {
        let (schedule, ..) = setting();
        let snr: Vec<f64> = (0..1000).map(|t| schedule.snr(t).unwrap()).collect();
        assert!(snr.windows(2).all(|w| w[1] < w[0]));
        let product: f64 = schedule.alphas()[..500].iter().product();
        assert!((product - schedule.alphas_cumprod()[499]).abs() < 1e-14);
    }

    #[test]
    fn bad_input_is_named() {
        let (schedule, x0, noise, t) = setting();
        let cpu = &Device::Cpu;
        let cases = [
            (schedule.add_noise(&x0, &noise.narrow(0, 0, 2).unwrap(), &t), "noise"),
            (schedule.add_noise(&x0, &noise, &Tensor::new(&[1u32, 2], cpu).unwrap()), "t"),
            (schedule.add_noise(&x0, &noise, &Tensor::new(&[1u32, 2, 1000], cpu).unwrap()), "t"),
            (schedule.add_noise(&x0, &noise, &Tensor::new(&[1f32, 2., -1.], cpu).unwrap()), "t"),
            (schedule.add_noise(&x0, &noise, &Tensor::new(&[1f32, 2., f32::NAN], cpu).unwrap()), "t"),
            (schedule.add_noise(&x0, &noise, &Tensor::new(&[[1f32, 2., 3.]], cpu).unwrap()), "t"),
        ];
        for (result, want) in cases {
            match result {
                Err(Error::Input { what, .. }) => assert_eq!(what, want),
                other => panic!("{other:?}"),
            }
        }
        assert!(schedule.alpha_bar(1000).is_err());
        assert!(NoiseSchedule::from_betas(vec![0.1]).is_err());
        assert!(NoiseSchedule::from_betas(vec![0.1, f64::INFINITY]).is_err());
    }
}
