//! The training loop.

use std::error::Error as StdError;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::Value;
use xdiff_nn::weights::remove_leftovers;
use xdiff_nn::{ParamSet, Rng};

use super::archive::checkpoint_error;
use super::checkpoint::Checkpoint;
use super::config::TrainConfig;
use super::loss::{NoisySample, diffusion_loss};
use super::observer::{StepReport, TrainObserver};
use super::update::{Accumulated, State, Updater};
use crate::cancel::CancelToken;
use crate::schedule::NoiseSchedule;
use crate::{Cond, Denoiser, Error, Result};

/// Clean images and what they are conditioned on.
#[derive(Clone, Debug)]
pub struct TrainBatch {
    /// (B, C, H, W), in [−1, 1].
    pub images: Tensor,
    /// The conditions of the same samples.
    pub cond: Cond,
}

/// How a run of the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// The run was cancelled between two steps; a checkpoint was written if there is a place for it.
    Cancelled,
}

/// Trains a denoiser.
///
/// All chance of step s comes from (seed, s): a training that was interrupted, by whatever, and
/// resumed from its last checkpoint ends with the same bits as one that ran through, provided that
/// the batches it is given from step s on are the same.
#[derive(Debug)]
pub struct Trainer<D> {
    model: D,
    updater: Updater,
    schedule: NoiseSchedule,
    config: TrainConfig,
    description: Value,
    history: Vec<f32>,
}

impl<D: Denoiser> Trainer<D> {
    /// A training at step 0. `description` is kept in the checkpoints, for building the model again.
    ///
    /// # Errors
    /// When the configuration does not validate or the model has nothing to train.
    pub fn new(
        model: D,
        params: ParamSet,
        schedule: NoiseSchedule,
        config: TrainConfig,
        description: Value,
    ) -> Result<Self> {
        config.validate()?;
        let updater = Updater::new(params, config.update())?;
        Ok(Self { model, updater, schedule, config, description, history: Vec::new() })
    }

