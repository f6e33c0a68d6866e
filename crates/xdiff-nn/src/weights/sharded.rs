//! Weights spread over several files, with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use candle_core::Tensor;
use serde::Deserialize;

use super::files::map;
use super::malformed::{Malformed, REFUSED, shown};
use super::read_file;
use crate::Result;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the weights that an index lists, such as `model.safetensors.index.json` or
/// `pytorch_model.bin.index.json`: a JSON object whose `weight_map` gives for each key the file, in
/// the same folder or below it.
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) when the index is not of that form, names a file
/// outside the folder, or lists a key that its file lacks; and what reading a file reports.
pub fn read_sharded(index: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let index = index.as_ref();
    let folder = index.parent().unwrap_or(Path::new(""));
    let read: Index = serde_json::from_slice(&map(index)?).map_err(|e| {
        Malformed::new(
            format!("it is not an index of weights: {e}"),
            "it should be a JSON object with `weight_map`",
        )
        .at(index)
    })?;
    let files: BTreeSet<&str> = read.weight_map.values().map(String::as_str).collect();
    if let Some(name) = files.iter().find(|name| !stays_inside(name)) {
        return Err(
            Malformed::new(format!("it points outside its folder, to {}", shown(name)), REFUSED).at(index)
        );
    }
    let mut tensors = BTreeMap::new();
    for file in files {
        let mut shard = read_file(&folder.join(file))?;
        for (key, _) in read.weight_map.iter().filter(|(_, f)| *f == file) {
            let Some(tensor) = shard.remove(key) else {
                let reason = format!("it lists {} in {}, which lacks it", shown(key), shown(file));
                return Err(Malformed::new(reason, "fetch index and files again, from one place").at(index));
            };
            tensors.insert(key.clone(), tensor);
        }
    }
    Ok(tensors)
}

fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)))
}
