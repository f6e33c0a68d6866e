//! The bootstrap: statistics over data that are drawn anew with replacement.

use rayon::prelude::*;
use xdiff_nn::Rng;

use super::estimate::ends;
use super::{BootstrapConfig, Design, Interval, IntervalMethod};
use crate::{Error, Features, Result};

const METRIC: &str = "bootstrap interval";

/// The interval of a statistic of samples.
///
/// `statistic` gets the indices of the samples of a replicate, in rising order, each as often as it
/// was drawn, and first those of all samples once. Where it is [`Error::Undefined`],
/// [`Error::TooFew`] or NaN the replicate counts as undefined; any other error is passed on.
///
/// ```
/// use xdiff_metrics::{BootstrapConfig, Design, bootstrap, roc_auc};
///
/// let labels = [false, false, true, true, true, false, true, false];
/// let scores = [0.1, 0.4, 0.35, 0.8, 0.8, 0.4, 0.4, 0.2];
/// let auc = bootstrap(&Design::samples(8)?, &BootstrapConfig::default(), |indices| {
///     let drawn: (Vec<bool>, Vec<f64>) = indices.iter().map(|i| (labels[*i], scores[*i])).unzip();
///     roc_auc(&drawn.0, &drawn.1)
/// })?;
/// assert_eq!(auc.value, 0.8125);
/// assert!(auc.low < 0.8125 && auc.high > 0.8125 && auc.undefined < 20);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When the options cannot be used, the statistic has no value over all samples, or more than half of
/// the replicates have none; and those of the statistic.
pub fn bootstrap(
    design: &Design,
    config: &BootstrapConfig,
    statistic: impl Fn(&[usize]) -> Result<f64> + Sync,
) -> Result<Interval> {
    single(design, config, |counts| statistic(&expand(counts)))
}

/// The interval of the mean of one number a sample, such as the Dice coefficients or the SSIM of the
/// images of a test set. A NaN (the overlap of two empty masks, where it was asked for) is left out
/// of each mean.
///
/// ```
/// use xdiff_metrics::{BootstrapConfig, Design, bootstrap_mean};
///
/// let dice = [0.91, 0.85, 0.88, 0.40, 0.93, 0.79];
/// let patients = Design::groups(&["a", "a", "b", "c", "d", "d"])?;
/// let mean = bootstrap_mean(&dice, &patients, &BootstrapConfig::default())?;
/// assert!((mean.value - 0.793333).abs() < 1e-6 && mean.low < mean.value && mean.high > mean.value);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When there is not one number for each sample of the design, one is infinite, all are NaN, or the
/// options cannot be used.
pub fn bootstrap_mean(values: &[f64], design: &Design, config: &BootstrapConfig) -> Result<Interval> {
    const METRIC: &str = "mean";
    if values.len() != design.n() {
        return Err(Error::Mismatch { metric: METRIC, a: vec![values.len()], b: vec![design.n()] });
    }
    if let Some(index) = values.iter().position(|v| v.is_infinite()) {
        let (what, value) = ("the values", values[index]);
        let hint = "a mean with an infinite value has no interval: leave such samples out and say how many";
        return Err(Error::Value { metric: METRIC, what, value, index, hint });
    }
    single(design, config, |counts| {
        let defined = values.iter().zip(counts).filter(|(value, _)| !value.is_nan());
        let (mut sum, mut n) = (0.0, 0.0);
        for (value, count) in defined {
            sum += value * f64::from(*count);
            n += f64::from(*count);
        }
        if n == 0.0 {
            return Err(Error::Undefined { metric: METRIC, reason: "every value is NaN" });
        }
        Ok(sum / n)
    })
}

/// The interval of a statistic of two sets of samples that are drawn apart, such as a distance
/// between real and generated images. Its `n` counts both sets.
///
/// # Errors
/// Those of [`bootstrap`].
pub fn bootstrap_two_samples(
    first: &Design,
    second: &Design,
    config: &BootstrapConfig,
    statistic: impl Fn(&[usize], &[usize]) -> Result<f64> + Sync,
) -> Result<Interval> {
    let n = first.n();
    single(&first.join(second), config, |counts| statistic(&expand(&counts[..n]), &expand(&counts[n..])))
}

