//! The configuration of a supervised training.

use std::fmt;

use serde::{Deserialize, Serialize};
use xdiff_core::train::{Decay, UpdateConfig};
use xdiff_nn::optim::{AdamWConfig, EmaConfig, LrSchedule};

use crate::{Error, Result};

/// A number by which epochs are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Measure {
    /// The loss on the validation data; the less the better.
    #[default]
    Loss,
    /// The share of right answers.
    Accuracy,
    /// The mean, over the classes that occur in the truth, of the share of their samples that were
    /// recognised.
    BalancedAccuracy,
    /// The mean F1 over the classes that occur in truth or answers.
    MacroF1,
    /// The mean, over images and foreground classes, of the Dice coefficient.
    Dice,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Loss, Self::Accuracy, Self::BalancedAccuracy, Self::MacroF1, Self::Dice];

    /// The name in configurations and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced_accuracy",
            Self::MacroF1 => "macro_f1",
            Self::Dice => "dice",
        }
    }

    /// How much better `value` is than `other`; negative when it is worse.
    pub fn gain(self, value: f64, other: f64) -> f64 {
        if self == Self::Loss { other - value } else { value - other }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a training that no longer improves ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStopping {
    /// It ends after this many epochs without an improvement.
    pub patience: usize,
    /// An improvement is more than this. The best weights are those of the best epoch all the same,
    /// however little it was better.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    /// Ten epochs, and every improvement counts.
    fn default() -> Self {
        Self { patience: 10, min_delta: 0.0 }
    }
}

/// How the learning rate moves, in epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The same throughout.
    #[default]
    Constant,
    /// From 0 up over `warmup` epochs, then down to 0 along half a cosine until the last epoch.
    WarmupCosine {
        /// Epochs of the rise, which may be a fraction.
        warmup: f64,
    },
}

/// How a network is trained. Together with the data, the network and the seed it determines every bit
/// of the result, whatever the number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitConfig {
    /// Passes through the training data, at most.
    pub epochs: usize,
    /// The optimiser; its `lr` is the peak of the schedule.
    pub adamw: AdamWConfig,
    /// What the weight decay reaches.
    pub decay: Decay,
    /// How the learning rate moves.
    pub schedule: Schedule,
    /// Batches whose gradients are averaged into one step; the last step of an epoch takes what is
    /// left.
    pub accumulate: usize,
    /// Longest gradient; a longer one is scaled down.
    pub clip_norm: Option<f64>,
    /// The exponential moving average of the weights, with which it is validated then.
    pub ema: Option<EmaConfig>,
    /// By what epochs are compared.
    pub monitor: Measure,
    /// When a training that no longer improves ends; never without.
    pub early_stopping: Option<EarlyStopping>,
    /// Paths of layers that are left as they are, weights and running statistics: `features`,
    /// `layer1.0`. [`Params::freeze`](xdiff_nn::Params::freeze) spares computing their gradients too.
    pub frozen: Vec<String>,
    /// Steps between two checkpoints inside an epoch; 0 for checkpoints at ends of epochs alone.
    pub checkpoint_every: usize,
    /// Where all chance comes from.
    pub seed: u64,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self {
            epochs: 20,
            adamw: AdamWConfig { lr: 1e-3, ..Default::default() },
            decay: Decay::Matrices,
            schedule: Schedule::Constant,
            accumulate: 1,
            clip_norm: Some(1.0),
            ema: None,
            monitor: Measure::Loss,
            early_stopping: None,
            frozen: Vec::new(),
            checkpoint_every: 0,
            seed: 0,
        }
    }
}

impl FitConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [("epochs", self.epochs), ("accumulate", self.accumulate)] {
            if value == 0 {
                return Err(Error::config(field, "is 0, must be at least 1"));
            }
        }
        if let Schedule::WarmupCosine { warmup } = self.schedule
            && !(0.0..self.epochs as f64).contains(&warmup)
        {
            let reason = format!("warmup is {warmup} epochs, must lie in [0, {})", self.epochs);
            return Err(Error::config("schedule", reason));
        }
        if let Some(stop) = self.early_stopping {
            if stop.patience == 0 {
                return Err(Error::config("early_stopping", "patience is 0, must be at least 1"));
            }
            if !(stop.min_delta >= 0.0 && stop.min_delta.is_finite()) {
                let reason = format!("min_delta is {}, must be 0 or more", stop.min_delta);
                return Err(Error::config("early_stopping", reason));
            }
        }
        if self.frozen.iter().any(String::is_empty) {
            return Err(Error::config("frozen", "holds an empty path; name layers, such as `layer1`"));
        }
        self.update().validate()
    }

    pub(super) fn update(&self) -> UpdateConfig {
        let Self { adamw, decay, clip_norm, ema, .. } = *self;
        UpdateConfig { adamw, decay, clip_norm, ema }
    }

    /// The learning rate of the step after `done` steps.
    pub(super) fn lr(&self, done: usize, steps_per_epoch: usize) -> f64 {
        let schedule = match self.schedule {
            Schedule::Constant => LrSchedule::Constant,
            Schedule::WarmupCosine { warmup } => LrSchedule::WarmupCosine {
                warmup: (warmup * steps_per_epoch as f64).round() as u64,
                total: self.epochs.saturating_mul(steps_per_epoch) as u64,
                cycles: 0.5,
            },
        };
        schedule.lr(self.adamw.lr, done as u64)
    }

    /// Whether a training under `self` goes on exactly as one under `other` would, as far as that has
    /// come. The number of epochs may differ when the learning rate does not depend on it.
    pub(super) fn continues(&self, other: &Self) -> bool {
        let epochs = if self.schedule == Schedule::Constant { other.epochs } else { self.epochs };
        *other == Self { epochs, checkpoint_every: other.checkpoint_every, ..self.clone() }
    }
}
