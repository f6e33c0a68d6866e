//! The configuration of a training.

use serde::{Deserialize, Serialize};
use xdiff_nn::optim::{AdamWConfig, EmaConfig, LrSchedule};

use super::loss::LossConfig;
use super::update::{Decay, UpdateConfig};
use crate::{Error, Result};

/// Training now and then without the condition, so that guidance has something to guide away from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionDropout {
    /// Share of the samples that lose their condition.
    pub probability: f64,
    /// The class that stands for "no class"; needed when the model is conditioned on classes.
    pub null_class: Option<u32>,
}

/// How a denoiser is trained. Together with the data, the model's configuration and the seed it
/// determines every bit of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps in all.
    pub steps: usize,
    /// The optimiser; its `lr` is the peak of the schedule.
    pub adamw: AdamWConfig,
    /// How the learning rate moves.
    pub lr_schedule: LrSchedule,
    /// The loss.
    pub loss: LossConfig,
    /// Batches whose gradients are averaged into one step.
    pub accumulate: usize,
    /// Longest gradient; a longer one is scaled down.
    pub clip_norm: Option<f64>,
    /// The exponential moving average of the weights; none without.
    pub ema: Option<EmaConfig>,
    /// Training now and then without the condition.
    pub condition_dropout: Option<ConditionDropout>,
    /// Steps between two checkpoints.
    pub checkpoint_every: usize,
    /// Where all chance comes from.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            adamw: AdamWConfig { lr: 1e-4, ..Default::default() },
            lr_schedule: LrSchedule::Constant,
            loss: LossConfig::default(),
            accumulate: 1,
            clip_norm: Some(1.0),
            ema: Some(EmaConfig::default()),
            condition_dropout: None,
            checkpoint_every: 500,
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        self.update().validate()?;
        self.lr_schedule.validate()?;
        self.loss.validate()?;
        if self.steps == 0 {
            return Err(Error::config("steps", "is 0, must be at least 1"));
        }
        if self.accumulate == 0 {
            return Err(Error::config("accumulate", "is 0, must be at least 1"));
        }
        if self.checkpoint_every == 0 {
            return Err(Error::config("checkpoint_every", "is 0, must be at least 1"));
        }
        if let Some(drop) = &self.condition_dropout
            && !(0.0..=1.0).contains(&drop.probability)
        {
            return Err(Error::config(
                "condition_dropout",
                format!("probability is {}, must lie in [0, 1]", drop.probability),
            ));
        }
        Ok(())
    }

    /// How the weights are changed.
    pub(super) fn update(&self) -> UpdateConfig {
        UpdateConfig { adamw: self.adamw, decay: Decay::All, clip_norm: self.clip_norm, ema: self.ema }
    }

    /// Whether a training under `self` goes on exactly as one under `other` would, as far as that
    /// has come: everything but the number of steps and of checkpoints is the same.
    pub fn continues(&self, other: &Self) -> bool {
        *other == Self { steps: other.steps, checkpoint_every: other.checkpoint_every, ..self.clone() }
    }
}
