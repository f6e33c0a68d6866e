//! Influence along the denoising.

use candle_core::{Device, Tensor};
use xdiff::core::FeatureExtractor;
use xdiff::core::cancel::CancelToken;
use xdiff::core::sample::{SampleOptions, Sampler};
use xdiff::proto::diffusion::{FeatureStatistics, InfluenceOverTime, SiteMap};
use xdiff::proto::{Prototypes, Similarity};
use xdiff::viz::{Cell, Table};

use super::settings::Settings;
use crate::AnyError;
use crate::mri::model::{Model, condition};
use crate::mri::sampling::{Sampled, scheduler};

/// NIS of each prototype at each step of a run of sampling.
#[derive(Clone, Debug)]
pub struct OverTime {
    /// The time steps, from noise to image.
    pub timesteps: Vec<f64>,
    /// By step and prototype, from the clean image that each step predicts, through the extractor of the
    /// prototypes.
    pub predicted: Vec<Vec<f64>>,
    /// By step and prototype, from the running network at the step's own noise.
    pub running: Vec<Vec<f64>>,
}

/// Draws the first sample again and watches prototypes on the way.
///
/// # Errors
/// When the model cannot be sampled from.
pub fn watch(
    model: &Model,
    sampled: &Sampled,
    prototypes: &Prototypes,
    (features, statistics): (&dyn FeatureExtractor, &FeatureStatistics),
    settings: &Settings,
    cancel: &CancelToken,
) -> Result<OverTime, AnyError> {
    let side = sampled.size;
    let first = sampled.cases.first().ok_or("there is no sample")?;
    let mask: Vec<f32> = first.mask.iter().map(|m| f32::from(u8::from(*m != 0))).collect();
    let cond = condition(&Tensor::from_vec(mask, (1, 1, side, side), &Device::Cpu)?)?;
    let given = cond.image.as_ref().ok_or("the model has no condition")?;
    let mut predicted =
        InfluenceOverTime::predicted(prototypes, Similarity::Linear, features)?.conditioned_on(given)?;
    let map = SiteMap::one(settings.site.as_str());
    let mut running = InfluenceOverTime::running(prototypes, Similarity::Linear, map)?
        .standardised(statistics, settings.spread)?;
    let options = SampleOptions {
        samples: 1,
        shape: (1, side, side),
        steps: sampled.steps,
        seed: sampled.seed,
        ..Default::default()
    };
    Sampler::new(model.denoiser(), &scheduler(model)?)
        .observe(&mut predicted)
        .observe(&mut running)
        .cancel_with(cancel.clone())
        .run(&cond, &options)?;
    let of = |watch: &InfluenceOverTime<'_>| -> Result<Vec<Vec<f64>>, AnyError> {
        Ok(watch.steps()?.iter().filter_map(|step| step.influence.first().cloned()).collect())
    };
    Ok(OverTime {
        timesteps: predicted.steps()?.iter().map(|step| step.t).collect(),
        predicted: of(&predicted)?,
        running: of(&running)?,
    })
}

impl OverTime {
    /// One row a step and prototype.
    ///
    /// # Errors
    /// Never, as long as the columns agree.
    pub fn table(&self) -> Result<Table, AnyError> {
        let mut table = Table::new(["t", "prototype", "nis_predicted", "nis_running"]);
        for (t, (predicted, running)) in self.timesteps.iter().zip(self.predicted.iter().zip(&self.running)) {
            for (j, (a, b)) in predicted.iter().zip(running).enumerate() {
                table.push([Cell::number(*t, 0), Cell::from(j), Cell::number(*a, 6), Cell::number(*b, 6)])?;
            }
        }
        Ok(table)
    }
}
