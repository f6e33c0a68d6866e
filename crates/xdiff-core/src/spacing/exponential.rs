//! Time steps crowded into one stage of the denoising.

use std::f64::consts::E;

use serde::{Deserialize, Serialize};

use super::{Grid, TimestepSpacing};
use crate::{Error, Result};

/// Of T: a power that should be whole must not fall below by a rounding error.
const SLACK: f64 = 1e-9;

/// Beyond this shift the curve is straight to within the precision of its computation.
const GREATEST_GAMMA: f64 = 1e6;

/// The stage that gets most of the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Much noise: large t, where the layout of the image is decided.
    #[default]
    Early,
    /// Little noise: small t, where details are decided.
    Late,
}

/// Whose reading of a method is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The equations as printed.
    Paper,
    /// The authors' released code.
    Released,
    /// What the authors meant, with its gaps closed.
    #[default]
    Careful,
}

/// Exponential time-step sampling (Park et al. 2024, Eq. 12–14).
///
/// With l steps of T and δ = T^{1/(l+γ)}, so that δ^{l+γ} = T, Eq. 14 is p_t = T − δ^{t+γ}; late
/// steps are |p_t − T|, in falling order. The presets take other points and round otherwise:
///
/// - [`Preset::Paper`]: early ⌊p_t⌋ for t = 0…l−1; late ⌊δ^{t+γ}⌋ for t = l…1, T becoming T−1. Early
///   sampling starts at T − δ^γ, which is 900 for T = 1000, l = 30, γ = 60 (the paper's figure
///   shows 999). Neither stage reaches 0, and steps repeat where δ^{t+γ} grows by less than 1.
/// - [`Preset::Released`]: as the authors' program, which truncates the power and not p_t: early
///   is T−1, then T − ⌊δ^{t+γ}⌋ for t = 1…l−1; late as in the paper, but without guard against
///   rounding errors at whole powers. γ = 0 means equal gaps there ([`TimestepSpacing::Leading`]).
/// - [`Preset::Careful`]: the curve stretched to start at T−1 and end at 0, rounded, and spread
///   where rounding would give a step twice, so that there are l different steps: sampling starts
///   from pure noise and ends on the image, whatever γ.
///
/// A larger γ flattens the curve: 0 crowds most, and the spacing tends to equal gaps as γ grows.
///
/// ```
/// use xdiff_core::spacing::{ExponentialSpacing, Preset, Stage};
///
/// let early = ExponentialSpacing { gamma: 60., stage: Stage::Early, preset: Preset::Careful };
/// let steps = early.timesteps(1000, 30)?;
/// assert_eq!((steps[0], steps[29], steps.len()), (999., 0., 30));
/// let half = steps.iter().filter(|t| **t >= 500.).count();
/// assert!(half > 18, "most steps lie in the noisy half");
/// # Ok::<(), xdiff_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExponentialSpacing {
    /// The shift γ of the exponential, from 0 to a million.
    pub gamma: f64,
    /// Where the steps crowd.
    pub stage: Stage,
    /// Whose reading.
    pub preset: Preset,
}

impl Default for ExponentialSpacing {
    fn default() -> Self {
        Self { gamma: 60., stage: Stage::Early, preset: Preset::Careful }
    }
}

impl ExponentialSpacing {
    /// `steps` time steps of `train`, in falling order.
    ///
    /// # Errors
    /// [`Error::Config`] when γ is out of range, or `steps` is 0 or above `train`.
    pub fn timesteps(&self, train: usize, steps: usize) -> Result<Vec<f64>> {
        if !(0. ..=GREATEST_GAMMA).contains(&self.gamma) {
            let reason = format!("is {}; it must lie between 0 and {GREATEST_GAMMA}", self.gamma);
            return Err(Error::config("gamma", reason));
        }
        if train < 2 || steps == 0 || steps > train {
            let reason = format!("is {steps} of {train} training steps; give 1 to {train}, of at least 2");
            return Err(Error::config("num_inference_steps", reason));
        }
        match self.preset {
            Preset::Paper => Ok(self.paper(train as f64, steps)),
            Preset::Released if self.gamma == 0. => {
                TimestepSpacing::Leading.timesteps(&Grid::new(train, steps))
            }
            Preset::Released => Ok(self.released(train as f64, steps)),
            Preset::Careful => Ok(self.careful(train, steps)),
        }
    }

    /// δ^{t+γ} for t = 0…l.
    fn powers(&self, train: f64, steps: usize) -> Vec<f64> {
        let delta = (train.ln() / (steps as f64 + self.gamma)).exp();
        (0..=steps).map(|t| delta.powf(t as f64 + self.gamma)).collect()
    }

