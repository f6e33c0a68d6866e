//! The frozen network as a source of features, and the images as it takes them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use xdiff::core::FeatureExtractor;
use xdiff::core::schedule::NoiseSchedule;
use xdiff::core::unet::UNet2D;
use xdiff::data::{Dataset, MaskKind};
use xdiff::nn::{Rng, Tap};
use xdiff::proto::Batch;
use xdiff::proto::diffusion::{
    DiffusionFeatures, DiffusionFeaturesConfig, FeatureStatistics, SiteMap, Standardised,
};
use xdiff::proto::projection::hash;
use xdiff::proto::train::Batches;

use super::settings::Settings;
use crate::AnyError;
use crate::mri::model::Model;

/// Features of the denoiser at one site and time step, on one scale.
pub type Features<'m> = Standardised<Remembered<DiffusionFeatures<&'m UNet2D>>>;

/// Images that go through the network at a time.
pub const BATCH: usize = 16;

/// The features of a model, standardised by those of the training images, and their statistics.
///
/// # Errors
/// When the network has no such site or the schedule no such time step.
pub fn features<'m>(
    model: &'m Model,
    settings: &Settings,
    train: &dyn Dataset,
) -> Result<(Features<'m>, FeatureStatistics), AnyError> {
    let config = DiffusionFeaturesConfig {
        map: SiteMap::one(settings.site.as_str()),
        timesteps: vec![settings.timestep],
        condition_channels: 1,
        ..Default::default()
    };
    let name = format!("U-Net of preset {} after {} steps, {}", model.preset.name, model.steps, model.data);
    let schedule = NoiseSchedule::new(&model.preset.schedule)?;
    let features = Remembered::new(DiffusionFeatures::new(&model.unet, name, schedule, config)?);
    let measured = FeatureStatistics::measure(&features, all(&batches(train, &model.mask)))?;
    Ok((Standardised::new(features, &measured, settings.spread)?, measured))
}

/// Images in [0, 1] with their masks, as the features take them: (B, 2, side, side), the image in
/// [−1, 1], the mask −1 or 1.
///
/// # Errors
/// When an image or mask does not have side × side values.
pub fn stacked<'a>(
    pairs: impl Iterator<Item = (&'a [f32], &'a [u8])>,
    side: usize,
) -> Result<Tensor, AnyError> {
    let mut values = Vec::new();
    for (image, mask) in pairs {
        values.extend(image.iter().map(|v| 2.0 * v - 1.0));
        values.extend(mask.iter().map(|m| if *m != 0 { 1.0 } else { -1.0 }));
    }
    Ok(Tensor::from_vec(values, ((), 2, side, side), &Device::Cpu)?)
}

/// A dataset in order, batch by batch, the same in every epoch.
pub fn batches<'a>(data: &'a dyn Dataset, mask: &'a MaskKind) -> Batches<'a> {
    Batches::new(data.len().div_ceil(BATCH), move |_, number| batch(data, mask, number))
}

/// The batch of a number.
fn batch(data: &dyn Dataset, mask: &MaskKind, number: usize) -> Result<Batch, AnyError> {
    let samples = (number * BATCH..(number * BATCH + BATCH).min(data.len()))
        .map(|i| Ok(data.get(i, &mut Rng::new(0))?))
        .collect::<Result<Vec<_>, AnyError>>()?;
    let side = samples.first().map_or(1, |s| s.image.height());
    let pairs = samples
        .iter()
        .map(|s| {
            let mask = s.masks.get(mask).ok_or_else(|| format!("{} has no `{mask}` mask", s.info.id))?;
            Ok((s.image.data(), mask.data()))
        })
        .collect::<Result<Vec<_>, AnyError>>()?;
    let ids = samples.iter().map(|s| s.info.id.clone()).collect();
    Ok(Batch::unlabelled(stacked(pairs.into_iter(), side)?, ids)?)
}

/// The images of a dataset by their names, as the network takes them.
pub struct Images<'a> {
    data: &'a dyn Dataset,
    mask: &'a MaskKind,
    index: HashMap<String, usize>,
}

impl std::fmt::Debug for Images<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("count", &self.index.len()).finish_non_exhaustive()
    }
}

impl<'a> Images<'a> {
    /// # Errors
    /// When a name cannot be had.
    pub fn new(data: &'a dyn Dataset, mask: &'a MaskKind) -> Result<Self, AnyError> {
        let index = (0..data.len()).map(|i| Ok((data.info(i)?.id, i))).collect::<Result<_, AnyError>>()?;
        Ok(Self { data, mask, index })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The image of a name with its mask (2, side, side).
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn get(&self, name: &str) -> Result<Tensor, AnyError> {
        let index = self.index.get(name).ok_or_else(|| format!("{name} is no training image"))?;
        let sample = self.data.get(*index, &mut Rng::new(0))?;
        let mask =
            sample.masks.get(self.mask).ok_or_else(|| format!("{name} has no `{}` mask", self.mask))?;
        let pair = (sample.image.data(), mask.data());
        Ok(stacked(std::iter::once(pair), sample.image.height())?.get(0)?)
    }
}

/// All batches of an epoch.
pub fn all<'a>(batches: &'a Batches<'a>) -> impl Iterator<Item = xdiff::proto::Result<Batch>> + 'a {
    (0..batches.count()).map(|number| batches.get(0, number))
}

/// Features that are computed once for each image and then remembered, by the hash of its pixels. A tap
/// sees nothing of images that are remembered.
pub struct Remembered<F> {
    features: F,
    kept: Mutex<HashMap<String, Tensor>>,
}

impl<F> std::fmt::Debug for Remembered<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

impl<F: FeatureExtractor> Remembered<F> {
    /// Nothing is remembered yet. Memory grows with the number of images.
    pub fn new(features: F) -> Self {
        Self { features, kept: Mutex::default() }
    }
}

impl<F: FeatureExtractor> FeatureExtractor for Remembered<F> {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff::core::Result<Tensor> {
        let hash = |image| {
            hash(&image).map_err(|e| xdiff::core::Error::input("images", format!("cannot be hashed: {e}")))
        };
        let rows = (0..images.dim(0)?).map(|i| images.get(i)).collect::<Result<Vec<_>, _>>()?;
        let keys = rows.into_iter().map(hash).collect::<xdiff::core::Result<Vec<_>>>()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.iter().all(|key| kept.contains_key(key)) {
            let features = self.features.features(images, tap)?;
            for (i, key) in keys.iter().enumerate() {
                // A copy, so that a small piece does not hold on to its batch.
                kept.insert(key.clone(), features.get(i)?.force_contiguous()?);
            }
        }
        let found: Vec<Tensor> = keys.iter().filter_map(|key| kept.get(key).cloned()).collect();
        Ok(Tensor::stack(&found, 0)?)
    }

    fn identity(&self) -> String {
        self.features.identity()
    }
}
