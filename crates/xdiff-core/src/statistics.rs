//! Statistics of plain series, in f64.
//!
//! They return `None` where they are undefined; what to make of that is the caller's to say.

/// Pearson's correlation Σ(x−x̄)(y−ȳ) / √(Σ(x−x̄)²·Σ(y−ȳ)²), in [−1, 1].
///
/// `None` when the lengths differ, there are fewer than two pairs, a value is not finite, or a series is
/// constant or has a spread that cannot be represented.
///
/// ```
/// use xdiff_core::statistics::pearson;
///
/// assert_eq!(pearson(&[1.0, 2.0, 3.0], &[5.0, 3.0, 1.0]), Some(-1.0));
/// assert_eq!(pearson(&[1.0, 2.0, 3.0], &[0.1, 0.1, 0.1]), None);
/// ```
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() || x.len() < 2 {
        return None;
    }
    let (x, y) = (scaled_deviations(x)?, scaled_deviations(y)?);
    let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Some((sum(&x, &y) / (sum(&x, &x) * sum(&y, &y)).sqrt()).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation: [`pearson`] of the [`mean_ranks`]. `None` as there.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let finite = |v: &[f64]| v.iter().all(|x| x.is_finite());
    (finite(x) && finite(y)).then(|| pearson(&mean_ranks(x), &mean_ranks(y)))?
}

/// The ranks of finite values from 1 upwards; equal values share the mean of their ranks.
///
/// ```
/// use xdiff_core::statistics::mean_ranks;
///
/// assert_eq!(mean_ranks(&[3.0, 1.0, 3.0]), [2.5, 1.0, 2.5]);
/// ```
pub fn mean_ranks(values: &[f64]) -> Vec<f64> {
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

/// The arithmetic mean; `None` for an empty series.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation √(Σ(x−x̄)²/(n−1)) of a sample; `None` for fewer than two values.
pub fn sample_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// Deviations from the mean over the largest of them, so that the squares of huge or tiny values neither
/// overflow nor vanish.
fn scaled_deviations(values: &[f64]) -> Option<Vec<f64>> {
    let mean = mean(values)?;
    let deviations: Vec<f64> = values.iter().map(|v| v - mean).collect();
    // A NaN in the series makes every deviation one.
    let largest = deviations.iter().fold(0.0, |m: f64, d| if d.is_nan() { f64::NAN } else { m.max(d.abs()) });
    let constant = values.iter().all(|v| *v == values[0]);
    let usable = !constant && largest.is_finite() && largest > 0.0;
    usable.then(|| deviations.iter().map(|d| d / largest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_agree_with_scipy() {
        // SciPy 1.17: pearsonr and spearmanr.
        let (x, y) = ([1.0, 2.0, 2.0, 4.0, 5.0, 5.5], [2.0, 1.0, 3.0, 3.0, 8.0, 3.0]);
        assert!((pearson(&x, &y).unwrap() - 0.606779876216918).abs() < 1e-12);
        assert!((spearman(&x, &y).unwrap() - 0.677645213997067).abs() < 1e-12);
    }

    #[test]
    fn what_is_undefined_is_none() {
        let line = [1.0, 2.0, 3.0];
        let table: [(&str, &[f64], &[f64]); 7] = [
            ("constant", &line, &[0.1; 3]),
            ("lengths", &line, &line[..2]),
            ("one pair", &[1.0], &[2.0]),
            ("empty", &[], &[]),
            ("NaN first", &[f64::NAN, 1.0, 2.0], &line),
            ("NaN last", &line, &[1.0, 2.0, f64::NAN]),
            ("infinite", &[1.0, f64::INFINITY, 2.0], &line),
        ];
        for (name, x, y) in table {
            for f in [pearson, spearman] {
                assert_eq!((f(x, y), f(y, x)), (None, None), "{name}");
            }
        }
        assert_eq!((mean(&[]), sample_deviation(&[1.0])), (None, None));
        assert_eq!((mean(&[1.0, 3.0]), sample_deviation(&[1.0, 3.0])), (Some(2.0), Some(2f64.sqrt())));
    }

    #[test]
    fn huge_and_tiny_values_correlate() {
        for scale in [1e-300, 1e-30, 1.0, 1e30, 1e300] {
            let x = [0.0, scale, 0.5 * scale, -0.5 * scale];
            assert!((pearson(&x, &[0.0, 2.0, 1.0, -1.0]).unwrap() - 1.0).abs() < 1e-12, "{scale}");
        }
    }
}
