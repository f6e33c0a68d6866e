//! The noise under which a diffusion network looks at a clean image.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;
use xdiff_nn::rng::fnv1a64;

use crate::Result;

/// Which ε goes into x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε.
///
/// None of them depends on the batch or on an image's place in it, so that equal images have equal
/// features. One ε serves all time steps of an extractor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FeatureNoise {
    /// ε = 0: the network sees √ᾱ_t·x0, an input that it never met in training.
    None,
    /// One map for all images of a size, so that features of two images differ by the images alone.
    Fixed {
        /// The seed.
        seed: u64,
    },
    /// A map for each image, drawn from the seed and a hash of the image's values: two different images
    /// have independent noise, two equal ones the same.
    PerImage {
        /// The seed.
        seed: u64,
    },
}

impl Default for FeatureNoise {
    /// One map for all, seed 0.
    fn default() -> Self {
        FeatureNoise::Fixed { seed: 0 }
    }
}

impl FeatureNoise {
    /// ε for images (B, C, H, W), which are not differentiated through; `None` where it is 0.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn draw(self, images: &Tensor) -> Result<Option<Tensor>> {
        let (_, c, h, w) = images.dims4()?;
        let noise = match self {
            FeatureNoise::None => return Ok(None),
            FeatureNoise::Fixed { seed } => {
                let one = generator(seed).randn((1, c, h, w), &Device::Cpu)?;
                one.broadcast_as(images.shape())?.contiguous()?
            }
            FeatureNoise::PerImage { seed } => {
                let rng = generator(seed);
                let values = images.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                let noises = values.flatten_from(1)?.to_vec2::<f32>()?.into_iter().map(|image| {
                    let bytes: Vec<u8> = image.iter().flat_map(|v| v.to_le_bytes()).collect();
                    Ok(rng.sample(fnv1a64(&bytes)).randn((c, h, w), &Device::Cpu)?)
                });
                Tensor::stack(&noises.collect::<Result<Vec<_>>>()?, 0)?
            }
        };
        Ok(Some(noise.to_device(images.device())?.to_dtype(images.dtype())?))
    }
}

fn generator(seed: u64) -> Rng {
    Rng::new(seed).fork("feature noise")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(x: &Tensor) -> Vec<Vec<f32>> {
        x.flatten_from(1).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn noise_depends_on_the_image_or_on_its_size_alone() {
        let images = Rng::new(1).randn((3, 2, 4, 5), &Device::Cpu).unwrap();
        let twice = Tensor::cat(&[&images.narrow(0, 2, 1).unwrap(), &images], 0).unwrap();
        let (fixed, own) = (FeatureNoise::Fixed { seed: 3 }, FeatureNoise::PerImage { seed: 3 });
        let one = rows(&fixed.draw(&images).unwrap().unwrap());
        assert!(one.iter().all(|row| *row == one[0]));
        assert_eq!(one[0], rows(&fixed.draw(&twice).unwrap().unwrap())[3]);
        let each = rows(&own.draw(&twice).unwrap().unwrap());
        assert_eq!(each[0], each[3]);
        assert_ne!(each[1], each[2]);
        assert_eq!(each[1..], rows(&own.draw(&images).unwrap().unwrap()));
        let other = rows(&FeatureNoise::PerImage { seed: 4 }.draw(&images).unwrap().unwrap());
        assert_ne!(other[0], each[1]);
        assert!(FeatureNoise::None.draw(&images).unwrap().is_none());
    }
}
