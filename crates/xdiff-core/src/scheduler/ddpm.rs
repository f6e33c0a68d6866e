//! Denoising diffusion probabilistic models.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClipConfig, NoiseSource, Plan, Scheduler, State, Step, StepInput, plan::listed_ends};
use crate::{
    Error, Prediction, Result,
    lenient::overlay,
    schedule::{NoiseSchedule, ScheduleConfig, convert, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// A variance is at least this, so that its logarithm exists.
const LEAST_VARIANCE: f64 = 1e-20;

/// The variance of the noise that a step adds.
///
/// With β' = 1 − ᾱ/ᾱ_p, the posterior variance is β̃ = (1−ᾱ_p)/(1−ᾱ)·β'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// β̃.
    #[default]
    FixedSmall,
    /// β̃, by way of its logarithm.
    FixedSmallLog,
    /// β'.
    FixedLarge,
    /// β', by way of its logarithm. (diffusers 0.42 takes √(log β') here, which is not a number.)
    FixedLargeLog,
    /// The network's own: the second half of its output channels is the variance, at least 0.
    Learned,
    /// The second half of the output channels, v in [−1, 1], interpolates between log β̃ (−1) and
    /// log β' (1) (Nichol and Dhariwal 2021).
    LearnedRange,
}

/// Configuration of [`Ddpm`]; the defaults are diffusers'.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DdpmConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// The bound of x0.
    pub clip: ClipConfig,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// The variance of a step's noise.
    pub variance_type: VarianceType,
    /// How the steps are spread.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every step of leading spacing.
    pub steps_offset: usize,
}

impl DdpmConfig {
    /// Reads diffusers' `scheduler_config.json`; keys that do not concern this scheduler are passed
    /// over.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        let base = Self::default();
        Ok(Self {
            schedule: overlay(&base.schedule, json)?,
            clip: overlay(&base.clip, json)?,
            ..overlay(&base, json)?
        })
    }
}

/// Denoising diffusion probabilistic models (Ho et al. 2020, Eq. 7).
///
/// A step leads to the next one of the list, the last to ᾱ_p = 1. With α' = ᾱ/ᾱ_p and β' = 1 − α':
///
/// μ = √ᾱ_p·β'/(1−ᾱ)·x0 + √α'·(1−ᾱ_p)/(1−ᾱ)·x_t, x' = μ + √variance·z, where nothing is drawn at
/// the time step 0.
#[derive(Clone, Debug)]
pub struct Ddpm {
    config: DdpmConfig,
    schedule: NoiseSchedule,
}

impl Ddpm {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: DdpmConfig) -> Result<Self> {
        config.clip.validate()?;
        let schedule = NoiseSchedule::new(&config.schedule)?;
        Ok(Self { config, schedule })
    }

    /// The configuration.
    pub fn config(&self) -> &DdpmConfig {
        &self.config
    }

    fn is_learned(&self) -> bool {
        matches!(self.config.variance_type, VarianceType::Learned | VarianceType::LearnedRange)
    }

    /// The prediction, and what the network says of the variance.
    fn split(&self, at: &StepInput<'_>) -> Result<(Tensor, Option<Tensor>)> {
        if !self.is_learned() {
            at.check()?;
            return Ok((at.prediction.clone(), None));
        }
        let channels = at.sample.dims().get(1).copied().unwrap_or(0);
        let mut want = at.sample.dims().to_vec();
        if let Some(c) = want.get_mut(1) {
            *c *= 2;
        }
        if at.prediction.dims() != want {
            let got = at.prediction.dims();
            let reason = format!("has shape {got:?}; with a learned variance it must have {want:?}");
            return Err(Error::input("prediction", reason));
        }
        let mean = at.prediction.narrow(1, 0, channels)?.contiguous()?;
        Ok((mean, Some(at.prediction.narrow(1, channels, channels)?.contiguous()?)))
    }

    /// √variance·z.
    fn noise(&self, small: f64, large: f64, said: Option<&Tensor>, z: &Tensor) -> Result<Tensor> {
        let small = small.max(LEAST_VARIANCE);
        match (self.config.variance_type, said) {
            (VarianceType::Learned, Some(variance)) => Ok((variance.sqrt()? * z)?),
            (VarianceType::LearnedRange, Some(place)) => {
                let (low, high) = (small.ln(), large.ln());
                let half_log = place.affine((high - low) / 4., (high + low) / 4.)?;
                Ok((half_log.exp()? * z)?)
            }
            (VarianceType::FixedLarge | VarianceType::FixedLargeLog, _) => Ok((z * large.sqrt())?),
            _ => Ok((z * small.sqrt())?),
        }
    }
}

impl Scheduler for Ddpm {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    fn plan(&self, steps: usize) -> Result<Plan> {
        let grid = Grid { offset: self.config.steps_offset, ..Grid::new(self.schedule.steps(), steps) };
        let list = self.config.timestep_spacing.timesteps(&grid)?;
        let ends = listed_ends(&list);
        Ok(Plan::with_ends(list, ends))
    }

