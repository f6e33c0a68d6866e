//! Noise levels for the schedulers that work with σ = √((1−ᾱ)/ᾱ).

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Plan;
use crate::{
    Error, Prediction, Result,
    lenient::only,
    schedule::{NoiseSchedule, ScheduleConfig, convert, linspace, per_sample, same_shape, time_steps},
    spacing::{Grid, TimestepSpacing},
};

/// ᾱ at the last step of a schedule that was rescaled to leave no signal, so that σ is finite.
const LEAST_ALPHA_BAR: f64 = 1. / 16_777_216.;

/// Which noise levels are visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaSpacing {
    /// Those of the time steps.
    #[default]
    Timesteps,
    /// Equal steps of σ^{1/7} (Karras et al. 2022, Eq. 5); the time steps follow from them.
    Karras,
    /// Equal steps of log σ.
    Exponential,
    /// Equal steps of log σ, with time steps rounded (Lu et al. 2022).
    Lu,
}

impl SigmaSpacing {
    /// Reads the switches of diffusers' configuration.
    pub(super) fn from_diffusers(json: &Value) -> Result<Self> {
        for key in ["use_beta_sigmas", "use_flow_sigmas"] {
            only(json, key, &[json!(false)])?;
        }
        let on = |key: &str| json.get(key) == Some(&json!(true));
        let choices = [
            ("use_karras_sigmas", Self::Karras),
            ("use_exponential_sigmas", Self::Exponential),
            ("use_lu_lambdas", Self::Lu),
        ];
        let mut chosen = choices.iter().filter(|(key, _)| on(key));
        match (chosen.next(), chosen.next()) {
            (None, _) => Ok(Self::Timesteps),
            (Some((_, spacing)), None) => Ok(*spacing),
            (Some((key, _)), Some((other, _))) => {
                Err(Error::config(key, format!("is on together with `{other}`; turn one off")))
            }
        }
    }

    /// `count` levels from `high` down to `low`.
    fn levels(self, high: f64, low: f64, count: usize) -> Vec<f64> {
        const RHO: f64 = 7.;
        match self {
            Self::Karras => linspace(high.powf(1. / RHO), low.powf(1. / RHO), count)
                .into_iter()
                .map(|root| root.powf(RHO))
                .collect(),
            _ => linspace(high.ln(), low.ln(), count).into_iter().map(f64::exp).collect(),
        }
    }
}

/// The noise level that the last step leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// 0: the clean image.
    #[default]
    Zero,
    /// That of the first training step.
    SigmaMin,
}

/// The forward process of a scheduler that divides by ᾱ.
pub(super) fn schedule(config: &ScheduleConfig) -> Result<NoiseSchedule> {
    let mut schedule = NoiseSchedule::new(config)?;
    if config.rescale_betas_zero_snr {
        schedule = schedule.with_last_alpha_bar(LEAST_ALPHA_BAR);
    }
    match schedule.alphas_cumprod().iter().position(|a| *a < f64::MIN_POSITIVE) {
        Some(t) => {
            let reason = format!("leave no signal at time step {t}, where this scheduler would divide by it");
            Err(Error::config("betas", reason))
        }
        None => Ok(schedule),
    }
}

/// How the levels of a plan are found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) levels: SigmaSpacing,
    /// Whether levels that do not come from time steps span the whole table, or only the levels of
    /// the time steps that the spacing gives.
    pub(super) whole_table: bool,
    /// What makes time steps of levels whole.
    pub(super) whole: Whole,
    pub(super) last: FinalSigma,
}

/// What makes time steps that were found from noise levels whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// Nothing.
    Keep,
    /// Rounding, half to even.
    Round,
    /// Truncation.
    Truncate,
}

