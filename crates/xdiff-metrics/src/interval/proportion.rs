//! Intervals of a proportion: so many successes of n.

use super::config::check_level;
use super::estimate::normal_quantile;
use super::{Interval, IntervalMethod};
use crate::{Error, Result};

/// The score interval of a proportion (Wilson, JASA 22, 1927):
/// (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n).
///
/// Unlike the bootstrap it has a width when every sample is a success, so it is the one for a
/// sensitivity of 1.
///
/// ```
/// let sensitivity = xdiff_metrics::wilson(10, 10, 0.95)?;
/// assert_eq!((sensitivity.value, sensitivity.high), (1.0, 1.0));
/// assert!((sensitivity.low - 0.722467).abs() < 1e-6);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When n is 0, there are more successes than that, or the level is not between 0 and 1.
pub fn wilson(successes: u64, n: u64, level: f64) -> Result<Interval> {
    let (n_f, value) = check(successes, n, level)?;
    let z = normal_quantile(0.5 + level / 2.0);
    let (shrink, centre) = (1.0 + z * z / n_f, value + z * z / (2.0 * n_f));
    let half = z * (value * (1.0 - value) / n_f + z * z / (4.0 * n_f * n_f)).sqrt();
    let low = if successes == 0 { 0.0 } else { (centre - half) / shrink };
    let high = if successes == n { 1.0 } else { (centre + half) / shrink };
    Ok(interval(value, low, high, level, IntervalMethod::Wilson, n))
}

/// The exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934): all p that a
/// binomial test of each tail at (1−level)/2 does not reject. It holds the true value at least as
/// often as it says, and is wider than [`wilson`].
///
/// # Errors
/// Those of [`wilson`].
pub fn clopper_pearson(successes: u64, n: u64, level: f64) -> Result<Interval> {
    let (n_f, value) = check(successes, n, level)?;
    let (k, tail) = (successes as f64, (1.0 - level) / 2.0);
    let solve = |a: f64, b: f64, p: f64| {
        let (mut low, mut high) = (0.0, 1.0);
        // Halved until no number lies between.
        loop {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high {
                return middle;
            }
            if incomplete_beta(a, b, middle) < p { low = middle } else { high = middle }
        }
    };
    let low = if successes == 0 { 0.0 } else { solve(k, n_f - k + 1.0, tail) };
    let high = if successes == n { 1.0 } else { solve(k + 1.0, n_f - k, 1.0 - tail) };
    Ok(interval(value, low, high, level, IntervalMethod::ClopperPearson, n))
}

fn check(successes: u64, n: u64, level: f64) -> Result<(f64, f64)> {
    const METRIC: &str = "proportion";
    check_level(level)?;
    if n == 0 {
        return Err(Error::TooFew { metric: METRIC, unit: "samples", need: 1, got: 0 });
    }
    if successes > n {
        return Err(Error::config("successes", format!("are {successes} of {n} samples")));
    }
    Ok((n as f64, successes as f64 / n as f64))
}

fn interval(value: f64, low: f64, high: f64, level: f64, method: IntervalMethod, n: u64) -> Interval {
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    Interval { value, low, high, level, method, n, groups: None, replicates: 0, undefined: 0, seed: None }
}

/// The chance of at most `k` successes of n at chance ½.
pub(super) fn fair_coin_up_to(k: u64, n: u64) -> f64 {
    if k >= n { 1.0 } else { incomplete_beta((n - k) as f64, k as f64 + 1.0, 0.5) }
}

/// The regularised incomplete beta function I_x(a, b) by its continued fraction (DLMF 8.17.22),
/// evaluated by Lentz's method.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    // The fraction converges fast below the mean; beyond it the other tail is computed.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (a * x.ln() + b * (-x).ln_1p() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp() / a;
    let away_from_zero = |v: f64| if v.abs() < f64::MIN_POSITIVE { f64::MIN_POSITIVE } else { v };
    let (mut c, mut d) = (1.0, 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    // It takes about √max(a, b) terms, and a bound for those of a sample that no one has.
    for m in 1..100_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut step = 1.0;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            step = c * d;
            fraction *= step;
        }
        if (step - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (front * fraction).clamp(0.0, 1.0)
}

/// ln Γ(x) for x > 0, by Stirling's series (DLMF 5.11.1) after a shift to where it has converged.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut product) = (x, 1.0);
    while x < 10.0 {
        product *= x;
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let series = (1.0 / 12.0
        - y * (1.0 / 360.0
            - y * (1.0 / 1260.0 - y * (1.0 / 1680.0 - y * (1.0 / 1188.0 - y * 691.0 / 360360.0)))))
        / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - f64::ln(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_agree_with_scipy() {
        // SciPy 1.17.1: binomtest(k, n).proportion_ci(0.95, "wilson" and "exact").
        let table = [
            (0, 10, [0.0, 0.27753279986288926], [0.0, 0.30849710781876294]),
            (7, 10, [0.39677814746114526, 0.892208732593699], [0.3475471499399921, 0.9332604888222655]),
            (10, 10, [0.7224672001371109, 1.0], [0.6915028921812371, 1.0]),
            (431, 500, [0.8289979864047199, 0.8894819911011163], [0.8286253432439599, 0.8910161375376882]),
            (1, 1, [0.20654931437723745, 1.0], [0.025000000000000022, 1.0]),
            (
                3,
                2000,
                [0.0005102635836384821, 0.004401032555770694],
                [0.0003094429490792165, 0.004377320104663236],
            ),
        ];
        let mut wrong = Vec::new();
        for (k, n, score, exact) in table {
            for (got, [low, high]) in [(wilson(k, n, 0.95), score), (clopper_pearson(k, n, 0.95), exact)] {
                let got = got.unwrap();
                if (got.low - low).abs() > 1e-11 || (got.high - high).abs() > 1e-11 {
                    wrong.push(format!("{k}/{n}: {got:.15}, not [{low}, {high}]"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn huge_samples_take_no_longer_and_bad_ones_are_typed_errors() {
        let huge = clopper_pearson(u64::MAX / 2, u64::MAX, 0.95).unwrap();
        assert!((huge.value - 0.5).abs() < 1e-9);
        let million = clopper_pearson(300_000, 1_000_000, 0.95).unwrap();
        let score = wilson(300_000, 1_000_000, 0.95).unwrap();
        assert!((million.low - score.low).abs() < 1e-6 && (million.high - score.high).abs() < 1e-6);
        for f in [wilson, clopper_pearson] {
            assert!(matches!(f(0, 0, 0.95), Err(Error::TooFew { .. })));
            assert!(matches!(f(3, 2, 0.95), Err(Error::Config { field: "successes", .. })));
            for level in [0.0, 1.0, -1.0, f64::NAN] {
                assert!(matches!(f(1, 2, level), Err(Error::Config { field: "level", .. })), "{level}");
            }
        }
    }
}
