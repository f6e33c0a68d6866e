//! Noise variances β of the forward process.

use std::f64::consts::FRAC_PI_2;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result, lenient::overlay};

/// The largest β of the schedules that are defined through ᾱ.
const MAX_BETA: f64 = 0.999;

/// How β grows from the first training step to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BetaSchedule {
    /// Equal steps from `beta_start` to `beta_end` (Ho et al. 2020).
    #[default]
    Linear,
    /// Equal steps of √β (latent diffusion).
    ScaledLinear,
    /// ᾱ(s) = cos²((s + 0.008)/1.008 · π/2), with β at most 0.999 (Nichol and Dhariwal 2021).
    /// `beta_start` and `beta_end` are not used.
    SquaredcosCapV2,
    /// A logistic curve over [−6, 6], scaled to `beta_start`…`beta_end`.
    Sigmoid,
    /// ᾱ(s) = √(snr/(1 + snr)) with a Laplace-distributed log-SNR. `beta_start` and `beta_end` are
    /// not used.
    Laplace,
    /// ᾱ(s) = exp(−12 s). `beta_start` and `beta_end` are not used.
    Exp,
}

/// What defines the forward process.
///
/// Field names are those of diffusers' `scheduler_config.json`.
///
/// ```
/// use xdiff_core::schedule::{BetaSchedule, ScheduleConfig};
///
/// let stable_diffusion = ScheduleConfig {
///     beta_schedule: BetaSchedule::ScaledLinear,
///     beta_start: 0.00085,
///     beta_end: 0.012,
///     ..Default::default()
/// };
/// let betas = stable_diffusion.betas()?;
/// assert_eq!(betas.len(), 1000);
/// assert!((betas[0] - 0.00085).abs() < 1e-12);
/// # Ok::<(), xdiff_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The number of training steps T; at least 2.
    pub num_train_timesteps: usize,
    /// The first β, in (0, 1).
    pub beta_start: f64,
    /// The last β, in (0, 1).
    pub beta_end: f64,
    /// The way from the first to the last.
    pub beta_schedule: BetaSchedule,
    /// T values of β that replace the schedule.
    pub trained_betas: Option<Vec<f64>>,
    /// Shifts and scales √ᾱ so that the last step holds no signal (Lin et al. 2023). A model that
    /// predicts ε cannot be sampled from that step.
    pub rescale_betas_zero_snr: bool,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
        }
    }
}

impl ScheduleConfig {
    /// Reads the forward process of a diffusers `scheduler_config.json`; other keys are passed
    /// over.
    ///
    /// # Errors
    /// [`Error::Config`] that names a key whose value does not fit.
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        overlay(&Self::default(), json)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] that names the first field that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let steps = self.num_train_timesteps;
        if steps < 2 {
            return Err(Error::config("num_train_timesteps", format!("is {steps}; give at least 2")));
        }
        if let Some(betas) = &self.trained_betas {
            if betas.len() != steps {
                let reason = format!("has {} values for {steps} training steps", betas.len());
                return Err(Error::config("trained_betas", reason));
            }
            return check_betas("trained_betas", betas);
        }
        for (field, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(beta > 0. && beta < 1.) {
                return Err(Error::config(field, format!("is {beta}; it must lie between 0 and 1")));
            }
        }
        Ok(())
    }

    /// β for every training step, computed in f64.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate).
    pub fn betas(&self) -> Result<Vec<f64>> {
        self.validate()?;
        let (steps, start, end) = (self.num_train_timesteps, self.beta_start, self.beta_end);
        let betas = match (&self.trained_betas, self.beta_schedule) {
            (Some(betas), _) => betas.clone(),
            (None, BetaSchedule::Linear) => linspace(start, end, steps),
            (None, BetaSchedule::ScaledLinear) => {
                linspace(start.sqrt(), end.sqrt(), steps).into_iter().map(|root| root * root).collect()
            }
            (None, BetaSchedule::Sigmoid) => linspace(-6., 6., steps)
                .into_iter()
                .map(|x| (end - start) / (1. + (-x).exp()) + start)
                .collect(),
            (None, BetaSchedule::SquaredcosCapV2) => from_alpha_bar(steps, cosine),
            (None, BetaSchedule::Laplace) => from_alpha_bar(steps, laplace),
            (None, BetaSchedule::Exp) => from_alpha_bar(steps, |s| (-12. * s).exp()),
        };
        Ok(if self.rescale_betas_zero_snr { zero_terminal_snr(&betas) } else { betas })
    }
}

/// Each β must lie in (0, 1].
pub(super) fn check_betas(field: &'static str, betas: &[f64]) -> Result<()> {
    match betas.iter().position(|beta| !(*beta > 0. && *beta <= 1.)) {
        Some(i) => Err(Error::config(field, format!("value {i} is {}; it must lie in (0, 1]", betas[i]))),
        None => Ok(()),
    }
}

/// `count` numbers in equal steps from `start` to `end`, both included; `start` alone for one.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|i| if i > 0 && i + 1 == count { end } else { start + i as f64 * step }).collect()
}

