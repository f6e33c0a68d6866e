//! The unified predictor–corrector method.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ClipConfig, FinalSigma, NoiseSource, Plan, Scheduler, SigmaSpacing, State, Step, StepInput, no_history,
    sigmas::{self, Layout, Level, Whole},
};
use crate::{
    Error, Prediction, Result,
    lenient::{only, overlay},
    schedule::{NoiseSchedule, ScheduleConfig, convert, weighted_sum},
    spacing::{Grid, TimestepSpacing},
};

/// The function B(h) of the method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniPcSolverType {
    /// B(h) = h.
    Bh1,
    /// B(h) = e^h − 1. The rules of DPM-Solver++ are read as this, as diffusers does.
    #[default]
    #[serde(alias = "midpoint", alias = "heun", alias = "logrho")]
    Bh2,
}

/// Configuration of [`UniPc`]; the defaults are diffusers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UniPcConfig {
    /// The forward process.
    pub schedule: ScheduleConfig,
    /// The bound of x0, where `predict_x0` is on; off by default.
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
    /// The function B(h).
    pub solver_type: UniPcSolverType,
    /// Whether x0 is integrated, or ε.
    pub predict_x0: bool,
    /// Whether the last steps are of lower order.
    pub lower_order_final: bool,
    /// The steps after which the corrector is left out.
    pub disable_corrector: Vec<usize>,
}

impl Default for UniPcConfig {
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
            solver_type: UniPcSolverType::Bh2,
            predict_x0: true,
            lower_order_final: true,
            disable_corrector: Vec::new(),
        }
    }
}

impl UniPcConfig {
    /// Reads diffusers' `scheduler_config.json`; keys that do not concern this scheduler are passed
    /// over, `clip_sample` among them.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit or asks for what is not built.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        for key in ["solver_p", "sigma_min", "sigma_max", "shift_terminal"] {
            only(json, key, &[])?;
        }
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

/// UniPC, the unified predictor–corrector of order 1 to 3 (Zhao et al. 2023, Algorithms 5 to 8).
///
/// Each call first corrects the sample that the call before predicted, with the prediction that
/// was just made at it, and then predicts the next sample. A step of the predictor adds to that of
/// first order a combination Σρ_k·(m_k − m_0)/r_k of earlier predictions m_k, where r_k is their
/// distance in λ over h and ρ solves R·ρ = b with R_{nk} = r_k^{n−1}. A step to σ' = 0 gives the
/// predicted x0 itself.
///
/// Noise is added at the time step that is asked for. (diffusers 0.42 reads its table from the wrong
/// end as long as no number of steps has been set: its t = 0 is then pure noise.)
#[derive(Clone, Debug)]
pub struct UniPc {
    config: UniPcConfig,
    schedule: NoiseSchedule,
}

impl UniPc {
    /// Builds the tables.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field that cannot be used.
    pub fn new(config: UniPcConfig) -> Result<Self> {
        config.clip.validate()?;
        if !(1..=3).contains(&config.solver_order) {
            let reason = format!("is {}; give 1, 2 or 3", config.solver_order);
            return Err(Error::config("solver_order", reason));
        }
        let schedule = sigmas::schedule(&config.schedule)?;
        Ok(Self { config, schedule })
    }

    /// The configuration.
    pub fn config(&self) -> &UniPcConfig {
        &self.config
    }

    /// The order of the step of a call that `calls` came before.
    fn order(&self, plan: &Plan, index: usize, calls: usize) -> usize {
        let left = plan.len().saturating_sub(index);
        let highest = if self.config.lower_order_final { left } else { usize::MAX };
        self.config.solver_order.min(highest).min(calls + 1)
    }

    /// A step from the level of the call `from` to that of the next, from the predictions that end
    /// with the one at `from`; the corrector knows the prediction at the next level too.
    fn advance(&self, plan: &Plan, from: usize, order: usize, past: &Past<'_>) -> Result<Tensor> {
        let level = |index: usize| plan.sigma(index).map(Level::new);
        let (now, next) = (level(from)?, level(from + 1)?);
        let h = next.lambda - now.lambda;
        let mut ratios = Vec::with_capacity(order);
        for back in 1..order {
            let before = from.checked_sub(back).ok_or_else(no_history)?;
            ratios.push((level(before)?.lambda - now.lambda) / h);
        }
        let signed = if self.config.predict_x0 { -h } else { h };
        let growth = signed.exp_m1();
        let scale = match self.config.solver_type {
            UniPcSolverType::Bh1 => signed,
            UniPcSolverType::Bh2 => growth,
        };
        let (keep, drive) = if self.config.predict_x0 {
            (next.sigma / now.sigma, -next.alpha)
        } else {
            (next.alpha / now.alpha, -next.sigma)
        };
        let rhos = rhos(&ratios, past.current.is_some(), signed, growth / scale);
        let m0 = past.prediction(0)?;
        let mut of_m0 = drive * growth;
        let mut terms = vec![(keep, past.sample)];
        for (back, (ratio, rho)) in ratios.iter().zip(&rhos).enumerate() {
            let weight = drive * scale * rho / ratio;
            terms.push((weight, past.prediction(back + 1)?));
            of_m0 -= weight;
        }
        if let (Some(current), Some(rho)) = (past.current, rhos.last()) {
            let weight = drive * scale * rho;
            terms.push((weight, current));
            of_m0 -= weight;
        }
        terms.push((of_m0, m0));
        weighted_sum(&terms)
    }
}

