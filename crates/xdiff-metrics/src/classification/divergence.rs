//! The divergence between predicted distributions.

use crate::error::check_finite;
use crate::{Error, Result};

/// How far the sum of a distribution may be from 1, which f32 softmax keeps to.
const SUM_TOLERANCE: f64 = 1e-4;

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
/// When the lengths differ, or one of the two is no distribution: a value is negative or not finite,
/// or the sum is not 1.
pub fn kl_divergence(p: &[f64], q: &[f64]) -> Result<f64> {
    const METRIC: &str = "KL divergence";
    if p.len() != q.len() {
        return Err(Error::Mismatch { metric: METRIC, a: vec![p.len()], b: vec![q.len()] });
    }
    for (what, values) in [("the first distribution", p), ("the second distribution", q)] {
        check_finite(METRIC, what, values)?;
        if let Some(index) = values.iter().position(|v| *v < 0.0) {
            let hint = "probabilities are 0 or above: give the softmax of the logits";
            return Err(Error::Value { metric: METRIC, what, value: values[index], index, hint });
        }
        if (values.iter().sum::<f64>() - 1.0).abs() > SUM_TOLERANCE {
            let reason = "a distribution does not sum to 1: give the softmax of the logits";
            return Err(Error::Undefined { metric: METRIC, reason });
        }
    }
    Ok(p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_no_divergence_from_itself() {
        let p = [0.2, 0.0, 0.5, 0.3];
        let q = [0.25, 0.25, 0.25, 0.25];
        assert_eq!(kl_divergence(&p, &p).unwrap(), 0.0);
        let entropy: f64 = p.iter().filter(|v| **v > 0.0).map(|v| -v * v.ln()).sum();
        assert!((kl_divergence(&p, &q).unwrap() - (4f64.ln() - entropy)).abs() < 1e-15);
    }

    #[test]
    fn what_is_no_distribution_is_a_typed_error() {
        let half = [0.5, 0.5];
        let table: [&[f64]; 5] = [&[], &[1.0], &[-0.5, 1.5], &[0.5, 0.6], &[f64::NAN, 0.5]];
        for bad in table {
            assert!(kl_divergence(bad, &half).is_err() && kl_divergence(&half, bad).is_err(), "{bad:?}");
        }
        assert!(kl_divergence(&[], &[]).is_err());
    }
}
