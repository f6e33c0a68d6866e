//! The numbers that stand for black and white.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The range of the values of images that a feature extractor or distance is given.
///
/// Networks for images know no range of their own: one that is fed \[0, 1\] where it expects \[−1, 1\]
/// returns numbers that look right. So the range is said, and values outside it are an error.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_core::PixelRange;
///
/// let images = Tensor::new(&[[[[-1f32, 0.0, 1.0]]]], &Device::Cpu)?;
/// let unit = PixelRange::Signed.to_unit(&images)?;
/// assert_eq!(unit.flatten_all()?.to_vec1::<f32>()?, [0.0, 0.5, 1.0]);
/// assert!(PixelRange::Unit.check("images", &images).is_err());
/// # Ok::<(), xdiff_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelRange {
    /// From 0 to 1.
    #[default]
    Unit,
    /// From −1 to 1, as diffusion models have it.
    Signed,
}

impl PixelRange {
    /// How far beyond the range a value may lie, for the rounding of what was computed.
    const SLACK: f32 = 1e-4;

    /// Black and white.
    pub const fn bounds(self) -> (f32, f32) {
        match self {
            Self::Unit => (0.0, 1.0),
            Self::Signed => (-1.0, 1.0),
        }
    }

    /// Checks that all values are numbers in this range.
    ///
    /// # Errors
    /// [`Error::Input`] of this name, saying which values there are and what to do.
    pub fn check(self, what: &'static str, images: &Tensor) -> Result<()> {
        if images.elem_count() == 0 {
            return Ok(());
        }
        let values = images.detach().to_dtype(DType::F32)?;
        let extremes = [values.min_all()?, values.max_all()?, values.sum_all()?];
        let [least, most, sum] = extremes.map(|t| t.to_scalar::<f32>());
        let (least, most, sum) = (least?, most?, sum?);
        if !sum.is_finite() {
            return Err(Error::input(what, "has values that are NaN or infinite"));
        }
        let (low, high) = self.bounds();
        if least >= low - Self::SLACK && most <= high + Self::SLACK {
            return Ok(());
        }
        let advice = match self {
            Self::Unit if least >= -1.0 - Self::SLACK && most <= 1.0 + Self::SLACK => {
                "for images from -1 to 1 say PixelRange::Signed, otherwise clamp them"
            }
            _ if least >= 0.0 && most > 2.0 => "divide 8-bit images by 255, and others by their window",
            _ => "clamp them, or map their window to this range",
        };
        Err(Error::input(what, format!("has values from {least} to {most}, expected {self}; {advice}")))
    }

    /// Images of this range in \[0, 1\].
    ///
    /// # Errors
    /// When the device refuses.
    pub fn to_unit(self, images: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Unit => images.clone(),
            Self::Signed => images.affine(0.5, 0.5)?,
        })
    }

    /// Images of this range in \[−1, 1\].
    ///
    /// # Errors
    /// When the device refuses.
    pub fn to_signed(self, images: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Unit => images.affine(2.0, -1.0)?,
            Self::Signed => images.clone(),
        })
    }
}

impl std::fmt::Display for PixelRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (low, high) = self.bounds();
        write!(f, "[{low}, {high}]")
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn values_outside_are_named_with_what_to_do() {
        let cases: &[(PixelRange, &[f32], Option<&str>)] = &[
            (PixelRange::Unit, &[0.0, 1.0], None),
            (PixelRange::Unit, &[-5e-5, 1.00005], None),
            (PixelRange::Unit, &[], None),
            (PixelRange::Unit, &[-0.3, 1.0], Some("PixelRange::Signed")),
            (PixelRange::Unit, &[-3.0, 1.0], Some("clamp")),
            (PixelRange::Unit, &[0.0, 255.0], Some("255")),
            (PixelRange::Unit, &[f32::NAN, 0.5], Some("NaN")),
            (PixelRange::Signed, &[-1.0, 0.2], None),
            (PixelRange::Signed, &[0.0, f32::INFINITY], Some("infinite")),
            (PixelRange::Signed, &[-1.2, 0.2], Some("clamp")),
        ];
        let mut wrong = Vec::new();
        for (range, values, fault) in cases {
            let images = Tensor::new(*values, &Device::Cpu).unwrap();
            let outcome = range.check("images", &images).map_err(|e| e.to_string());
            match (&outcome, fault) {
                (Ok(()), None) => {}
                (Err(e), Some(part)) if e.contains(part) => {}
                _ => wrong.push(format!("{range:?} {values:?}: {outcome:?}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn ranges_turn_into_each_other() {
        let x = Tensor::new(&[-1f32, 0.25, 1.0], &Device::Cpu).unwrap();
        let unit = PixelRange::Signed.to_unit(&x).unwrap();
        assert_eq!(unit.to_vec1::<f32>().unwrap(), [0.0, 0.625, 1.0]);
        let back = PixelRange::Unit.to_signed(&unit).unwrap();
        assert_eq!(back.to_vec1::<f32>().unwrap(), [-1.0, 0.25, 1.0]);
        assert_eq!(PixelRange::Signed.to_string(), "[-1, 1]");
    }
}
