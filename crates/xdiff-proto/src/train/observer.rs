//! Watching a training.

use xdiff_core::train::{Progress, TrainObserver};

use super::history::{EpochReport, Validation};
use crate::Result;
use crate::stage::Stage;

/// Sees each step and each epoch of a training.
pub trait StageObserver: TrainObserver {
    /// Called at the end of each epoch, behind its push.
    ///
    /// # Errors
    /// Whatever the observer finds wrong; the training ends with it.
    fn epoch(&mut self, _stage: &Stage, _report: &EpochReport) -> Result<()> {
        Ok(())
    }
}

impl StageObserver for () {}

impl StageObserver for Progress {
    fn epoch(&mut self, stage: &Stage, report: &EpochReport) -> Result<()> {
        let validated = |validation: Option<Validation>| {
            validation.map_or(String::new(), |v| {
                format!("  cross-entropy {:.4}  accuracy {:.4}", v.cross_entropy, v.accuracy)
            })
        };
        let mut line = format!(
            "epoch {}  {}  training loss {:.4}{}",
            report.epoch + 1,
            stage.name,
            report.loss,
            validated(report.validation)
        );
        if let Some(pushed) = &report.pushed {
            line += &format!("  push: moved {:.4}{}", pushed.moved, validated(pushed.validation));
        }
        self.note(&line);
        Ok(())
    }
}