    fn step(&self, at: &StepInput<'_>, noise: &mut dyn NoiseSource, _: &mut State) -> Result<Step> {
        let (t, previous) = at.plan.ends(at.index, &self.schedule)?;
        let alpha_bar = self.schedule.alpha_bar(t)?;
        let previous = previous.map_or(Ok(1.), |p| self.schedule.alpha_bar(p))?;
        let (prediction, said) = self.split(at)?;
        let kind = self.config.prediction_type;
        let x0 = convert(kind, Prediction::Sample, alpha_bar, at.sample, &prediction)?;
        let x0 = self.config.clip.apply(x0)?;
        let alpha = alpha_bar / previous;
        let beta = 1. - alpha;
        let of_x0 = previous.sqrt() * beta / (1. - alpha_bar);
        let of_x = alpha.sqrt() * (1. - previous) / (1. - alpha_bar);
        let mut prev_sample = weighted_sum(&[(of_x0, &x0), (of_x, at.sample)])?;
        if t > 0 {
            let z = noise.draw(at.index, at.sample)?;
            let small = (1. - previous) / (1. - alpha_bar) * beta;
            prev_sample = (prev_sample + self.noise(small, beta, said.as_ref(), &z)?)?;
        }
        Ok(Step { prev_sample, pred_x0: x0 })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::scheduler::GivenNoise;

    /// One step from t = 487 to 0 of a two-step plan, with x = 1, ε = 0, z = 1.
    fn drawn(variance_type: VarianceType, said: Option<f32>) -> f64 {
        let config = DdpmConfig { variance_type, clip: ClipConfig::off(), ..Default::default() };
        let scheduler = Ddpm::new(config).unwrap();
        let plan = scheduler.plan(2).unwrap();
        let cpu = &Device::Cpu;
        let sample = Tensor::new(&[[[[1f32]]]], cpu).unwrap();
        let prediction = match said {
            Some(v) => Tensor::new(&[[[[0f32]], [[v]]]], cpu).unwrap(),
            None => sample.zeros_like().unwrap(),
        };
        let at = StepInput { plan: &plan, index: 0, prediction: &prediction, sample: &sample };
        let one = GivenNoise { noise: sample.unsqueeze(0).unwrap() };
        let zero = GivenNoise { noise: one.noise.zeros_like().unwrap() };
        let value = |mut noise: GivenNoise| {
            let step = scheduler.step(&at, &mut noise, &mut State::default()).unwrap();
            f64::from(step.prev_sample.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0])
        };
        value(one) - value(zero)
    }

    #[test]
    fn variances_of_every_type() {
        let schedule = NoiseSchedule::new(&ScheduleConfig::default()).unwrap();
        let (now, before) = (schedule.alpha_bar(500).unwrap(), schedule.alpha_bar(0).unwrap());
        let large = 1. - now / before;
        let small = (1. - before) / (1. - now) * large;
        let cases = [
            (VarianceType::FixedSmall, None, small),
            (VarianceType::FixedSmallLog, None, small),
            (VarianceType::FixedLarge, None, large),
            (VarianceType::FixedLargeLog, None, large),
            (VarianceType::Learned, Some(0.04), 0.04),
            (VarianceType::LearnedRange, Some(-1.), small),
            (VarianceType::LearnedRange, Some(1.), large),
            (VarianceType::LearnedRange, Some(0.), (small * large).sqrt()),
        ];
        for (kind, said, want) in cases {
            let got = drawn(kind, said);
            assert!((got - want.sqrt()).abs() < 1e-6, "{kind:?} {said:?}: {got} against {}", want.sqrt());
        }
    }

    #[test]
    fn wrong_shapes_and_missing_noise_are_errors() {
        let sample = Tensor::zeros((1, 2, 3, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let wide = Tensor::zeros((1, 4, 3, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        for (variance_type, prediction) in
            [(VarianceType::FixedSmall, &wide), (VarianceType::LearnedRange, &sample)]
        {
            let scheduler = Ddpm::new(DdpmConfig { variance_type, ..Default::default() }).unwrap();
            let plan = scheduler.plan(5).unwrap();
            let at = StepInput { plan: &plan, index: 0, prediction, sample: &sample };
            let result = scheduler.step(&at, &mut (), &mut State::default());
            assert!(matches!(result, Err(Error::Input { what: "prediction", .. })), "{variance_type:?}");
        }
        let scheduler = Ddpm::new(DdpmConfig::default()).unwrap();
        let plan = scheduler.plan(5).unwrap();
        let at = StepInput { plan: &plan, index: 0, prediction: &sample, sample: &sample };
        let result = scheduler.step(&at, &mut (), &mut State::default());
        assert!(matches!(result, Err(Error::Input { what: "noise", .. })));
        let beyond = StepInput { index: 5, ..at };
        let result = scheduler.step(&beyond, &mut (), &mut State::default());
        assert!(matches!(result, Err(Error::Input { what: "index", .. })));
    }
}
