//! The frozen network as a source of features, and the images as it takes them.

use candle_core::{Device, Tensor};
use xdiff::core::schedule::NoiseSchedule;
use xdiff::core::unet::UNet2D;
use xdiff::data::{Dataset, MaskKind};
use xdiff::nn::Rng;
use xdiff::proto::Batch;
use xdiff::proto::diffusion::{
    DiffusionFeatures, DiffusionFeaturesConfig, FeatureStatistics, SiteMap, Standardised,
};

use super::settings::Settings;
use crate::AnyError;
use crate::mri::model::Model;

/// Features of the denoiser at one site and time step, on one scale.
pub type Features<'m> = Standardised<DiffusionFeatures<&'m UNet2D>>;

/// Images that go through the network at a time.
pub const BATCH: usize = 16;

/// The features of a model, standardised by those of the training images.
///
/// # Errors
/// When the network has no such site or the schedule no such time step.
pub fn features<'m>(
    model: &'m Model,
    settings: &Settings,
    train: &dyn Dataset,
) -> Result<Features<'m>, AnyError> {
    let config = DiffusionFeaturesConfig {
        map: SiteMap::one(settings.site.as_str()),
        timesteps: vec![settings.timestep],
        condition_channels: 1,
        ..Default::default()
    };
    let name = format!("U-Net of preset {} after {} steps, {}", model.preset.name, model.steps, model.data);
    let schedule = NoiseSchedule::new(&model.preset.schedule)?;
    let features = DiffusionFeatures::new(&model.unet, name, schedule, config)?;
    let measured = FeatureStatistics::measure(&features, batches(train, &model.mask))?;
    Ok(Standardised::new(features, &measured, settings.spread)?)
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

/// A dataset in order, batch by batch.
pub fn batches<'a>(
    data: &'a dyn Dataset,
    mask: &'a MaskKind,
) -> impl Iterator<Item = Result<Batch, AnyError>> + 'a {
    (0..data.len()).step_by(BATCH).map(move |start| {
        let samples = (start..(start + BATCH).min(data.len()))
            .map(|i| Ok(data.get(i, &mut Rng::new(0))?))
            .collect::<Result<Vec<_>, AnyError>>()?;
        let side = samples[0].image.height();
        let pairs = samples
            .iter()
            .map(|s| {
                let mask = s.masks.get(mask).ok_or_else(|| format!("{} has no `{mask}` mask", s.info.id))?;
                Ok((s.image.data(), mask.data()))
            })
            .collect::<Result<Vec<_>, AnyError>>()?;
        let ids = samples.iter().map(|s| s.info.id.clone()).collect();
        Ok(Batch::unlabelled(stacked(pairs.into_iter(), side)?, ids)?)
    })
}
