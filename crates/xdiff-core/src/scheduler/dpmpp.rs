//! DPM-Solver++, multistep.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ClipConfig, FinalSigma, NoiseSource, Plan, Scheduler, SigmaSpacing, State, Step, StepInput, no_history,
    sigmas::{self, Layout, Level, Whole},
};
use crate::{
    Error, Prediction, Result,
    lenient::{only, overlay},
    schedule::{BetaSchedule, NoiseSchedule, ScheduleConfig, convert, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// Runs shorter than this lower the order of their last steps, if the configuration says so.
const SHORT_RUN: usize = 15;

/// The rule of second order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpmSolverType {
    /// The midpoint rule. The rules of UniPC are read as this, as diffusers does.
    #[default]
    #[serde(alias = "logrho", alias = "bh1", alias = "bh2")]
    Midpoint,
    /// Heun's rule.
    Heun,
}

/// Configuration of [`Dpmpp2m`]; the defaults are diffusers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dpmpp2mConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// The bound of x0; off by default.
    pub clip: ClipConfig,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// How the steps are spread.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every step of leading spacing.
    pub steps_offset: usize,
    /// Which noise levels are visited.
    pub sigma_spacing: SigmaSpacing,
    /// Where the last step leads.
    pub final_sigmas_type: FinalSigma,
    /// How many predictions a step combines: 1, 2 or 3.
    pub solver_order: usize,
    /// The rule of second order.
    pub solver_type: DpmSolverType,
    /// Whether runs of fewer than 15 steps lower the order of their last steps.
    pub lower_order_final: bool,
    /// Whether the last step is of first order in any run.
    pub euler_at_final: bool,
    /// Leaves out training steps whose λ = log(√ᾱ/√(1−ᾱ)) is below this, as the cosine schedule
    /// needs; none when absent.
    pub lambda_min_clipped: Option<f64>,
}

impl Default for Dpmpp2mConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            clip: ClipConfig::off(),
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Linspace,
            steps_offset: 0,
            sigma_spacing: SigmaSpacing::Timesteps,
            final_sigmas_type: FinalSigma::Zero,
            solver_order: 2,
            solver_type: DpmSolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: None,
        }
    }
}

impl Dpmpp2mConfig {
    /// Reads diffusers' `scheduler_config.json`; keys that do not concern this scheduler are passed
    /// over, `clip_sample` among them.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit or asks for what is not built.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        only(json, "algorithm_type", &[json!("dpmsolver++")])?;
        let fixed = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"];
        only(json, "variance_type", &fixed.map(Value::from))?;
        let base = Self::default();
        let clip = overlay(&base.clip, json)?;
        Ok(Self {
            schedule: overlay(&base.schedule, json)?,
            clip: ClipConfig { clip_sample: false, ..clip },
            sigma_spacing: SigmaSpacing::from_diffusers(json)?,
            ..overlay(&base, json)?
        })
    }
}

/// DPM-Solver++, multistep, of order 1 to 3 (Lu et al. 2022b, Algorithm 2).
///
/// With α² + σ² = 1, λ = log(α/σ), h = λ' − λ and D0 the predicted x0, a step of first order is
/// x' = (σ'/σ)·x − α'(e^{−h} − 1)·D0, which is DDIM. The second order adds
/// −½α'(e^{−h} − 1)·D1 (midpoint) with D1 = (x0 − x0_before)·h/h_before; the third order adds a
/// term of the second difference too. A step to σ' = 0 gives x0 itself.
///
/// Noise is added at the time step that is asked for. (diffusers 0.42 reads its table from the wrong
/// end as long as no number of steps has been set: its t = 0 is then pure noise.)
#[derive(Clone, Debug)]
pub struct Dpmpp2m {
    config: Dpmpp2mConfig,
    schedule: NoiseSchedule,
}

