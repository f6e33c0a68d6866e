//! From an image to the noise that DDIM would make it from.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClipConfig, NoiseSource, Plan, Scheduler, State, Step, StepInput};
use crate::{
    Error, Prediction, Result,
    lenient::overlay,
    schedule::{NoiseSchedule, ScheduleConfig, convert, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// Configuration of [`DdimInverse`]; the defaults are diffusers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DdimInverseConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// The bound of x0; thresholding is not defined here. An inversion that should be undone
    /// exactly takes [`ClipConfig::off`].
    pub clip: ClipConfig,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// How the steps are spread; linspace is not defined here.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every step of leading spacing.
    pub steps_offset: usize,
    /// Whether the first step comes from ᾱ = 1, the clean image, or from the first training
    /// step's ᾱ.
    pub set_alpha_to_one: bool,
}

impl Default for DdimInverseConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            clip: ClipConfig::default(),
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
        }
    }
}

impl DdimInverseConfig {
    /// Reads diffusers' `scheduler_config.json`, that of a DDIM scheduler too; keys that do not
    /// concern this scheduler are passed over.
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

/// DDIM run backwards: the image is the start, the noise the end (Song et al. 2021, Sec. 4.3).
///
/// Time steps rise. At the step t the sample is taken to lie at ᾱ_s with s = t − ⌊T/N⌋ (the entry
/// before t for exponential and custom spacing), the network is called with t, and the sample
/// moves to ᾱ_t: x' = √ᾱ_t·x0 + √(1−ᾱ_t)·ε. The round trip with DDIM is exact only in the limit of
/// many steps, because the network sees the sample of step s with the time of step t.
#[derive(Clone, Debug)]
pub struct DdimInverse {
    config: DdimInverseConfig,
    schedule: NoiseSchedule,
}

impl DdimInverse {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: DdimInverseConfig) -> Result<Self> {
        config.clip.validate()?;
        if config.clip.thresholding {
            return Err(Error::config("thresholding", "is not defined for DDIM inversion; turn it off"));
        }
        if config.timestep_spacing == TimestepSpacing::Linspace {
            let reason = "linspace is not defined for DDIM inversion; take leading or trailing";
            return Err(Error::config("timestep_spacing", reason));
        }
        let schedule = NoiseSchedule::new(&config.schedule)?;
        Ok(Self { config, schedule })
    }

    /// The configuration.
    pub fn config(&self) -> &DdimInverseConfig {
        &self.config
    }
}

impl Scheduler for DdimInverse {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    fn plan(&self, steps: usize) -> Result<Plan> {
        let grid = Grid { offset: self.config.steps_offset, ..Grid::new(self.schedule.steps(), steps) };
        let spacing = &self.config.timestep_spacing;
        let mut list = spacing.timesteps(&grid)?;
        let mut sources = super::plan::strided_ends(&list, spacing, &grid);
        list.reverse();
        sources.reverse();
        Ok(Plan::with_ends(list, sources))
    }

    fn step(&self, at: &StepInput<'_>, _: &mut dyn NoiseSource, _: &mut State) -> Result<Step> {
        at.check()?;
        let (t, source) = at.plan.ends(at.index, &self.schedule)?;
        let source = match source {
            Some(source) => self.schedule.alpha_bar(source)?,
            None if self.config.set_alpha_to_one => 1.,
            None => self.schedule.alpha_bar(0)?,
        };
        let target = self.schedule.alpha_bar(t)?;
        let kind = self.config.prediction_type;
        let x0 = convert(kind, Prediction::Sample, source, at.sample, at.prediction)?;
        let epsilon = convert(kind, Prediction::Epsilon, source, at.sample, at.prediction)?;
        let x0 = self.config.clip.apply(x0)?;
        let prev_sample = weighted_sum(&[(target.sqrt(), &x0), ((1. - target).sqrt(), &epsilon)])?;
        Ok(Step { prev_sample, pred_x0: x0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_rise_and_start_from_the_clean_image() {
        let scheduler = DdimInverse::new(DdimInverseConfig::default()).unwrap();
        let plan = scheduler.plan(4).unwrap();
        assert_eq!(plan.timesteps(), [0., 250., 500., 750.]);
        let ends: Vec<_> = (0..4).map(|i| plan.ends(i, scheduler.schedule()).unwrap().1).collect();
        assert_eq!(ends, [None, Some(0), Some(250), Some(500)]);
    }

    #[test]
    fn what_is_not_defined_is_refused() {
        let linspace =
            DdimInverseConfig { timestep_spacing: TimestepSpacing::Linspace, ..Default::default() };
        let clip = ClipConfig { thresholding: true, ..Default::default() };
        assert!(DdimInverse::new(linspace).is_err());
        assert!(DdimInverse::new(DdimInverseConfig { clip, ..Default::default() }).is_err());
    }
}
