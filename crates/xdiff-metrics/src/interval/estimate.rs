//! From replicates to the ends of an interval.

use candle_core::cpu::erf::{erfc_f64, erfc_inv};

use super::IntervalMethod;

/// The normal distribution function Φ.
pub(super) fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc_f64(-x / std::f64::consts::SQRT_2)
}

/// Φ⁻¹, infinite at 0 and 1.
pub(super) fn normal_quantile(p: f64) -> f64 {
    -std::f64::consts::SQRT_2 * erfc_inv(2.0 * p)
}

/// The value below which a share `q` of a sorted list lies, linear between neighbours (NumPy's
/// default); NaN for an empty list.
pub(crate) fn percentile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q.clamp(0.0, 1.0) * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let share = place - below as f64;
    // Equal neighbours are taken as they are, so that infinite ones have no difference.
    if share == 0.0 || sorted[below] == sorted[above] {
        return sorted[below];
    }
    sorted[below] + share * (sorted[above] - sorted[below])
}

/// The ends of the interval and the method that found them.
///
/// `sorted` are the defined replicates; `jackknife` the values without each unit, stratum by stratum.
pub(super) fn ends(
    method: IntervalMethod,
    value: f64,
    sorted: &[f64],
    jackknife: &[Vec<f64>],
    level: f64,
) -> (f64, f64, IntervalMethod) {
    let tail = (1.0 - level) / 2.0;
    let adjusted = match method {
        IntervalMethod::Bca => bca_tails(value, sorted, jackknife, tail),
        _ => None,
    };
    let ((low, high), method) = match adjusted {
        Some(tails) => (tails, IntervalMethod::Bca),
        None => ((tail, 1.0 - tail), IntervalMethod::Percentile),
    };
    (percentile_of_sorted(sorted, low), percentile_of_sorted(sorted, high), method)
}

/// The shares α₁, α₂ of the replicates between which the BCa interval lies:
/// α = Φ(z₀ + (z₀+z)/(1 − a(z₀+z))) for the normal quantiles z of the two tails, with z₀ = Φ⁻¹ of the
/// share of replicates below the value (equal ones count half) and the acceleration a of the
/// jackknife. `None` when one of them does not exist.
fn bca_tails(value: f64, sorted: &[f64], jackknife: &[Vec<f64>], tail: f64) -> Option<(f64, f64)> {
    let below = sorted.partition_point(|v| *v < value);
    let up_to = sorted.partition_point(|v| *v <= value);
    let bias = normal_quantile((below + up_to) as f64 / (2 * sorted.len()) as f64);
    let acceleration = acceleration(jackknife);
    let share = |z: f64| {
        let shifted = bias + z;
        let room = 1.0 - acceleration * shifted;
        (room > 0.0).then(|| normal_cdf(bias + shifted / room)).filter(|p| p.is_finite())
    };
    let z = normal_quantile(tail);
    let (low, high) = (share(z)?, share(-z)?);
    (bias.is_finite() && low <= high).then_some((low, high))
}

