//! Which training steps a sampler visits.

mod exponential;

use serde::{Deserialize, Serialize};

pub use exponential::{ExponentialSpacing, Preset, Stage};

use crate::{Error, Result, schedule::linspace};

/// How N steps of sampling are spread over T steps of training.
///
/// The first three are those of Table 2 of Lin et al. 2023, with diffusers' rounding (half to
/// even). In JSON they are the strings `leading`, `trailing` and `linspace`; the others are
/// objects such as `{"exponential": {"gamma": 60, "stage": "late"}}`.
///
/// ```
/// use xdiff_core::spacing::{Grid, TimestepSpacing};
///
/// let grid = Grid::new(1000, 4);
/// assert_eq!(TimestepSpacing::Leading.timesteps(&grid)?, [750., 500., 250., 0.]);
/// assert_eq!(TimestepSpacing::Trailing.timesteps(&grid)?, [999., 749., 499., 249.]);
/// assert_eq!(TimestepSpacing::Linspace.timesteps(&grid)?, [999., 666., 333., 0.]);
/// # Ok::<(), xdiff_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimestepSpacing {
    /// i·⌊T/N⌋ + offset. The last training step is never visited.
    #[default]
    Leading,
    /// round(T − i·T/N) − 1. The first training step is never visited unless N = T.
    Trailing,
    /// N equal steps from T−1 to 0.
    Linspace,
    /// Crowded into the early or the late stage (Park et al. 2024).
    Exponential(ExponentialSpacing),
    /// These steps, in falling order; the number of steps asked for must be their number.
    Custom(Vec<f64>),
}

/// What a spacing is spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Training steps T.
    pub train: usize,
    /// Sampling steps N, from 1 to T.
    pub steps: usize,
    /// Added to every step of [`TimestepSpacing::Leading`].
    pub offset: usize,
    /// Whether [`TimestepSpacing::Linspace`] gives whole steps; Euler's and Heun's do not.
    pub whole: bool,
    /// Whether `Leading` and `Linspace` make N+1 points and leave out the last, as multistep
    /// solvers do that end at a noise level of 0.
    pub spare: bool,
}

impl Grid {
    /// N of T steps, whole, without offset.
    pub fn new(train: usize, steps: usize) -> Self {
        Self { train, steps, offset: 0, whole: true, spare: false }
    }

    fn validate(&self) -> Result<()> {
        if self.steps == 0 || self.steps > self.train {
            let reason = format!("is {}; give 1 to {}, the number of training steps", self.steps, self.train);
            return Err(Error::config("num_inference_steps", reason));
        }
        Ok(())
    }
}

impl TimestepSpacing {
    /// The time steps in falling order, each in [0, T−1].
    ///
    /// # Errors
    /// [`Error::Config`] when N is 0 or above T, when an offset leads beyond T−1, or when a custom
    /// list is not N falling steps within the range.
    pub fn timesteps(&self, grid: &Grid) -> Result<Vec<f64>> {
        grid.validate()?;
        let Grid { train, steps, .. } = *grid;
        let last = (train - 1) as f64;
        match self {
            TimestepSpacing::Leading | TimestepSpacing::Linspace if grid.spare && steps == train => {
                let reason = format!("is {steps}; this scheduler takes at most {} here", train - 1);
                Err(Error::config("num_inference_steps", reason))
            }
            TimestepSpacing::Leading => leading(grid),
            TimestepSpacing::Trailing => Ok(trailing(train, steps)),
            TimestepSpacing::Linspace => {
                let points = linspace(0., last, steps + usize::from(grid.spare));
                let skip = usize::from(grid.spare);
                let round = |t: &f64| if grid.whole { t.round_ties_even() } else { f64::from(*t as f32) };
                Ok(points[skip..].iter().rev().map(round).collect())
            }
            TimestepSpacing::Exponential(spacing) => spacing.timesteps(train, steps),
            TimestepSpacing::Custom(list) => {
                check_custom(list, grid)?;
                Ok(list.clone())
            }
        }
    }

    /// Whether the gaps between steps follow no rule that T and N give, so that a step's
    /// neighbour must be looked up in the list.
    pub(crate) fn is_uneven(&self) -> bool {
        matches!(self, TimestepSpacing::Exponential(_) | TimestepSpacing::Custom(_))
    }
}

fn leading(grid: &Grid) -> Result<Vec<f64>> {
    let spare = usize::from(grid.spare);
    let ratio = grid.train / (grid.steps + spare);
    let steps: Vec<f64> =
        (spare..grid.steps + spare).rev().map(|i| (i * ratio + grid.offset) as f64).collect();
    match steps.first() {
        Some(first) if *first >= grid.train as f64 => {
            let reason = format!(
                "is {}, which with {} steps leads to time step {first} of {}; lower one of them",
                grid.offset, grid.steps, grid.train
            );
            Err(Error::config("steps_offset", reason))
        }
        _ => Ok(steps),
    }
}

