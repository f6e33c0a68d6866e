//! How images become what the FID network takes.

use std::fmt;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_core::PixelRange;
use xdiff_nn::layers::{Resize, resize2d, upsample_bilinear2d};

use crate::{Error, Result};

/// The library whose resizing and scaling are followed. All go to 299 × 299.
///
/// The same images get different scores by each, so a score belongs to its preset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FidResize {
    /// pytorch-fid, and clean-fid's `legacy_pytorch`: bilinear without antialiasing, then 2x − 1 on
    /// values from 0 to 1.
    #[default]
    PytorchFid,
    /// clean-fid's `clean`: Pillow's bicubic with antialiasing on each channel in floating point, cut
    /// off at 0 and 255 and not rounded, then (x − 128)/128.
    CleanFid,
    /// torch-fidelity, and clean-fid's `legacy_tensorflow`: TensorFlow 1's bilinear, whose grid is off
    /// by half a pixel, then (x − 128)/128.
    TorchFidelity,
    /// torchmetrics 1.9 (`antialias=True`, its default): bilinear with antialiasing, then
    /// (x − 128)/128.
    Torchmetrics,
}

impl FidResize {
    const fn name(self) -> &'static str {
        match self {
            Self::PytorchFid => "pytorch_fid",
            Self::CleanFid => "clean_fid",
            Self::TorchFidelity => "torch_fidelity",
            Self::Torchmetrics => "torchmetrics",
        }
    }
}

/// Whether values are brought to the 256 levels of 8-bit images first.
///
/// The libraries read 8-bit files. Generated images that never were in such a file differ from real
/// ones by the lack of levels alone, unless both are treated alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FidLevels {
    /// Values are taken as they are.
    #[default]
    AsGiven,
    /// To the nearest level, as most programs write files.
    Rounded,
    /// To the level below, as torchmetrics does with `normalize=True`.
    Truncated,
}

/// How images become what the FID network takes.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::PixelRange;
/// use xdiff_vision::FidInput;
///
/// let images = Tensor::ones((2, 1, 64, 48), DType::F32, &Device::Cpu)?;
/// let prepared = FidInput::new(PixelRange::Unit).prepare(&images)?;
/// assert_eq!(prepared.dims(), [2, 3, 299, 299]);
/// assert_eq!(prepared.min_all()?.to_scalar::<f32>()?, 1.0);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FidInput {
    /// The range of the images' values.
    pub range: PixelRange,
    /// Whose resizing is followed.
    #[serde(default)]
    pub resize: FidResize,
    /// Whether values are brought to 256 levels.
    #[serde(default)]
    pub levels: FidLevels,
}

impl FidInput {
    /// Height and width that the network takes.
    pub const SIDE: usize = 299;

    /// Images of this range, resized as by pytorch-fid, at the levels they have.
    pub fn new(range: PixelRange) -> Self {
        Self { range, resize: FidResize::default(), levels: FidLevels::default() }
    }

    /// As [`new`](Self::new), with another resizing.
    pub fn resized_as(range: PixelRange, resize: FidResize) -> Self {
        Self { resize, ..Self::new(range) }
    }

    /// What the network takes: values from about −1 to 1.
    ///
    /// A gradient reaches the images unless they are brought to levels.
    ///
    /// # Shapes
    /// (B, 3, H, W), or grey images (B, 1, H, W) that are copied to all channels, to
    /// (B, 3, 299, 299).
    ///
    /// # Errors
    /// [`Error::Input`] for other shapes, and for values outside the stated range.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let batch = match *images.dims() {
            [b, 1 | 3, h, w] if b > 0 && h > 0 && w > 0 => b,
            _ => {
                return Err(Error::input(
                    "images",
                    format!(
                        "shape {:?}; the FID network takes (B, 3, H, W), or grey images (B, 1, H, W)",
                        images.dims()
                    ),
                ));
            }
        };
        self.range.check("images", images)?;
        let unit = self.range.convert(images, PixelRange::Unit)?;
        let resized = match self.resize {
            FidResize::PytorchFid => {
                let values =
                    if self.levels == FidLevels::AsGiven { unit } else { (self.bytes(&unit)? / 255.0)? };
                upsample_bilinear2d(&values, (Self::SIDE, Self::SIDE), false)?.affine(2.0, -1.0)?
            }
            FidResize::CleanFid => {
                let cubic = self.resize_bytes(&unit, Resize::AntialiasedBicubic)?;
                scaled(&cubic.clamp(0.0, 255.0)?)?
            }
            FidResize::TorchFidelity => scaled(&self.resize_bytes(&unit, Resize::Tensorflow1Bilinear)?)?,
            FidResize::Torchmetrics => scaled(&self.resize_bytes(&unit, Resize::AntialiasedBilinear)?)?,
        };
        Ok(resized.broadcast_as((batch, 3, Self::SIDE, Self::SIDE))?.contiguous()?)
    }

    fn resize_bytes(&self, unit: &Tensor, how: Resize) -> Result<Tensor> {
        Ok(resize2d(&self.bytes(unit)?, (Self::SIDE, Self::SIDE), how)?)
    }

    /// Values from 0 to 255.
    fn bytes(&self, unit: &Tensor) -> Result<Tensor> {
        let up = match self.levels {
            FidLevels::AsGiven => return Ok((unit * 255.0)?),
            FidLevels::Rounded => 0.5,
            FidLevels::Truncated => 0.0,
        };
        Ok(unit.detach().affine(255.0, up)?.clamp(0.0, 255.0)?.floor()?)
    }
}