/// a = ⅙·Σⱼ Σᵢ Uᵢⱼ³/nⱼ³ / (Σⱼ Σᵢ Uᵢⱼ²/nⱼ²)^(3/2) with Uᵢⱼ = (nⱼ−1)·(mean over i − value without unit i of
/// stratum j), as SciPy has it for several samples; 0 when nothing varies.
fn acceleration(jackknife: &[Vec<f64>]) -> f64 {
    let (mut cubes, mut squares) = (0.0, 0.0);
    for values in jackknife.iter().filter(|v| !v.is_empty()) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        for value in values {
            let u = (n - 1.0) * (mean - value) / n;
            cubes += u * u * u;
            squares += u * u;
        }
    }
    if squares == 0.0 { 0.0 } else { cubes / (6.0 * squares.powf(1.5)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_agrees_with_scipy() {
        // SciPy 1.17.1: ndtr, ndtri.
        let table = [
            (-8.0, 6.220960574271786e-16),
            (-1.959963984540054, 0.025),
            (0.0, 0.5),
            (0.3, 0.6179114221889526),
            (3.5, 0.9997673709209645),
        ];
        for (x, p) in table {
            assert!((normal_cdf(x) / p - 1.0).abs() < 1e-13, "{x}: {}", normal_cdf(x));
            assert!((normal_quantile(p) - x).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(normal_quantile(1.0), f64::INFINITY);
    }

    #[test]
    fn percentiles_lie_between_their_neighbours() {
        let inf = f64::INFINITY;
        let table: [(&[f64], f64, f64); 7] = [
            (&[3.0], 0.7, 3.0),
            (&[1.0, 2.0, 4.0, 8.0], 0.0, 1.0),
            (&[1.0, 2.0, 4.0, 8.0], 1.0, 8.0),
            (&[1.0, 2.0, 4.0, 8.0], 0.5, 3.0),
            (&[1.0, 2.0, 4.0, 8.0], 0.9, 6.800000000000001),
            (&[1.0, inf, inf], 0.75, inf),
            (&[1.0, inf, inf], 0.25, inf),
        ];
        let wrong: Vec<_> =
            table.iter().filter(|(list, q, want)| percentile_of_sorted(list, *q) != *want).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(percentile_of_sorted(&[], 0.5).is_nan());
    }

    /// The replicates that the table's Python made: draw i, place j.
    fn draws(replicates: usize, n: usize, step: usize) -> Vec<Vec<usize>> {
        let place =
            |i: usize, j: usize| (i * 7919 + j * 104729 + (i * j * 31) % 97 + i / 3) * step % 1009 % n;
        (0..replicates).map(|i| (0..n).map(|j| place(i, j)).collect()).collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn without(values: &[f64], i: usize) -> Vec<f64> {
        [&values[..i], &values[i + 1..]].concat()
    }

    fn pick(values: &[f64], indices: &[usize]) -> Vec<f64> {
        indices.iter().map(|i| values[*i]).collect()
    }

    const X: [f64; 10] = [1.0, 2.5, 0.3, 4.1, 7.9, 2.2, 3.3, 0.7, 5.0, 1.6];
    const Y: [f64; 6] = [0.2, 1.1, 3.0, 2.4, 0.9, 6.0];

    #[test]
    fn the_same_replicates_have_the_ends_that_scipy_gives_them() {
        let squared = |x: &[f64]| {
            let m = mean(x);
            m * m + (x.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / x.len() as f64).sqrt()
        };
        let ratio = |x: &[f64], y: &[f64]| mean(x) / mean(y);
        let one: Vec<f64> = draws(200, 10, 13).iter().map(|i| squared(&pick(&X, i))).collect();
        let two: Vec<f64> = draws(200, 10, 13)
            .iter()
            .zip(draws(200, 6, 29))
            .map(|(i, j)| ratio(&pick(&X, i), &pick(&Y, &j)))
            .collect();
        let one_left: Vec<Vec<f64>> = vec![(0..10).map(|i| squared(&without(&X, i))).collect()];
        let two_left = vec![
            (0..10).map(|i| ratio(&without(&X, i), &Y)).collect(),
            (0..6).map(|i| ratio(&X, &without(&Y, i))).collect::<Vec<f64>>(),
        ];
        // SciPy 1.17.1: _resampling._bca_interval of these replicates, and numpy.percentile.
        let table = [
            (IntervalMethod::Bca, squared(&X), &one, &one_left, 4.274146642656136, 26.003919553167748),
            (IntervalMethod::Percentile, squared(&X), &one, &one_left, 3.83949686496731, 22.929019062750694),
            (IntervalMethod::Bca, ratio(&X, &Y), &two, &two_left, 0.5154581152740016, 3.5220674587910223),
            (
                IntervalMethod::Percentile,
                ratio(&X, &Y),
                &two,
                &two_left,
                0.6105916256157635,
                4.223852459016398,
            ),
        ];
        let mut wrong = Vec::new();
        for (method, value, replicates, jackknife, low, high) in table {
            let mut sorted = replicates.clone();
            sorted.sort_by(f64::total_cmp);
            let got = ends(method, value, &sorted, jackknife, 0.95);
            if got.2 != method || (got.0 / low - 1.0).abs() > 1e-9 || (got.1 / high - 1.0).abs() > 1e-9 {
                wrong.push((method, got, low, high));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!((acceleration(&one_left) - 0.0635402028861007).abs() < 1e-12);
        assert!((acceleration(&two_left) + 0.055635611067083486).abs() < 1e-12);
    }

    #[test]
    fn percentiles_stand_in_where_bca_is_not_defined() {
        let sorted = [1.0, 2.0, 3.0];
        let constant = [5.0; 4];
        let left = [vec![1.0, 2.0, 4.0]];
        let table = [
            ("all on one side", ends(IntervalMethod::Bca, 9.0, &sorted, &left, 0.9)),
            (
                "not defined without a unit",
                ends(IntervalMethod::Bca, 2.0, &sorted, &[vec![f64::NAN, 1.0]], 0.9),
            ),
        ];
        for (name, (low, high, method)) in table {
            assert_eq!((low, high, method), (1.1, 2.9, IntervalMethod::Percentile), "{name}");
        }
        let (low, high, method) = ends(IntervalMethod::Bca, 5.0, &constant, &[constant.to_vec()], 0.95);
        assert_eq!((low, high, method), (5.0, 5.0, IntervalMethod::Bca));
    }
}