    /// Goes on where a checkpoint stopped.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it was made under another configuration or for another model;
    /// the training is then as it was.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let differs = |what: &str| {
            let hint = "resume with the configuration it was made with, or start anew in another folder";
            Err(checkpoint_error(None, format!("it was made with another {what}"), hint))
        };
        if !self.config.continues(&checkpoint.config) {
            return differs("training configuration");
        }
        if self.description != checkpoint.description {
            return differs("model or data description");
        }
        self.updater.load_state(&State {
            weights: checkpoint.weights.clone(),
            ema: checkpoint.ema.clone(),
            optimizer: checkpoint.optimizer.clone(),
        })?;
        self.history.clone_from(&checkpoint.history);
        Ok(())
    }

    /// Steps done so far: the position from which the next batches must come.
    pub fn step(&self) -> usize {
        self.history.len()
    }

    /// The loss of each step so far.
    pub fn history(&self) -> &[f32] {
        &self.history
    }

    /// The model.
    pub fn model(&self) -> &D {
        &self.model
    }

    /// The weights that are being trained.
    pub fn params(&self) -> &ParamSet {
        self.updater.params()
    }

    /// The state now.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let State { weights, ema, optimizer } = self.updater.state()?;
        Ok(Checkpoint {
            step: self.step(),
            config: self.config.clone(),
            description: self.description.clone(),
            weights,
            ema,
            optimizer,
            history: self.history.clone(),
        })
    }

    /// Trains until all steps are done or the token is raised, writing the checkpoint to `path`
    /// every [`TrainConfig::checkpoint_every`] steps and at the end. What a killed run left half
    /// written beside it is removed first.
    ///
    /// `batches` must begin with the batch of step [`step`](Self::step), counted in batches:
    /// step × [`TrainConfig::accumulate`].
    ///
    /// # Errors
    /// When the batches end or fail, shapes do not fit, a loss or gradient is not finite, or a
    /// checkpoint cannot be written. The last checkpoint on disk remains.
    pub fn run<E: Into<Box<dyn StdError + Send + Sync>>>(
        &mut self,
        mut batches: impl Iterator<Item = std::result::Result<TrainBatch, E>>,
        path: Option<&Path>,
        cancel: &CancelToken,
        observer: &mut dyn TrainObserver,
    ) -> Result<Outcome> {
        if let Some(path) = path {
            remove_leftovers(path);
        }
        let mut saved = self.step();
        while self.step() < self.config.steps {
            if cancel.is_cancelled() {
                self.save(path, &mut saved)?;
                return Ok(Outcome::Cancelled);
            }
            let report = self.one_step(&mut batches)?;
            observer.step(&report)?;
            if report.step % self.config.checkpoint_every == 0 {
                self.save(path, &mut saved)?;
            }
        }
        self.save(path, &mut saved)?;
        Ok(Outcome::Finished)
    }

    fn save(&self, path: Option<&Path>, saved: &mut usize) -> Result<()> {
        if let Some(path) = path
            && *saved != self.step()
        {
            self.checkpoint()?.write(path)?;
            *saved = self.step();
        }
        Ok(())
    }

    fn one_step<E: Into<Box<dyn StdError + Send + Sync>>>(
        &mut self,
        batches: &mut impl Iterator<Item = std::result::Result<TrainBatch, E>>,
    ) -> Result<StepReport> {
        let step = self.step();
        let rng = Rng::new(self.config.seed).fork("train").sample(step as u64);
        let mut sum = Accumulated::default();
        for micro in 0..self.config.accumulate {
            let batch = match batches.next() {
                Some(Ok(batch)) => batch,
                Some(Err(e)) => return Err(Error::Data(e.into())),
                None => {
                    return Err(Error::input(
                        "batches",
                        format!("they ended at step {step}; give an endless iterator"),
                    ));
                }
            };
            let loss = self.loss(&batch, &rng.sample(micro as u64))?;
            sum.add(&loss, self.updater.params(), step)?;
        }
        let lr = self.config.lr_schedule.lr(self.config.adamw.lr, step as u64);
        let done = self.updater.apply(sum, lr, step)?;
        self.history.push(done.loss as f32);
        let (loss, grad_norm) = (done.loss, done.grad_norm);
        Ok(StepReport { step: step + 1, total: self.config.steps, loss, grad_norm, lr })
    }

    fn loss(&self, batch: &TrainBatch, rng: &Rng) -> Result<Tensor> {
        let x0 = &batch.images;
        let &[count, channels, height, width] = x0.dims() else {
            return Err(Error::input(
                "training images",
                format!("shape {:?}, must be (B, C, H, W)", x0.dims()),
            ));
        };
        if count == 0 {
            return Err(Error::input("training images", "the batch is empty"));
        }
        let size = channels * height * width;
        let mut noise = Vec::with_capacity(count * size);
        let mut t = Vec::with_capacity(count);
        let mut kept = Vec::with_capacity(count);
        for i in 0..count {
            // A sample's chance is its own, so that it does not depend on the rest of the batch.
            let mut rng = rng.sample(i as u64);
            t.push(rng.below(self.schedule.steps()) as f32);
            let lost = self.config.condition_dropout.is_some_and(|d| rng.chance(d.probability));
            kept.push(!lost);
            let start = noise.len();
            noise.extend(rng.normals(size));
            if self.config.loss.offset_noise > 0.0 {
                for channel in noise[start..].chunks_mut((height * width).max(1)) {
                    let offset = (self.config.loss.offset_noise * rng.normal()) as f32;
                    channel.iter_mut().for_each(|v| *v += offset);
                }
            }
        }
        let device = x0.device();
        let noise = Tensor::from_vec(noise, x0.shape(), device)?;
        let t = Tensor::from_vec(t, count, device)?;
        let x_t = self.schedule.add_noise(x0, &noise, &t)?;
        let cond = self.drop_conditions(&batch.cond, &kept, device)?;
        let predicted = self.model.predict_training(&x_t, &t, &cond, &mut rng.fork("dropout"))?;
        let sample = NoisySample { x0, noise: &noise, t: &t };
        diffusion_loss(&self.config.loss, &self.schedule, self.model.prediction(), &predicted, &sample)
    }

    /// Zeroes the images and text of the samples that lost their condition, and gives them the
    /// null class.
    fn drop_conditions(&self, cond: &Cond, kept: &[bool], device: &Device) -> Result<Cond> {
        if kept.iter().all(|k| *k) {
            return Ok(cond.clone());
        }
        let keep = Tensor::from_iter(kept.iter().map(|k| f32::from(u8::from(*k))), device)?;
        let class = match (&cond.class, self.config.condition_dropout.and_then(|d| d.null_class)) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(Error::config(
                    "condition_dropout",
                    "null_class must be given when the model is conditioned on classes",
                ));
            }
            (Some(class), Some(null)) => {
                let keep = Tensor::from_iter(kept.iter().map(|k| u8::from(*k)), device)?;
                Some(keep.where_cond(class, &class.ones_like()?.affine(f64::from(null), 0.0)?)?)
            }
        };
        let image = match &cond.image {
            None => None,
            Some(x) => Some(x.broadcast_mul(&keep.reshape(((), 1, 1, 1))?)?),
        };
        let text = match &cond.text {
            None => None,
            Some(x) => Some(x.broadcast_mul(&keep.reshape(((), 1, 1))?)?),
        };
        Ok(Cond { image, class, text })
    }
}
