//! Pseudo numerical methods.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NoiseSource, Plan, Scheduler, State, Step, StepInput, no_history};
use crate::{
    Error, Prediction, Result,
    lenient::overlay,
    schedule::{NoiseSchedule, ScheduleConfig, convert, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// Calls of the network in the Runge–Kutta warm-up: four for each of three steps.
const WARM_UP: usize = 12;

/// What a run that starts midway does with the step that the method visits twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PndmStart {
    /// As diffusers: the list of N+1 calls is cut, so that the second call of the run is treated
    /// as the repetition that it is not.
    #[default]
    Compat,
    /// The list of N steps is cut, and the second step of what is left is visited twice.
    Fixed,
}

/// Configuration of [`Pndm`]; the defaults are diffusers'. x0 is never clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PndmConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// What the network predicts: ε or v.
    pub prediction_type: Prediction,
    /// Leading, trailing or linspace.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every step of leading spacing.
    pub steps_offset: usize,
    /// Whether the last step leads to ᾱ = 1, the clean image, or to the first training step's ᾱ.
    pub set_alpha_to_one: bool,
    /// Leaves out the Runge–Kutta warm-up, as Stable Diffusion does.
    pub skip_prk_steps: bool,
    /// How a run starts midway.
    pub start: PndmStart,
}

impl Default for PndmConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: false,
            skip_prk_steps: false,
            start: PndmStart::Compat,
        }
    }
}

impl PndmConfig {
    /// Reads diffusers' `scheduler_config.json`; keys that do not concern this scheduler are passed
    /// over, `rescale_betas_zero_snr` among them.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        let base = Self::default();
        let schedule = overlay(&base.schedule, json)?;
        Ok(Self {
            schedule: ScheduleConfig { rescale_betas_zero_snr: false, ..schedule },
            ..overlay(&base, json)?
        })
    }
}

/// Pseudo numerical methods for diffusion models (Liu et al. 2022, Algorithm 2).
///
/// A step from ᾱ to ᾱ_p with the noise e (their Eq. 9):
///
/// x' = √(ᾱ_p/ᾱ)·x − (ᾱ_p−ᾱ)·e/(ᾱ·√(1−ᾱ_p) + √(ᾱ(1−ᾱ)ᾱ_p)).
///
/// e is a combination of the last four predictions (linear multistep). They are gathered either
/// by three Runge–Kutta steps of four calls each, or, with `skip_prk_steps`, by a first step that
/// is taken twice (the second time from the same sample with the mean of both predictions) and
/// multistep rules of rising order; that makes N+1 calls.
#[derive(Clone, Debug)]
pub struct Pndm {
    config: PndmConfig,
    schedule: NoiseSchedule,
}

