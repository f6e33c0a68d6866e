//! Euler's method.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    FinalSigma, NoiseSource, Plan, Scheduler, SigmaSpacing, State, Step, StepInput,
    sigmas::{self, Layout, Whole},
};
use crate::{
    Error, Prediction, Result,
    lenient::{only, overlay},
    schedule::{NoiseSchedule, ScheduleConfig, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// Configuration of [`Euler`]; the defaults are diffusers'. x0 is never clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EulerConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// How the steps are spread; linspace is not rounded here.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every step of leading spacing.
    pub steps_offset: usize,
    /// Which noise levels are visited.
    pub sigma_spacing: SigmaSpacing,
    /// Where the last step leads.
    pub final_sigmas_type: FinalSigma,
    /// How much noise is added before each step; 0 draws none (Karras et al. 2022, Algorithm 2).
    pub s_churn: f64,
    /// The standard deviation of that noise.
    pub s_noise: f64,
}

impl Default for EulerConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            sigma_spacing: SigmaSpacing::Timesteps,
            final_sigmas_type: FinalSigma::Zero,
            s_churn: 0.,
            s_noise: 1.,
        }
    }
}

impl EulerConfig {
    /// Reads diffusers' `scheduler_config.json`; keys that do not concern this scheduler are passed
    /// over.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit or asks for what is not built.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        only(json, "interpolation_type", &[json!("linear")])?;
        only(json, "timestep_type", &[json!("discrete")])?;
        only(json, "sigma_min", &[])?;
        only(json, "sigma_max", &[])?;
        let base = Self::default();
        Ok(Self {
            schedule: overlay(&base.schedule, json)?,
            sigma_spacing: SigmaSpacing::from_diffusers(json)?,
            ..overlay(&base, json)?
        })
    }
}

/// Euler's method on the probability-flow equation dx/dσ = (x − x0)/σ (Karras et al. 2022).
///
/// Samples are x0 + σ·ε with σ = √((1−ᾱ)/ᾱ), and the network is given x/√(σ²+1). A step from σ to
/// σ': x' = x + (x − x0)/σ·(σ' − σ). With `s_churn` above 0 the level is first raised to
/// σ̂ = σ·(1 + min(s_churn/N, √2 − 1)) by fresh noise.
#[derive(Clone, Debug)]
pub struct Euler {
    config: EulerConfig,
    schedule: NoiseSchedule,
}

impl Euler {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: EulerConfig) -> Result<Self> {
        for (field, value) in [("s_churn", config.s_churn), ("s_noise", config.s_noise)] {
            if !(value >= 0. && value.is_finite()) {
                return Err(Error::config(field, format!("is {value}; it must be 0 or more")));
            }
        }
        let schedule = sigmas::schedule(&config.schedule)?;
        Ok(Self { config, schedule })
    }

    /// The configuration.
    pub fn config(&self) -> &EulerConfig {
        &self.config
    }
}

impl Scheduler for Euler {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
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
            last: self.config.final_sigmas_type,
        };
        sigmas::plan(&self.schedule, &self.config.timestep_spacing, &grid, &layout)
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

    fn step(&self, at: &StepInput<'_>, noise: &mut dyn NoiseSource, _: &mut State) -> Result<Step> {
        at.check()?;
        at.plan.timestep(at.index)?;
        let (sigma, next) = (at.plan.sigma(at.index)?, at.plan.sigma(at.index + 1)?);
        let calls = (at.plan.len() + at.plan.skipped()) as f64;
        let churn = (self.config.s_churn / calls).min(std::f64::consts::SQRT_2 - 1.);
        let raised = sigma * (1. + churn);
        let mut sample = at.sample.clone();
        if churn > 0. {
            let z = noise.draw(at.index, at.sample)?;
            let added = self.config.s_noise * (raised * raised - sigma * sigma).sqrt();
            sample = weighted_sum(&[(1., &sample), (added, &z)])?;
        }
        let level = if self.config.prediction_type == Prediction::Velocity { sigma } else { raised };
        let x0 = sigmas::x0_of(self.config.prediction_type, level, &sample, at.prediction)?;
        let ratio = next / raised;
        let prev_sample = weighted_sum(&[(ratio, &sample), (1. - ratio, &x0)])?;
        Ok(Step { prev_sample, pred_x0: x0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::toy::golden;

    /// Sums of |x| that diffusers 0.42 gives on the sample and network of its own tests.
    #[test]
    fn goldens_of_diffusers() {
        let cases = [
            (EulerConfig::default(), 169.4608),
            (EulerConfig { sigma_spacing: SigmaSpacing::Karras, ..Default::default() }, 160.3038),
            (EulerConfig { sigma_spacing: SigmaSpacing::Exponential, ..Default::default() }, 166.0102),
            (EulerConfig { prediction_type: Prediction::Velocity, ..Default::default() }, 48.7027),
        ];
        for (config, want) in cases {
            let got = golden(&Euler::new(config.clone()).unwrap(), 10);
            assert!((got - want).abs() < 1e-2, "{got} against {want}: {config:?}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused() {
        for json in [
            json!({"interpolation_type": "log_linear"}),
            json!({"timestep_type": "continuous"}),
            json!({"sigma_max": 3.}),
        ] {
            assert!(EulerConfig::from_diffusers(&json).is_err(), "{json}");
        }
        assert!(Euler::new(EulerConfig { s_churn: f64::NAN, ..Default::default() }).is_err());
    }
}
