//! Projection (the push of Chen et al. 2019): each prototype becomes the patch of a training image that
//! is nearest to it, and a record says which.

mod file;
mod fingerprint;
mod matching;
mod patch;
mod record;
mod search;
#[cfg(test)]
mod tests;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_core::FeatureExtractor;

use crate::window::WindowRule;
use crate::{Batch, Error, Prototypes, Result, Similarity};

pub use fingerprint::hash;
pub use record::{Projection, Source};

pub(crate) use patch::check_finite;

use fingerprint::Fingerprint;
use patch::{Patch, Seen};
use search::{Rivals, Search};

/// How prototypes are projected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectionConfig {
    /// The class of each prototype: it is then projected onto images of that class alone.
    pub class_of: Option<Vec<usize>>,
    /// Whether every prototype gets a patch of its own. Of all pairs of a prototype and a patch the
    /// nearest is joined first, then the nearest of those that are left, and so on. Otherwise several
    /// prototypes may share their nearest patch, as published.
    pub distinct: bool,
    /// Which pixels stand for a patch.
    pub window: WindowRule,
    /// The similarity that the prototypes serve: the cosine compares patches scaled to length 1, and
    /// the percentile's box is one of an activation map.
    pub similarity: Similarity,
}

impl ProjectionConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// Those of [`Similarity::validate`] and [`WindowRule::validate`].
    pub fn validate(&self) -> Result<()> {
        self.similarity.validate()?;
        self.window.validate()
    }
}

/// Prototypes after projection, with the record of their sources.
#[derive(Clone, Debug)]
pub struct Projected {
    /// The patches' features (P, D): the new prototypes.
    pub vectors: Tensor,
    /// Where they come from.
    pub projection: Projection,
    /// The pixels of each prototype's window (C, height, width).
    pub patches: Vec<Tensor>,
    /// The squared distances from each new prototype to all patches of its source image (P, h, w), as the
    /// similarity takes them; 0 at its own position.
    pub maps: Tensor,
}

impl Projected {
    /// The new prototypes.
    ///
    /// # Errors
    /// As [`Prototypes::from_vectors`].
    pub fn prototypes(&self) -> Result<Prototypes> {
        Prototypes::from_vectors(&self.vectors)
    }
}

/// Projects each prototype onto the nearest patch of the images, in one pass over them.
///
/// Each image goes through the extractor once. Memory does not grow with the number of images: besides
/// one batch, what is kept is a patch for each prototype (and, where patches must be
/// [distinct](ProjectionConfig::distinct), its distances to all prototypes). Of equally near patches the
/// first counts: that of the earlier image, and within an image the one further up, then further left. So
/// the result does not depend on how the images are divided into batches, and constant features give
/// every prototype the first patch of the first image (of its class). A window by
/// [`WindowRule::Percentile`] is that of the new prototype's own activation map; the released code takes
/// the map of the prototype before it is replaced.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::FeatureExtractor;
/// use xdiff_nn::Tap;
/// use xdiff_proto::projection::{ProjectionConfig, project};
/// use xdiff_proto::{Batch, Prototypes};
///
/// /// Each pixel is its own feature.
/// struct Pixels;
/// impl FeatureExtractor for Pixels {
///     fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
///         Ok(images.clone())
///     }
///     fn identity(&self) -> String {
///         "pixels".to_owned()
///     }
/// }
///
/// let images = Tensor::arange(0f32, 8., &Device::Cpu)?.reshape((2, 1, 2, 2))?;
/// let batch = Batch::unlabelled(images, vec!["a".into(), "b".into()])?;
/// let prototypes = Prototypes::from_vectors(&Tensor::new(&[[4.9f32]], &Device::Cpu)?)?;
/// let stream = [Ok::<_, xdiff_proto::Error>(batch)];
/// let projected = project(&Pixels, &prototypes, stream, &ProjectionConfig::default())?;
/// let source = &projected.projection.sources[0];
/// assert_eq!((source.image.as_str(), source.row, source.column), ("b", 0, 1));
/// assert_eq!(projected.vectors.to_vec2::<f32>()?, [[5.0]]);
/// projected.projection.check(&projected.prototypes()?, &Pixels)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Config`]; [`Error::Input`] when there is no image, images or maps differ in size, or
/// prototypes have another width than the features; [`Error::NonFinite`] naming the image whose features
/// or distances are NaN or infinite; [`Error::EmptyClass`] when a prototype's class has no image;
/// [`Error::TooFewPatches`] when patches must be distinct and do not suffice; [`Error::Data`] when the
/// stream fails; whatever the extractor reports.
pub fn project<E>(
    extractor: &dyn FeatureExtractor,
    prototypes: &Prototypes,
    batches: impl IntoIterator<Item = std::result::Result<Batch, E>>,
    config: &ProjectionConfig,
) -> Result<Projected>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    config.validate()?;
    let vectors = prototypes.vectors().detach().to_dtype(DType::F32)?;
    patch::all_finite(&vectors, "the prototype vectors", || "the prototypes".to_owned())?;
    let rivals = Rivals::new(&vectors, config)?;
    let mut search = Search::new(&rivals, config.distinct);
    let mut sizes: Option<Sizes> = None;
    let mut images = 0;
    for batch in batches {
        let batch = batch.map_err(|e| Error::Data(e.into()))?;
        let features = extractor.features(batch.images(), &mut ())?;
        let now = Sizes::of(&batch, &features, prototypes.width())?;
        match sizes {
            Some(first) if first != now => {
                let reason = format!("of {now:?} follow those of {first:?}: give them one size");
                return Err(Error::input("images", reason));
            }
            _ => sizes = Some(now),
        }
        let seen = Seen::new(&batch, &features, &vectors, images, config)?;
        search.add(&rivals, &seen)?;
        images += batch.len();
    }
    let Some(sizes) = sizes else {
        return Err(Error::input("images", "there is none to project onto"));
    };
    let patches = search.finish(&rivals)?;
    let fingerprint = Fingerprint::of(extractor, sizes.channels, sizes.image, vectors.device())?;
    assemble(patches, &vectors, sizes, images, fingerprint, config)
}