impl Pndm {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: PndmConfig) -> Result<Self> {
        if config.prediction_type == Prediction::Sample {
            return Err(Error::config("prediction_type", "is sample; this scheduler takes epsilon or v"));
        }
        if config.timestep_spacing.is_uneven() {
            let reason = "is uneven; the multistep rule needs leading, trailing or linspace";
            return Err(Error::config("timestep_spacing", reason));
        }
        if config.schedule.rescale_betas_zero_snr {
            let reason = "leaves a step without signal, by which this scheduler would divide; turn it off";
            return Err(Error::config("rescale_betas_zero_snr", reason));
        }
        let schedule = NoiseSchedule::new(&config.schedule)?;
        Ok(Self { config, schedule })
    }

    /// The configuration.
    pub fn config(&self) -> &PndmConfig {
        &self.config
    }

    fn list(&self, steps: usize) -> Result<Vec<f64>> {
        let grid = Grid { offset: self.config.steps_offset, ..Grid::new(self.schedule.steps(), steps) };
        let list = self.config.timestep_spacing.timesteps(&grid)?;
        if !self.config.skip_prk_steps && steps < 4 {
            let reason = format!("is {steps}; the Runge–Kutta warm-up needs 4 (or set `skip_prk_steps`)");
            return Err(Error::config("num_inference_steps", reason));
        }
        Ok(list)
    }

    fn stride(&self, steps: usize) -> usize {
        self.schedule.steps() / steps
    }

    /// ᾱ at a step that may lie beyond the clean end.
    fn alpha_bar(&self, t: Option<usize>) -> Result<f64> {
        match t {
            Some(t) => self.schedule.alpha_bar(t),
            None if self.config.set_alpha_to_one => Ok(1.),
            None => self.schedule.alpha_bar(0),
        }
    }

    /// Eq. 9 from the step t.
    fn transfer(&self, t: usize, to: Option<usize>, sample: &Tensor, output: &Tensor) -> Result<Step> {
        let (now, next) = (self.alpha_bar(Some(t))?, self.alpha_bar(to)?);
        let epsilon = convert(self.config.prediction_type, Prediction::Epsilon, now, sample, output)?;
        let pred_x0 = convert(Prediction::Epsilon, Prediction::Sample, now, sample, &epsilon)?;
        let divisor = now * (1. - next).sqrt() + (now * (1. - now) * next).sqrt();
        let weights = ((next / now).sqrt(), (now - next) / divisor);
        let prev_sample = weighted_sum(&[(weights.0, sample), (weights.1, &epsilon)])?;
        Ok(Step { prev_sample, pred_x0 })
    }

    /// A call of the Runge–Kutta warm-up. The first of four calls of a step saves the sample.
    fn runge_kutta(&self, at: &StepInput<'_>, state: &mut State) -> Result<Step> {
        let stage = state.calls % 4;
        let t = self.schedule.whole_step(at.plan.timestep(at.index)?)?;
        let begin = at.index.checked_sub(stage).ok_or_else(no_history)?;
        let from = self.schedule.whole_step(at.plan.timestep(begin)?)?;
        let to = if stage % 2 == 1 { Some(t) } else { t.checked_sub(at.plan.stride()? / 2) };
        let weight = if stage == 1 || stage == 2 { 1. / 3. } else { 1. / 6. };
        let sum = match &state.sum {
            Some(sum) => weighted_sum(&[(1., sum), (weight, at.prediction)])?,
            None => (at.prediction * weight)?,
        };
        if stage == 0 {
            state.push(at.prediction, 4);
            state.kept = Some(at.sample.clone());
        }
        let sample = state.kept.clone().ok_or_else(no_history)?;
        if stage == 3 {
            state.sum = None;
            return self.transfer(from, to, &sample, &sum);
        }
        state.sum = Some(sum);
        self.transfer(from, to, &sample, at.prediction)
    }

    /// A call of the linear multistep method.
    fn multistep(&self, at: &StepInput<'_>, state: &mut State) -> Result<Step> {
        let mut t = self.schedule.whole_step(at.plan.timestep(at.index)?)?;
        let stride = at.plan.stride()?;
        let mut to = t.checked_sub(stride);
        if state.calls == 1 {
            (t, to) = (t + stride, Some(t));
        } else {
            state.push(at.prediction, 4);
        }
        if state.calls == 0 {
            state.kept = Some(at.sample.clone());
        }
        let combine = |weights: &[f64], divisor: f64| {
            let terms: Vec<_> = weights.iter().map(|w| w / divisor).zip(state.history.iter().rev()).collect();
            weighted_sum(&terms)
        };
        let output = match (state.calls, state.history.len()) {
            (1, _) => weighted_sum(&[(0.5, at.prediction), (0.5, state.past(0)?)])?,
            (_, 1) => at.prediction.clone(),
            (_, 2) => combine(&[3., -1.], 2.)?,
            (_, 3) => combine(&[23., -16., 5.], 12.)?,
            _ => combine(&[55., -59., 37., -9.], 24.)?,
        };
        let sample = match state.calls {
            1 => state.kept.take().ok_or_else(no_history)?,
            _ => at.sample.clone(),
        };
        self.transfer(t, to, &sample, &output)
    }
}

impl Scheduler for Pndm {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    fn plan(&self, steps: usize) -> Result<Plan> {
        let list = self.list(steps)?;
        let calls = if self.config.skip_prk_steps {
            with_repetition(&list)
        } else {
            with_warm_up(&list, (self.stride(steps) / 2) as f64)
        };
        Ok(Plan::with_stride(calls, self.stride(steps)))
    }

