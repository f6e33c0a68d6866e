//! The network of the Fréchet Inception distance, from images to feature vectors.

mod input;

use std::fmt;
use std::path::Path;

use candle_core::{Device, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_nn::weights::read;
use xdiff_nn::{Params, Tap};

use crate::pretrained::sha256;
use crate::{Backbone, InceptionConfig, InceptionV3, Pass, Result};

pub use input::{FidInput, FidLevels, FidResize};

/// The sha256 of the weights for which FID and KID are defined: pytorch-fid's
/// `pt_inception-2015-12-05-6726825d.pth`, which is torch-fidelity's file too.
const PUBLISHED: &str = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";

/// Which weights a [`FidInception`] has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FidWeights {
    /// Those for which the Fréchet Inception distance is defined, recognised by their file.
    Published,
    /// Others, in these words.
    Other(String),
}

impl fmt::Display for FidWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published => write!(f, "published weights, sha256 {}", &PUBLISHED[..8]),
            Self::Other(words) => write!(f, "{words}"),
        }
    }
}

/// The [`FeatureExtractor`] of the Fréchet Inception distance: images of a stated range, resized as a
/// library does it, to the 2048 averages of the last feature maps of Inception v3.
///
/// Only with the published weights may a score be called FID. They are not part of this crate:
/// [`read`](Self::read) takes pytorch-fid's file and recognises it by its sha256, which stands in
/// [`identity`](FeatureExtractor::identity) together with resize and range. With any other weights
/// the identity says so, and a score is a Fréchet distance of that extractor.
///
/// ```no_run
/// use candle_core::{Device, Tensor};
/// use xdiff_core::{FeatureExtractor, PixelRange};
/// use xdiff_vision::{FidInception, FidInput, FidResize};
///
/// let input = FidInput::resized_as(PixelRange::Signed, FidResize::CleanFid);
/// let network = FidInception::read("pt_inception-2015-12-05-6726825d.pth", input, &Device::Cpu)?;
/// let images = Tensor::zeros((8, 1, 64, 64), candle_core::DType::F32, &Device::Cpu)?;
/// assert_eq!(network.pooled(&images)?.dims(), [8, 2048]);
/// println!("{}", network.identity());
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Debug)]
pub struct FidInception {
    network: InceptionV3,
    weights: FidWeights,
    input: FidInput,
}

impl FidInception {
    /// The network with the weights of a file: pytorch-fid's, or one with the same names.
    ///
    /// # Errors
    /// When the file cannot be read, or lists every key that does not fit.
    pub fn read(path: impl AsRef<Path>, input: FidInput, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let hash = sha256(path)?;
        let params = Params::frozen(read(path)?, device);
        let network = InceptionV3::new(&InceptionConfig::fid(), &params)?;
        params.finish()?;
        let weights = if hash == PUBLISHED {
            FidWeights::Published
        } else {
            FidWeights::Other(format!("other weights, sha256 {}", &hash[..8]))
        };
        Ok(Self { network, weights, input })
    }

    /// The network with weights drawn from a seed. Distances between its features still tell sets of
    /// images apart, but are no FID.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn random(seed: u64, input: FidInput, device: &Device) -> Result<Self> {
        let params = Params::fresh(seed, device).freeze(|_| true);
        Self::with_params(&params, format!("random weights, seed {seed}"), input)
    }

    /// The network with the parameters of a scope; `weights` says which, beside every score.
    ///
    /// # Errors
    /// Those of [`Params::weight`].
    pub fn with_params(params: &Params, weights: impl Into<String>, input: FidInput) -> Result<Self> {
        let network = InceptionV3::new(&InceptionConfig::fid(), params)?;
        Ok(Self { network, weights: FidWeights::Other(weights.into()), input })
    }

    /// The network itself, which takes prepared images.
    pub fn network(&self) -> &InceptionV3 {
        &self.network
    }

    /// Which weights the network has.
    pub fn weights(&self) -> &FidWeights {
        &self.weights
    }

    /// How images are prepared.
    pub fn input(&self) -> FidInput {
        self.input
    }

    /// Feature vectors.
    ///
    /// # Shapes
    /// (B, 3, H, W) or (B, 1, H, W) to (B, 2048).
    ///
    /// # Errors
    /// As [`FidInput::prepare`].
    pub fn pooled(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.features(images, &mut ())?.flatten_from(1)?)
    }
}

