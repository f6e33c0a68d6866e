//! The configuration of a training.

use serde::{Deserialize, Serialize};

use crate::stage::Schedule;
use crate::{Error, Result};

/// How a prototype network is trained. Together with the data, the network and its first weights it
/// determines every bit of the result, whatever the number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The stages.
    pub schedule: Schedule,
    /// Longest gradient; a longer one is scaled down. None in the released trainings.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Steps between two checkpoints inside an epoch; 0 for checkpoints at ends of epochs alone.
    #[serde(default)]
    pub checkpoint_every: usize,
    /// Where all chance comes from.
    #[serde(default)]
    pub seed: u64,
}

impl TrainConfig {
    /// As published in everything but the schedule.
    pub fn new(schedule: Schedule, seed: u64) -> Self {
        Self { schedule, clip_norm: None, checkpoint_every: 0, seed }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        self.schedule.validate()?;
        if let Some(norm) = self.clip_norm
            && !(norm > 0.0 && norm.is_finite())
        {
            let reason = format!("is {norm}, must be positive and finite; leave it out for no limit");
            return Err(Error::config("clip_norm", reason));
        }
        Ok(())
    }

    /// Whether a training under `self` goes on exactly as one under `other` would, as far as that has
    /// come: stages may have been added behind its last.
    pub(super) fn continues(&self, other: &Self) -> bool {
        self.schedule.stages.starts_with(&other.schedule.stages)
            && (self.clip_norm, self.seed) == (other.clip_norm, other.seed)
    }
}
