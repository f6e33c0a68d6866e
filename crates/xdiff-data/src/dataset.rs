//! Samples, and the trait of everything that gives them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use xdiff_nn::Rng;

use crate::image::Image;
use crate::mask::{Mask, MaskKind};
use crate::{Error, Result};

/// What is known of a sample without its pixels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleInfo {
    /// A name that is unique in the dataset: the file's path relative to its root, or what was drawn.
    pub id: String,
    /// The class, an index into [`Dataset::classes`].
    pub class: Option<u32>,
    /// The patient, or whatever else must not be torn apart by a split.
    pub group: Option<String>,
}

/// An image with what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name, class and group.
    pub info: SampleInfo,
    /// The image.
    pub image: Image,
    /// Its masks, each of the image's size.
    pub masks: BTreeMap<MaskKind, Mask>,
}

impl Sample {
    fn bytes(&self) -> usize {
        size_of_val(self.image.data()) + self.masks.values().map(|m| m.data().len()).sum::<usize>() + 512
    }
}

/// A finite, ordered collection of samples that can be asked for in any order and from any thread.
///
/// ```
/// use xdiff_data::{Dataset, Image, Result, Sample, SampleInfo, Scale};
/// use xdiff_nn::Rng;
///
/// /// Noise of a given size.
/// #[derive(Debug)]
/// struct Noise(usize);
///
/// impl Dataset for Noise {
///     fn len(&self) -> usize {
///         self.0
///     }
///     fn info(&self, index: usize) -> Result<SampleInfo> {
///         Ok(SampleInfo { id: format!("noise {index}"), ..Default::default() })
///     }
///     fn get(&self, index: usize, rng: &mut Rng) -> Result<Sample> {
///         let values = (0..64).map(|_| rng.uniform() as f32).collect();
///         let image = Image::new(1, 8, 8, values, Scale::Unit)?;
///         Ok(Sample { info: self.info(index)?, image, masks: Default::default() })
///     }
/// }
/// assert_eq!(Noise(3).get(0, &mut Rng::new(1))?.image.height(), 8);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
pub trait Dataset: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes, in the order of their indices; empty when there are none.
    fn classes(&self) -> &[String] {
        &[]
    }

    /// What is known of a sample without reading its pixels.
    ///
    /// # Errors
    /// When there is no such sample.
    fn info(&self, index: usize) -> Result<SampleInfo>;

    /// The sample. Chance, as in augmentation, comes from `rng` alone, which a loader derives from
    /// its seed, the epoch and the index: a sample is the same whatever its batch or thread.
    ///
    /// # Errors
    /// When there is no such sample, or it cannot be read.
    fn get(&self, index: usize, rng: &mut Rng) -> Result<Sample>;
}

impl<D: Dataset + ?Sized> Dataset for Arc<D> {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn classes(&self) -> &[String] {
        (**self).classes()
    }
    fn info(&self, index: usize) -> Result<SampleInfo> {
        (**self).info(index)
    }
    fn get(&self, index: usize, rng: &mut Rng) -> Result<Sample> {
        (**self).get(index, rng)
    }
}

/// The information on all samples, as a split takes it.
///
/// # Errors
/// When the dataset fails to give one.
pub fn infos(dataset: &dyn Dataset) -> Result<Vec<SampleInfo>> {
    (0..dataset.len()).map(|i| dataset.info(i)).collect()
}

pub(crate) fn check_index(index: usize, len: usize) -> Result<()> {
    if index < len { Ok(()) } else { Err(Error::Index { index, len }) }
}

/// Samples held in memory.
#[derive(Clone, Debug, Default)]
pub struct InMemory {
    samples: Vec<Sample>,
    classes: Vec<String>,
}

impl InMemory {
    /// A dataset of these samples.
    ///
    /// # Errors
    /// When a sample's class has no name in `classes`.
    pub fn new(samples: Vec<Sample>, classes: Vec<String>) -> Result<Self> {
        if let Some(s) = samples.iter().find(|s| s.info.class.is_some_and(|c| c as usize >= classes.len())) {
            return Err(Error::argument(
                "classes",
                format!("{} has class {:?}, but {} are named", s.info.id, s.info.class, classes.len()),
            ));
        }
        Ok(Self { samples, classes })
    }
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.samples.len()
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn info(&self, index: usize) -> Result<SampleInfo> {
        check_index(index, self.len())?;
        Ok(self.samples[index].info.clone())
    }
    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        check_index(index, self.len())?;
        Ok(self.samples[index].clone())
    }
}

/// Some samples of a dataset, in a given order: one part of a split.
#[derive(Clone, Debug)]
pub struct Subset<D> {
    inner: D,
    indices: Vec<usize>,
}

impl<D: Dataset> Subset<D> {
    /// The samples of those indices.
    ///
    /// # Errors
    /// When an index is out of range.
    pub fn new(inner: D, indices: Vec<usize>) -> Result<Self> {
        indices.iter().try_for_each(|i| check_index(*i, inner.len()))?;
        Ok(Self { inner, indices })
    }

    /// The indices into the whole dataset.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }
}

impl<D: Dataset> Dataset for Subset<D> {
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
    fn info(&self, index: usize) -> Result<SampleInfo> {
        check_index(index, self.len())?;
        self.inner.info(self.indices[index])
    }
    fn get(&self, index: usize, rng: &mut Rng) -> Result<Sample> {
        check_index(index, self.len())?;
        self.inner.get(self.indices[index], rng)
    }
}

/// Keeps samples in memory after their first use, up to a number of bytes. When that is reached, what
/// is held stays and the rest is read anew each time.
///
/// What is cached must not depend on chance, so the inner dataset is always given the same generator
/// for a sample: put augmentation outside the cache.
#[derive(Debug)]
pub struct Cached<D> {
    inner: D,
    most_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    samples: HashMap<usize, Arc<Sample>>,
    bytes: usize,
}

impl<D: Dataset> Cached<D> {
    /// Caches up to `most_bytes` of pixels and masks.
    pub fn new(inner: D, most_bytes: usize) -> Self {
        Self { inner, most_bytes, held: Mutex::default() }
    }

    /// How many samples and bytes are held.
    pub fn held(&self) -> (usize, usize) {
        let held = self.lock();
        (held.samples.len(), held.bytes)
    }

    /// A panic elsewhere cannot leave the map half changed, so a poisoned lock is still good.
    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Dataset> Dataset for Cached<D> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
    fn info(&self, index: usize) -> Result<SampleInfo> {
        self.inner.info(index)
    }
    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        let known = self.lock().samples.get(&index).cloned();
        if let Some(sample) = known {
            return Ok((*sample).clone());
        }
        let sample = self.inner.get(index, &mut Rng::new(0).fork("cached").sample(index as u64))?;
        let bytes = sample.bytes();
        let mut held = self.lock();
        if held.bytes + bytes <= self.most_bytes && !held.samples.contains_key(&index) {
            held.bytes += bytes;
            held.samples.insert(index, Arc::new(sample.clone()));
        }
        Ok(sample)
    }
}
