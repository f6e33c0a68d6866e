//! Frozen features of the training images.

use candle_core::{DType, Device, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_nn::{Rng, Tap};

use super::k_means::Points;
use crate::diffusion::constant;
use crate::train::Batches;
use crate::{Batch, Error, Result};

/// The features of images, computed once and kept where they fit a budget of memory, and computed anew in
/// each pass otherwise. Either way they are the same numbers.
pub struct FeatureBank<'a> {
    extractor: &'a dyn FeatureExtractor,
    images: &'a Batches<'a>,
    /// (D, h, w) of each image.
    kept: Option<Vec<Tensor>>,
    shape: (usize, usize, usize),
    device: Device,
    /// The first image of each batch.
    starts: Vec<usize>,
    ids: Vec<String>,
    classes: Vec<u32>,
}

impl std::fmt::Debug for FeatureBank<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureBank")
            .field("extractor", &self.extractor.identity())
            .field("images", &self.ids.len())
            .field("shape", &self.shape)
            .field("kept", &self.kept.is_some())
            .finish_non_exhaustive()
    }
}

impl<'a> FeatureBank<'a> {
    /// Looks at all images of epoch 0 once, and keeps their features as long as they take no more than
    /// `budget` bytes.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no image, maps differ in size, or all patches are the same;
    /// [`Error::NonFinite`] naming the image whose features are; those of images and extractor.
    pub fn new(extractor: &'a dyn FeatureExtractor, images: &'a Batches<'a>, budget: usize) -> Result<Self> {
        let mut bank = Self {
            extractor,
            images,
            kept: Some(Vec::new()),
            shape: (0, 0, 0),
            device: Device::Cpu,
            starts: Vec::new(),
            ids: Vec::new(),
            classes: Vec::new(),
        };
        let mut first_patch: Option<Vec<f32>> = None;
        let mut varies = false;
        for number in 0..images.count() {
            let batch = images.get(0, number)?;
            bank.starts.push(bank.ids.len());
            let features = bank.extract(&batch)?;
            bank.check(&features, &batch)?;
            bank.device = features.device().clone();
            let (d, h, w) = bank.shape;
            for b in 0..batch.len() {
                let map = features.get(b)?;
                let values = map.flatten_all()?.to_vec1::<f32>()?;
                let first = first_patch
                    .get_or_insert_with(|| (0..d).map(|channel| values[channel * h * w]).collect());
                varies = varies
                    || values
                        .chunks_exact(h * w)
                        .zip(first)
                        .any(|(row, first)| row.iter().any(|v| v != first));
                if let Some(kept) = &mut bank.kept {
                    kept.push(map.copy()?);
                }
            }
            bank.ids.extend_from_slice(batch.ids());
            bank.classes.extend_from_slice(batch.classes());
            if bank.ids.len().saturating_mul(d * h * w * size_of::<f32>()) > budget {
                bank.kept = None;
            }
        }
        if bank.ids.is_empty() {
            return Err(Error::input("images", "there is none to learn from"));
        }
        if !varies {
            return Err(constant(bank.patches() as u64));
        }
        Ok(bank)
    }

    /// Whether the features are in memory.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// How many images there are.
    pub fn images(&self) -> usize {
        self.ids.len()
    }

    /// How many patches all images have.
    pub fn patches(&self) -> usize {
        self.images() * self.shape.1 * self.shape.2
    }

    /// D.
    pub fn width(&self) -> usize {
        self.shape.0
    }

    /// Where the features are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Patches of an image.
    pub fn positions(&self) -> usize {
        self.shape.1 * self.shape.2
    }

    /// The class of each image.
    pub fn classes(&self) -> &[u32] {
        &self.classes
    }

    /// The mean over the patches of each image (images, D).
    ///
    /// # Errors
    /// Those of images and extractor.
    pub fn means(&self) -> Result<Tensor> {
        let mut rows = Vec::with_capacity(self.images());
        self.each(&mut |patches| {
            rows.push(patches.mean(0)?);
            Ok(())
        })?;
        Ok(Tensor::stack(&rows, 0)?)
    }

    fn extract(&self, batch: &Batch) -> Result<Tensor> {
        Ok(self.extractor.features(batch.images(), &mut ())?.detach().to_dtype(DType::F32)?)
    }

