//! The file format of all trainings: a header, groups of tensors and the losses, in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xdiff_nn::weights::{read_safetensors_with_metadata, write_safetensors};

use crate::{Error, Result};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// A training on disk.
///
/// It is a safetensors file: the tensors of group `g` stand under `g/`, the loss of each step as
/// `history`, and the header, as JSON, in the metadata, beside the name of the format. Numbers that
/// must come back to the last bit belong into a group: JSON does not keep all of f64.
#[derive(Clone, Debug)]
pub struct Archive<H> {
    /// What a kind of training wants to know of itself.
    pub header: H,
    /// The tensors of each group; a group without tensors is the same as none.
    pub groups: BTreeMap<String, Tensors>,
    /// The loss of each step so far.
    pub history: Vec<f32>,
}

/// What an archive of one kind of training looks like.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// The name that tells it from others, with a version.
    pub name: &'static str,
    /// The groups that it may have.
    pub groups: &'static [&'static str],
}

impl<H: Serialize + DeserializeOwned> Archive<H> {
    /// Writes the file under a temporary name and renames it, so that a reader sees the former file
    /// or this one, whenever the process ends.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, format: Format) -> Result<()> {
        let header =
            serde_json::to_string(&self.header).map_err(|e| Error::input("checkpoint", e.to_string()))?;
        let metadata =
            BTreeMap::from([("format".to_owned(), format.name.to_owned()), ("training".to_owned(), header)]);
        let mut tensors = BTreeMap::new();
        for (group, map) in &self.groups {
            for (name, t) in map {
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
    /// When the file cannot be read, or is whole but no archive of this format.
    pub fn read(path: &Path, format: Format) -> Result<Self> {
        let bad = |reason: String| {
            let hint = "give a file that a training wrote, or start anew with another output folder";
            checkpoint_error(Some(path), reason, hint)
        };
        let (tensors, metadata) = read_safetensors_with_metadata(path)?;
        match metadata.get("format") {
            Some(name) if name == format.name => {}
            other => return Err(bad(format!("its format is {other:?}, not {:?}", format.name))),
        }
        let header = metadata.get("training").ok_or_else(|| bad("it has no `training` entry".to_owned()))?;
        let header: H = serde_json::from_str(header).map_err(|e| bad(e.to_string()))?;
        let mut groups: BTreeMap<String, Tensors> = BTreeMap::new();
        let mut history = Vec::new();
        for (name, t) in tensors {
            match name.split_once('/') {
                Some((group, rest)) if format.groups.contains(&group) => {
                    groups.entry(group.to_owned()).or_default().insert(rest.to_owned(), t);
                }
                None if name == "history" => {
                    let kind =
                        format!("`history` is {:?} of shape {:?}, not a list of f32", t.dtype(), t.dims());
                    history = t.to_vec1::<f32>().map_err(|_| bad(kind))?;
                }
                _ => return Err(bad(format!("it holds `{name}`, which no training writes"))),
            }
        }
        Ok(Self { header, groups, history })
    }

    /// Takes a group out; empty where the file had none.
    pub fn take(&mut self, group: &str) -> Tensors {
        self.groups.remove(group).unwrap_or_default()
    }
}

/// Whether there is something to go on from at `path`.
///
/// # Errors
/// When the operating system does not say.
pub fn is_present(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|e| xdiff_nn::Error::io(path, e).into())
}

/// An [`Error::Checkpoint`], of a checkpoint in memory where there is no path.
pub fn checkpoint_error(path: Option<&Path>, reason: impl Into<String>, hint: &'static str) -> Error {
    Error::Checkpoint {
        path: path.map_or_else(|| PathBuf::from("(memory)"), Path::to_path_buf),
        reason: reason.into(),
        hint,
    }
}