/// What a step is made from.
struct Past<'a> {
    /// The sample at the level that the step starts from.
    sample: &'a Tensor,
    /// Predictions, oldest first, the last at the level that the step starts from.
    predictions: &'a [Tensor],
    /// The prediction at the level that the step leads to, for the corrector.
    current: Option<&'a Tensor>,
}

impl Past<'_> {
    fn prediction(&self, back: usize) -> Result<&Tensor> {
        let place = self.predictions.len().checked_sub(back + 1).and_then(|i| self.predictions.get(i));
        place.ok_or_else(no_history)
    }
}

/// The weights ρ of the differences, one for each ratio and, for the corrector, one for the
/// prediction at the new level, whose ratio is 1.
///
/// b_n = n!·φ_{n+1}·h/B(h), with `unit` = (e^h − 1)/B(h). The predictor of second order and the
/// corrector of first order take ½, as the authors do.
fn rhos(ratios: &[f64], corrects: bool, h: f64, unit: f64) -> Vec<f64> {
    let mut nodes = ratios.to_vec();
    if corrects {
        nodes.push(1.);
    }
    if nodes.len() < 2 {
        return vec![0.5; nodes.len()];
    }
    let per_growth = unit / h.exp_m1();
    let mut phi = h.exp_m1() / h - 1.;
    let mut factorial = 1.;
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(nodes.len());
    for n in 0..nodes.len() {
        let mut row: Vec<f64> = nodes.iter().map(|r| r.powi(n as i32)).collect();
        row.push(phi * factorial * per_growth);
        rows.push(row);
        factorial *= (n + 2) as f64;
        phi = phi / h - 1. / factorial;
    }
    solve(rows)
}

/// Solves a small linear system whose last column is the right-hand side (Gauss–Jordan with row
/// pivots).
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let lead = rows[column].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            if i != column {
                let factor = row[column] / lead[column];
                row.iter_mut().zip(&lead).for_each(|(v, l)| *v -= factor * l);
            }
        }
    }
    rows.iter().enumerate().map(|(i, row)| row[n] / row[i]).collect()
}

impl Scheduler for UniPc {
    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    fn plan(&self, steps: usize) -> Result<Plan> {
        let grid =
            Grid { offset: self.config.steps_offset, spare: true, ..Grid::new(self.schedule.steps(), steps) };
        let rounds = matches!(self.config.sigma_spacing, SigmaSpacing::Karras | SigmaSpacing::Lu);
        let layout = Layout {
            levels: self.config.sigma_spacing,
            whole_table: true,
            whole: if rounds { Whole::Round } else { Whole::Truncate },
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
        let level = Level::new(at.plan.sigma(at.index)?);
        let to =
            |kind| convert(self.config.prediction_type, kind, level.alpha_bar(), at.sample, at.prediction);
        let x0 = self.config.clip.apply(to(Prediction::Sample)?)?;
        let current = if self.config.predict_x0 { x0.clone() } else { to(Prediction::Epsilon)? };
        let last = at.index.checked_sub(1);
        let mut sample = at.sample.clone();
        if let (Some(last), Some(before), true) = (last, &state.kept, state.calls > 0)
            && !self.config.disable_corrector.contains(&(at.plan.skipped() + last))
        {
            let past = Past { sample: before, predictions: &state.history, current: Some(&current) };
            sample = self.advance(at.plan, last, self.order(at.plan, last, state.calls - 1), &past)?;
        }
        state.push(&current, self.config.solver_order);
        let order = self.order(at.plan, at.index, state.calls);
        state.calls += 1;
        state.kept = Some(sample.clone());
        if at.plan.sigma(at.index + 1)? == 0. {
            let alpha_bar = level.alpha_bar();
            let prev_sample = match self.config.predict_x0 {
                true => current,
                false => convert(Prediction::Epsilon, Prediction::Sample, alpha_bar, &sample, &current)?,
            };
            return Ok(Step { prev_sample, pred_x0: x0 });
        }
        let past = Past { sample: &sample, predictions: &state.history, current: None };
        let prev_sample = self.advance(at.plan, at.index, order, &past)?;
        Ok(Step { prev_sample, pred_x0: x0 })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scheduler::toy::golden;

    /// Sums of |x| that diffusers 0.42 gives on the sample and network of its own tests.
    #[test]
    fn goldens_of_diffusers() {
        let cases = [
            (UniPcConfig::default(), 186.7620),
            (UniPcConfig { sigma_spacing: SigmaSpacing::Karras, ..Default::default() }, 230.1783),
            (UniPcConfig { sigma_spacing: SigmaSpacing::Exponential, ..Default::default() }, 210.0321),
            (UniPcConfig { prediction_type: Prediction::Velocity, ..Default::default() }, 76.5825),
        ];
        for (config, want) in cases {
            let got = golden(&UniPc::new(config.clone()).unwrap(), 10);
            assert!((got - want).abs() < 2e-2, "{got} against {want}: {config:?}");
        }
    }

    #[test]
    fn small_systems_are_solved() {
        let got = solve(vec![vec![0., 2., 1., 7.], vec![1., 1., 0., 3.], vec![3., 0., 1., 6.]]);
        for (got, want) in got.iter().zip([1., 2., 3.]) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        assert!(UniPc::new(UniPcConfig { solver_order: 0, ..Default::default() }).is_err());
        assert!(UniPcConfig::from_diffusers(&json!({"solver_p": {"_class_name": "X"}})).is_err());
    }
}
