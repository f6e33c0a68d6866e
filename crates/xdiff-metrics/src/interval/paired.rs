//! Two models on the same samples.

use serde::Serialize;
use xdiff_core::statistics::mean_ranks;

use super::config::check_level;
use super::estimate::{normal_cdf, normal_quantile};
use super::proportion::fair_coin_up_to;
use super::{BootstrapConfig, Design, Interval, IntervalMethod, bootstrap};
use crate::{Error, Result, roc_auc};

/// The interval of the difference between two statistics of the same samples, second − first. Both
/// see the same draw each time, so that what makes a sample hard for both models does not count.
///
/// # Errors
/// Those of [`bootstrap`].
pub fn bootstrap_difference(
    design: &Design,
    config: &BootstrapConfig,
    first: impl Fn(&[usize]) -> Result<f64> + Sync,
    second: impl Fn(&[usize]) -> Result<f64> + Sync,
) -> Result<Interval> {
    bootstrap(design, config, |indices| Ok(second(indices)? - first(indices)?))
}

/// McNemar's test of whether two models are right equally often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct McNemar {
    /// Samples that only the first model has right.
    pub only_first: u64,
    /// Samples that only the second model has right.
    pub only_second: u64,
    /// The exact two-sided p value: the chance of a split at least as uneven if both were as good.
    pub p_value: f64,
}

/// The exact McNemar test (a binomial test of the samples on which just one of two models is right).
/// Samples count as independent: with several images a patient, [`bootstrap_difference`] over groups
/// is the one to use.
///
/// # Errors
/// When the lengths differ.
pub fn mcnemar(labels: &[usize], first: &[usize], second: &[usize]) -> Result<McNemar> {
    for other in [first.len(), second.len()] {
        if other != labels.len() {
            return Err(Error::Mismatch { metric: "McNemar test", a: vec![labels.len()], b: vec![other] });
        }
    }
    let (mut only_first, mut only_second) = (0, 0);
    for (label, (first, second)) in labels.iter().zip(first.iter().zip(second)) {
        only_first += u64::from(first == label && second != label);
        only_second += u64::from(first != label && second == label);
    }
    let p = 2.0 * fair_coin_up_to(only_first.min(only_second), only_first + only_second);
    Ok(McNemar { only_first, only_second, p_value: p.min(1.0) })
}

/// Two areas under the ROC curve over the same samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AucComparison {
    /// The area of the first scores.
    pub first: Interval,
    /// The area of the second scores.
    pub second: Interval,
    /// Second − first.
    pub difference: Interval,
    /// The difference over its standard error: 0 for equal areas, infinite when they differ and
    /// nothing varies.
    pub z: f64,
    /// The two-sided p value of no difference.
    pub p_value: f64,
}

/// DeLong's comparison of two areas under the ROC curve over the same samples (DeLong, DeLong and
/// Clarke-Pearson, Biometrics 44, 1988), by ranks (Sun and Xu 2014). The ends of the areas' intervals
/// are kept within [0, 1]. Samples count as independent.
///
/// ```
/// use xdiff_metrics::delong;
///
/// let labels = [false, false, true, true, true, false, true, false];
/// let first = [0.1, 0.4, 0.35, 0.8, 0.8, 0.4, 0.4, 0.2];
/// let second = [0.3, 0.2, 0.7, 0.9, 0.6, 0.1, 0.8, 0.4];
/// let compared = delong(&labels, &first, &second, 0.95)?;
/// assert_eq!(compared.difference.value, 0.1875);
/// assert!(compared.p_value > 0.05);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When the lengths differ, a score is not finite, there are fewer than two positives or negatives,
/// or the level is not between 0 and 1.
pub fn delong(labels: &[bool], first: &[f64], second: &[f64], level: f64) -> Result<AucComparison> {
    const METRIC: &str = "DeLong comparison";
    check_level(level)?;
    let areas = [roc_auc(labels, first)?, roc_auc(labels, second)?];
    let positives = labels.iter().filter(|l| **l).count();
    for (unit, got) in [("positives", positives), ("negatives", labels.len() - positives)] {
        if got < 2 {
            return Err(Error::TooFew { metric: METRIC, unit, need: 2, got });
        }
    }
    let (a, b) = (placements(labels, first), placements(labels, second));
    // The variance of w·areas, for positives and negatives each a sample of its own.
    let variance = |weight: [f64; 2]| {
        let of = |a: &[f64], b: &[f64]| {
            let n = a.len() as f64;
            let mixed: Vec<f64> = a.iter().zip(b).map(|(a, b)| weight[0] * a + weight[1] * b).collect();
            let mean = mixed.iter().sum::<f64>() / n;
            mixed.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / ((n - 1.0) * n)
        };
        of(&a[0], &b[0]) + of(&a[1], &b[1])
    };
    let quantile = normal_quantile(0.5 + level / 2.0);
    let interval = |value: f64, sd: f64, bounds: [f64; 2]| Interval {
        value,
        low: (value - quantile * sd).max(bounds[0]),
        high: (value + quantile * sd).min(bounds[1]),
        level,
        method: IntervalMethod::DeLong,
        n: labels.len(),
        groups: None,
        replicates: 0,
        undefined: 0,
        seed: None,
    };
    let (difference, sd) = (areas[1] - areas[0], variance([-1.0, 1.0]).sqrt());
    let z = if difference == 0.0 { 0.0 } else { difference / sd };
    Ok(AucComparison {
        first: interval(areas[0], variance([1.0, 0.0]).sqrt(), [0.0, 1.0]),
        second: interval(areas[1], variance([0.0, 1.0]).sqrt(), [0.0, 1.0]),
        difference: interval(difference, sd, [-1.0, 1.0]),
        z,
        p_value: 2.0 * normal_cdf(-z.abs()),
    })
}

