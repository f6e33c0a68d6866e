//! Correlation between two series.

use crate::error::check_finite;
use crate::{Error, Result};

/// Pearson's correlation Σ(x−x̄)(y−ȳ) / √(Σ(x−x̄)²·Σ(y−ȳ)²), in [−1, 1].
///
/// # Errors
/// When the lengths differ, there are fewer than two pairs, a value is not finite, or a series is
/// constant.
pub fn pearson(x: &[f64], y: &[f64]) -> Result<f64> {
    check("Pearson correlation", x, y)?;
    correlate("Pearson correlation", x, y)
}

/// Spearman's rank correlation: [`pearson`] of the ranks, where equal values share the mean of their
/// ranks.
///
/// ```
/// use xdiff_metrics::spearman;
///
/// assert_eq!(spearman(&[1.0, 2.0, 3.0], &[1.0, 10.0, 100.0])?, 1.0);
/// assert!(spearman(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]).is_err());
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// Those of [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Result<f64> {
    check("Spearman correlation", x, y)?;
    correlate("Spearman correlation", &mean_ranks(x), &mean_ranks(y))
}

/// The ranks of finite values from 1 upwards; equal values share the mean of their ranks.
pub(crate) fn mean_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for ties in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = before as f64 + (ties.len() + 1) as f64 / 2.0;
        ties.iter().for_each(|i| ranks[*i] = rank);
        before += ties.len();
    }
    ranks
}

fn check(metric: &'static str, x: &[f64], y: &[f64]) -> Result<()> {
    if x.len() != y.len() {
        return Err(Error::Mismatch { metric, a: vec![x.len()], b: vec![y.len()] });
    }
    if x.len() < 2 {
        return Err(Error::TooFew { metric, unit: "pairs", need: 2, got: x.len() });
    }
    check_finite(metric, "the first series", x)?;
    check_finite(metric, "the second series", y)
}

fn correlate(metric: &'static str, x: &[f64], y: &[f64]) -> Result<f64> {
    let deviations = |v: &[f64]| {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        let deviations: Vec<f64> = v.iter().map(|x| x - mean).collect();
        // Scaled, so that the squares of huge or tiny values neither overflow nor vanish.
        let largest = deviations.iter().fold(0.0f64, |m, d| m.max(d.abs()));
        let constant = v.iter().all(|x| *x == v[0]) || largest == 0.0 || !largest.is_finite();
        (!constant).then(|| deviations.iter().map(|d| d / largest).collect::<Vec<f64>>())
    };
    let (Some(x), Some(y)) = (deviations(x), deviations(y)) else {
        let reason = "a series is constant or its spread cannot be represented";
        return Err(Error::Undefined { metric, reason });
    };
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Ok((sum(&x, &y) / (sum(&x, &x) * sum(&y, &y)).sqrt()).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_correlations() {
        // SciPy 1.17: pearsonr and spearmanr.
        let (x, y) = ([1.0, 2.0, 2.0, 4.0, 5.0, 5.5], [2.0, 1.0, 3.0, 3.0, 8.0, 3.0]);
        let table = [
            ("pearson", pearson(&x, &y).unwrap(), 0.606779876216918),
            ("spearman", spearman(&x, &y).unwrap(), 0.677645213997067),
            ("falling", pearson(&[1.0, 2.0], &[1e300, -1e300]).unwrap(), -1.0),
        ];
        let wrong: Vec<_> = table.iter().filter(|(_, got, want)| (got - want).abs() > 1e-12).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(mean_ranks(&[3.0, 1.0, 3.0, -0.0, 0.0]), [4.5, 3.0, 4.5, 1.5, 1.5]);
    }

    #[test]
    fn what_has_no_correlation_is_a_typed_error() {
        let line = [1.0, 2.0, 3.0];
        for f in [pearson, spearman] {
            assert!(matches!(f(&line, &[0.1; 3]), Err(Error::Undefined { .. })));
            assert!(matches!(f(&[0.1; 3], &line), Err(Error::Undefined { .. })));
            assert!(matches!(f(&line, &line[..2]), Err(Error::Mismatch { .. })));
            assert!(matches!(f(&line[..1], &line[..1]), Err(Error::TooFew { .. })));
            assert!(matches!(f(&line, &[1.0, f64::NAN, 2.0]), Err(Error::Value { index: 1, .. })));
        }
    }

    proptest! {
        #[test]
        fn spearman_sees_only_the_order(
            pairs in prop::collection::vec((-20i32..20, -20i32..20), 3..40),
        ) {
            let x: Vec<f64> = pairs.iter().map(|p| f64::from(p.0)).collect();
            let y: Vec<f64> = pairs.iter().map(|p| f64::from(p.1)).collect();
            let bent: Vec<f64> = x.iter().map(|v| (v / 4.0).exp()).collect();
            match (spearman(&x, &y), spearman(&bent, &y), spearman(&y, &x)) {
                (Ok(a), Ok(b), Ok(c)) => prop_assert!((a - b).abs() < 1e-12 && (a - c).abs() < 1e-12),
                (a, b, c) => prop_assert!(a.is_err() && b.is_err() && c.is_err()),
            }
        }
    }
}