/// The points of numpy's `arange(T, 0, −T/N)`, rounded, less 1. Where `arange` makes one point too
/// many (T = 1000, N = 61), the surplus step −1 is left out.
fn trailing(train: usize, steps: usize) -> Vec<f64> {
    let train = train as f64;
    let stride = (train - train / steps as f64) - train;
    (0..steps).map(|i| (train + i as f64 * stride).round_ties_even() - 1.).collect()
}

fn check_custom(list: &[f64], grid: &Grid) -> Result<()> {
    let fail = |reason: String| Err(Error::config("timestep_spacing", reason));
    if list.len() != grid.steps {
        return fail(format!("lists {} steps, but {} were asked for", list.len(), grid.steps));
    }
    let last = (grid.train - 1) as f64;
    if let Some(t) = list.iter().find(|t| !(**t >= 0. && **t <= last) || (grid.whole && t.fract() != 0.)) {
        return fail(format!("lists {t}, which is not a time step from 0 to {last}"));
    }
    match list.windows(2).find(|pair| pair[1] >= pair[0]) {
        Some(pair) => fail(format!("lists {} after {}; steps must fall", pair[1], pair[0])),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(steps: usize) -> Grid {
        Grid::new(1000, steps)
    }

    #[test]
    fn lists_of_diffusers() {
        let offset = Grid { offset: 1, ..grid(7) };
        let spare = Grid { spare: true, ..grid(7) };
        let real = Grid { whole: false, ..grid(7) };
        let cases: [(TimestepSpacing, Grid, &[f64]); 9] = [
            (TimestepSpacing::Leading, offset, &[853., 711., 569., 427., 285., 143., 1.]),
            (TimestepSpacing::Leading, spare, &[875., 750., 625., 500., 375., 250., 125.]),
            (TimestepSpacing::Trailing, grid(7), &[999., 856., 713., 570., 428., 285., 142.]),
            (TimestepSpacing::Linspace, grid(7), &[999., 832., 666., 500., 333., 166., 0.]),
            (TimestepSpacing::Linspace, real, &[999., 832.5, 666., 499.5, 333., 166.5, 0.]),
            (TimestepSpacing::Linspace, spare, &[999., 856., 714., 571., 428., 285., 143.]),
            (TimestepSpacing::Linspace, grid(1), &[0.]),
            (TimestepSpacing::Trailing, grid(1), &[999.]),
            (TimestepSpacing::Custom(vec![9., 5.]), grid(2), &[9., 5.]),
        ];
        for (spacing, grid, want) in cases {
            assert_eq!(spacing.timesteps(&grid).unwrap(), want, "{spacing:?} {grid:?}");
        }
    }

    #[test]
    fn bad_numbers_of_steps_and_lists_are_errors() {
        let cases = [
            (TimestepSpacing::Leading, grid(0), "num_inference_steps"),
            (TimestepSpacing::Linspace, grid(1001), "num_inference_steps"),
            (TimestepSpacing::Leading, Grid { offset: 1, ..grid(1000) }, "steps_offset"),
            (TimestepSpacing::Linspace, Grid { spare: true, ..grid(1000) }, "num_inference_steps"),
            (TimestepSpacing::Custom(vec![1.]), grid(2), "timestep_spacing"),
            (TimestepSpacing::Custom(vec![1., 1.]), grid(2), "timestep_spacing"),
            (TimestepSpacing::Custom(vec![f64::NAN, 1.]), grid(2), "timestep_spacing"),
            (TimestepSpacing::Custom(vec![7.5, 1.]), grid(2), "timestep_spacing"),
            (TimestepSpacing::Custom(vec![1000., 1.]), grid(2), "timestep_spacing"),
        ];
        for (spacing, grid, want) in cases {
            match spacing.timesteps(&grid) {
                Err(Error::Config { field, .. }) => assert_eq!(field, want),
                other => panic!("{spacing:?} {grid:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn every_spacing_stays_in_range_and_falls() {
        let spacings = [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace];
        for train in [2, 17, 50, 1000] {
            for steps in 1..=train {
                for spacing in &spacings {
                    let list = spacing.timesteps(&Grid::new(train, steps)).unwrap();
                    assert_eq!(list.len(), steps);
                    assert!(list.windows(2).all(|w| w[1] < w[0]), "{spacing:?} {steps}/{train}: {list:?}");
                    assert!(list.iter().all(|t| (0. ..train as f64).contains(t)), "{spacing:?} {list:?}");
                }
            }
        }
    }
}