/// For each positive the share of negatives below it, and for each negative the share of positives
/// above it, ties counting one half.
fn placements(labels: &[bool], scores: &[f64]) -> [Vec<f64>; 2] {
    let all = mean_ranks(scores);
    let of = |positive: bool| {
        let members: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] == positive).collect();
        let own = mean_ranks(&members.iter().map(|i| scores[*i]).collect::<Vec<f64>>());
        let others = (labels.len() - members.len()) as f64;
        let below = |(i, own): (&usize, f64)| (all[*i] - own) / others;
        members.iter().zip(own).map(below).collect::<Vec<f64>>()
    };
    [of(true), of(false).into_iter().map(|below| 1.0 - below).collect()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels and two scores with ties; the table's Python makes the same.
    fn samples() -> (Vec<bool>, Vec<f64>, Vec<f64>) {
        let label = |i: usize| (i * i) % 7 < 3;
        let score = |i: usize, step: usize, modulus: usize, gain: usize| {
            (((i * step) % modulus + gain * usize::from(label(i))) / 2) as f64
        };
        (
            (0..40).map(label).collect(),
            (0..40).map(|i| score(i, 37, 41, 6)).collect(),
            (0..40).map(|i| score(i, 29, 43, 14)).collect(),
        )
    }

    #[test]
    fn delong_agrees_with_its_formula_over_all_pairs() {
        let (labels, first, second) = samples();
        let got = delong(&labels, &first, &second, 0.95).unwrap();
        // NumPy 2.4.6 and SciPy 1.17.1 from the kernel of every positive with every negative.
        let half = normal_quantile(0.975) * 0.0980779434829089;
        let table = [
            ("first", got.first.value, 0.6457680250783698),
            ("its lower end", got.first.low, 0.6457680250783698 - half),
            ("second", got.second.value, 0.8009404388714734),
            ("difference", got.difference.value, 0.15517241379310354),
            ("its lower end", got.difference.low, -0.11455733599871148),
            ("its upper end", got.difference.high, 0.42490216358491856),
            ("z", got.z, 1.1275446726338756),
            ("p", got.p_value, 0.259512264032998),
        ];
        let wrong: Vec<_> = table.iter().filter(|(_, got, want)| (got - want).abs() > 1e-12).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let same = delong(&labels, &first, &first, 0.95).unwrap();
        assert_eq!((same.z, same.p_value, same.difference.value), (0.0, 1.0, 0.0));
        let perfect: Vec<f64> = labels.iter().map(|l| f64::from(u8::from(*l))).collect();
        let reversed: Vec<f64> = perfect.iter().map(|v| -v).collect();
        let apart = delong(&labels, &reversed, &perfect, 0.95).unwrap();
        assert_eq!((apart.z, apart.p_value), (f64::INFINITY, 0.0));
        assert_eq!((apart.second.low, apart.second.high), (1.0, 1.0));
    }

    #[test]
    fn mcnemar_agrees_with_scipy() {
        // SciPy 1.17.1: binomtest(min(b, c), b + c).pvalue.
        let table = [
            (5, 15, 0.04138946533203125),
            (0, 3, 0.25),
            (8, 8, 1.0),
            (120, 87, 0.025899541336068893),
            (0, 0, 1.0),
        ];
        for (b, c, p) in table {
            let labels = vec![1; b + c + 2];
            let first: Vec<usize> = (0..b + c + 2).map(|i| usize::from(i < b || i == b + c)).collect();
            let second: Vec<usize> = (0..b + c + 2).map(|i| usize::from(i >= b && i <= b + c)).collect();
            let got = mcnemar(&labels, &first, &second).unwrap();
            assert_eq!((got.only_first, got.only_second), (b as u64, c as u64));
            assert!((got.p_value - p).abs() < 1e-12, "{b} {c}: {got:?}");
        }
        assert!(matches!(mcnemar(&[0], &[0, 1], &[0]), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn a_difference_sees_the_same_draw_twice() {
        let (labels, first, second) = samples();
        let auc = |scores: &[f64], indices: &[usize]| {
            let drawn: (Vec<bool>, Vec<f64>) = indices.iter().map(|i| (labels[*i], scores[*i])).unzip();
            roc_auc(&drawn.0, &drawn.1)
        };
        let design = Design::samples(40).unwrap();
        let config = BootstrapConfig { replicates: 4000, ..BootstrapConfig::default() };
        let run = |second: &[f64]| {
            bootstrap_difference(&design, &config, |i| auc(&first, i), |i| auc(second, i)).unwrap()
        };
        let same = run(&first);
        assert_eq!((same.value, same.low, same.high), (0.0, 0.0, 0.0));
        let (got, want) = (run(&second), delong(&labels, &first, &second, 0.95).unwrap().difference);
        assert!((got.value - want.value).abs() < 1e-12);
        assert!((got.low - want.low).abs() < 0.06 && (got.high - want.high).abs() < 0.06, "{got} {want}");
    }

    #[test]
    fn what_cannot_be_compared_is_a_typed_error() {
        let run = |labels: &[bool], level| delong(labels, &[0.1, 0.2, 0.3], &[0.3, 0.1, 0.2], level);
        assert!(matches!(run(&[true, false, false], 0.95), Err(Error::TooFew { unit: "positives", .. })));
        assert!(matches!(run(&[true, true, false], 0.95), Err(Error::TooFew { unit: "negatives", .. })));
        assert!(matches!(run(&[true; 3], 0.95), Err(Error::Undefined { .. })));
        assert!(matches!(run(&[true, false], 0.95), Err(Error::Mismatch { .. })));
        assert!(matches!(run(&[true, false, false], 1.5), Err(Error::Config { .. })));
    }
}