impl Dpmpp2m {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: Dpmpp2mConfig) -> Result<Self> {
        config.clip.validate()?;
        if !(1..=3).contains(&config.solver_order) {
            let reason = format!("is {}; give 1, 2 or 3", config.solver_order);
            return Err(Error::config("solver_order", reason));
        }
        let schedule = sigmas::schedule(&config.schedule)?;
        let this = Self { config, schedule };
        if this.usable_steps() < 2 {
            return Err(Error::config("lambda_min_clipped", "leaves out every training step; lower it"));
        }
        Ok(this)
    }

    /// The configuration.
    pub fn config(&self) -> &Dpmpp2mConfig {
        &self.config
    }

    /// How many training steps have a λ that is not too low.
    fn usable_steps(&self) -> usize {
        let Some(least) = self.config.lambda_min_clipped else { return self.schedule.steps() };
        let lambda = |a: &f64| 0.5 * (a / (1. - a)).ln();
        self.schedule.alphas_cumprod().iter().filter(|a| lambda(a) >= least).count()
    }

    /// The order of a step of which `calls` came before in the run.
    fn order(&self, plan: &Plan, index: usize, calls: usize) -> usize {
        let short = self.config.lower_order_final && plan.len() + plan.skipped() < SHORT_RUN;
        let to_zero = self.config.final_sigmas_type == FinalSigma::Zero;
        let left = plan.len().saturating_sub(index + 1);
        let highest = self.config.solver_order.min(calls + 1);
        match left {
            0 if short || to_zero || self.config.euler_at_final => 1,
            1 if short => highest.min(2),
            _ => highest,
        }
    }
}

impl Scheduler for Dpmpp2m {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    fn plan(&self, steps: usize) -> Result<Plan> {
        let train = match self.config.timestep_spacing {
            TimestepSpacing::Leading | TimestepSpacing::Linspace => self.usable_steps(),
            _ => self.schedule.steps(),
        };
        let grid = Grid { offset: self.config.steps_offset, spare: true, ..Grid::new(train, steps) };
        let cosine = self.config.schedule.beta_schedule == BetaSchedule::SquaredcosCapV2;
        let round = !cosine && self.config.sigma_spacing != SigmaSpacing::Exponential;
        let layout = Layout {
            levels: self.config.sigma_spacing,
            whole_table: true,
            whole: if round { Whole::Round } else { Whole::Truncate },
            last: self.config.final_sigmas_type,
        };
        let plan = sigmas::plan(&self.schedule, &self.config.timestep_spacing, &grid, &layout)?;
        sigmas::check_distinct(plan)
    }

    fn add_noise(&self, x0: &Tensor, noise: &Tensor, t: &Tensor) -> Result<Tensor> {
        sigmas::add_scaled_noise(&self.schedule, x0, noise, t)
    }

    fn noise_to_start(&self, plan: &Plan, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let level = Level::new(plan.sigma(0)?);
        weighted_sum(&[(level.alpha, x0), (level.sigma, noise)])
    }

