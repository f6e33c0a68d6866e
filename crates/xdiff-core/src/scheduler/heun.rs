//! Heun's method.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ClipConfig, FinalSigma, NoiseSource, Plan, Scheduler, SigmaSpacing, State, Step, StepInput, no_history,
    sigmas::{self, Layout, Whole},
};
use crate::{
    Error, Prediction, Result,
    lenient::overlay,
    schedule::{NoiseSchedule, ScheduleConfig, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// Configuration of [`Heun`]; the defaults are diffusers', β from 0.00085 to 0.012 among them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeunConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// The bound of x0; off by default, and thresholding is not defined here.
    pub clip: ClipConfig,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// How the steps are spread; linspace is not rounded here.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every step of leading spacing.
    pub steps_offset: usize,
    /// Which noise levels are visited.
    pub sigma_spacing: SigmaSpacing,
}

impl Default for HeunConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig { beta_start: 0.00085, beta_end: 0.012, ..Default::default() },
            clip: ClipConfig::off(),
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            sigma_spacing: SigmaSpacing::Timesteps,
        }
    }
}

impl HeunConfig {
    /// Reads diffusers' `scheduler_config.json`; keys that do not concern this scheduler are passed
    /// over, `rescale_betas_zero_snr` and `thresholding` among them.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit or asks for what is not built.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        let base = Self::default();
        let schedule = overlay(&base.schedule, json)?;
        let clip = overlay(&base.clip, json)?;
        Ok(Self {
            schedule: ScheduleConfig { rescale_betas_zero_snr: false, ..schedule },
            clip: ClipConfig { thresholding: false, ..clip },
            sigma_spacing: SigmaSpacing::from_diffusers(json)?,
            ..overlay(&base, json)?
        })
    }
}

/// Heun's method on the probability-flow equation (Karras et al. 2022, Algorithm 1).
///
/// A step from σ to σ' calls the network at σ, moves as Euler does, calls it again at σ' and moves
/// from the first sample along the mean of both slopes. The last step, to σ = 0, is Euler's; N
/// steps are 2N−1 calls.
#[derive(Clone, Debug)]
pub struct Heun {
    config: HeunConfig,
    schedule: NoiseSchedule,
}

impl Heun {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: HeunConfig) -> Result<Self> {
        config.clip.validate()?;
        if config.clip.thresholding {
            return Err(Error::config("thresholding", "is not defined for Heun's method; turn it off"));
        }
        let schedule = sigmas::schedule(&config.schedule)?;
        Ok(Self { config, schedule })
    }

    /// The configuration.
    pub fn config(&self) -> &HeunConfig {
        &self.config
    }
}

impl Scheduler for Heun {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    fn order(&self) -> usize {
        2
    }

    fn plan(&self, steps: usize) -> Result<Plan> {
        let grid = Grid {
            offset: self.config.steps_offset,
            whole: false,
            ..Grid::new(self.schedule.steps(), steps)
        };
        let layout = Layout {
            levels: self.config.sigma_spacing,
            whole_table: false,
            whole: Whole::Keep,
            last: FinalSigma::Zero,
        };
        let plan = sigmas::plan(&self.schedule, &self.config.timestep_spacing, &grid, &layout)?;
        let mut levels = twice_but_first(&plan.sigmas()[..plan.len()]);
        levels.push(0.);
        Ok(Plan::with_sigmas(twice_but_first(plan.timesteps()), levels))
    }

    fn init_noise_sigma(&self, plan: &Plan) -> f64 {
        sigmas::init_noise_sigma(&self.config.timestep_spacing, plan)
    }

    fn scale_input(&self, plan: &Plan, index: usize, sample: &Tensor) -> Result<Tensor> {
        sigmas::scaled(sample, plan.sigma(index)?)
    }

    fn add_noise(&self, x0: &Tensor, noise: &Tensor, t: &Tensor) -> Result<Tensor> {
        sigmas::add_noise(&self.schedule, x0, noise, t)
    }

    fn noise_to_start(&self, plan: &Plan, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        weighted_sum(&[(1., x0), (plan.sigma(0)?, noise)])
    }

    fn step(&self, at: &StepInput<'_>, _: &mut dyn NoiseSource, state: &mut State) -> Result<Step> {
        at.check()?;
        at.plan.timestep(at.index)?;
        let sigma = at.plan.sigma(at.index)?;
        let x0 = sigmas::x0_of(self.config.prediction_type, sigma, at.sample, at.prediction)?;
        let x0 = self.config.clip.apply(x0)?;
        let slope = ((at.sample - &x0)? / sigma)?;
        let prev_sample = match state.kept.take() {
            None => {
                let width = at.plan.sigma(at.index + 1)? - sigma;
                state.kept = Some(at.sample.clone());
                state.history = vec![slope.clone()];
                weighted_sum(&[(1., at.sample), (width, &slope)])?
            }
            Some(before) => {
                let start = at.index.checked_sub(1).ok_or_else(no_history)?;
                let half = (sigma - at.plan.sigma(start)?) / 2.;
                weighted_sum(&[(1., &before), (half, state.past(0)?), (half, &slope)])?
            }
        };
        Ok(Step { prev_sample, pred_x0: x0 })
    }
}

fn twice_but_first(list: &[f64]) -> Vec<f64> {
    list.iter().enumerate().flat_map(|(i, v)| std::iter::repeat_n(*v, if i == 0 { 1 } else { 2 })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::toy::golden;

    /// Sums of |x| that diffusers 0.42 gives on the sample and network of its own tests.
    #[test]
    fn goldens_of_diffusers() {
        let cases = [
            (HeunConfig::default(), 244.0774),
            (HeunConfig { sigma_spacing: SigmaSpacing::Karras, ..Default::default() }, 220.6184),
            (HeunConfig { sigma_spacing: SigmaSpacing::Exponential, ..Default::default() }, 219.0311),
            (HeunConfig { prediction_type: Prediction::Velocity, ..Default::default() }, 111.7285),
        ];
        for (config, want) in cases {
            let got = golden(&Heun::new(config.clone()).unwrap(), 10);
            assert!((got - want).abs() < 1e-2, "{got} against {want}: {config:?}");
        }
    }

    #[test]
    fn every_step_but_the_last_is_two_calls() {
        let plan = Heun::new(HeunConfig::default()).unwrap().plan(3).unwrap();
        assert_eq!(plan.timesteps(), [999., 499.5, 499.5, 0., 0.]);
        assert_eq!(plan.sigmas().len(), 6);
        assert_eq!(plan.sigmas()[1], plan.sigmas()[2]);
    }
}
