//! A training on disk: one file, written whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xdiff_nn::weights::{read_safetensors_with_metadata, write_safetensors};

use super::config::TrainConfig;
use crate::{Error, Result};

const FORMAT: &str = "xdiff-training-1";

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
        let header =
            Header { step: self.step, config: self.config.clone(), description: self.description.clone() };
        let header = serde_json::to_string(&header).map_err(|e| Error::input("checkpoint", e.to_string()))?;
        let metadata =
            BTreeMap::from([("format".to_owned(), FORMAT.to_owned()), ("training".to_owned(), header)]);
        let mut tensors = BTreeMap::new();
        let groups = [
            ("model", Some(&self.weights)),
            ("ema", self.ema.as_ref()),
            ("optimizer", Some(&self.optimizer)),
        ];
        for (group, map) in groups {
            for (name, t) in map.into_iter().flatten() {
                tensors.insert(format!("{group}/{name}"), t.clone());
            }
        }
        let history = Tensor::from_slice(&self.history, self.history.len(), &Device::Cpu)?;
        tensors.insert("history".to_owned(), history);
        Ok(write_safetensors(path, &tensors, &metadata)?)
    }

    /// Reads a file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When the file cannot be read, or is whole but no training checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |reason: String| Error::Checkpoint {
            path: path.to_owned(),
            reason,
            hint: "give a file that a training wrote, or start anew with another output folder",
        };
        let (tensors, metadata) = read_safetensors_with_metadata(path)?;
        match metadata.get("format").map(String::as_str) {
            Some(FORMAT) => {}
            other => return Err(bad(format!("its format is {other:?}, not {FORMAT:?}"))),
        }
        let header = metadata.get("training").ok_or_else(|| bad("it has no `training` entry".to_owned()))?;
        let header: Header = serde_json::from_str(header).map_err(|e| bad(e.to_string()))?;
        let (mut weights, mut ema, mut optimizer) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut history = Vec::new();
        for (name, t) in tensors {
            match name.split_once('/') {
                Some(("model", rest)) => drop(weights.insert(rest.to_owned(), t)),
                Some(("ema", rest)) => drop(ema.insert(rest.to_owned(), t)),
                Some(("optimizer", rest)) => drop(optimizer.insert(rest.to_owned(), t)),
                None if name == "history" => {
                    let kind =
                        format!("`history` is {:?} of shape {:?}, not a list of f32", t.dtype(), t.dims());
                    history = t.to_vec1::<f32>().map_err(|_| bad(kind))?;
                }
                _ => return Err(bad(format!("it holds `{name}`, which no training writes"))),
            }
        }
        if history.len() != header.step {
            return Err(bad(format!("it holds {} losses for {} steps", history.len(), header.step)));
        }
        Ok(Self {
            step: header.step,
            config: header.config,
            description: header.description,
            weights,
            ema: (!ema.is_empty()).then_some(ema),
            optimizer,
            history,
        })
    }

    /// Reads the checkpoint at `path` if there is one.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for a missing file.
    pub fn read_if_present(path: &Path) -> Result<Option<Self>> {
        match path.try_exists() {
            Ok(false) => Ok(None),
            Ok(true) => Self::read(path).map(Some),
            Err(e) => Err(xdiff_nn::Error::io(path, e).into()),
        }
    }
}

/// An [`Error::Checkpoint`], of a checkpoint in memory where there is no path.
pub(super) fn checkpoint_error(path: Option<&Path>, reason: String, hint: &'static str) -> Error {
    Error::Checkpoint {
        path: path.map_or_else(|| PathBuf::from("(memory)"), Path::to_path_buf),
        reason,
        hint,
    }
}
