//! How a score falls as prototypes are removed in order of influence.

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use crate::{Error, Result};

/// How prototypes are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruningCurvesConfig {
    /// In how many steps all prototypes are removed; at most one a prototype.
    pub steps: usize,
    /// How many random orders there are.
    pub random: usize,
    /// Their seed.
    pub seed: u64,
}

impl Default for PruningCurvesConfig {
    fn default() -> Self {
        Self { steps: 10, random: 5, seed: 0 }
    }
}

/// A score over the number of prototypes removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruningCurve {
    /// How many are removed, from 0 to all.
    pub removed: Vec<usize>,
    /// The score with the others.
    pub score: Vec<f64>,
    /// The area under the score over the share removed, from 0 to 1, by trapezoids.
    pub area: f64,
}

/// Curves for three orders. Influences that matter leave the first below the random ones, and those below
/// the second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruningCurves {
    /// The most influential prototypes are removed first.
    pub most_first: PruningCurve,
    /// The least influential first.
    pub least_first: PruningCurve,
    /// In random orders.
    pub random: Vec<PruningCurve>,
}

/// Removes prototypes step by step and asks for the score each time.
///
/// `influence` is one number a prototype, such as
/// [`mean_influence`](crate::influence::mean_influence) or the size of its weights in the head; of equals
/// the earlier counts as the greater. `score` is given which prototypes are kept, and is asked with none
/// kept as well.
///
/// # Errors
/// [`Error::Input`] when there is no prototype or an influence is NaN, [`Error::Config`] when `steps` is 0,
/// [`Error::NonFinite`] when a score is NaN or infinite; those of `score`.
///
/// ```
/// use xdiff_proto::evaluation::{PruningCurvesConfig, pruning_curves};
///
/// // A score that is the share of influence kept.
/// let influence = [0.1, 0.6, 0.3];
/// let kept = |keep: &[bool]| Ok(keep.iter().zip(influence).map(|(k, n)| if *k { n } else { 0.0 }).sum());
/// let curves = pruning_curves(&influence, &PruningCurvesConfig::default(), kept)?;
/// assert_eq!(curves.most_first.removed, [0, 1, 2, 3]);
/// assert!(curves.most_first.area < curves.least_first.area);
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
pub fn pruning_curves(
    influence: &[f64],
    config: &PruningCurvesConfig,
    mut score: impl FnMut(&[bool]) -> Result<f64>,
) -> Result<PruningCurves> {
    if influence.is_empty() {
        return Err(Error::input("influence", "is empty: there is no prototype"));
    }
    if let Some(j) = influence.iter().position(|v| v.is_nan()) {
        return Err(Error::input("influence", format!("of prototype {j} is NaN")));
    }
    if config.steps == 0 {
        return Err(Error::config("steps", "is 0, at least 1"));
    }
    let mut most: Vec<usize> = (0..influence.len()).collect();
    most.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]));
    let least: Vec<usize> = most.iter().rev().copied().collect();
    let random = (0..config.random as u64).map(|draw| {
        let mut order: Vec<usize> = (0..influence.len()).collect();
        Rng::new(config.seed).fork("pruning order").sample(draw).shuffle(&mut order);
        order
    });
    let random: Vec<Vec<usize>> = random.collect();
    let mut curve = |order: &[usize]| curve(order, config.steps, &mut score);
    Ok(PruningCurves {
        most_first: curve(&most)?,
        least_first: curve(&least)?,
        random: random.iter().map(|order| curve(order)).collect::<Result<_>>()?,
    })
}

fn curve(
    order: &[usize],
    steps: usize,
    score: &mut impl FnMut(&[bool]) -> Result<f64>,
) -> Result<PruningCurve> {
    let (count, steps) = (order.len(), steps.min(order.len()));
    let mut keep = vec![true; count];
    let (mut removed, mut scores): (Vec<usize>, Vec<f64>) = (Vec::new(), Vec::new());
    for step in 0..=steps {
        let upto = step * count / steps;
        for j in &order[removed.last().copied().unwrap_or(0)..upto] {
            keep[*j] = false;
        }
        let value = score(&keep)?;
        if !value.is_finite() {
            let of = format!("{} of {count} prototypes", count - upto);
            return Err(Error::NonFinite { what: "the score", of, hint: "return a finite number" });
        }
        removed.push(upto);
        scores.push(value);
    }
    let share = |n: usize| n as f64 / count as f64;
    let trapezoid = |(n, s): (&[usize], &[f64])| (share(n[1]) - share(n[0])) * (s[0] + s[1]) / 2.0;
    let area = removed.windows(2).zip(scores.windows(2)).map(trapezoid).sum();
    Ok(PruningCurve { removed, score: scores, area })
}
