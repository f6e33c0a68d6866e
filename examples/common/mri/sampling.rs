//! Sampling from the masks of held-out images.

use candle_core::Tensor;
use xdiff::core::cancel::CancelToken;
use xdiff::core::sample::{Keep, Progress, SampleOptions, Sampler, Trajectory};
use xdiff::core::scheduler::{ClipConfig, Ddim, DdimConfig};
use xdiff::data::{Dataset, MaskKind, Sample};
use xdiff::nn::Rng;

use super::model::{Model, condition};
use crate::AnyError;

/// A held-out image with its mask, and what the model made of the mask.
#[derive(Clone, Debug)]
pub struct Case {
    /// The image's name.
    pub id: String,
    /// The image that the mask belongs to, in [0, 1].
    pub real: Vec<f32>,
    /// The mask.
    pub mask: Vec<u8>,
    /// The sample, in [0, 1].
    pub sample: Vec<f32>,
}

/// Samples, and the course of the first one.
#[derive(Debug)]
pub struct Sampled {
    /// One for each mask.
    pub cases: Vec<Case>,
    /// Side of the square images.
    pub size: usize,
    /// Ten steps of the first sample.
    pub course: Vec<Moment>,
    /// DDIM steps.
    pub steps: usize,
    /// The seed.
    pub seed: u64,
    /// Share of the samples' pixels that lay outside [−1, 1] and were cut off.
    pub clipped: f64,
}

/// One step of the first sample, values as the network sees them (about [−1, 1] when clean).
#[derive(Clone, Debug)]
pub struct Moment {
    /// The time step.
    pub t: f64,
    /// The noisy image before the step.
    pub x_t: Vec<f32>,
    /// The clean image predicted at the step.
    pub pred_x0: Vec<f32>,
}

/// Up to `count` indices spread evenly over the samples whose mask marks something.
///
/// # Errors
/// When a sample cannot be read or no mask marks anything.
pub fn choose(data: &dyn Dataset, mask: &MaskKind, count: usize) -> Result<Vec<usize>, AnyError> {
    let mut marked = Vec::new();
    for i in 0..data.len() {
        if data.get(i, &mut Rng::new(0))?.masks.get(mask).is_some_and(|m| m.area() > 0) {
            marked.push(i);
        }
    }
    if marked.is_empty() {
        return Err(format!(
            "none of the {} held-out images has a `{mask}` mask that marks anything",
            data.len()
        )
        .into());
    }
    let n = count.min(marked.len());
    Ok((0..n).map(|k| marked[k * marked.len() / n]).collect())
}

/// The scheduler that a model's preset asks for.
///
/// # Errors
/// When the preset's schedule cannot be used.
pub fn scheduler(model: &Model) -> Result<Ddim, AnyError> {
    Ok(Ddim::new(DdimConfig {
        schedule: model.preset.schedule.clone(),
        prediction_type: model.preset.prediction,
        timestep_spacing: model.preset.spacing.clone(),
        clip: ClipConfig::default(),
        ..Default::default()
    })?)
}

/// Samples one image for each of up to `count` held-out masks.
///
/// # Errors
/// When the data do not fit the model, or the run is cancelled.
pub fn sample(
    model: &Model,
    held_out: &dyn Dataset,
    count: usize,
    seed: u64,
    cancel: &CancelToken,
) -> Result<Sampled, AnyError> {
    let size = model.preset.size;
    let chosen = choose(held_out, &model.mask, count)?
        .into_iter()
        .map(|i| Ok(held_out.get(i, &mut Rng::new(0))?))
        .collect::<Result<Vec<Sample>, AnyError>>()?;
    let masks: Vec<Vec<u8>> = chosen.iter().map(|s| s.masks[&model.mask].data().to_vec()).collect();
    let flat: Vec<f32> = masks.iter().flatten().map(|m| f32::from(u8::from(*m != 0))).collect();
    let cond = condition(&Tensor::from_vec(flat, (masks.len(), 1, size, size), &candle_core::Device::Cpu)?)?;

    let scheduler = scheduler(model)?;
    let steps = model.preset.sampling_steps;
    let options =
        SampleOptions { samples: masks.len(), shape: (1, size, size), steps, seed, ..Default::default() };
    let ten = (0..10).map(|k| k * (steps - 1) / 9).collect();
    let mut trajectory = Trajectory::new(Keep::Steps(ten));
    let mut progress = Progress::default();
    let images = Sampler::new(model.denoiser(), &scheduler)
        .observe(&mut trajectory)
        .observe(&mut progress)
        .cancel_with(cancel.clone())
        .run(&cond, &options)?;

    let first = |x: Tensor| -> Result<Vec<f32>, AnyError> { Ok(x.get(0)?.flatten_all()?.to_vec1()?) };
    let kept: Vec<(usize, f64)> = trajectory.steps().collect();
    let course = kept
        .into_iter()
        .map(|(step, t)| {
            Ok(Moment { t, x_t: first(trajectory.x_t(step)?)?, pred_x0: first(trajectory.pred_x0(step)?)? })
        })
        .collect::<Result<Vec<_>, AnyError>>()?;

    let values = images.flatten_all()?.to_vec1::<f32>()?;
    let outside = values.iter().filter(|v| v.abs() > 1.0).count();
    let cases = chosen
        .into_iter()
        .zip(masks)
        .zip(values.chunks(size * size))
        .map(|((real, mask), sample)| Case {
            id: real.info.id,
            real: real.image.data().to_vec(),
            mask,
            sample: sample.iter().map(|v| (v.clamp(-1.0, 1.0) + 1.0) / 2.0).collect(),
        })
        .collect();
    Ok(Sampled { cases, size, course, steps, seed, clipped: outside as f64 / values.len().max(1) as f64 })
}
