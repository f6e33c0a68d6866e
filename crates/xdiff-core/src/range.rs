//! The span of values in which images are given.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The span of values in which images are given, for networks and metrics that depend on it.
///
/// A network fed the wrong range gives numbers that look right, so this has no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelRange {
    /// [0, 1].
    Unit,
    /// [−1, 1], as diffusion models have them.
    Signed,
}

/// How far a value may lie outside its range, as a share of the span: the rounding of a decoder.
const SLACK: f64 = 1e-3;

impl PixelRange {
    /// The least and the greatest value.
    pub fn bounds(self) -> (f64, f64) {
        match self {
            Self::Unit => (0.0, 1.0),
            Self::Signed => (-1.0, 1.0),
        }
    }

    /// Fails when a value lies outside the range by more than a thousandth of its span.
    ///
    /// # Errors
    /// [`Error::Input`] with the span of the values and what they seem to be; also for a NaN, and
    /// for a tensor without values.
    pub fn check(self, what: &'static str, images: &Tensor) -> Result<()> {
        if images.elem_count() == 0 {
            return Err(Error::input(what, format!("shape {:?} holds no value", images.dims())));
        }
        let flat = images.flatten_all()?.to_dtype(DType::F64)?;
        let sum = flat.sum_all()?.to_scalar::<f64>()?;
        let (low, high) = (flat.min(0)?.to_scalar::<f64>()?, flat.max(0)?.to_scalar::<f64>()?);
        if !sum.is_finite() {
            return Err(Error::input(what, "a value is NaN or infinite"));
        }
        let (least, greatest) = self.bounds();
        let slack = SLACK * (greatest - least);
        if low >= least - slack && high <= greatest + slack {
            return Ok(());
        }
        let advice = if low >= -1.0 - SLACK && high <= 1.0 + SLACK {
            "you seem to feed images in [−1, 1]: say PixelRange::Signed"
        } else if low >= 0.0 && high <= 255.0 {
            "you seem to feed bytes: divide by 255 and say PixelRange::Unit"
        } else {
            "bring them into the range, by a window for medical images, and clamp what leaves it"
        };
        let reason = format!("values in [{low}, {high}], but [{least}, {greatest}] was stated; {advice}");
        Err(Error::input(what, reason))
    }

    /// Images of this range in another.
    ///
    /// # Errors
    /// When the tensor engine refuses.
    pub fn convert(self, images: &Tensor, to: Self) -> Result<Tensor> {
        Ok(match (self, to) {
            (Self::Unit, Self::Signed) => images.affine(2.0, -1.0)?,
            (Self::Signed, Self::Unit) => images.affine(0.5, 0.5)?,
            _ => images.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn values_outside_are_refused_with_advice() {
        let of = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let table = [
            (PixelRange::Unit, vec![0.0, 1.0005], None),
            (PixelRange::Signed, vec![-1.0, 0.0], None),
            (PixelRange::Unit, vec![-0.5, 1.0], Some("PixelRange::Signed")),
            (PixelRange::Unit, vec![0.0, 255.0], Some("divide by 255")),
            (PixelRange::Signed, vec![0.0, 17.0], Some("divide by 255")),
            (PixelRange::Signed, vec![-1000.0, 400.0], Some("window")),
            (PixelRange::Unit, vec![0.5, f32::NAN], Some("NaN")),
            (PixelRange::Unit, vec![0.5, f32::INFINITY], Some("infinite")),
            (PixelRange::Unit, vec![], Some("no value")),
        ];
        for (range, values, want) in table {
            match (range.check("images", &of(&values)), want) {
                (Ok(()), None) => {}
                (Err(e), Some(part)) => assert!(e.to_string().contains(part), "{values:?}: {e}"),
                (got, _) => panic!("{range:?} {values:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn conversion_maps_bounds_to_bounds() {
        for from in [PixelRange::Unit, PixelRange::Signed] {
            for to in [PixelRange::Unit, PixelRange::Signed] {
                let (low, high) = from.bounds();
                let x = Tensor::new(&[low, high], &Device::Cpu).unwrap();
                let (low, high) = to.bounds();
                assert_eq!(from.convert(&x, to).unwrap().to_vec1::<f64>().unwrap(), [low, high]);
            }
        }
    }
}
