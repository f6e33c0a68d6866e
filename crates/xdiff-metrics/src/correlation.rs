//! Correlation between two series.

use xdiff_core::statistics;

use crate::error::check_finite;
use crate::{Error, Result};

/// Pearson's correlation Σ(x−x̄)(y−ȳ) / √(Σ(x−x̄)²·Σ(y−ȳ)²), in [−1, 1].
///
/// # Errors
/// When the lengths differ, there are fewer than two pairs, a value is not finite, or a series is
/// constant.
pub fn pearson(x: &[f64], y: &[f64]) -> Result<f64> {
    check("Pearson correlation", x, y)?;
    defined("Pearson correlation", statistics::pearson(x, y))
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
    defined("Spearman correlation", statistics::spearman(x, y))
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

fn defined(metric: &'static str, correlation: Option<f64>) -> Result<f64> {
    let reason = "a series is constant or its spread cannot be represented";
    correlation.ok_or(Error::Undefined { metric, reason })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xdiff_core::statistics::mean_ranks;

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
