//! The Fréchet distance that infinitely many images would have.

use std::fmt;

use serde::{Deserialize, Serialize};
use xdiff_core::Metric;
use xdiff_nn::Rng;

use super::features::{Features, check_joins};
use super::frechet::{FrechetDistance, name};
use super::kernel::draw;
use super::moments::FeatureMoments;
use super::rows::Sorted;
use crate::{Error, Result};

const METRIC: &str = "extrapolated Fréchet distance";

/// Over which subsets the distance is extrapolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extrapolation {
    /// How many sizes, evenly from `smallest` to all generated vectors.
    pub points: usize,
    /// Vectors in the smallest subset.
    pub smallest: usize,
    /// The seed of the draw.
    pub seed: u64,
}

impl Default for Extrapolation {
    /// The paper's 15 sizes from 5000, seed 0.
    fn default() -> Self {
        Self { points: 15, smallest: 5000, seed: 0 }
    }
}

/// A distance over a subset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SubsetDistance {
    /// Generated vectors in the subset.
    pub n: usize,
    /// d² to the reference.
    pub distance: f64,
}

/// A distance without the bias of a finite number of generated images, with what a reader must know
/// to compare it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExtrapolatedScore {
    /// The distance at 1/n = 0. It may lie below zero, by as much as it is uncertain.
    pub value: f64,
    /// The bias at n vectors is about this over n.
    pub slope: f64,
    /// Root of the mean squared difference between the line and the distances.
    pub residual: f64,
    /// The distances that the line was laid through.
    pub points: Vec<SubsetDistance>,
    /// How the subsets were drawn.
    pub extrapolation: Extrapolation,
    /// What made the features: architecture, weights, resize.
    pub extractor: String,
    /// The length of a feature vector.
    pub dim: usize,
    /// Vectors in the reference set.
    pub n_reference: usize,
    /// Vectors in the set that is judged.
    pub n_generated: usize,
}

impl ExtrapolatedScore {
    /// `FID∞` over the FID network's features with the published weights, `Fréchet distance∞` over
    /// all others.
    pub fn name(&self) -> String {
        format!("{}∞", name(&self.extractor))
    }
}

impl fmt::Display for ExtrapolatedScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, residual, extractor, n_reference, n_generated, .. } = self;
        let Extrapolation { smallest, seed, .. } = self.extrapolation;
        write!(
            f,
            "{} ({extractor}): {value} (residual {residual}, {} subsets from {smallest} to {n_generated}, \
             seed {seed}; n = {n_reference} and {n_generated})",
            self.name(),
            self.points.len(),
        )
    }
}

/// The Fréchet distance at infinitely many generated images (Chong and Forsyth 2020): the distances
/// of random subsets of several sizes n are fitted by least squares as d² = value + slope/n.
///
/// As in the authors' code only the generated set is cut into subsets, each drawn anew without
/// replacement, and the largest is the whole set. The bias of the reference set stays, so it should
/// be large and the same in every comparison. The result does not depend on the order of the vectors.
///
/// ```
/// use xdiff_metrics::{Extrapolation, FeatureMoments, Features, frechet_infinity};
/// use xdiff_nn::Rng;
///
/// let mut rng = Rng::new(1);
/// let mut noise = |n| Features::new((0..n * 8).map(|_| rng.normal()).collect(), 8, "noise");
/// let mut reference = FeatureMoments::new(8, "noise")?;
/// reference.push(&noise(4000)?)?;
/// let options = Extrapolation { smallest: 60, ..Extrapolation::default() };
/// let score = frechet_infinity(&reference, &noise(600)?, options)?;
/// // The two have the same distribution: what is left is far below the distance at n = 600.
/// assert!(score.value.abs() < 0.5 * score.points[14].distance, "{score}");
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When extractors or feature lengths differ, there are fewer than two points, `smallest` is below 2
/// or not below the number of generated vectors, or the reference has fewer than two vectors.
pub fn frechet_infinity(
    reference: &FeatureMoments,
    generated: &Features,
    extrapolation: Extrapolation,
) -> Result<ExtrapolatedScore> {
    let Extrapolation { points, smallest, seed } = extrapolation;
    check_joins(METRIC, (reference.extractor(), reference.dim()), (generated.extractor(), generated.dim()))?;
    if points < 2 {
        return Err(Error::config("points", format!("a line needs at least 2 points, got {points}")));
    }
    if smallest < 2 {
        return Err(Error::config("smallest", format!("needs at least 2 vectors, got {smallest}")));
    }
    let n = generated.n();
    if n <= smallest {
        let unit = "generated vectors, more than in the smallest subset (choose a smaller `smallest`),";
        return Err(Error::TooFew { metric: METRIC, unit, need: smallest.saturating_add(1), got: n });
    }
    let root = Rng::new(seed).fork("extrapolated frechet distance");
    let rows = Sorted::new(generated.rows(), generated.dim());
    let step = (n - smallest) as f64 / (points - 1) as f64;
    let mut distances = Vec::with_capacity(points);
    for i in 0..points {
        let size = if i + 1 == points { n } else { smallest + (step * i as f64) as usize };
        let mut rng = root.sample(i as u64);
        let subset = rows.pick(draw(n, size, &mut rng));
        let mut moments = FeatureMoments::new(generated.dim(), generated.extractor())?;
        moments.push(&Features::new(subset, generated.dim(), generated.extractor())?)?;
        let score = FrechetDistance::from_moments(reference.clone(), moments)?.compute()?;
        distances.push(SubsetDistance { n: size, distance: score.value });
    }
    let (value, slope, residual) = line(&distances);
    Ok(ExtrapolatedScore {
        value,
        slope,
        residual,
        points: distances,
        extrapolation,
        extractor: generated.extractor().to_owned(),
        dim: generated.dim(),
        n_reference: reference.n(),
        n_generated: n,
    })
}