/// [`bootstrap_two_samples`] over feature vectors: a Fréchet or kernel distance, a precision or a
/// recall.
///
/// Drawing with replacement repeats vectors, which a distance between distributions takes for less
/// variety, and the kernel distance for likeness within a set: the replicates tend to lie above the
/// value. The interval shows the spread, and can lie beside the value.
///
/// # Errors
/// Those of [`bootstrap`].
pub fn bootstrap_features(
    reference: &Features,
    generated: &Features,
    config: &BootstrapConfig,
    statistic: impl Fn(&Features, &Features) -> Result<f64> + Sync,
) -> Result<Interval> {
    let pick = |features: &Features, indices: &[usize]| {
        let d = features.dim();
        let rows = indices.iter().flat_map(|i| &features.rows()[i * d..(i + 1) * d]).copied().collect();
        Features::new(rows, d, features.extractor())
    };
    let (first, second) = (Design::samples(reference.n())?, Design::samples(generated.n())?);
    bootstrap_two_samples(&first, &second, config, |a, b| {
        statistic(&pick(reference, a)?, &pick(generated, b)?)
    })
}

fn expand(counts: &[u32]) -> Vec<usize> {
    counts.iter().enumerate().flat_map(|(i, count)| std::iter::repeat_n(i, *count as usize)).collect()
}

/// The interval of one statistic of how often each sample occurs.
pub(super) fn single(
    design: &Design,
    config: &BootstrapConfig,
    statistic: impl Fn(&[u32]) -> Result<f64> + Sync,
) -> Result<Interval> {
    config.validate()?;
    let value = statistic(&vec![1; design.n()])?;
    if value.is_nan() {
        let reason = "the statistic is NaN over all samples";
        return Err(Error::Undefined { metric: METRIC, reason });
    }
    let mut found = intervals(design, config, |counts| {
        Ok(vec![match statistic(counts) {
            Err(Error::Undefined { .. } | Error::TooFew { .. }) => f64::NAN,
            value => value?,
        }])
    })?;
    found.pop().flatten().ok_or(Error::Undefined {
        metric: METRIC,
        reason: "more than half of the replicates have no value; stratify, or gather more data",
    })
}

