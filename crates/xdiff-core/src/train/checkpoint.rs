//! A training on disk: one file, written whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::archive::{Archive, Format, checkpoint_error, is_present};
use super::config::TrainConfig;
use crate::Result;

const FORMAT: Format = Format { name: "xdiff-training-1", groups: &["model", "ema", "optimizer"] };

/// Everything that a training needs to go on, and everything that sampling needs to begin.
///
/// A checkpoint is a safetensors file: weights under `model/`, their moving average under `ema/`,
/// the optimiser's state under `optimizer/`, the loss of each step as `history`; step, training
/// configuration and the caller's description of the model stand in its metadata.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Optimiser steps done.
    pub step: usize,
    /// How it was trained.
    pub config: TrainConfig,
    /// What the caller says of model and data, so that the model can be built again.
    pub description: Value,
    /// The weights.
    pub weights: BTreeMap<String, Tensor>,
    /// The state of their moving average, where one was kept.
    pub ema: Option<BTreeMap<String, Tensor>>,
    /// The optimiser's state.
    pub optimizer: BTreeMap<String, Tensor>,
    /// The loss of each step so far.
    pub history: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    step: usize,
    config: TrainConfig,
    description: Value,
}

impl Checkpoint {
    /// The weights to sample with: the moving average where there is one.
    pub fn inference_weights(&self) -> BTreeMap<String, Tensor> {
        match &self.ema {
            None => self.weights.clone(),
            Some(state) => state
                .iter()
                .filter_map(|(name, t)| Some((name.strip_prefix("shadow.")?.to_owned(), t.clone())))
                .collect(),
        }
    }

    /// Writes the file under a temporary name and renames it, so that a reader sees the former
    /// checkpoint or this one, whenever the process ends.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let groups = [
            ("model", Some(&self.weights)),
            ("ema", self.ema.as_ref()),
            ("optimizer", Some(&self.optimizer)),
        ];
        let groups = groups.into_iter().filter_map(|(name, map)| Some((name.to_owned(), map?.clone())));
        let header =
            Header { step: self.step, config: self.config.clone(), description: self.description.clone() };
        Archive { header, groups: groups.collect(), history: self.history.clone() }.write(path, FORMAT)
    }

    /// Reads a file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or is whole but no training checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let mut archive = Archive::<Header>::read(path, FORMAT)?;
        let (weights, ema, optimizer) =
            (archive.take("model"), archive.take("ema"), archive.take("optimizer"));
        let Archive { header: Header { step, config, description }, history, .. } = archive;
        if history.len() != step {
            let reason = format!("it holds {} losses for {step} steps", history.len());
            let hint = "give a file that a training wrote, or start anew with another output folder";
            return Err(checkpoint_error(Some(path), reason, hint));
        }
        let ema = (!ema.is_empty()).then_some(ema);
        Ok(Self { step, config, description, weights, ema, optimizer, history })
    }

    /// Reads the checkpoint at `path` if there is one.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for a missing file.
    pub fn read_if_present(path: &Path) -> Result<Option<Self>> {
        is_present(path)?.then(|| Self::read(path)).transpose()
    }
}