    fn step(&self, at: &StepInput<'_>, _: &mut dyn NoiseSource, state: &mut State) -> Result<Step> {
        at.check()?;
        at.plan.timestep(at.index)?;
        let level = |index| at.plan.sigma(index).map(Level::new);
        let earlier = |back| at.index.checked_sub(back).ok_or_else(no_history).and_then(level);
        let (now, next) = (level(at.index)?, level(at.index + 1)?);
        let kind = self.config.prediction_type;
        let x0 = convert(kind, Prediction::Sample, now.alpha_bar(), at.sample, at.prediction)?;
        let x0 = self.config.clip.apply(x0)?;
        state.push(&x0, self.config.solver_order);
        let order = self.order(at.plan, at.index, state.calls);
        state.calls += 1;
        if next.sigma == 0. {
            return Ok(Step { prev_sample: x0.clone(), pred_x0: x0 });
        }
        let h = next.lambda - now.lambda;
        let decay = (-h).exp_m1();
        let (first, second) = (-next.alpha * decay, next.alpha * (decay / h + 1.));
        let mut terms = vec![(next.sigma / now.sigma, at.sample), (first, &x0)];
        if order >= 2 {
            let r0 = (now.lambda - earlier(1)?.lambda) / h;
            let (before, mut of_d1) = (state.past(1)?, first / 2.);
            if order == 3 || self.config.solver_type == DpmSolverType::Heun {
                of_d1 = second;
            }
            if order == 3 {
                // With d0 = (x0 − x0₁)/r0 and d1 = (x0₁ − x0₂)/r1: D1 = d0 + r0/(r0+r1)·(d0 − d1) and
                // D2 = (d0 − d1)/(r0+r1).
                let r1 = (earlier(1)?.lambda - earlier(2)?.lambda) / h;
                let of_d2 = -next.alpha * ((decay + h) / (h * h) - 0.5);
                let of_difference = (of_d1 * r0 + of_d2) / (r0 + r1);
                let (of_d0, of_d1) = ((of_d1 + of_difference) / r0, -of_difference / r1);
                terms.extend([(of_d0, &x0), (of_d1 - of_d0, before), (-of_d1, state.past(2)?)]);
            } else {
                terms.extend([(of_d1 / r0, &x0), (-of_d1 / r0, before)]);
            }
        }
        Ok(Step { prev_sample: weighted_sum(&terms)?, pred_x0: x0.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::toy::golden;

    fn config() -> Dpmpp2mConfig {
        Dpmpp2mConfig::default()
    }

    fn clipped() -> Dpmpp2mConfig {
        let schedule = ScheduleConfig { beta_schedule: BetaSchedule::SquaredcosCapV2, ..Default::default() };
        Dpmpp2mConfig { schedule, lambda_min_clipped: Some(-5.1), solver_order: 3, ..config() }
    }

    /// Sums of |x| that diffusers 0.42 gives on the sample and network of its own tests.
    #[test]
    fn goldens_of_diffusers() {
        let cases = [
            (config(), 10, 185.0114),
            (Dpmpp2mConfig { sigma_spacing: SigmaSpacing::Karras, ..config() }, 10, 226.1858),
            (Dpmpp2mConfig { sigma_spacing: SigmaSpacing::Exponential, ..config() }, 10, 209.2444),
            (Dpmpp2mConfig { sigma_spacing: SigmaSpacing::Lu, ..config() }, 10, 208.9952),
            (Dpmpp2mConfig { prediction_type: Prediction::Velocity, ..config() }, 10, 75.6620),
            (clipped(), 20, 194.0397),
        ];
        for (config, steps, want) in cases {
            let got = golden(&Dpmpp2m::new(config.clone()).unwrap(), steps);
            assert!((got - want).abs() < 2e-2, "{got} against {want}: {config:?}");
        }
    }

    #[test]
    fn time_steps_follow_from_noise_levels() {
        let list = |sigma_spacing| {
            Dpmpp2m::new(Dpmpp2mConfig { sigma_spacing, ..config() }).unwrap().timesteps(7).unwrap()
        };
        assert_eq!(list(SigmaSpacing::Lu), [999., 824., 603., 302., 73., 11., 0.]);
        assert_eq!(list(SigmaSpacing::Exponential), [999., 824., 602., 302., 72., 10., 0.]);
        assert_eq!(list(SigmaSpacing::Karras), [999., 902., 775., 593., 301., 47., 0.]);
        let list = Dpmpp2m::new(clipped()).unwrap().timesteps(7).unwrap();
        assert_eq!(list, [995., 853., 711., 569., 426., 284., 142.]);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        assert!(Dpmpp2m::new(Dpmpp2mConfig { solver_order: 4, ..config() }).is_err());
        assert!(Dpmpp2m::new(Dpmpp2mConfig { lambda_min_clipped: Some(1e9), ..config() }).is_err());
        assert!(Dpmpp2mConfig::from_diffusers(&json!({"algorithm_type": "sde-dpmsolver++"})).is_err());
        assert!(Dpmpp2m::new(config()).unwrap().plan(1000).is_err());
    }
}