    fn paper(&self, train: f64, steps: usize) -> Vec<f64> {
        let powers = self.powers(train, steps);
        let whole = |t: f64| (t + SLACK * train).floor().min(train - 1.);
        match self.stage {
            Stage::Early => powers[..steps].iter().map(|p| whole(train - p)).collect(),
            Stage::Late => powers[1..].iter().rev().map(|p| whole(*p)).collect(),
        }
    }

    fn released(&self, train: f64, steps: usize) -> Vec<f64> {
        let delta = E.powf(train.ln() / (steps as f64 + self.gamma));
        let powers = (1..=steps).map(|t| delta.powf(t as f64 + self.gamma).floor());
        match self.stage {
            Stage::Early => {
                std::iter::once(train - 1.).chain(powers.take(steps - 1).map(|p| train - p)).collect()
            }
            Stage::Late => powers.rev().map(|p| p.min(train - 1.)).collect(),
        }
    }

    fn careful(&self, train: usize, steps: usize) -> Vec<f64> {
        let last = (train - 1) as f64;
        if steps == 1 {
            return vec![last];
        }
        let powers = self.powers(train as f64, steps);
        let (low, high) = (powers[0], powers[steps - 1]);
        let rise = powers[..steps].iter().map(|p| (p - low) / (high - low));
        let shares: Vec<f64> = match self.stage {
            Stage::Early => rise.map(|r| 1. - r).collect(),
            Stage::Late => rise.rev().collect(),
        };
        let mut list: Vec<f64> = shares.iter().map(|s| (last * s + 0.5).floor()).collect();
        for i in 1..steps {
            list[i] = list[i].min(list[i - 1] - 1.);
        }
        for (i, t) in list.iter_mut().enumerate() {
            *t = t.max((steps - 1 - i) as f64);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spacing(gamma: f64, stage: Stage, preset: Preset) -> ExponentialSpacing {
        ExponentialSpacing { gamma, stage, preset }
    }

    #[test]
    fn the_printed_equations_start_at_900() {
        let early = spacing(60., Stage::Early, Preset::Paper).timesteps(1000, 30).unwrap();
        let late = spacing(60., Stage::Late, Preset::Paper).timesteps(1000, 30).unwrap();
        assert_eq!((early[0], early[1], early[29]), (900., 892., 73.));
        assert_eq!((late[0], late[1], late[29]), (999., 926., 107.));
    }

    #[test]
    fn released_code_starts_at_the_last_step() {
        let early = spacing(60., Stage::Early, Preset::Released).timesteps(1000, 30).unwrap();
        let late = spacing(60., Stage::Late, Preset::Released).timesteps(1000, 30).unwrap();
        assert_eq!((early[0], early[1], early[29]), (999., 893., 74.));
        assert_eq!((late[0], late[1], late[29]), (999., 926., 107.));
        let flat = spacing(0., Stage::Late, Preset::Released).timesteps(1000, 4).unwrap();
        assert_eq!(flat, [750., 500., 250., 0.]);
    }

    #[test]
    fn careful_steps_are_distinct_and_span_the_range() {
        for stage in [Stage::Early, Stage::Late] {
            for gamma in [0., 0.5, 30., 60., 1e4] {
                for steps in [2, 30, 999, 1000] {
                    let list = spacing(gamma, stage, Preset::Careful).timesteps(1000, steps).unwrap();
                    assert_eq!(list.len(), steps);
                    assert!(list.windows(2).all(|w| w[1] < w[0]), "{stage:?} γ {gamma}: {list:?}");
                    assert_eq!((list[0], list[steps - 1]), (999., 0.), "{stage:?} γ {gamma} {steps}");
                }
            }
        }
    }

    #[test]
    fn stages_are_mirror_images_and_gamma_flattens() {
        let early = spacing(0., Stage::Early, Preset::Careful).timesteps(1000, 20).unwrap();
        let late = spacing(0., Stage::Late, Preset::Careful).timesteps(1000, 20).unwrap();
        let mirrored: Vec<f64> = late.iter().rev().map(|t| 999. - t).collect();
        let distance = early.iter().zip(&mirrored).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
        assert!(distance <= 20., "{early:?} {mirrored:?}");
        let flat = spacing(1e5, Stage::Early, Preset::Careful).timesteps(1000, 4).unwrap();
        assert_eq!(flat, [999., 666., 333., 0.]);
    }

    #[test]
    fn bad_values_are_errors() {
        assert!(spacing(-1., Stage::Early, Preset::Paper).timesteps(1000, 10).is_err());
        assert!(spacing(1e300, Stage::Early, Preset::Careful).timesteps(1000, 10).is_err());
        assert!(spacing(f64::NAN, Stage::Early, Preset::Paper).timesteps(1000, 10).is_err());
        assert!(spacing(1., Stage::Early, Preset::Paper).timesteps(1000, 0).is_err());
        assert!(spacing(1., Stage::Early, Preset::Careful).timesteps(5, 6).is_err());
    }
}