    fn plan_from(&self, steps: usize, skip: usize) -> Result<Plan> {
        if skip == 0 {
            return self.plan(steps);
        }
        if !self.config.skip_prk_steps {
            let reason = "is off; a run can start midway only without the Runge–Kutta warm-up";
            return Err(Error::config("skip_prk_steps", reason));
        }
        if self.config.start == PndmStart::Compat {
            return self.plan(steps)?.skip(skip);
        }
        let rest = Plan::with_stride(self.list(steps)?, self.stride(steps)).skip(skip)?;
        Ok(Plan::with_stride(with_repetition(rest.timesteps()), self.stride(steps)))
    }

    fn step(&self, at: &StepInput<'_>, _: &mut dyn NoiseSource, state: &mut State) -> Result<Step> {
        at.check()?;
        let step = if !self.config.skip_prk_steps && state.calls < WARM_UP {
            self.runge_kutta(at, state)?
        } else {
            self.multistep(at, state)?
        };
        state.calls += 1;
        Ok(step)
    }
}

/// The list with its second step twice.
fn with_repetition(list: &[f64]) -> Vec<f64> {
    let second = list.get(1).copied();
    let first = list.iter().take(1).copied();
    first.chain(second).chain(list.iter().skip(1).copied()).collect()
}

/// Each of the first three steps as the four stages of the Runge–Kutta method, then the others.
fn with_warm_up(list: &[f64], half: f64) -> Vec<f64> {
    let stages = list.windows(2).take(3).flat_map(|w| [w[0], w[1] + half, w[1] + half, w[1]]);
    stages.chain(list.iter().skip(3).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::toy::golden;

    fn config(beta_start: f64, set_alpha_to_one: bool, skip_prk_steps: bool) -> PndmConfig {
        let schedule = ScheduleConfig { beta_start, ..Default::default() };
        PndmConfig { schedule, set_alpha_to_one, skip_prk_steps, ..Default::default() }
    }

    /// Sums of |x| that diffusers gives; those with the warm-up are stated by its own tests.
    #[test]
    fn goldens_of_diffusers() {
        let cases = [
            (config(1e-4, false, true), 197.7156),
            (config(0.01, true, true), 210.4307),
            (config(0.01, false, true), 165.3824),
            (config(1e-4, false, false), 198.1318),
            (config(0.01, true, false), 230.0336),
            (config(0.01, false, false), 186.9412),
        ];
        for (config, want) in cases {
            let got = golden(&Pndm::new(config.clone()).unwrap(), 10);
            assert!((got - want).abs() < 1e-2, "{got} against {want}: {config:?}");
        }
    }

    #[test]
    fn calls_repeat_where_the_method_does() {
        let offset = |skip_prk_steps| {
            Pndm::new(PndmConfig { steps_offset: 1, ..config(1e-4, false, skip_prk_steps) }).unwrap()
        };
        assert_eq!(offset(true).timesteps(5).unwrap(), [801., 601., 601., 401., 201., 1.]);
        assert_eq!(offset(true).timesteps(1).unwrap(), [1.]);
        let warm = [901., 851., 851., 801., 801., 751., 751., 701., 701., 651., 651., 601.];
        let rest = [601., 501., 401., 301., 201., 101., 1.];
        assert_eq!(offset(false).timesteps(10).unwrap(), [&warm[..], &rest].concat());
    }

    #[test]
    fn a_start_midway_repeats_the_right_step_once_fixed() {
        let plan = |start| {
            let config = PndmConfig { start, ..config(1e-4, false, true) };
            Pndm::new(config).unwrap().plan_from(5, 2).unwrap().timesteps().to_vec()
        };
        assert_eq!(plan(PndmStart::Compat), [600., 400., 200., 0.]);
        assert_eq!(plan(PndmStart::Fixed), [400., 200., 200., 0.]);
    }

    #[test]
    fn what_is_not_defined_is_refused() {
        let good = || config(1e-4, false, true);
        let zero_snr = ScheduleConfig { rescale_betas_zero_snr: true, ..Default::default() };
        let cases = [
            PndmConfig { prediction_type: Prediction::Sample, ..good() },
            PndmConfig { timestep_spacing: TimestepSpacing::Custom(vec![5., 1.]), ..good() },
            PndmConfig { schedule: zero_snr, ..good() },
        ];
        for config in cases {
            assert!(Pndm::new(config.clone()).is_err(), "{config:?}");
        }
        let warm = Pndm::new(config(1e-4, false, false)).unwrap();
        assert!(warm.plan(3).is_err());
        assert!(warm.plan_from(10, 2).is_err());
    }
}