impl FeatureExtractor for FidInception {
    /// (B, 3, H, W) or (B, 1, H, W) to (B, 2048, 1, 1). Tap sites are those of [`InceptionV3`].
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let mut pass = Pass::eval(tap);
        let maps = self.network.maps(&self.input.prepare(images)?, &mut pass)?.maps;
        Ok(self.network.head(&maps, &mut pass)?.features.unsqueeze(2)?.unsqueeze(3)?)
    }

    fn identity(&self) -> String {
        format!("fid_inception ({}; {})", self.weights, self.input)
    }
}

#[cfg(test)]
mod tests {
    use xdiff_core::PixelRange;
    use xdiff_nn::Rng;
    use xdiff_nn::weights::write_safetensors;

    use super::*;
    use crate::Error;

    const INPUT: FidInput =
        FidInput { range: PixelRange::Unit, resize: FidResize::Torchmetrics, levels: FidLevels::AsGiven };

    #[test]
    fn features_do_not_depend_on_the_batch_and_random_weights_are_called_so() {
        let network = FidInception::random(3, INPUT, &Device::Cpu).unwrap();
        let identity = network.identity();
        assert_eq!(identity, "fid_inception (random weights, seed 3; resize torchmetrics; range [0, 1])");
        let images = Rng::new(1).rand(0.0, 1.0, (2, 1, 40, 30), &Device::Cpu).unwrap();
        let both = network.pooled(&images).unwrap();
        let second = network.pooled(&images.narrow(0, 1, 1).unwrap()).unwrap();
        assert_eq!((both.dims(), network.input()), (&[2, 2048][..], INPUT));
        assert_eq!(both.narrow(0, 1, 1).unwrap().to_vec2::<f32>().unwrap(), second.to_vec2::<f32>().unwrap());
        let outside = network.features(&(images * 3.0).unwrap(), &mut ());
        assert!(matches!(outside, Err(Error::Input { .. })));
    }

    #[test]
    fn other_weights_are_read_and_called_so() {
        let params = Params::fresh(1, &Device::Cpu);
        InceptionV3::new(&InceptionConfig::fid(), &params).unwrap();
        let tensors = params.finish().unwrap().tensors().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pt_inception-2015-12-05-6726825d.safetensors");
        write_safetensors(&path, &tensors, &Default::default()).unwrap();
        let network = FidInception::read(&path, INPUT, &Device::Cpu).unwrap();
        assert!(network.identity().starts_with("fid_inception (other weights, sha256 "));
        assert!(matches!(network.weights(), FidWeights::Other(_)));
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let missing = FidInception::read(&path, INPUT, &Device::Cpu);
        assert!(matches!(missing, Err(Error::Nn(xdiff_nn::Error::Io { .. }))));
        let few = Tensor::zeros((1000, 2048), candle_core::DType::F32, &Device::Cpu).unwrap();
        let tensors = [("fc.weight".to_owned(), few)].into_iter().collect();
        write_safetensors(&path, &tensors, &Default::default()).unwrap();
        let misfit = FidInception::read(&path, INPUT, &Device::Cpu).unwrap_err().to_string();
        assert!(misfit.contains("fc.weight is [1000, 2048]") && misfit.contains("471 missing"), "{misfit}");
        std::fs::write(&path, b"no weights").unwrap();
        assert!(FidInception::read(&path, INPUT, &Device::Cpu).is_err());
    }

    #[test]
    fn the_published_weights_are_named_with_their_hash() {
        assert_eq!(FidWeights::Published.to_string(), "published weights, sha256 6726825d");
        assert_eq!(PUBLISHED.len(), 64);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        // The example of FIPS 180-2.
        assert!(sha256(&path).unwrap().starts_with("ba7816bf8f01cfea"));
    }
}