/// Intercept, slope and residual of the least-squares line of the distance over 1/n.
fn line(points: &[SubsetDistance]) -> (f64, f64, f64) {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&SubsetDistance) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|p| 1.0 / p.n as f64), mean(&|p| p.distance));
    let variance = mean(&|p| (1.0 / p.n as f64 - x).powi(2));
    let slope = mean(&|p| (1.0 / p.n as f64 - x) * (p.distance - y)) / variance;
    let value = y - slope * x;
    let residual = mean(&|p| (p.distance - value - slope / p.n as f64).powi(2)).sqrt();
    (value, slope, residual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, n: usize, dim: usize) -> Features {
        let mut rng = Rng::new(seed);
        Features::new((0..n * dim).map(|_| rng.normal()).collect(), dim, "noise").unwrap()
    }

    fn moments(features: &Features) -> FeatureMoments {
        let mut moments = FeatureMoments::new(features.dim(), features.extractor()).unwrap();
        moments.push(features).unwrap();
        moments
    }

    #[test]
    fn a_line_is_found_exactly_and_as_numpy_fits_it() {
        let on_line = |n: usize| SubsetDistance { n, distance: 2.5 + 300.0 / n as f64 };
        let (value, slope, residual) = line(&[10, 25, 40, 100].map(on_line));
        assert!((value - 2.5).abs() < 1e-12 && (slope - 300.0).abs() < 1e-9 && residual < 1e-12);
        // numpy 2.4: np.polyfit([1/50, 1/80, 1/200], [3.1, 2.0, 1.3], 1)
        let points = [(50, 3.1), (80, 2.0), (200, 1.3)].map(|(n, distance)| SubsetDistance { n, distance });
        let (value, slope, residual) = line(&points);
        let want = [0.633333333333333, 120.0, 0.09428090415820638];
        assert!((value - want[0]).abs() < 1e-12, "{value}");
        assert!((slope - want[1]).abs() < 1e-9, "{slope}");
        assert!((residual - want[2]).abs() < 1e-12, "{residual}");
    }

    #[test]
    fn the_bias_is_taken_off() {
        let dim = 32;
        let reference = moments(&noise(1, 20_000, dim));
        let options = Extrapolation { points: 12, smallest: 100, seed: 3 };
        let score = frechet_infinity(&reference, &noise(2, 1000, dim), options).unwrap();
        let last = score.points[11];
        assert_eq!((score.points[0].n, last.n, score.n_generated), (100, 1000, 1000));
        assert!(score.points.is_sorted_by(|a, b| a.n < b.n && a.distance > b.distance), "{score:?}");
        // The true distance is 0.
        assert!(score.value.abs() < 0.2 * last.distance, "{score}");
        assert!(score.residual < 0.2 * last.distance && score.slope > 0.0, "{score}");
        let text = score.to_string();
        for part in ["Fréchet distance∞ (noise)", "12 subsets from 100 to 1000, seed 3", "n = 20000 and 1000"]
        {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_draw_is_seeded_and_the_order_of_the_vectors_does_not_matter() {
        let (reference, generated) = (moments(&noise(1, 300, 5)), noise(2, 90, 5));
        let options = Extrapolation { points: 4, smallest: 20, seed: 0 };
        let run = |generated: &Features, seed| {
            frechet_infinity(&reference, generated, Extrapolation { seed, ..options }).unwrap()
        };
        let turned = {
            let rows = generated.rows().chunks(5).rev().flatten().copied().collect();
            Features::new(rows, 5, "noise").unwrap()
        };
        assert_eq!(run(&generated, 0), run(&turned, 0));
        assert_ne!(run(&generated, 0).value, run(&generated, 1).value);
    }

    #[test]
    fn what_cannot_be_extrapolated_is_a_typed_error() {
        let (reference, generated) = (moments(&noise(1, 30, 5)), noise(2, 20, 5));
        let run = |points, smallest| {
            frechet_infinity(&reference, &generated, Extrapolation { points, smallest, seed: 0 })
        };
        assert!(matches!(run(1, 5), Err(Error::Config { .. })));
        assert!(matches!(run(3, 1), Err(Error::Config { .. })));
        let e = run(3, 20).unwrap_err();
        assert!(matches!(e, Error::TooFew { need: 21, got: 20, .. }) && e.to_string().contains("smallest"));
        assert!(run(3, usize::MAX).is_err());
        assert!(run(2, 19).is_ok());
        let other = moments(&Features::new(vec![0.5; 10], 5, "another").unwrap());
        let options = Extrapolation { points: 3, smallest: 5, seed: 0 };
        assert!(matches!(frechet_infinity(&other, &generated, options), Err(Error::Incompatible { .. })));
        let empty = FeatureMoments::new(5, "noise").unwrap();
        assert!(matches!(frechet_infinity(&empty, &generated, options), Err(Error::TooFew { .. })));
    }
}
