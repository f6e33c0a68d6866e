//! Pixels in the range that trained weights ask for.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A shift and a scale for each channel: (x − mean) / std, for pixels x in [0, 1].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_vision::Normalise;
///
/// let grey = Tensor::new(&[[[[0.449f32, 0.675]]]], &Device::Cpu)?;
/// let x = Normalise::imagenet().for_channels(1)?.unit(&grey)?;
/// assert!((x.flatten_all()?.to_vec1::<f32>()?[1] - 1.0).abs() < 1e-3);
/// assert!(Normalise::imagenet().unit(&Tensor::full(128f32, (1, 3, 4, 4), &Device::Cpu)?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalise {
    /// What is taken off each channel.
    pub mean: Vec<f64>,
    /// What each channel is then divided by.
    pub std: Vec<f64>,
}

impl Normalise {
    /// Means and deviations of ImageNet's pixels, with which torchvision's weights were trained.
    pub fn imagenet() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// For weights that take values in 0..=255 less these, as Caffe's do.
    pub fn bytes_less(offsets: [f64; 3]) -> Self {
        Self { mean: offsets.map(|o| o / 255.0).to_vec(), std: vec![1.0 / 255.0; 3] }
    }

    /// Checks that there is a finite mean and a positive deviation for each channel.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let (means, deviations) = (self.mean.len(), self.std.len());
        if means == 0 || means != deviations {
            let reason =
                format!("{means} means and {deviations} deviations; one of each a channel is needed");
            return Err(Error::config("mean", reason));
        }
        if let Some(mean) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return Err(Error::config("mean", format!("must be finite, got {mean}")));
        }
        match self.std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
            Some(std) => Err(Error::config("std", format!("must be finite and positive, got {std}"))),
            None => Ok(()),
        }
    }

    /// The same for images of another number of channels: each gets the average of the means and of
    /// the deviations, as befits a network whose first convolution was
    /// [adapted](crate::StemWeights) to them.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate); [`Error::Input`] for no channel.
    pub fn for_channels(&self, channels: usize) -> Result<Self> {
        self.validate()?;
        if channels == 0 {
            return Err(Error::input("channels", "must be at least 1"));
        }
        if channels == self.mean.len() {
            return Ok(self.clone());
        }
        let average = |values: &[f64]| vec![values.iter().sum::<f64>() / values.len() as f64; channels];
        Ok(Self { mean: average(&self.mean), std: average(&self.std) })
    }

    /// Normalises pixels in [0, 1].
    ///
    /// # Shapes
    /// (B, C, H, W) → the same, f32, with as many channels as there are means.
    ///
    /// # Errors
    /// [`Error::Input`] for another shape, or for a value outside [0, 1] or that is no number.
    pub fn unit(&self, images: &Tensor) -> Result<Tensor> {
        self.apply(images, (0.0, 1.0))
    }

    /// Normalises pixels in [−1, 1], the range of diffusion models.
    ///
    /// # Shapes
    /// As [`unit`](Self::unit).
    ///
    /// # Errors
    /// As [`unit`](Self::unit), for [−1, 1].
    pub fn signed(&self, images: &Tensor) -> Result<Tensor> {
        self.apply(images, (-1.0, 1.0))
    }

    fn apply(&self, images: &Tensor, (low, high): (f64, f64)) -> Result<Tensor> {
        self.validate()?;
        let channels = self.mean.len();
        let x = images.to_dtype(DType::F32)?;
        if x.rank() != 4 || x.dims()[1] != channels || x.elem_count() == 0 {
            let reason = format!("shape {:?}; (B, {channels}, H, W) is needed", x.dims());
            return Err(Error::input("images", reason));
        }
        let values = x.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
        // Interpolation may overshoot a little.
        let slack = 1e-3 * (high - low);
        let fits = |v: &f32| (low - slack..=high + slack).contains(&f64::from(*v));
        if let Some(value) = values.iter().find(|v| !fits(v)) {
            let reason = format!(
                "the value {value} lies outside [{low}, {high}]; bring images into that range, for 8-bit \
                 images by dividing by 255"
            );
            return Err(Error::input("images", reason));
        }
        // (x − low) / (high − low) is the pixel in [0, 1].
        let span = high - low;
        let column = |value: &dyn Fn(f64, f64) -> f64| -> Result<Tensor> {
            let pairs = self.mean.iter().zip(&self.std);
            let values: Vec<f32> = pairs.map(|(mean, std)| value(*mean, *std) as f32).collect();
            Ok(Tensor::from_vec(values, (1, channels, 1, 1), x.device())?)
        };
        let scale = column(&|_, std| 1.0 / (span * std))?;
        let shift = column(&|mean, std| -(low / span + mean) / std)?;
        Ok(x.broadcast_mul(&scale)?.broadcast_add(&shift)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (1, 3, 1, values.len() / 3), &Device::Cpu).unwrap()
    }

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn both_ranges_give_the_definition() {
        let unit = [0.0, 1.0, 0.25, 0.5, 0.75, 0.1];
        let want: Vec<f32> = unit
            .iter()
            .zip([0.485, 0.485, 0.456, 0.456, 0.406, 0.406])
            .zip([0.229, 0.229, 0.224, 0.224, 0.225, 0.225])
            .map(|((x, mean), std)| ((f64::from(*x) - mean) / std) as f32)
            .collect();
        let normalise = Normalise::imagenet();
        let signed: Vec<f32> = unit.iter().map(|v| 2.0 * v - 1.0).collect();
        for got in [normalise.unit(&images(&unit)).unwrap(), normalise.signed(&images(&signed)).unwrap()] {
            for (got, want) in flat(&got).iter().zip(&want) {
                assert!((got - want).abs() < 1e-5, "{got} {want}");
            }
        }
        let caffe = flat(&Normalise::bytes_less([123., 117., 104.]).unit(&images(&[1.0, 0.0, 0.2])).unwrap());
        for (got, want) in caffe.iter().zip([132.0, -117.0, -53.0]) {
            assert!((got - want).abs() < 1e-3, "{caffe:?}");
        }
    }

    #[test]
    fn wrong_ranges_and_shapes_are_errors_that_say_what_to_do() {
        let normalise = Normalise::imagenet();
        for (images, why) in [
            (images(&[0.0, 200.0, 0.5]), "255"),
            (images(&[-0.5, 0.1, 0.5]), "outside [0, 1]"),
            (images(&[f32::NAN, 0.1, 0.5]), "NaN"),
            (Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap(), "(B, 3, H, W)"),
            (Tensor::zeros((0, 3, 2, 2), DType::F32, &Device::Cpu).unwrap(), "(B, 3, H, W)"),
            (Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap(), "(B, 3, H, W)"),
        ] {
            let error = normalise.unit(&images).unwrap_err();
            assert!(matches!(error, Error::Input { .. }) && error.to_string().contains(why), "{error}");
        }
        for (mean, std) in [
            (vec![], vec![]),
            (vec![0.5], vec![0.5, 0.5]),
            (vec![f64::NAN], vec![0.5]),
            (vec![0.5], vec![0.0]),
            (vec![0.5], vec![f64::INFINITY]),
        ] {
            let normalise = Normalise { mean, std };
            assert!(matches!(normalise.for_channels(1), Err(Error::Config { .. })), "{normalise:?}");
        }
        assert!(normalise.for_channels(0).is_err());
    }
}