/// The plan of a scheduler that works with noise levels.
pub(super) fn plan(
    schedule: &NoiseSchedule,
    spacing: &TimestepSpacing,
    grid: &Grid,
    layout: &Layout,
) -> Result<Plan> {
    let table = Table::new(schedule);
    let mut timesteps = spacing.timesteps(grid)?;
    let mut sigmas: Vec<f64> = timesteps.iter().map(|t| table.sigma(*t)).collect();
    if layout.levels != SigmaSpacing::Timesteps {
        let ends = if layout.whole_table { &table.sigmas } else { &sigmas };
        let (low, high) = ends.iter().fold((f64::INFINITY, 0f64), |(l, h), s| (l.min(*s), h.max(*s)));
        sigmas = layout.levels.levels(high, low, grid.steps);
        let whole = |t: f64| match layout.whole {
            Whole::Keep => f64::from(t as f32),
            Whole::Round => t.round_ties_even(),
            Whole::Truncate => t.trunc(),
        };
        timesteps = sigmas.iter().map(|sigma| whole(table.time_step(*sigma))).collect();
    }
    sigmas.push(match layout.last {
        FinalSigma::Zero => 0.,
        FinalSigma::SigmaMin => table.sigma(0.),
    });
    Ok(Plan::with_sigmas(timesteps, sigmas))
}

/// Refuses a plan that visits a level twice, between which a multistep method would divide by 0.
pub(super) fn check_distinct(plan: Plan) -> Result<Plan> {
    let levels = &plan.sigmas()[..plan.len()];
    match levels.windows(2).position(|w| w[0] == w[1]) {
        Some(i) => {
            let reason =
                format!("visits the noise level {} twice, which a multistep method cannot", levels[i]);
            Err(Error::config("timestep_spacing", reason))
        }
        None => Ok(plan),
    }
}

/// σ by training step.
struct Table {
    sigmas: Vec<f64>,
}

impl Table {
    fn new(schedule: &NoiseSchedule) -> Self {
        Self { sigmas: schedule.alphas_cumprod().iter().map(|a| ((1. - a) / a).sqrt()).collect() }
    }

    /// σ at a time step, interpolated linearly and held at the ends.
    fn sigma(&self, t: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let t = t.clamp(0., last as f64);
        let low = t.floor() as usize;
        let high = (low + 1).min(last);
        self.sigmas[low] + t.fract() * (self.sigmas[high] - self.sigmas[low])
    }

    /// The time step of a σ, interpolated in log σ and held at the ends.
    fn time_step(&self, sigma: f64) -> f64 {
        let above = self.sigmas.partition_point(|s| *s <= sigma);
        let low = above.saturating_sub(1).min(self.sigmas.len() - 2);
        let (a, b) = (self.sigmas[low].ln(), self.sigmas[low + 1].ln());
        low as f64 + ((sigma.ln() - a) / (b - a)).clamp(0., 1.)
    }
}

/// x0 + σ·ε at each sample's time step, which need not be whole.
pub(super) fn add_noise(schedule: &NoiseSchedule, x0: &Tensor, noise: &Tensor, t: &Tensor) -> Result<Tensor> {
    let sigmas = sigmas_of(schedule, ("x0", x0), noise, t)?;
    Ok((x0 + noise.broadcast_mul(&per_sample(&sigmas, x0)?)?)?)
}

/// √ᾱ·x0 + √(1−ᾱ)·ε with the ᾱ of each sample's noise level.
pub(super) fn add_scaled_noise(
    schedule: &NoiseSchedule,
    x0: &Tensor,
    noise: &Tensor,
    t: &Tensor,
) -> Result<Tensor> {
    let sigmas = sigmas_of(schedule, ("x0", x0), noise, t)?;
    let (a, s): (Vec<f64>, Vec<f64>) =
        sigmas.into_iter().map(|s| (Level::new(s).alpha, Level::new(s).sigma)).unzip();
    Ok((x0.broadcast_mul(&per_sample(&a, x0)?)? + noise.broadcast_mul(&per_sample(&s, x0)?)?)?)
}