fn cosine(s: f64) -> f64 {
    ((s + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2)
}

fn laplace(s: f64) -> f64 {
    let log_snr = -0.5 * 1f64.copysign(0.5 - s) * (1. - 2. * (0.5 - s).abs() + 1e-6).ln();
    let snr = log_snr.exp();
    (snr / (1. + snr)).sqrt()
}

/// β_i = min(1 − ᾱ((i+1)/T)/ᾱ(i/T), 0.999).
fn from_alpha_bar(steps: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f64> {
    let at = |i: usize| alpha_bar(i as f64 / steps as f64);
    (0..steps).map(|i| (1. - at(i + 1) / at(i)).min(MAX_BETA)).collect()
}

/// Algorithm 1 of Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed":
/// √ᾱ is shifted so that its last value is 0 and scaled so that its first value stays.
fn zero_terminal_snr(betas: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = cumulative_product(betas).map(f64::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let scale = first / (first - last);
    let alpha_bars: Vec<f64> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let previous = std::iter::once(1.).chain(alpha_bars.iter().copied());
    alpha_bars.iter().zip(previous).map(|(now, before)| 1. - now / before).collect()
}

/// ᾱ_t = Π_{s≤t} (1 − β_s).
pub(super) fn cumulative_product(betas: &[f64]) -> impl Iterator<Item = f64> + '_ {
    betas.iter().scan(1., |product, beta| {
        *product *= 1. - beta;
        Some(*product)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(beta_schedule: BetaSchedule) -> ScheduleConfig {
        ScheduleConfig { beta_schedule, ..Default::default() }
    }

    /// First, middle and last β printed by diffusers 0.42 for T = 1000, 1e-4…0.02. It computes in
    /// f32, where 1 − β is known to 6e-8, which shows once β is found from a rescaled ᾱ.
    #[test]
    fn values_of_diffusers() {
        let zero_snr = ScheduleConfig { rescale_betas_zero_snr: true, ..Default::default() };
        let cases = [
            (config(BetaSchedule::Linear), BETAS[0]),
            (config(BetaSchedule::ScaledLinear), BETAS[1]),
            (config(BetaSchedule::SquaredcosCapV2), BETAS[2]),
            (config(BetaSchedule::Sigmoid), BETAS[3]),
            (config(BetaSchedule::Laplace), BETAS[4]),
            (config(BetaSchedule::Exp), BETAS[5]),
            (zero_snr, BETAS[6]),
        ];
        for (config, want) in cases {
            let betas = config.betas().unwrap();
            for (i, want) in [0, 500, 998, 999].into_iter().zip(want) {
                let error = (betas[i] - want).abs();
                assert!(error < 1e-5 * want + 6e-8, "{config:?} β[{i}] = {} against {want}", betas[i]);
            }
        }
    }

    const BETAS: [[f64; 4]; 7] = [
        [9.99999975e-05, 0.0100599593, 0.0199800804, 0.0199999996],
        [9.99999975e-05, 0.00574207259, 0.0199628118, 0.0200000014],
        [4.12842237e-05, 0.00315569155, 0.749999404, 0.999000013],
        [0.000149205196, 0.0100798784, 0.0199501999, 0.0199507959],
        [0.0211537573, 0.000250031386, 0.151629657, 0.847252607],
        [0.0119282873, 0.0119282873, 0.0119282873, 0.0119282873],
        [0.000100016594, 0.0102925897, 0.75226593, 1.0],
    ];

    #[test]
    fn every_bad_field_is_named() {
        let nan = ScheduleConfig { beta_end: f64::NAN, ..Default::default() };
        let cases = [
            (ScheduleConfig { num_train_timesteps: 0, ..Default::default() }, "num_train_timesteps"),
            (ScheduleConfig { num_train_timesteps: 1, ..Default::default() }, "num_train_timesteps"),
            (ScheduleConfig { beta_start: 0., ..Default::default() }, "beta_start"),
            (ScheduleConfig { beta_end: 1., ..Default::default() }, "beta_end"),
            (nan, "beta_end"),
            (ScheduleConfig { trained_betas: Some(vec![0.1; 3]), ..Default::default() }, "trained_betas"),
            (
                ScheduleConfig { trained_betas: Some(vec![f64::NAN; 1000]), ..Default::default() },
                "trained_betas",
            ),
        ];
        for (config, want) in cases {
            match config.betas() {
                Err(Error::Config { field, .. }) => assert_eq!(field, want),
                other => panic!("{want}: {other:?}"),
            }
        }
    }

    #[test]
    fn zero_terminal_snr_keeps_the_first_step_and_ends_without_signal() {
        let plain = ScheduleConfig::default().betas().unwrap();
        let rescaled = zero_terminal_snr(&plain);
        assert!((rescaled[0] - plain[0]).abs() < 1e-12);
        assert_eq!(cumulative_product(&rescaled).last(), Some(0.));
    }

    #[test]
    fn our_own_configuration_is_strict() {
        assert!(serde_json::from_str::<ScheduleConfig>(r#"{"beta_stat": 0.1}"#).is_err());
        let config: ScheduleConfig =
            serde_json::from_str(r#"{"beta_schedule": "squaredcos_cap_v2"}"#).unwrap();
        assert_eq!(config.beta_schedule, BetaSchedule::SquaredcosCapV2);
    }
}
