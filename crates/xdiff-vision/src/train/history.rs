//! What happened in a training.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use xdiff_core::train::Tensors;

use super::config::{EarlyStopping, Measure};
use crate::Result;

/// What one epoch gave.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochReport {
    /// The epoch, from 0.
    pub epoch: usize,
    /// The mean of the losses of its steps.
    pub train_loss: f64,
    /// The learning rate of its last step.
    pub lr: f64,
    /// What the validation measured; nothing where there was none.
    pub validation: BTreeMap<Measure, f64>,
}

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// What each epoch gave.
    pub epochs: Vec<EpochReport>,
}

impl History {
    /// The best epoch by a measure, the first of equal ones.
    pub fn best(&self, by: Measure) -> Option<(usize, f64)> {
        let values = self.epochs.iter().filter_map(|e| Some((e.epoch, *e.validation.get(&by)?)));
        values.reduce(|best, next| if by.gain(next.1, best.1) > 0.0 { next } else { best })
    }

    /// Epochs since the last improvement by a measure.
    pub fn stale(&self, by: Measure, min_delta: f64) -> usize {
        let mut reference: Option<f64> = None;
        let mut stale = 0;
        for value in self.epochs.iter().filter_map(|e| e.validation.get(&by)) {
            if reference.is_none_or(|r| by.gain(*value, r) > min_delta) {
                (reference, stale) = (Some(*value), 0);
            } else {
                stale += 1;
            }
        }
        stale
    }

    pub(super) fn has_stopped(&self, by: Measure, stopping: Option<EarlyStopping>) -> bool {
        stopping.is_some_and(|s| self.stale(by, s.min_delta) >= s.patience)
    }

    /// The epochs as columns of f64, to the last bit.
    pub(super) fn columns(&self) -> Result<Tensors> {
        let mut columns = Tensors::new();
        let mut put = |name: &str, values: Vec<f64>| -> Result<()> {
            if !values.is_empty() {
                columns.insert(name.to_owned(), Tensor::new(values, &Device::Cpu)?);
            }
            Ok(())
        };
        put("train_loss", self.epochs.iter().map(|e| e.train_loss).collect())?;
        put("lr", self.epochs.iter().map(|e| e.lr).collect())?;
        for measure in Measure::ALL {
            let values = self.epochs.iter().filter_map(|e| e.validation.get(&measure).copied());
            put(&format!("validation.{measure}"), values.collect())?;
        }
        Ok(columns)
    }

    /// What [`columns`](Self::columns) gave; the reason when the columns are something else.
    pub(super) fn from_columns(losses: Vec<f32>, columns: Tensors) -> std::result::Result<Self, String> {
        let mut read = BTreeMap::new();
        for (name, column) in columns {
            let values = column.to_vec1::<f64>().map_err(|_| format!("`epochs/{name}` is no list of f64"))?;
            read.insert(name, values);
        }
        let train = read.remove("train_loss").unwrap_or_default();
        let lr = read.remove("lr").unwrap_or_default();
        let mut epochs: Vec<EpochReport> = (train.iter().zip(&lr).enumerate())
            .map(|(epoch, (loss, lr))| EpochReport {
                epoch,
                train_loss: *loss,
                lr: *lr,
                validation: BTreeMap::new(),
            })
            .collect();
        for measure in Measure::ALL {
            let Some(values) = read.remove(&format!("validation.{measure}")) else { continue };
            if values.len() != epochs.len() {
                return Err(format!("`{measure}` has {} values for {} epochs", values.len(), epochs.len()));
            }
            for (epoch, value) in epochs.iter_mut().zip(values) {
                epoch.validation.insert(measure, value);
            }
        }
        if let Some(name) = read.keys().next() {
            return Err(format!("it holds `epochs/{name}`, which no training writes"));
        }
        if train.len() != lr.len() {
            return Err("its epochs lack losses or learning rates".to_owned());
        }
        Ok(Self { losses, epochs })
    }
}
