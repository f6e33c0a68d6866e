//! Mean and deviation of features, channel by channel.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use xdiff_core::FeatureExtractor;
use xdiff_nn::weights::{read_safetensors_with_metadata, write_safetensors};

use crate::{Batch, Error, Result};

const FORMAT: &str = "xdiff-feature-statistics-1";

/// The mean and the standard deviation (n − 1) of each channel over all patches of some images, in f64.
///
/// They do not depend on how the images were batched: patches are added image by image (Chan, Golub and
/// LeVeque 1983).
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureStatistics {
    extractor: String,
    patches: u64,
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl FeatureStatistics {
    /// The statistics of an extractor's features over these images, in one pass.
    ///
    /// # Errors
    /// [`Error::Data`] when the images fail, [`Error::NonFinite`] naming the image whose features are,
    /// [`Error::Input`] when there are fewer than two patches or the features are the same in all of
    /// them; those of the extractor.
    pub fn measure<E>(
        extractor: &dyn FeatureExtractor,
        batches: impl IntoIterator<Item = std::result::Result<Batch, E>>,
    ) -> Result<Self>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut all = Moments::default();
        for batch in batches {
            let batch = batch.map_err(|e| Error::Data(e.into()))?;
            let features = extractor.features(batch.images(), &mut ())?.detach().to_device(&Device::Cpu)?;
            let rows = features.to_dtype(DType::F32)?.flatten_from(2)?.to_vec3::<f32>()?;
            for (channels, id) in rows.iter().zip(batch.ids()) {
                all.add_image(channels, id)?;
            }
        }
        if all.patches < 2 {
            let reason = format!("{} patches; give at least 2", all.patches);
            return Err(Error::input("feature statistics", reason));
        }
        let n = (all.patches - 1) as f64;
        let deviation: Vec<f64> = all.squares.iter().map(|m| (m / n).sqrt()).collect();
        if deviation.iter().all(|d| *d == 0.0) {
            return Err(constant(all.patches));
        }
        Ok(Self { extractor: extractor.identity(), patches: all.patches, mean: all.mean, deviation })
    }

    /// The extractor's identity.
    pub fn extractor(&self) -> &str {
        &self.extractor
    }

    /// How many patches there were.
    pub fn patches(&self) -> u64 {
        self.patches
    }

    /// The mean of each channel.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The standard deviation of each channel; not all are 0.
    pub fn deviation(&self) -> &[f64] {
        &self.deviation
    }

    /// The SHA-256 of the numbers, in hexadecimal.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for value in self.mean.iter().chain(&self.deviation) {
            hasher.update(value.to_le_bytes());
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes them as a safetensors file, under a temporary name that is then changed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensor = |values: &[f64]| Tensor::from_slice(values, values.len(), &Device::Cpu);
        let tensors = BTreeMap::from([
            ("mean".to_owned(), tensor(&self.mean)?),
            ("deviation".to_owned(), tensor(&self.deviation)?),
        ]);
        let metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("extractor".to_owned(), self.extractor.clone()),
            ("patches".to_owned(), self.patches.to_string()),
        ]);
        Ok(write_safetensors(path, &tensors, &metadata)?)
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When the file cannot be read; [`Error::File`] when it holds no such statistics.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |reason: String| Error::File {
            path: path.to_owned(),
            reason,
            hint: "give a file that FeatureStatistics::write wrote",
        };
        let (tensors, metadata) = read_safetensors_with_metadata(path)?;
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(bad(format!("its format is {:?}, not {FORMAT:?}", metadata.get("format"))));
        }
        let column = |name: &str| {
            let values = tensors.get(name).and_then(|t| t.to_vec1::<f64>().ok());
            let values = values.ok_or_else(|| bad(format!("`{name}` is no list of f64")))?;
            if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
                return Err(bad(format!("`{name}` is empty or not finite")));
            }
            Ok(values)
        };
        let (mean, deviation) = (column("mean")?, column("deviation")?);
        if mean.len() != deviation.len() {
            return Err(bad(format!("{} means, {} deviations", mean.len(), deviation.len())));
        }
        if deviation.iter().any(|d| *d < 0.0) || deviation.iter().all(|d| *d == 0.0) {
            return Err(bad("deviations are negative or all 0".to_owned()));
        }
        let patches = metadata.get("patches").and_then(|n| n.parse().ok());
        let patches = patches.ok_or_else(|| bad("it does not say of how many patches".to_owned()))?;
        let extractor = metadata.get("extractor").cloned();
        let extractor = extractor.ok_or_else(|| bad("it does not say of which extractor".to_owned()))?;
        Ok(Self { extractor, patches, mean, deviation })
    }
}

/// The error that features without any variation make.
pub(crate) fn constant(patches: u64) -> Error {
    let reason = format!("are the same in all {patches} patches: they tell no image from another");
    Error::input("features", reason)
}

/// Mean and sum of squared deviations of each channel.
#[derive(Default)]
struct Moments {
    patches: u64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    /// Adds an image's features, (D, patches).
    fn add_image(&mut self, channels: &[Vec<f32>], id: &str) -> Result<()> {
        let n = channels.first().map_or(0, Vec::len) as u64;
        if self.mean.is_empty() {
            (self.mean, self.squares) = (vec![0.0; channels.len()], vec![0.0; channels.len()]);
        }
        if n == 0 || channels.len() != self.mean.len() {
            let reason = format!(
                "of `{id}` have {} channels of {n} patches; those before had {}",
                channels.len(),
                self.mean.len()
            );
            return Err(Error::input("features", reason));
        }
        let (before, own) = (self.patches as f64, n as f64);
        let total = before + own;
        for ((values, mean), squares) in channels.iter().zip(&mut self.mean).zip(&mut self.squares) {
            let own_mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / own;
            let own_squares = values.iter().map(|v| (f64::from(*v) - own_mean).powi(2)).sum::<f64>();
            let apart = own_mean - *mean;
            *squares += own_squares + apart * apart * before * own / total;
            *mean += apart * own / total;
            if !squares.is_finite() {
                return Err(Error::NonFinite {
                    what: "a feature",
                    of: format!("`{id}`"),
                    hint: "check the image for NaN and the weights of the extractor",
                });
            }
        }
        self.patches += n;
        Ok(())
    }
}
