//! The Dice coefficient class by class over maps of labels.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::Empty;
use super::region::Counts;
use crate::pair::{Pair, PairMetric};
use crate::{Error, Result};

const METRIC: &str = "Dice of labels";

/// The [`Dice`](crate::Dice) coefficient of each class of two maps of labels, where a map holds one
/// class index at each pixel. Class 0 is the background and is left out unless asked for.
///
/// As a [`PairMetric`] the value of an image is the mean over its classes; a class whose value is NaN
/// (with [`Empty::Nan`], one that neither map holds) is left out of that mean.
///
/// # Shapes
/// (B, …) twice, whole numbers from 0 to `classes`−1 of any type.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_metrics::{Empty, LabelDice, PairMetric};
///
/// let a = Tensor::new(&[[0u8, 1, 1, 2]], &Device::Cpu)?;
/// let b = Tensor::new(&[[0u8, 1, 2, 2]], &Device::Cpu)?;
/// let dice = LabelDice::new(4, Empty::Nan)?;
/// let per_class = dice.per_class(&a, &b)?;
/// assert_eq!(per_class[0][..2], [2.0 / 3.0, 2.0 / 3.0]); // classes 1 and 2
/// assert!(per_class[0][2].is_nan()); // class 3 is in neither map
/// assert_eq!(dice.values(&a, &b)?, [2.0 / 3.0]);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelDice {
    /// How many classes there are, the background included.
    pub classes: usize,
    /// Whether class 0 has a value too.
    pub include_background: bool,
    /// The value of a class that neither map holds.
    pub empty: Empty,
}

impl LabelDice {
    /// Of every class but the background.
    ///
    /// # Errors
    /// When there are fewer than two classes, or more than 65536.
    pub fn new(classes: usize, empty: Empty) -> Result<Self> {
        let dice = Self { classes, include_background: false, empty };
        dice.validate()?;
        Ok(dice)
    }

    /// # Errors
    /// When there are fewer than two classes, or more than 65536.
    pub fn validate(&self) -> Result<()> {
        if (2..=1 << 16).contains(&self.classes) {
            return Ok(());
        }
        Err(Error::config("classes", format!("must be 2 to 65536 with the background, got {}", self.classes)))
    }

    /// The coefficient of each class, image by image: B rows, from class 1 on or from the background
    /// on when it is included.
    ///
    /// # Errors
    /// When the shapes differ, a dimension is zero, or a value is no class.
    pub fn per_class(&self, a: &Tensor, b: &Tensor) -> Result<Vec<Vec<f64>>> {
        self.validate()?;
        let first = usize::from(!self.include_background);
        Pair::labels(METRIC, a, b, self.classes)?.planes(|a, b, counts: &mut Vec<Counts>| {
            counts.clear();
            counts.resize(self.classes, Counts::default());
            for (a, b) in a.iter().zip(b) {
                // Whole numbers below `classes`, as was checked.
                let (a, b) = (*a as usize, *b as usize);
                counts[a].a += 1;
                counts[b].b += 1;
                counts[a].both += usize::from(a == b);
            }
            counts[first..].iter().map(|n| n.dice(self.empty)).collect()
        })
    }
}

impl PairMetric for LabelDice {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        let mean = |classes: Vec<f64>| {
            let defined: Vec<f64> = classes.into_iter().filter(|v| !v.is_nan()).collect();
            crate::pair::mean(&defined)
        };
        Ok(self.per_class(a, b)?.into_iter().map(mean).collect())
    }

    fn name(&self) -> String {
        let first = usize::from(!self.include_background);
        let last = self.classes.saturating_sub(1);
        format!("Dice, mean of classes {first} to {last} (in neither: {})", self.empty.name())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::Dice;

    #[test]
    fn each_class_is_the_binary_coefficient_of_its_mask() {
        let label = |i: usize, k: usize| ((i * i * k + i / 3) % 5) as u8;
        let map = |k: usize| {
            let data: Vec<u8> = (0..2 * 6 * 7).map(|i| label(i, k)).collect();
            Tensor::from_vec(data, (2, 6, 7), &Device::Cpu).unwrap()
        };
        let (a, b) = (map(3), map(7));
        for empty in [Empty::One, Empty::Nan] {
            let labels = LabelDice { classes: 6, include_background: true, empty };
            let rows = labels.per_class(&a, &b).unwrap();
            for class in 0..6u8 {
                let is = |t: &Tensor| t.eq(class).unwrap();
                let want = Dice { empty }.values(&is(&a), &is(&b)).unwrap();
                for (row, want) in rows.iter().zip(want) {
                    let got = row[usize::from(class)];
                    assert!(got == want || got.is_nan() && want.is_nan(), "class {class}: {got} {want}");
                }
            }
            let without = LabelDice { include_background: false, ..labels };
            assert_eq!(without.per_class(&a, &b).unwrap()[1][..4], rows[1][1..5]);
        }
    }

    #[test]
    fn only_background_is_undefined_or_one() {
        let none = Tensor::zeros((1, 4), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(LabelDice::new(3, Empty::One).unwrap().values(&none, &none).unwrap(), [1.0]);
        assert!(LabelDice::new(3, Empty::Nan).unwrap().values(&none, &none).unwrap()[0].is_nan());
    }

    #[test]
    fn what_is_no_label_is_a_typed_error() {
        let dice = LabelDice::new(3, Empty::One).unwrap();
        let zero = Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap();
        for bad in [0.5f32, 3.0, -1.0, f32::NAN, f32::INFINITY] {
            let map = Tensor::new(&[[0f32, bad]], &Device::Cpu).unwrap();
            for (a, b) in [(&map, &zero), (&zero, &map)] {
                let e = dice.values(a, b).unwrap_err();
                assert!(matches!(e, Error::Value { index: 1, .. }), "{bad}: {e}");
            }
        }
        let wide = Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(dice.values(&zero, &wide), Err(Error::Mismatch { .. })));
        for classes in [0, 1, usize::MAX] {
            assert!(matches!(LabelDice::new(classes, Empty::One), Err(Error::Config { .. })));
            let raw = LabelDice { classes, ..dice };
            assert!(raw.per_class(&zero, &zero).is_err() && !raw.name().is_empty());
        }
    }
}
