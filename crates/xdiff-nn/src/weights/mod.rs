//! Weights in and out.
//!
//! [`read`] takes what people have on their disks: safetensors files, PyTorch's `.pth`, `.bin`, `.pt`
//! and `.ckpt` of every age, indices of several files, and folders that hold one of these. It goes
//! by content, not by name. Nothing in a file is ever executed, and a file cannot make the reader
//! take more than a small multiple of its own size in memory.

mod elements;
mod files;
mod key_map;
mod malformed;
mod pickle;
mod report;
mod safetensors;
mod sharded;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use crate::{Error, Result};
use malformed::Malformed;

pub use files::{remove_leftovers, write_atomically};
pub use key_map::{KeyMap, KeyRule};
pub use pickle::read_pickle;
pub use report::{KeyReport, Misshaped};
pub use safetensors::{
    read_safetensors, read_safetensors_metadata, read_safetensors_with_metadata, write_safetensors,
};
pub use sharded::read_sharded;

/// The names that a folder of weights is searched for, in this order.
pub const WELL_KNOWN_NAMES: [&str; 10] = [
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin.index.json",
];

const EXTENSIONS: [&str; 5] = ["safetensors", "pth", "pt", "bin", "ckpt"];

/// Reads weights by their keys, in their own types, onto the CPU.
///
/// `path` may be a safetensors file, a PyTorch file (its tensors as [`read_pickle`] finds them
/// without a key), an index of several such files, or a folder that has one of
/// [`WELL_KNOWN_NAMES`] or otherwise a single file of weights.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] saying what is wrong with the file and what to do.
pub fn read(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    let file = if path.is_dir() { find_in(path)? } else { path.to_owned() };
    let start = files::map(&file)?;
    let is_index = !safetensors::looks_like(&start) && start.trim_ascii_start().starts_with(b"{");
    drop(start);
    if is_index { read_sharded(file) } else { read_file(&file) }
}

/// Reads one file that is not an index.
fn read_file(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = files::map(path)?;
    if safetensors::looks_like(&bytes) {
        safetensors::parse(&bytes).map_err(|m| m.at(path))
    } else if pickle::looks_like(&bytes) {
        pickle::read_bytes(&bytes, path, None)
    } else {
        Err(unknown(&bytes, path))
    }
}

fn unknown(bytes: &[u8], path: &Path) -> Error {
    let start = bytes.trim_ascii_start();
    if start.starts_with(b"version https://git-lfs") {
        Malformed::new("it is a Git LFS pointer, not the file itself", "run `git lfs pull`")
    } else if start.starts_with(b"<") {
        Malformed::new("it is a web page", "download the file itself, after logging in if it asks for that")
    } else if bytes.get(257..262) == Some(b"ustar") {
        Malformed::new("it is a tar archive", "load it with PyTorch and save it again with torch.save")
    } else if path.extension().is_some_and(|e| e == "safetensors")
        && let Err(fault) = safetensors::parse(bytes)
    {
        fault
    } else {
        Malformed::new(
            "it is neither a safetensors file nor a PyTorch file",
            "give weights in one of these formats",
        )
    }
    .at(path)
}

fn find_in(folder: &Path) -> Result<PathBuf> {
    if let Some(path) = WELL_KNOWN_NAMES.iter().map(|n| folder.join(n)).find(|p| p.is_file()) {
        return Ok(path);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e == *known)) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Malformed::new(
            format!(
                "the folder has no weights: none of {} and no file of weights",
                WELL_KNOWN_NAMES.join(", ")
            ),
            "give the path of the file, or of the folder one level below",
        )
        .at(folder)),
        many => {
            let names: Vec<_> = many.iter().filter_map(|p| p.file_name()?.to_str()).take(8).collect();
            Err(Malformed::new(
                format!("the folder has {} files of weights: {}", many.len(), names.join(", ")),
                "give the path of one of them",
            )
            .at(folder))
        }
    }
}