/// The intervals of several statistics of how often each sample occurs, over the same replicates.
/// A statistic without a value is NaN; one that has none over all samples, or none in more than half
/// of the replicates, has no interval.
pub(crate) fn intervals(
    design: &Design,
    config: &BootstrapConfig,
    statistics: impl Fn(&[u32]) -> Result<Vec<f64>> + Sync,
) -> Result<Vec<Option<Interval>>> {
    config.validate()?;
    let root = Rng::new(config.seed).fork("bootstrap");
    let replicates: Vec<Vec<f64>> = (0..config.replicates as u64)
        .into_par_iter()
        .map_init(
            || vec![0; design.n()],
            |counts, r| {
                design.draw(&mut root.sample(r), counts);
                statistics(counts)
            },
        )
        .collect::<Result<_>>()?;
    let jackknife = match config.method {
        IntervalMethod::Bca => jackknife(design, config.jackknife, &statistics)?,
        _ => Vec::new(),
    };
    let values = statistics(&vec![1; design.n()])?;
    let interval = |(k, value): (usize, f64)| {
        let mut sorted: Vec<f64> = replicates.iter().map(|r| r[k]).filter(|v| !v.is_nan()).collect();
        if value.is_nan() || sorted.len() < 2 || 2 * sorted.len() < replicates.len() {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let column = |stratum: &Vec<Vec<f64>>| stratum.iter().map(|v| v[k]).collect();
        let without: Vec<Vec<f64>> = jackknife.iter().map(column).collect();
        let (low, high, method) = ends(config.method, value, &sorted, &without, config.level);
        Some(Interval {
            value,
            low,
            high,
            level: config.level,
            method,
            n: design.n(),
            groups: design.group_count(),
            replicates: replicates.len(),
            undefined: replicates.len() - sorted.len(),
            seed: Some(config.seed),
        })
    };
    Ok(values.into_iter().enumerate().map(interval).collect())
}

/// The statistics without each block of units, stratum by stratum.
fn jackknife(
    design: &Design,
    limit: usize,
    statistics: &(impl Fn(&[u32]) -> Result<Vec<f64>> + Sync),
) -> Result<Vec<Vec<Vec<f64>>>> {
    let stratum = |(stratum, blocks): (usize, usize)| {
        (0..blocks)
            .into_par_iter()
            .map_init(
                || vec![0; design.n()],
                |counts, block| {
                    design.leave_out(stratum, block, blocks, counts);
                    statistics(counts)
                },
            )
            .collect::<Result<Vec<_>>>()
    };
    design.blocks(limit).into_iter().enumerate().map(stratum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f64; 10] = [1.0, 2.5, 0.3, 4.1, 7.9, 2.2, 3.3, 0.7, 5.0, 1.6];
    const Y: [f64; 6] = [0.2, 1.1, 3.0, 2.4, 0.9, 6.0];

    fn mean_of(x: &[f64], indices: &[usize]) -> f64 {
        indices.iter().map(|i| x[*i]).sum::<f64>() / indices.len() as f64
    }

    fn of(method: IntervalMethod) -> BootstrapConfig {
        BootstrapConfig { replicates: 20_000, method, ..BootstrapConfig::default() }
    }

    #[test]
    fn the_ends_agree_with_scipy_within_chance() {
        let squared = |indices: &[usize]| {
            let m = mean_of(&X, indices);
            let squares = indices.iter().map(|i| (X[*i] - m) * (X[*i] - m)).sum::<f64>();
            Ok(m * m + (squares / indices.len() as f64).sqrt())
        };
        let one = Design::samples(10).unwrap();
        let two = |config: &BootstrapConfig| {
            let y = Design::samples(6).unwrap();
            bootstrap_two_samples(&one, &y, config, |i, j| Ok(mean_of(&X, i) / mean_of(&Y, j)))
        };
        let (bca, percentile) = (of(IntervalMethod::Bca), of(IntervalMethod::Percentile));
        // SciPy 1.17.1: scipy.stats.bootstrap with 200,000 resamples.
        let table = [
            ("percentile", bootstrap(&one, &percentile, squared), 3.789653567174207, 21.221705366264054),
            ("BCa", bootstrap(&one, &bca, squared), 4.599362319236918, 24.70197139576758),
            ("two samples, percentile", two(&percentile), 0.5694915254237288, 3.3764774281805723),
            ("two samples, BCa", two(&bca), 0.5048780487804879, 2.9617746446136946),
        ];
        let mut wrong = Vec::new();
        for (name, got, low, high) in table {
            let got = got.unwrap();
            let width = high - low;
            // 20,000 replicates leave a standard error of about 1 % of the width at the far end.
            if (got.low - low).abs() > 0.03 * width || (got.high - high).abs() > 0.03 * width {
                wrong.push(format!("{name}: {got}, not [{low}, {high}]"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn one_seed_is_one_interval_whatever_the_threads() {
        let design = Design::samples(10).unwrap();
        let config = BootstrapConfig { replicates: 300, seed: 5, ..BootstrapConfig::default() };
        let run = || bootstrap_mean(&X, &design, &config).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(run(), pool.install(run));
        let other = BootstrapConfig { seed: 6, ..config.clone() };
        assert_ne!(run().low, bootstrap_mean(&X, &design, &other).unwrap().low);
    }

    #[test]
    fn groups_widen_the_interval_of_samples_that_resemble_each_other() {
        // Twelve patients with eight equal images each: n is 12 and not 96.
        let values: Vec<f64> = (0..96).map(|i| ((i / 8 * 5) % 12) as f64).collect();
        let names: Vec<String> = (0..96).map(|i| format!("patient {}", i / 8)).collect();
        let width = |design: Design| {
            let i = bootstrap_mean(&values, &design, &of(IntervalMethod::Percentile)).unwrap();
            i.high - i.low
        };
        let (samples, groups) = (Design::samples(96).unwrap(), Design::groups(&names).unwrap());
        let ratio = width(groups) / width(samples);
        assert!((ratio - 8f64.sqrt()).abs() < 0.15, "{ratio}");
    }

    #[test]
    fn blocks_of_the_jackknife_change_little() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i * i % 401)).map(|v| v * v).collect();
        let design = Design::samples(400).unwrap();
        let exact = of(IntervalMethod::Bca);
        let blocks = BootstrapConfig { jackknife: 50, ..exact.clone() };
        let (a, b) = (
            bootstrap_mean(&values, &design, &exact).unwrap(),
            bootstrap_mean(&values, &design, &blocks).unwrap(),
        );
        assert!((a.low - b.low).abs() + (a.high - b.high).abs() < 0.03 * (a.high - a.low), "{a}; {b}");
    }

    #[test]
    fn a_mean_leaves_out_what_has_no_number() {
        let config = BootstrapConfig { replicates: 500, ..BootstrapConfig::default() };
        let design = Design::samples(4).unwrap();
        let mean = bootstrap_mean(&[1.0, f64::NAN, 3.0, f64::NAN], &design, &config).unwrap();
        assert_eq!(mean.value, 2.0);
        // All four draws are NaN with chance 1/16.
        assert!((15..=50).contains(&mean.undefined), "{mean}");
        assert_eq!((mean.method, mean.low, mean.high), (IntervalMethod::Bca, 1.0, 3.0));
        let run = |values: &[f64]| bootstrap_mean(values, &design, &config);
        assert!(matches!(run(&[f64::NAN; 4]), Err(Error::Undefined { .. })));
        assert!(matches!(run(&[1.0, 2.0, f64::INFINITY, 3.0]), Err(Error::Value { index: 2, .. })));
        assert!(matches!(run(&[1.0; 3]), Err(Error::Mismatch { .. })));
        let constant = run(&[0.5; 4]).unwrap();
        assert_eq!((constant.low, constant.high), (0.5, 0.5));
    }

    #[test]
    fn errors_of_a_statistic_are_passed_on_and_undefined_ones_counted() {
        let design = Design::samples(3).unwrap();
        let config = BootstrapConfig { replicates: 100, ..BootstrapConfig::default() };
        let undefined = || Error::Undefined { metric: "test", reason: "no value" };
        let whole = bootstrap(&design, &config, |_| Err(undefined()));
        assert!(matches!(whole, Err(Error::Undefined { metric: "test", .. })));
        let seldom = bootstrap(&design, &config, |i| if i == [0, 1, 2] { Ok(1.0) } else { Err(undefined()) });
        assert!(matches!(seldom, Err(Error::Undefined { metric: METRIC, .. })));
        let nan = bootstrap(&design, &config, |_| Ok(f64::NAN));
        assert!(matches!(nan, Err(Error::Undefined { .. })));
        let fails = |i: &[usize]| if i[0] == 0 { Ok(1.0) } else { Err(Error::config("x", "is wrong")) };
        assert!(matches!(bootstrap(&design, &config, fails), Err(Error::Config { field: "x", .. })));
        let none = BootstrapConfig { replicates: 0, ..config };
        assert!(matches!(bootstrap(&design, &none, |_| Ok(1.0)), Err(Error::Config { .. })));
    }

    #[test]
    fn distances_between_features_have_intervals() {
        let rows = |n: usize, shift: f64| {
            let row = |i: usize| [shift + (i as f64 * 1.3).sin(), (i as f64 * 0.7).cos()];
            Features::new((0..n).flat_map(row).collect(), 2, "test").unwrap()
        };
        let (a, b) = (rows(40, 0.0), rows(30, 1.0));
        let config = BootstrapConfig { replicates: 200, ..BootstrapConfig::default() };
        let frechet = |a: &Features, b: &Features| Ok(crate::frechet_distance(a, b)?.value);
        let kernel = |a: &Features, b: &Features| Ok(crate::kernel_distance(a, b, None)?.value);
        let far = bootstrap_features(&a, &b, &config, frechet).unwrap();
        assert_eq!(far.value, crate::frechet_distance(&a, &b).unwrap().value);
        assert!(far.low < far.value && far.value < far.high && far.n == 70, "{far}");
        assert!(bootstrap_features(&a, &b, &config, kernel).unwrap().low > 0.0);
        let one = Features::new(vec![1.0, 2.0], 2, "test").unwrap();
        assert!(matches!(bootstrap_features(&a, &one, &config, frechet), Err(Error::TooFew { .. })));
    }
}