/// What all images of a stream have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    channels: usize,
    image: (usize, usize),
    map: (usize, usize),
}

impl Sizes {
    fn of(batch: &Batch, features: &Tensor, width: usize) -> Result<Self> {
        let (_, channels, height, across) = batch.images().dims4()?;
        match *features.dims() {
            [b, d, h, w] if b == batch.len() && d == width && h > 0 && w > 0 => {
                Ok(Self { channels, image: (height, across), map: (h, w) })
            }
            _ => {
                let reason = format!(
                    "have shape {:?} for {} images and prototypes of width {width}",
                    features.dims(),
                    batch.len()
                );
                Err(Error::input("features", reason))
            }
        }
    }
}

fn assemble(
    patches: Vec<Patch>,
    before: &Tensor,
    sizes: Sizes,
    images: usize,
    fingerprint: Fingerprint,
    config: &ProjectionConfig,
) -> Result<Projected> {
    let (count, width) = before.dims2()?;
    let device = before.device();
    let gather = |part: fn(&Patch) -> &[f32]| -> Vec<f32> {
        patches.iter().flat_map(|patch| part(patch).iter().copied()).collect()
    };
    let vectors = Tensor::from_vec(gather(|p| &p.vector), (count, width), device)?;
    let maps = Tensor::from_vec(gather(|p| &p.map), (count, sizes.map.0, sizes.map.1), device)?;
    let mut sources = Vec::with_capacity(count);
    for (patch, before) in patches.iter().zip(before.to_vec2::<f32>()?) {
        sources.push(Source {
            image: patch.id.clone(),
            image_hash: patch.image_hash.clone(),
            class: patch.class,
            row: patch.position / sizes.map.1,
            column: patch.position % sizes.map.1,
            window: patch.window,
            distance: patch::distance(&patch.vector, &before, config.similarity),
        });
    }
    let projection = Projection {
        extractor: fingerprint.identity,
        extractor_hash: fingerprint.hash,
        extractor_probe: fingerprint.probe,
        prototypes_hash: hash(&vectors)?,
        channels: sizes.channels,
        image_size: sizes.image,
        map_size: sizes.map,
        images,
        sources,
    };
    let patches = patches.into_iter().map(|patch| patch.pixels).collect();
    Ok(Projected { vectors, projection, patches, maps })
}