fn sigmas_of(
    schedule: &NoiseSchedule,
    x0: (&'static str, &Tensor),
    noise: &Tensor,
    t: &Tensor,
) -> Result<Vec<f64>> {
    same_shape(x0, ("noise", noise))?;
    let steps = time_steps(t)?;
    if x0.1.dims().first() != Some(&steps.len()) {
        let reason = format!("has {} values for x0 of shape {:?}", steps.len(), x0.1.dims());
        return Err(Error::input("t", reason));
    }
    let last = (schedule.steps() - 1) as f64;
    if let Some(t) = steps.iter().find(|t| !(0. ..=last).contains(*t)) {
        return Err(Error::input("t", format!("time step {t} does not lie between 0 and {last}")));
    }
    let table = Table::new(schedule);
    Ok(steps.into_iter().map(|t| table.sigma(t)).collect())
}

/// The clean image that a prediction stands for, from a sample x0 + σ·ε.
pub(super) fn x0_of(kind: Prediction, sigma: f64, sample: &Tensor, output: &Tensor) -> Result<Tensor> {
    let level = Level::new(sigma);
    convert(kind, Prediction::Sample, level.alpha_bar(), &(sample * level.alpha)?, output)
}

/// The sample that a network is given in place of x0 + σ·ε.
pub(super) fn scaled(sample: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok((sample * Level::new(sigma).alpha)?)
}

/// The standard deviation of the noise that sampling of x0 + σ·ε starts from.
pub(super) fn init_noise_sigma(spacing: &TimestepSpacing, plan: &Plan) -> f64 {
    let highest = plan.sigmas().iter().copied().fold(0., f64::max);
    match spacing {
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => highest,
        _ => highest.hypot(1.),
    }
}

/// A noise level in the scale α² + σ² = 1, with λ = log(α/σ), infinite at σ = 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) alpha: f64,
    pub(super) sigma: f64,
    pub(super) lambda: f64,
}

impl Level {
    /// The level of σ = √((1−ᾱ)/ᾱ).
    pub(super) fn new(sigma: f64) -> Self {
        let alpha = 1. / sigma.hypot(1.);
        Self { alpha, sigma: sigma * alpha, lambda: -sigma.ln() }
    }

    pub(super) fn alpha_bar(self) -> f64 {
        self.alpha * self.alpha
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_steps_and_levels_are_each_other_s_inverse() {
        let schedule = schedule(&ScheduleConfig::default()).unwrap();
        let table = Table::new(&schedule);
        for t in [0., 1., 17., 500., 998., 999.] {
            assert!((table.time_step(table.sigma(t)) - t).abs() < 1e-6, "{t}");
        }
        assert_eq!(table.time_step(1e9), 999.);
        assert_eq!(table.time_step(1e-9), 0.);
        assert!(table.sigma(3.5) > table.sigma(3.) && table.sigma(3.5) < table.sigma(4.));
    }

    #[test]
    fn levels_fall_from_one_end_to_the_other() {
        for spacing in [SigmaSpacing::Karras, SigmaSpacing::Exponential, SigmaSpacing::Lu] {
            let levels = spacing.levels(10., 0.1, 5);
            assert!((levels[0] - 10.).abs() < 1e-9 && (levels[4] - 0.1).abs() < 1e-9, "{spacing:?}");
            assert!(levels.windows(2).all(|w| w[1] < w[0]), "{spacing:?}");
        }
    }

    #[test]
    fn a_process_without_signal_is_refused() {
        let lost = ScheduleConfig { beta_start: 0.9, beta_end: 0.99, ..Default::default() };
        assert!(matches!(schedule(&lost), Err(Error::Config { field: "betas", .. })));
        let rescaled = ScheduleConfig { rescale_betas_zero_snr: true, ..Default::default() };
        assert_eq!(schedule(&rescaled).unwrap().alphas_cumprod()[999], LEAST_ALPHA_BAR);
    }

    #[test]
    fn switches_exclude_each_other() {
        let read = |json: Value| SigmaSpacing::from_diffusers(&json);
        assert_eq!(read(json!({})).unwrap(), SigmaSpacing::Timesteps);
        assert_eq!(read(json!({"use_karras_sigmas": true})).unwrap(), SigmaSpacing::Karras);
        assert!(read(json!({"use_karras_sigmas": true, "use_lu_lambdas": true})).is_err());
        assert!(read(json!({"use_beta_sigmas": true})).is_err());
    }
}
