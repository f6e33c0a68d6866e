//! Watching a training.

use xdiff_core::train::{Progress, TrainObserver};

use super::history::EpochReport;
use crate::Result;

/// Sees each step and each epoch of a training.
pub trait FitObserver: TrainObserver {
    /// Called after the validation of each epoch.
    ///
    /// # Errors
    /// Whatever the observer finds wrong; the training ends with it.
    fn epoch(&mut self, _report: &EpochReport) -> Result<()> {
        Ok(())
    }
}

impl FitObserver for () {}

impl FitObserver for Progress {
    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let measured: String =
            report.validation.iter().map(|(measure, value)| format!("  {measure} {value:.4}")).collect();
        self.note(&format!("epoch {}  training loss {:.4}{measured}", report.epoch + 1, report.train_loss));
        Ok(())
    }
}