/// TensorFlow's scaling of bytes.
fn scaled(bytes: &Tensor) -> Result<Tensor> {
    Ok(bytes.affine(1.0 / 128.0, -1.0)?)
}

impl fmt::Display for FidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.range.bounds();
        write!(f, "resize {}; range [{low}, {high}]", self.resize.name())?;
        match self.levels {
            FidLevels::AsGiven => Ok(()),
            FidLevels::Rounded => write!(f, "; rounded to 8 bits"),
            FidLevels::Truncated => write!(f, "; truncated to 8 bits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Three channels: bytes ((7i + 13j + (ij mod 31) + 50c) mod 256)/255, or waves.
    fn picture(h: usize, w: usize, bytes: bool) -> Tensor {
        let mut values = Vec::with_capacity(3 * h * w);
        for c in 0..3 {
            for i in 0..h {
                for j in 0..w {
                    values.push(if bytes {
                        ((7 * i + 13 * j + (i * j) % 31 + 50 * c) % 256) as f64 / 255.0
                    } else {
                        0.5 + 0.5 * (0.11 * i as f64 + 0.07 * (j * (c + 1)) as f64).sin()
                    } as f32);
                }
            }
        }
        Tensor::from_vec(values, (1, 3, h, w), &Device::Cpu).unwrap()
    }

    /// The sum, the sum times cos(0.37 k) over row-major k, the least and the largest value.
    fn summary(y: &Tensor) -> [f64; 4] {
        let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut all = [0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY];
        for (k, v) in y.into_iter().map(f64::from).enumerate() {
            all = [all[0] + v, all[1] + v * (0.37 * k as f64).cos(), all[2].min(v), all[3].max(v)];
        }
        all
    }

    /// pytorch-fid 0.3.0, clean-fid 0.1.35 over Pillow 13.0.0, torch-fidelity 0.4.0 and torchmetrics
    /// 1.9.0, up to the network's input.
    #[test]
    fn presets_are_those_of_the_libraries() {
        use FidLevels::{AsGiven, Rounded, Truncated};
        use FidResize::{CleanFid, PytorchFid, TorchFidelity, Torchmetrics};
        let (small, large) = ((48, 67), (331, 310));
        type Row = ((usize, usize), bool, FidResize, FidLevels, [f64; 4]);
        let cases: [Row; 20] = [
            (small, true, PytorchFid, AsGiven, [-133.544, 2.382614, -1.0, 0.9993178]),
            (small, true, PytorchFid, Rounded, [-133.544, 2.382614, -1.0, 0.9993178]),
            (small, true, CleanFid, AsGiven, [-1165.496, 12.08322, -1.0, 0.9921875]),
            (small, true, TorchFidelity, AsGiven, [-908.902, 4.699841, -1.0, 0.989967]),
            (small, true, Torchmetrics, AsGiven, [-1180.696, 2.381839, -1.0, 0.991508]),
            (small, false, PytorchFid, AsGiven, [-7797.215, 0.7232886, -0.9999107, 0.9998528]),
            (small, false, CleanFid, AsGiven, [-8812.028, 0.6824133, -1.0, 0.9921875]),
            (small, false, CleanFid, Rounded, [-8809.236, 0.6565663, -1.0, 0.9921875]),
            (small, false, TorchFidelity, AsGiven, [-9139.725, 0.5941587, -0.9998451, 0.9921271]),
            (small, false, Torchmetrics, AsGiven, [-8814.425, 0.7290332, -0.999911, 0.992041]),
            (small, false, Torchmetrics, Truncated, [-9838.465, 0.534564, -1.0, 0.984375]),
            (large, true, PytorchFid, AsGiven, [9.234729, 19.6405, -0.9974406, 0.9984083]),
            (large, true, CleanFid, AsGiven, [-1033.935, 25.11484, -1.0, 0.9921875]),
            (large, true, TorchFidelity, AsGiven, [-1036.681, 16.51369, -1.0, 0.9897048]),
            (large, true, Torchmetrics, AsGiven, [-1036.3, 19.07973, -0.9972121, 0.9892765]),
            (large, false, PytorchFid, AsGiven, [-231.3181, -5.11015, -0.9998671, 0.9999673]),
            (large, false, CleanFid, AsGiven, [-1279.003, -5.093452, -1.0, 0.9921875]),
            (large, false, CleanFid, Rounded, [-1279.801, -4.7348, -1.0, 0.9921875]),
            (large, false, TorchFidelity, AsGiven, [-1275.81, -5.074914, -0.9998902, 0.992075]),
            (large, false, Torchmetrics, Truncated, [-2321.92, -5.357994, -1.0, 0.9903984]),
        ];
        // 268,203 values of seven digits are summed.
        let tolerance = [0.05, 2e-3, 2e-6, 2e-6];
        let mut wrong = Vec::new();
        for ((h, w), bytes, resize, levels, wanted) in cases {
            let input = FidInput { levels, ..FidInput::resized_as(PixelRange::Unit, resize) };
            let got = summary(&input.prepare(&picture(h, w, bytes)).unwrap());
            if (0..4).any(|i| (got[i] - wanted[i]).abs() > tolerance[i]) {
                wrong.push(format!("{input}, {h}x{w}, bytes {bytes}: {got:?}, expected {wanted:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn ranges_and_grey_images_come_to_the_same() {
        let x = picture(20, 31, false);
        for resize in
            [FidResize::PytorchFid, FidResize::CleanFid, FidResize::TorchFidelity, FidResize::Torchmetrics]
        {
            let of = |range, x: &Tensor| FidInput::resized_as(range, resize).prepare(x).unwrap();
            let unit = of(PixelRange::Unit, &x);
            let signed = of(PixelRange::Signed, &x.affine(2.0, -1.0).unwrap());
            assert!(crate::testing::difference(&signed, &unit) < 1e-5);
            let grey = of(PixelRange::Unit, &x.narrow(1, 0, 1).unwrap());
            for c in 0..3 {
                let channel = grey.narrow(1, c, 1).unwrap();
                assert_eq!(crate::testing::difference(&channel, &unit.narrow(1, 0, 1).unwrap()), 0.0);
            }
        }
    }

    #[test]
    fn a_gradient_reaches_the_images() {
        let x = picture(9, 7, false);
        for resize in [FidResize::PytorchFid, FidResize::Torchmetrics] {
            let input = FidInput::resized_as(PixelRange::Unit, resize);
            let x = Var::from_tensor(&x).unwrap();
            let grads = input.prepare(&x).unwrap().sum_all().unwrap().backward().unwrap();
            let sum = grads.get(&x).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let slope = if resize == FidResize::PytorchFid { 2.0 } else { 255.0 / 128.0 };
            let wanted = slope * (3 * FidInput::SIDE * FidInput::SIDE) as f32;
            assert!((sum / wanted - 1.0).abs() < 1e-4, "{resize:?}: {sum}, expected {wanted}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_an_error() {
        let input = FidInput::new(PixelRange::Unit);
        let x = picture(9, 7, true);
        let cases = [
            ("bytes", (&x * 255.0).unwrap(), "255"),
            ("the other range", x.affine(2.0, -1.0).unwrap(), "Signed"),
            ("not a number", (&x * f64::NAN).unwrap(), "NaN"),
            ("two channels", x.narrow(1, 0, 2).unwrap(), "grey"),
            ("no batch", x.squeeze(0).unwrap(), "grey"),
            ("no image", x.narrow(0, 0, 0).unwrap(), "grey"),
        ];
        let mut wrong = Vec::new();
        for (name, images, part) in cases {
            match input.prepare(&images) {
                Err(Error::Input { reason, .. }) if reason.contains(part) => {}
                other => wrong.push(format!("{name}: {other:?}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_text_names_what_matters() {
        let input = FidInput { levels: FidLevels::Rounded, ..FidInput::new(PixelRange::Signed) };
        assert_eq!(input.to_string(), "resize pytorch_fid; range [-1, 1]; rounded to 8 bits");
        let json = r#"{"range":"unit","resize":"clean_fid"}"#;
        let read: FidInput = serde_json::from_str(json).unwrap();
        assert_eq!(read, FidInput::resized_as(PixelRange::Unit, FidResize::CleanFid));
        assert!(serde_json::from_str::<FidInput>("{}").is_err());
    }
}
