//! Denoising diffusion implicit models.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClipConfig, NoiseSource, Plan, Scheduler, State, Step, StepInput, plan::strided_ends};
use crate::{
    Error, Prediction, Result,
    lenient::overlay,
    schedule::{NoiseSchedule, ScheduleConfig, convert, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// Configuration of [`Ddim`]; the defaults are diffusers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DdimConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// The bound of x0.
    pub clip: ClipConfig,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// How the steps are spread.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every step of leading spacing.
    pub steps_offset: usize,
    /// Whether the last step leads to ᾱ = 1, the clean image, or to the first training step's ᾱ.
    pub set_alpha_to_one: bool,
    /// η: 0 draws no noise; 1 draws as much as DDPM. At least 0.
    pub eta: f64,
    /// Whether ε is found anew from the clipped x0. Diffusion autoencoders need it.
    pub use_clipped_model_output: bool,
}

impl Default for DdimConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            clip: ClipConfig::default(),
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            eta: 0.,
            use_clipped_model_output: false,
        }
    }
}

impl DdimConfig {
    /// Reads diffusers' `scheduler_config.json`; keys that do not concern this scheduler are passed
    /// over. `eta` and `use_clipped_model_output` are read as well.
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

/// Denoising diffusion implicit models (Song et al. 2021, Eq. 12 and 16).
///
/// With ᾱ at the step t and ᾱ_p at the step t − ⌊T/N⌋ that it leads to (the next one of the list
/// for exponential and custom spacing):
///
/// σ = η·√((1−ᾱ_p)/(1−ᾱ))·√(1−ᾱ/ᾱ_p), x' = √ᾱ_p·x0 + √(1−ᾱ_p−σ²)·ε + σ·z.
#[derive(Clone, Debug)]
pub struct Ddim {
    config: DdimConfig,
    schedule: NoiseSchedule,
}

impl Ddim {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: DdimConfig) -> Result<Self> {
        config.clip.validate()?;
        if !(config.eta >= 0. && config.eta.is_finite()) {
            return Err(Error::config("eta", format!("is {}; it must be 0 or more", config.eta)));
        }
        let schedule = NoiseSchedule::new(&config.schedule)?;
        Ok(Self { config, schedule })
    }

    /// The configuration.
    pub fn config(&self) -> &DdimConfig {
        &self.config
    }

    fn final_alpha_bar(&self) -> Result<f64> {
        if self.config.set_alpha_to_one { Ok(1.) } else { self.schedule.alpha_bar(0) }
    }
}

impl Scheduler for Ddim {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    fn plan(&self, steps: usize) -> Result<Plan> {
        let grid = Grid { offset: self.config.steps_offset, ..Grid::new(self.schedule.steps(), steps) };
        let list = self.config.timestep_spacing.timesteps(&grid)?;
        let ends = strided_ends(&list, &self.config.timestep_spacing, &grid);
        Ok(Plan::with_ends(list, ends))
    }

    fn step(&self, at: &StepInput<'_>, noise: &mut dyn NoiseSource, _: &mut State) -> Result<Step> {
        at.check()?;
        let (t, previous) = at.plan.ends(at.index, &self.schedule)?;
        let alpha_bar = self.schedule.alpha_bar(t)?;
        let previous = match previous {
            Some(previous) => self.schedule.alpha_bar(previous)?,
            None => self.final_alpha_bar()?,
        };
        let kind = self.config.prediction_type;
        let x0 = convert(kind, Prediction::Sample, alpha_bar, at.sample, at.prediction)?;
        let x0 = self.config.clip.apply(x0)?;
        let epsilon = if self.config.use_clipped_model_output {
            convert(Prediction::Sample, Prediction::Epsilon, alpha_bar, at.sample, &x0)?
        } else {
            convert(kind, Prediction::Epsilon, alpha_bar, at.sample, at.prediction)?
        };
        let variance = (1. - previous) / (1. - alpha_bar) * (1. - alpha_bar / previous);
        let sigma = self.config.eta * variance.max(0.).sqrt();
        let direction = 1. - previous - sigma * sigma;
        if direction < -1e-9 {
            let reason = format!("is {}: more noise than step {t} leaves; give at most 1", self.config.eta);
            return Err(Error::config("eta", reason));
        }
        let mut prev_sample = weighted_sum(&[(previous.sqrt(), &x0), (direction.max(0.).sqrt(), &epsilon)])?;
        if self.config.eta > 0. {
            let drawn = noise.draw(at.index, at.sample)?;
            prev_sample = weighted_sum(&[(1., &prev_sample), (sigma, &drawn)])?;
        }
        Ok(Step { prev_sample, pred_x0: x0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::toy::{golden, golden_config};

    /// Sums of |x| that diffusers' own tests state for its DDIM scheduler.
    #[test]
    fn goldens_of_diffusers() {
        let cases = [
            (golden_config(), 172.0067),
            (DdimConfig { prediction_type: Prediction::Velocity, ..golden_config() }, 52.5302),
            (with_start(0.01, true), 149.8295),
            (with_start(0.01, false), 149.0784),
        ];
        for (config, want) in cases {
            let got = golden(&Ddim::new(config.clone()).unwrap(), 10);
            assert!((got - want).abs() < 1e-2, "{got} against {want}: {config:?}");
        }
    }

    fn with_start(beta_start: f64, set_alpha_to_one: bool) -> DdimConfig {
        let schedule = ScheduleConfig { beta_start, ..Default::default() };
        DdimConfig { schedule, set_alpha_to_one, ..golden_config() }
    }

    #[test]
    fn uneven_steps_lead_to_the_next_of_the_list() {
        let json = serde_json::json!({"timestep_spacing": {"exponential": {"gamma": 5, "stage": "late"}}});
        let scheduler = Ddim::new(DdimConfig::from_diffusers(&json).unwrap()).unwrap();
        let plan = scheduler.plan(6).unwrap();
        let list = plan.timesteps();
        assert!(list[0] - list[1] > 2. * (list[4] - list[5]), "{list:?}");
        for (index, next) in list.iter().skip(1).map(|t| Some(*t as usize)).chain([None]).enumerate() {
            assert_eq!(plan.ends(index, scheduler.schedule()).unwrap(), (list[index] as usize, next));
        }
    }

    #[test]
    fn a_bad_eta_is_an_error() {
        for eta in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(Ddim::new(DdimConfig { eta, ..Default::default() }).is_err(), "{eta}");
        }
    }
}