    fn check(&mut self, features: &Tensor, batch: &Batch) -> Result<()> {
        match *features.dims() {
            [b, d, h, w]
                if b == batch.len() && d * h * w > 0 && (self.ids.is_empty() || self.shape == (d, h, w)) =>
            {
                self.shape = (d, h, w);
            }
            _ => {
                let reason = format!(
                    "have shape {:?} for {} images; those before had (D, h, w) = {:?}",
                    features.dims(),
                    batch.len(),
                    self.shape
                );
                return Err(Error::input("features", reason));
            }
        }
        let sums = features.flatten_from(1)?.sum(1)?.to_vec1::<f32>()?;
        match sums.iter().position(|sum| !sum.is_finite()) {
            None => Ok(()),
            Some(i) => Err(Error::NonFinite {
                what: "a feature",
                of: format!("`{}`", batch.ids()[i]),
                hint: "check the image for NaN and the weights of the extractor",
            }),
        }
    }

    /// Steps of an epoch with `n` images each, or as many as the images' own batches.
    pub(super) fn steps(&self, n: usize) -> usize {
        if self.is_kept() { self.images().div_ceil(n) } else { self.images.count() }
    }

    /// A step's images, of which the trainer's network takes the features: drawn anew for each epoch from
    /// the seed where features are kept, and a batch as it comes where they are not.
    pub(super) fn step(
        &self,
        n: usize,
        seed: u64,
        epoch: u64,
        number: usize,
        labels: &[u32],
    ) -> Result<Batch> {
        if self.kept.is_none() {
            return self.own(number, labels);
        }
        let mut order: Vec<usize> = (0..self.images()).collect();
        Rng::new(seed).fork("order").sample(epoch).shuffle(&mut order);
        let chosen = order.chunks(n).nth(number).unwrap_or(&[]);
        self.gather(chosen, labels)
    }

    /// A batch of the images' own, for a push.
    pub(super) fn own(&self, number: usize, labels: &[u32]) -> Result<Batch> {
        let start = self.starts.get(number).copied().unwrap_or(0);
        if self.is_kept() {
            let end = self.starts.get(number + 1).copied().unwrap_or(self.images());
            return self.gather(&(start..end).collect::<Vec<_>>(), labels);
        }
        self.labelled(number, labels)
    }

    /// A batch of the images themselves, with other classes.
    pub(super) fn labelled(&self, number: usize, labels: &[u32]) -> Result<Batch> {
        let start = self.starts.get(number).copied().unwrap_or(0);
        let batch = self.images.get(0, number)?;
        let labels = labels.iter().skip(start).take(batch.len()).copied().collect();
        Batch::new(batch.images().clone(), batch.ids().to_vec(), labels)
    }

    /// How many batches of their own the images have.
    pub(super) fn own_batches(&self) -> usize {
        self.images.count()
    }

    fn gather(&self, chosen: &[usize], labels: &[u32]) -> Result<Batch> {
        let kept = self.kept.as_deref().unwrap_or(&[]);
        let maps: Vec<&Tensor> = chosen.iter().filter_map(|i| kept.get(*i)).collect();
        let ids = chosen.iter().filter_map(|i| self.ids.get(*i).cloned()).collect();
        let labels = chosen.iter().filter_map(|i| labels.get(*i).copied()).collect();
        Batch::new(Tensor::stack(&maps, 0)?, ids, labels)
    }

    /// What turns the batches of [`step`](Self::step) into features.
    pub(super) fn reader(&self) -> Reader<'a> {
        if self.is_kept() { Reader::Kept(self.extractor.identity()) } else { Reader::Anew(self.extractor) }
    }
}

impl Points for FeatureBank<'_> {
    fn count(&self) -> usize {
        self.patches()
    }

    /// The patches of one image after another, row by row.
    fn each(&self, f: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
        let mut patches = |map: &Tensor| f(&map.flatten_from(1)?.t()?.contiguous()?);
        if let Some(kept) = &self.kept {
            return kept.iter().try_for_each(patches);
        }
        for number in 0..self.images.count() {
            let features = self.extract(&self.images.get(0, number)?)?;
            (0..features.dim(0)?).try_for_each(|b| patches(&features.get(b)?))?;
        }
        Ok(())
    }
}

/// Features from kept features, or from images.
#[derive(Clone)]
pub(super) enum Reader<'a> {
    /// What it is given are features already, of the extractor of this identity.
    Kept(String),
    /// The extractor.
    Anew(&'a dyn FeatureExtractor),
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.identity())
    }
}

impl FeatureExtractor for Reader<'_> {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        match self {
            Reader::Kept(_) => Ok(images.clone()),
            Reader::Anew(extractor) => extractor.features(images, tap),
        }
    }

    fn identity(&self) -> String {
        match self {
            Reader::Kept(identity) => format!("kept features of {identity}"),
            Reader::Anew(extractor) => extractor.identity(),
        }
    }
}
