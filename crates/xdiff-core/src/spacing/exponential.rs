//! Time steps crowded into one stage of the denoising.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

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
/// With l steps of T and δ = T^{1/(l+γ)}, so that δ^{l+γ} = T:
///
/// - [`Preset::Paper`]: early p_i = T − δ^{i+γ} for i = 0…l−1, rounded to whole steps; late is
///   the same distances from 0, δ^{i+γ} in falling order. Sampling starts at T − δ^γ, which is 900
///   for T = 1000, l = 30, γ = 60 (the paper's own figure shows 999), never reaches 0, and repeats
///   steps where δ^{i+γ} grows by less than 1.
/// - [`Preset::Released`]: early is T−1, then T − ⌊δ^{i+1+γ}⌋ for i = 0…l−2; late is ⌊δ^{i+1+γ}⌋
///   in falling order, T becoming T−1. It can repeat steps too.
/// - [`Preset::Careful`]: the curve of the paper stretched so that it starts at T−1 and ends at 0;
///   a step that is taken already moves to the nearest free one (the lower of two), so that there
///   are l different steps. A sampler then sees pure noise first and ends on the image, whatever γ.
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
    /// The shift γ of the exponential; not negative.
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
    /// [`Error::Config`] when γ is negative or not finite, or `steps` is 0 or above `train`.
    pub fn timesteps(&self, train: usize, steps: usize) -> Result<Vec<f64>> {
        if !(self.gamma >= 0. && self.gamma.is_finite()) {
            return Err(Error::config("gamma", format!("is {}; it must be 0 or more", self.gamma)));
        }
        if train < 2 || steps == 0 || steps > train {
            let reason = format!("is {steps} of {train} training steps; give 1 to {train}, of at least 2");
            return Err(Error::config("num_inference_steps", reason));
        }
        Ok(match self.preset {
            Preset::Paper => self.paper(train as f64, steps),
            Preset::Released => self.released(train as f64, steps),
            Preset::Careful => self.careful(train, steps),
        })
    }

    /// δ^{i+γ}.
    fn power(&self, train: f64, steps: usize, i: usize) -> f64 {
        train.powf(1. / (steps as f64 + self.gamma)).powf(i as f64 + self.gamma)
    }

    fn paper(&self, train: f64, steps: usize) -> Vec<f64> {
        let distances = (0..steps).map(|i| self.power(train, steps, i).round_ties_even());
        match self.stage {
            Stage::Early => distances.map(|d| train - d).collect(),
            Stage::Late => distances.rev().map(|d| d.min(train - 1.)).collect(),
        }
    }

    fn released(&self, train: f64, steps: usize) -> Vec<f64> {
        let distances = (0..steps).map(|i| self.power(train, steps, i + 1).floor());
        match self.stage {
            Stage::Early => {
                std::iter::once(train - 1.).chain(distances.take(steps - 1).map(|d| train - d)).collect()
            }
            Stage::Late => distances.rev().map(|d| d.min(train - 1.)).collect(),
        }
    }

    fn careful(&self, train: usize, steps: usize) -> Vec<f64> {
        let last = (train - 1) as f64;
        let power = |i| self.power(train as f64, steps, i);
        let (low, high) = (power(0), power(steps - 1));
        let way = |i| if steps == 1 { 0. } else { last * (power(i) - low) / (high - low) };
        let mut taken = vec![false; train];
        let mut list: Vec<f64> = (0..steps)
            .filter_map(|i| {
                let wish = match self.stage {
                    Stage::Early => last - way(i),
                    Stage::Late if steps == 1 => last,
                    Stage::Late => way(steps - 1 - i),
                };
                let free = nearest_free(&taken, wish.round_ties_even().clamp(0., last) as usize)?;
                taken[free] = true;
                Some(free as f64)
            })
            .collect();
        list.sort_by(|a, b| b.total_cmp(a));
        list
    }
}

/// The free place nearest to `wish`, the lower of two.
fn nearest_free(taken: &[bool], wish: usize) -> Option<usize> {
    (0..taken.len()).find_map(|distance| {
        let below = wish.checked_sub(distance);
        let above = wish.checked_add(distance);
        [below, above].into_iter().flatten().find(|place| taken.get(*place) == Some(&false))
    })
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
        assert_eq!((early[0], early[29]), (900., 74.));
        assert_eq!((late[0], late[29]), (926., 100.));
    }

    #[test]
    fn released_code_starts_at_the_last_step() {
        let early = spacing(60., Stage::Early, Preset::Released).timesteps(1000, 30).unwrap();
        let late = spacing(60., Stage::Late, Preset::Released).timesteps(1000, 30).unwrap();
        assert_eq!((early[0], early[1]), (999., 893.));
        assert_eq!((late[0], late[29]), (999., 107.));
    }

    #[test]
    fn careful_steps_are_distinct_and_span_the_range() {
        for stage in [Stage::Early, Stage::Late] {
            for gamma in [0., 0.5, 30., 60., 1e6] {
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
        let flat = spacing(1e9, Stage::Early, Preset::Careful).timesteps(1000, 4).unwrap();
        assert_eq!(flat, [999., 666., 333., 0.]);
    }

    #[test]
    fn bad_values_are_errors() {
        assert!(spacing(-1., Stage::Early, Preset::Paper).timesteps(1000, 10).is_err());
        assert!(spacing(f64::NAN, Stage::Early, Preset::Paper).timesteps(1000, 10).is_err());
        assert!(spacing(1., Stage::Early, Preset::Paper).timesteps(1000, 0).is_err());
        assert!(spacing(1., Stage::Early, Preset::Careful).timesteps(5, 6).is_err());
    }
}
