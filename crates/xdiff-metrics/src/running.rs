//! The mean of a pair metric over many batches.

use std::fmt;

use candle_core::Tensor;
use serde::Serialize;
use xdiff_core::Metric;

use crate::{Error, PairMetric, Result};

/// Mean and standard deviation of a metric over every image pair of a data set.
///
/// It keeps the count, the mean and the sum of squared deviations (Chan, Golub, LeVeque 1979), so
/// batches and shards of any size give the same number up to rounding.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::Metric;
/// use xdiff_metrics::{Mse, Running};
///
/// let zeros = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mut first = Running::new(Mse {});
/// first.update((&zeros, &(&zeros + 1.0)?))?;
/// let mut second = Running::new(Mse {});
/// second.update((&zeros, &(&zeros + 2.0)?))?;
/// first.merge(&second)?;
/// assert_eq!(first.compute()?.to_string(), "MSE: 2.5 ± 1.7320508075688772 (n = 4)");
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Running<M> {
    metric: M,
    count: usize,
    mean: f64,
    squares: f64,
    infinite: usize,
    undefined: usize,
}

/// What [`Running`] computes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The metric, its preset and data range.
    pub metric: String,
    /// How many image pairs have a number, infinite ones included.
    pub n: usize,
    /// How many of them are +∞, as the PSNR of identical images is.
    pub infinite: usize,
    /// How many more pairs have none, as the Dice coefficient of two empty masks may.
    pub undefined: usize,
    /// The mean over the `n` pairs: +∞ as soon as one of them is.
    pub mean: f64,
    /// The mean over the pairs whose number is finite; NaN when there is none.
    pub finite_mean: f64,
    /// The standard deviation (over n−1) of the finite numbers; NaN when there are fewer than two.
    pub sd: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ± {} (n = {}", self.metric, self.mean, self.sd, self.n)?;
        if self.infinite > 0 {
            write!(f, ", {} infinite, mean of the others {}", self.infinite, self.finite_mean)?;
        }
        if self.undefined > 0 {
            write!(f, ", {} more undefined", self.undefined)?;
        }
        write!(f, ")")
    }
}

impl<M> Running<M> {
    /// An empty accumulator of a metric.
    pub fn new(metric: M) -> Self {
        Self { metric, count: 0, mean: 0.0, squares: 0.0, infinite: 0, undefined: 0 }
    }

    /// Adds numbers that the metric gave earlier.
    pub fn push(&mut self, values: &[f64]) {
        for value in values {
            if value.is_nan() {
                self.undefined += 1;
            } else if value.is_infinite() {
                self.infinite += 1;
            } else {
                self.join(1, *value, 0.0);
            }
        }
    }

    fn join(&mut self, count: usize, mean: f64, squares: f64) {
        if count == 0 {
            return;
        }
        let (n, m) = (self.count as f64, count as f64);
        let delta = mean - self.mean;
        self.mean += delta * m / (n + m);
        self.squares += squares + delta * delta * n * m / (n + m);
        self.count += count;
    }
}

impl<M: PairMetric + Clone + PartialEq> Metric for Running<M> {
    type Batch<'a> = (&'a Tensor, &'a Tensor);
    type Value = Summary;
    type Error = Error;

    fn update(&mut self, (a, b): (&Tensor, &Tensor)) -> Result<()> {
        let values = self.metric.values(a, b)?;
        self.push(&values);
        Ok(())
    }

    fn compute(&self) -> Result<Summary> {
        let n = self.count + self.infinite;
        if n == 0 {
            return Err(Error::TooFew {
                metric: "running mean",
                unit: "image pairs with a number",
                need: 1,
                got: 0,
            });
        }
        let finite_mean = if self.count > 0 { self.mean } else { f64::NAN };
        Ok(Summary {
            metric: self.metric.name(),
            n,
            infinite: self.infinite,
            undefined: self.undefined,
            mean: if self.infinite > 0 { f64::INFINITY } else { finite_mean },
            finite_mean,
            sd: if self.count > 1 { (self.squares / (self.count - 1) as f64).sqrt() } else { f64::NAN },
        })
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.metric != other.metric {
            return Err(Error::Incompatible {
                metric: "running mean",
                what: "the metric",
                left: self.metric.name(),
                right: other.metric.name(),
            });
        }
        self.join(other.count, other.mean, other.squares);
        self.infinite += other.infinite;
        self.undefined += other.undefined;
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::new(self.metric.clone());
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::{Mae, Psnr};

    fn images(values: &[f64]) -> Tensor {
        Tensor::from_slice(values, (values.len(), 1, 1, 1), &Device::Cpu).unwrap()
    }

    #[test]
    fn identical_pairs_are_counted_as_infinite() {
        let mut psnr = Running::new(Psnr::new(1.0).unwrap());
        psnr.update((&images(&[0.0, 0.5, 0.0]), &images(&[0.1, 0.5, 0.1]))).unwrap();
        let summary = psnr.compute().unwrap();
        assert_eq!((summary.n, summary.infinite, summary.mean), (3, 1, f64::INFINITY));
        assert!((summary.finite_mean - 20.0).abs() < 1e-9 && summary.sd.abs() < 1e-9, "{summary}");
    }

    #[test]
    fn an_empty_or_foreign_accumulator_is_an_error() {
        let mut a = Running::new(Psnr::new(1.0).unwrap());
        assert!(matches!(a.compute(), Err(Error::TooFew { .. })));
        let b = Running::new(Psnr::new(2.0).unwrap());
        assert!(matches!(a.merge(&b), Err(Error::Incompatible { .. })));
        a.update((&images(&[0.0]), &images(&[0.1]))).unwrap();
        a.reset();
        assert!(a.compute().is_err());
    }

    #[test]
    fn a_refused_batch_changes_nothing() {
        let mut mae = Running::new(Mae {});
        mae.update((&images(&[0.0]), &images(&[1.0]))).unwrap();
        let before = mae.clone();
        assert!(mae.update((&images(&[0.0, 1.0]), &images(&[1.0, f64::NAN]))).is_err());
        assert_eq!(mae, before);
    }

    proptest! {
        #[test]
        fn shards_in_any_order_equal_one_stream(
            values in prop::collection::vec(-1e3f64..1e3, 2..40),
            cut in 0usize..40,
        ) {
            let cut = cut.min(values.len());
            let mut whole = Running::new(Mae {});
            whole.push(&values);
            let mut tail = Running::new(Mae {});
            tail.push(&values[cut..]);
            let mut head = Running::new(Mae {});
            head.push(&values[..cut]);
            tail.merge(&head).unwrap();
            let (whole, merged) = (whole.compute().unwrap(), tail.compute().unwrap());
            prop_assert_eq!(whole.n, merged.n);
            prop_assert!((whole.mean - merged.mean).abs() < 1e-10);
            prop_assert!((whole.sd - merged.sd).abs() < 1e-9);
        }
    }
}
