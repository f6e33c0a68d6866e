//! What a score would be without knowledge.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_core::FeatureExtractor;
use xdiff_core::statistics::mean;
use xdiff_nn::Rng;

use super::Spread;
use crate::{Batch, Error, Prototypes, Result};

/// A score over several draws of chance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The mean over images, one for each draw of each run.
    pub score: Spread,
    /// The mean over draws, one for each image.
    pub images: Vec<Option<f64>>,
}

impl Baseline {
    /// From scores by draw and image.
    pub(super) fn of(draws: &[Vec<Option<f64>>]) -> Self {
        Self { score: Spread::of(draws.iter().map(|d| mean_defined(d)).collect()), images: by_image(draws) }
    }

    /// One number for each image, NaN where undefined.
    pub fn image_values(&self) -> Vec<f64> {
        self.images.iter().map(|v| v.unwrap_or(f64::NAN)).collect()
    }
}

/// The mean of what is defined.
pub(super) fn mean_defined(values: &[Option<f64>]) -> Option<f64> {
    mean(&values.iter().flatten().copied().collect::<Vec<_>>())
}

/// For each image the mean over draws, of what is defined.
pub(super) fn by_image(draws: &[Vec<Option<f64>>]) -> Vec<Option<f64>> {
    let images = draws.first().map_or(0, Vec::len);
    (0..images).map(|i| mean_defined(&draws.iter().map(|d| d[i]).collect::<Vec<_>>())).collect()
}

/// Random prototypes: the features of `count` different patches of the images, all patches equally
/// likely, in an order that is random too. What they score is what prototypes score that were not
/// trained.
///
/// One pass over the images that holds `count` vectors. The choice depends on `rng` and on the order of
/// the images, not on the sizes of batches.
///
/// # Errors
/// [`Error::Config`] when `count` is 0, [`Error::TooFewPatches`] when the images have fewer patches,
/// [`Error::NonFinite`] naming an image with NaN features, [`Error::Data`] when the source of images
/// fails; those of the extractor.
pub fn random_patches<E>(
    extractor: &dyn FeatureExtractor,
    batches: impl IntoIterator<Item = std::result::Result<Batch, E>>,
    count: usize,
    rng: &Rng,
) -> Result<Prototypes>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if count == 0 {
        return Err(Error::config("count", "is 0, at least 1 prototype is drawn"));
    }
    // Each patch draws a lot; the least lots win. Patches are numbered, so that lots that are equal do
    // not displace each other.
    let mut chosen: BTreeMap<(u64, u64), Vec<f32>> = BTreeMap::new();
    let mut patches = 0u64;
    let mut width = 0;
    for batch in batches {
        let batch = batch.map_err(|e| Error::Data(e.into()))?;
        let features = extractor.features(batch.images(), &mut ())?.detach();
        let features = features.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let (_, d, _, _) = features.dims4()?;
        let rows = features.flatten_from(2)?.transpose(1, 2)?.contiguous()?.to_vec3::<f32>()?;
        if width != 0 && width != d {
            return Err(Error::input("features", format!("have width {d}, those before had {width}")));
        }
        width = d;
        for (id, rows) in batch.ids().iter().zip(rows) {
            if rows.iter().flatten().any(|v| !v.is_finite()) {
                let hint = "look for NaN in the image and in the extractor's weights";
                return Err(Error::NonFinite { what: "the features", of: format!("image `{id}`"), hint });
            }
            for row in rows {
                let lot = (rng.sample(patches).next_seed(), patches);
                patches += 1;
                if chosen.len() == count && chosen.last_key_value().is_some_and(|(last, _)| lot > *last) {
                    continue;
                }
                chosen.insert(lot, row);
                if chosen.len() > count {
                    chosen.pop_last();
                }
            }
        }
    }
    if chosen.len() < count {
        return Err(Error::TooFewPatches { prototypes: count, patches: chosen.len() });
    }
    let values: Vec<f32> = chosen.into_values().flatten().collect();
    Prototypes::from_vectors(&Tensor::from_vec(values, (count, width), &Device::Cpu)?)
}
