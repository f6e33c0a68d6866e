//! Training a mask-conditioned model, and loading one.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use xdiff::core::cancel::CancelToken;
use xdiff::core::schedule::NoiseSchedule;
use xdiff::core::train::{Checkpoint, Outcome, Progress, TrainBatch, Trainer};
use xdiff::core::unet::UNet2D;
use xdiff::core::{Cond, Denoiser, Error};
use xdiff::data::{Augment, Augmented, Batch, DataLoader, Dataset, LoaderConfig, MaskKind, Position};
use xdiff::nn::Params;

use super::preset::Preset;
use super::source::MriData;
use crate::AnyError;

/// A trained model with what is needed to use it.
#[derive(Debug)]
pub struct Model {
    /// The network, without gradients.
    pub unet: UNet2D,
    /// What it is made of.
    pub preset: Preset,
    /// What its masks mark.
    pub mask: MaskKind,
    /// Where its training images came from.
    pub data: String,
    /// Optimiser steps it was trained for.
    pub steps: usize,
    /// The loss of each step.
    pub history: Vec<f32>,
}

/// The mask as the network sees it: 1 inside, −1 outside. 0 would say "not known".
pub fn condition(mask: &Tensor) -> Result<Cond, AnyError> {
    let inside = mask.gt(0.5)?.to_dtype(candle_core::DType::F32)?;
    Ok(Cond { image: Some(inside.affine(2.0, -1.0)?), ..Default::default() })
}

fn train_batch(batch: Batch, mask: &MaskKind) -> Result<TrainBatch, AnyError> {
    let cond = condition(batch.mask(mask)?)?;
    Ok(TrainBatch { images: batch.images, cond })
}

fn description(preset: &Preset, data: &MriData) -> Value {
    json!({ "preset": preset, "mask": data.mask, "data": data.about })
}

/// Trains to the end of the preset, from the checkpoint at `path` if there is one, and shows the
/// progress. Returns whether it came to the end.
///
/// # Errors
/// When the checkpoint was made with another preset or other data, or the training fails.
pub fn train(
    preset: &Preset,
    data: &MriData,
    path: &Path,
    cancel: &CancelToken,
) -> Result<Outcome, AnyError> {
    let params = Params::fresh(preset.train.seed, &Device::Cpu);
    let unet =
        UNet2D::new(&preset.unet, &params)?.predicting(preset.prediction).checkpointing(preset.checkpointing);
    let schedule = NoiseSchedule::new(&preset.schedule)?;
    let set = params.finish()?;
    eprintln!(
        "{}: {:.2} M parameters, {} images to train on, batches of {}, {:.1} GFLOP an image and step",
        preset.name,
        set.count() as f64 / 1e6,
        data.train.len(),
        preset.batch,
        3.0 * preset.unet.flops(1, preset.size, preset.size) as f64 / 1e9,
    );
    let mut trainer = Trainer::new(unet, set, schedule, preset.train.clone(), description(preset, data))?;
    if let Some(checkpoint) = Checkpoint::read_if_present(path)? {
        trainer.resume(&checkpoint).map_err(|e| format!("{}: {e}", path.display()))?;
        eprintln!("going on from step {} of {}", trainer.step(), path.display());
    }
    let train: std::sync::Arc<dyn Dataset> = if preset.augment {
        std::sync::Arc::new(Augmented::new(data.train.clone(), Augment::default())?)
    } else {
        data.train.clone()
    };
    let config = LoaderConfig { batch_size: preset.batch, seed: preset.train.seed, ..Default::default() };
    let loader = DataLoader::new(train, config)?;
    let batch = trainer.step() * preset.train.accumulate;
    let start = Position { epoch: (batch / loader.batches()) as u64, batch: batch % loader.batches() };
    let mask = data.mask.clone();
    let batches = loader.stream(start).map(|batch| train_batch(batch?, &mask));
    Ok(trainer.run(batches, Some(path), cancel, &mut Progress::new())?)
}

/// Loads a model that [`train`] wrote.
///
/// # Errors
/// When the file is missing or was written by something else.
pub fn load(path: &Path) -> Result<Model, AnyError> {
    let checkpoint = Checkpoint::read(path)?;
    let field = |name: &str| {
        checkpoint.description.get(name).cloned().ok_or_else(|| format!("{}: lacks `{name}`", path.display()))
    };
    let preset: Preset = serde_json::from_value(field("preset")?)?;
    for (name, value) in [("size", preset.size), ("sampling_steps", preset.sampling_steps)] {
        if !(1..=1 << 14).contains(&value) {
            return Err(
                Error::config(name, format!("is {value} in {}, must be 1 to 16384", path.display())).into()
            );
        }
    }
    let params = Params::frozen(checkpoint.inference_weights(), &Device::Cpu);
    let unet = UNet2D::new(&preset.unet, &params)?.predicting(preset.prediction);
    params.finish()?;
    Ok(Model {
        unet,
        mask: serde_json::from_value(field("mask")?)?,
        data: serde_json::from_value(field("data")?)?,
        steps: checkpoint.step,
        history: checkpoint.history,
        preset,
    })
}

/// Whether the file holds this very training, finished.
///
/// # Errors
/// When a file is there but cannot be read.
pub fn is_finished(path: &Path, preset: &Preset, data: &MriData) -> Result<bool, AnyError> {
    Ok(Checkpoint::read_if_present(path)?
        .is_some_and(|c| c.step >= preset.train.steps && c.description == description(preset, data)))
}

/// The checkpoint of a training in an output folder.
pub fn checkpoint_path(out: &Path) -> PathBuf {
    out.join("model.safetensors")
}

impl Model {
    /// The network as a denoiser.
    pub fn denoiser(&self) -> &dyn Denoiser {
        &self.unet
    }
}
