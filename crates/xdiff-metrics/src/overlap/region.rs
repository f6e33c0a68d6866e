//! Overlap of binary masks.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::pair::{Pair, PairMetric};
use crate::{Error, Result};

/// What the overlap of two empty masks is, which the definition (0/0) leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// 1: both masks agree that there is nothing.
    #[default]
    One,
    /// NaN: the pair is left out of a mean ([`Running`](crate::Running) counts it as undefined).
    Nan,
}

/// The Dice coefficient 2|A∩B| / (|A|+|B|) of two masks of zeros and ones.
///
/// # Shapes
/// (B, …) twice → B: all that follows the first dimension belongs to one mask.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_metrics::{Dice, PairMetric};
///
/// let a = Tensor::new(&[[1u8, 1, 0, 0], [0, 0, 0, 0]], &Device::Cpu)?;
/// let b = Tensor::new(&[[0u8, 1, 1, 1], [0, 0, 0, 0]], &Device::Cpu)?;
/// assert_eq!(Dice::default().values(&a, &b)?, [0.4, 1.0]);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dice {
    /// The value of two empty masks.
    pub empty: Empty,
}

/// Intersection over union |A∩B| / |A∪B| (the Jaccard index) of two masks of zeros and ones.
///
/// # Shapes
/// (B, …) twice → B: all that follows the first dimension belongs to one mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Iou {
    /// The value of two empty masks.
    pub empty: Empty,
}

/// How many pixels two masks hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) both: usize,
}

impl Counts {
    pub(super) fn dice(self, empty: Empty) -> f64 {
        empty.ratio(2 * self.both, self.a + self.b)
    }

    fn iou(self, empty: Empty) -> f64 {
        empty.ratio(self.both, self.a + self.b - self.both)
    }
}

impl Empty {
    fn ratio(self, numerator: usize, denominator: usize) -> f64 {
        match (denominator, self) {
            (0, Empty::One) => 1.0,
            (0, Empty::Nan) => f64::NAN,
            _ => numerator as f64 / denominator as f64,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Empty::One => "1",
            Empty::Nan => "NaN",
        }
    }
}

impl Dice {
    /// The coefficient of two masks given as slices.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn of_slices(&self, a: &[bool], b: &[bool]) -> Result<f64> {
        Ok(count_slices("Dice", a, b)?.dice(self.empty))
    }
}

impl Iou {
    /// The index of two masks given as slices.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn of_slices(&self, a: &[bool], b: &[bool]) -> Result<f64> {
        Ok(count_slices("IoU", a, b)?.iou(self.empty))
    }
}

impl PairMetric for Dice {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        count("Dice", a, b, |n| n.dice(self.empty))
    }

    fn name(&self) -> String {
        format!("Dice (both empty: {})", self.empty.name())
    }
}

impl PairMetric for Iou {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        count("IoU", a, b, |n| n.iou(self.empty))
    }

    fn name(&self) -> String {
        format!("IoU (both empty: {})", self.empty.name())
    }
}

fn count_slices(metric: &'static str, a: &[bool], b: &[bool]) -> Result<Counts> {
    if a.len() != b.len() {
        return Err(Error::Mismatch { metric, a: vec![a.len()], b: vec![b.len()] });
    }
    let mut n = Counts::default();
    for (a, b) in a.iter().zip(b) {
        n.a += usize::from(*a);
        n.b += usize::from(*b);
        n.both += usize::from(*a && *b);
    }
    Ok(n)
}

/// Counts each mask of a batch, after a check that it holds only zeros and ones.
fn count(metric: &'static str, a: &Tensor, b: &Tensor, ratio: impl Fn(Counts) -> f64) -> Result<Vec<f64>> {
    Pair::masks(metric, a, b)?.map(
        |a, b, _: &mut ()| {
            let mut n = Counts::default();
            for (a, b) in a.iter().zip(b) {
                n.a += usize::from(*a == 1.0);
                n.b += usize::from(*b == 1.0);
                n.both += usize::from(*a == 1.0 && *b == 1.0);
            }
            n
        },
        |n| n.iter().map(|n| ratio(*n)).sum(),
    )
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn known_overlaps() {
        let table: [(&[bool], &[bool], f64, f64); 5] = [
            (&[true, true, false], &[true, true, false], 1.0, 1.0),
            (&[true, false, false], &[false, true, false], 0.0, 0.0),
            (&[true, true, false], &[false, true, true], 0.5, 1.0 / 3.0),
            (&[false, false, false], &[false, true, false], 0.0, 0.0),
            (&[false, false, false], &[false, false, false], 1.0, 1.0),
        ];
        let mut wrong = Vec::new();
        for (a, b, dice, iou) in table {
            let got = (
                Dice::default().of_slices(a, b).unwrap(),
                Iou::default().of_slices(a, b).unwrap(),
                Dice::default().of_slices(b, a).unwrap(),
            );
            if (got.0 - dice).abs() > 1e-15 || (got.1 - iou).abs() > 1e-15 || got.2 != got.0 {
                wrong.push((a, b, got));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        let nan = Dice { empty: Empty::Nan }.of_slices(&[false], &[false]).unwrap();
        assert!(nan.is_nan());
        assert!(Dice::default().of_slices(&[true], &[]).is_err());
    }

    #[test]
    fn probabilities_and_labels_are_refused() {
        let zero = Tensor::zeros((1, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        for bad in [0.5f32, 2.0, f32::NAN] {
            let mask = Tensor::new(&[[0f32, bad]], &Device::Cpu).unwrap();
            for (a, b) in [(&mask, &zero), (&zero, &mask)] {
                let e = Dice::default().values(a, b).unwrap_err();
                assert!(matches!(e, Error::Value { index: 1, .. }), "{e}");
            }
        }
        let wide = Tensor::zeros((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(Iou::default().values(&zero, &wide), Err(Error::Mismatch { .. })));
    }
}
