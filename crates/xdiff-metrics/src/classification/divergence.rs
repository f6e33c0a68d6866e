//! Divergences between predicted distributions.

use super::probability::check_distribution;
use crate::error::check_finite;
use crate::{Error, Result};

/// The Kullback–Leibler divergence Σ p·ln(p/q) in nats, where p = 0 adds nothing. It is +∞ when q is
/// 0 somewhere that p is not.
///
/// ```
/// use xdiff_metrics::kl_divergence;
///
/// assert!((kl_divergence(&[1.0, 0.0], &[0.5, 0.5])? - 2f64.ln()).abs() < 1e-15);
/// assert_eq!(kl_divergence(&[0.5, 0.5], &[1.0, 0.0])?, f64::INFINITY);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When the lengths differ, or one of the two is no distribution: a value is negative, above 1 or not
/// finite, or the sum is not 1 within 1e-4.
pub fn kl_divergence(p: &[f64], q: &[f64]) -> Result<f64> {
    check("KL divergence", p, q)?;
    Ok(kl(p.iter().copied(), q.iter().copied()))
}

/// The Jensen–Shannon divergence ½·KL(p‖m) + ½·KL(q‖m) with m = (p+q)/2, in nats: symmetric, always
/// finite, from 0 to ln 2.
///
/// ```
/// use xdiff_metrics::js_divergence;
///
/// assert!((js_divergence(&[1.0, 0.0], &[0.0, 1.0])? - 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// Those of [`kl_divergence`].
pub fn js_divergence(p: &[f64], q: &[f64]) -> Result<f64> {
    check("Jensen-Shannon divergence", p, q)?;
    let middle = || p.iter().zip(q).map(|(p, q)| 0.5 * (p + q));
    let sum = kl(p.iter().copied(), middle()) + kl(q.iter().copied(), middle());
    // Rounding may leave equal distributions a hair below zero.
    Ok((0.5 * sum).max(0.0))
}

/// The Jensen–Shannon distance: the root of [`js_divergence`], which is a metric
/// (`scipy.spatial.distance.jensenshannon`).
///
/// # Errors
/// Those of [`kl_divergence`].
pub fn js_distance(p: &[f64], q: &[f64]) -> Result<f64> {
    Ok(js_divergence(p, q)?.sqrt())
}

fn check(metric: &'static str, p: &[f64], q: &[f64]) -> Result<()> {
    if p.len() != q.len() {
        return Err(Error::Mismatch { metric, a: vec![p.len()], b: vec![q.len()] });
    }
    for (what, values) in [("the first distribution", p), ("the second distribution", q)] {
        check_finite(metric, what, values)?;
        check_distribution(metric, values, 0)?;
    }
    Ok(())
}

fn kl(p: impl Iterator<Item = f64>, q: impl Iterator<Item = f64>) -> f64 {
    p.zip(q).filter(|(p, _)| *p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_no_divergence_from_itself() {
        let p = [0.2, 0.0, 0.5, 0.3];
        let q = [0.25, 0.25, 0.25, 0.25];
        assert_eq!(kl_divergence(&p, &p).unwrap(), 0.0);
        assert_eq!(js_divergence(&p, &p).unwrap(), 0.0);
        let entropy: f64 = p.iter().filter(|v| **v > 0.0).map(|v| -v * v.ln()).sum();
        assert!((kl_divergence(&p, &q).unwrap() - (4f64.ln() - entropy)).abs() < 1e-15);
    }

    #[test]
    fn jensen_shannon_agrees_with_scipy() {
        // SciPy 1.17.1: scipy.spatial.distance.jensenshannon(p, q).
        let table: [(&[f64], &[f64], f64); 3] = [
            (&[0.2, 0.0, 0.5, 0.3], &[0.25, 0.25, 0.25, 0.25], 0.33228071285271976),
            (&[0.9, 0.1], &[0.1, 0.9], 0.6066829544074047),
            (&[1.0, 0.0, 0.0], &[0.2, 0.3, 0.5], 0.6502387678692824),
        ];
        for (p, q, want) in table {
            let (got, turned) = (js_distance(p, q).unwrap(), js_distance(q, p).unwrap());
            assert!((got - want).abs() < 1e-14 && (turned - want).abs() < 1e-14, "{p:?} {q:?}: {got}");
        }
    }

    #[test]
    fn what_is_no_distribution_is_a_typed_error() {
        let half = [0.5, 0.5];
        let table: [&[f64]; 6] = [&[], &[1.0], &[-0.5, 1.5], &[0.5, 0.6], &[f64::NAN, 0.5], &[3.0, -2.0]];
        for f in [kl_divergence, js_divergence, js_distance] {
            for bad in table {
                assert!(f(bad, &half).is_err() && f(&half, bad).is_err(), "{bad:?}");
            }
            assert!(f(&[], &[]).is_err());
        }
        let e = js_divergence(&[3.0, -2.0], &half).unwrap_err().to_string();
        assert!(e.contains("apply softmax"), "{e}");
    }
}
