//! What tells images, prototypes and extractors from others.

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use xdiff_core::FeatureExtractor;
use xdiff_nn::Rng;

use crate::{Error, Result};

/// SHA-256, in hexadecimal digits, of a tensor: its number of dimensions, its dimensions (u64) and its
/// numbers as f32, all little-endian, row by row.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_proto::projection::hash;
///
/// let image = Tensor::arange(0f32, 12., &Device::Cpu)?.reshape((1, 3, 4))?;
/// assert_eq!(hash(&image)?, hash(&image.copy()?)?);
/// assert_ne!(hash(&image)?, hash(&image.reshape((1, 4, 3))?)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the device refuses.
pub fn hash(tensor: &Tensor) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update((tensor.rank() as u64).to_le_bytes());
    for dim in tensor.dims() {
        hash.update((*dim as u64).to_le_bytes());
    }
    let values = tensor.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut bytes = Vec::with_capacity(4 * values.len().min(1 << 14));
    for part in values.chunks(1 << 14) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How many numbers of the probe's features are kept as they are.
const KEPT: usize = 32;

/// How far they may be off, as a share of their root mean square: processors differ in the order of
/// sums.
const TOLERANCE: f64 = 1e-4;

/// What is known of a feature extractor without knowing its weights.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fingerprint {
    /// Its own name.
    pub(super) identity: String,
    /// The hash of its features of the probe.
    pub(super) hash: String,
    /// Some of these features.
    pub(super) probe: Vec<f32>,
}

impl Fingerprint {
    /// The fingerprint for images of one size. The probe is an image of numbers between 0 and 1, which
    /// extractors for either usual range take.
    pub(super) fn of(
        extractor: &dyn FeatureExtractor,
        channels: usize,
        size: (usize, usize),
        device: &Device,
    ) -> Result<Self> {
        let mut rng = Rng::new(0).fork("projection probe");
        let probe = rng.rand(0.0, 1.0, (1, channels, size.0, size.1), device)?;
        let features = extractor.features(&probe, &mut ())?.detach().to_dtype(DType::F32)?;
        let values = features.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::NonFinite {
                what: "the features",
                of: "an image of random numbers between 0 and 1".to_owned(),
                hint: "look at the extractor's weights",
            });
        }
        let kept = KEPT.min(values.len());
        let probe = (0..kept).map(|i| values[i * values.len() / kept]).collect();
        Ok(Self { identity: extractor.identity(), hash: hash(&features)?, probe })
    }

    /// The first way in which another extractor, found now, differs: what, as recorded, as found.
    pub(super) fn difference(&self, now: &Self) -> Option<(&'static str, String, String)> {
        if self.identity != now.identity {
            return Some(("the feature extractor", self.identity.clone(), now.identity.clone()));
        }
        if self.hash == now.hash {
            return None;
        }
        let square = |v: f64| v * v;
        let size = self.probe.iter().map(|v| square(f64::from(*v))).sum::<f64>();
        let off = self.probe.iter().zip(&now.probe).map(|(a, b)| square(f64::from(*a) - f64::from(*b)));
        let alike = self.probe.len() == now.probe.len() && off.sum::<f64>() <= TOLERANCE.powi(2) * size;
        (!alike).then(|| ("the extractor's output on a fixed image", self.hash.clone(), now.hash.clone()))
    }
}
