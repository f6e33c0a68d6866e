//! Projected prototypes on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use xdiff_nn::weights::{read_safetensors_with_metadata, write_atomically, write_safetensors};

use super::{Projected, Projection, hash};
use crate::{Error, Result};

const FORMAT: &str = "xdiff-prototypes-1";
const VECTORS: &str = "vectors";
const MAPS: &str = "maps";
const PATCH: &str = "patch.";

impl Projected {
    /// Writes a safetensors file, and its record as readable JSON beside it (`a.json` beside
    /// `a.safetensors`). Both are written under a temporary name first.
    ///
    /// The file holds `vectors` (P, D), `maps` (P, h, w) and the pixels of each prototype's window as
    /// `patch.0`, `patch.1` and so on; the record stands in its metadata as `projection`.
    /// [`read`](Self::read) needs this file alone.
    ///
    /// # Errors
    /// [`Error::File`] when the path itself ends in `.json`; when the disk refuses.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let sidecar = sidecar(path)?;
        let text = serde_json::to_string_pretty(&self.projection)
            .map_err(|e| file_error(path, format!("the record cannot be written: {e}")))?;
        let mut tensors = BTreeMap::from([
            (VECTORS.to_owned(), self.vectors.clone()),
            (MAPS.to_owned(), self.maps.clone()),
        ]);
        tensors
            .extend(self.patches.iter().enumerate().map(|(j, patch)| (format!("{PATCH}{j}"), patch.clone())));
        let metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("projection".to_owned(), text.clone()),
        ]);
        write_safetensors(path, &tensors, &metadata)?;
        Ok(write_atomically(&sidecar, |out| out.write_all(text.as_bytes()))?)
    }

    /// Reads a file that [`write`](Self::write) wrote, onto the CPU.
    ///
    /// # Errors
    /// When the file cannot be read; [`Error::File`] when it holds something else, or its parts do not
    /// belong together.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = |reason: String| file_error(path, reason);
        let (mut tensors, metadata) = read_safetensors_with_metadata(path)?;
        match metadata.get("format") {
            Some(format) if format == FORMAT => {}
            other => return Err(bad(format!("its format is {other:?}, not {FORMAT:?}"))),
        }
        let record = metadata.get("projection").ok_or_else(|| bad("it has no record".to_owned()))?;
        let projection: Projection =
            serde_json::from_str(record).map_err(|e| bad(format!("its record: {e}")))?;
        if let Some(fault) = projection.fault() {
            return Err(bad(format!("its record: {fault}")));
        }
        let mut take = |name: &str| -> Result<Tensor> {
            let tensor = tensors.remove(name).ok_or_else(|| bad(format!("it has no `{name}`")))?;
            if !tensor.dtype().is_float() {
                return Err(bad(format!("`{name}` has numbers of type {:?}", tensor.dtype())));
            }
            Ok(tensor)
        };
        let (vectors, maps) = (take(VECTORS)?, take(MAPS)?);
        let (count, (h, w)) = (projection.sources.len(), projection.map_size);
        if !matches!(*vectors.dims(), [p, d] if p == count && p > 0 && d > 0) {
            return Err(bad(format!("`{VECTORS}` has shape {:?} for {count} sources", vectors.dims())));
        }
        if *maps.dims() != [count, h, w] {
            let shape = maps.dims();
            return Err(bad(format!("`{MAPS}` has shape {shape:?}, not {:?}", [count, h, w])));
        }
        let mut patches = Vec::new();
        for (j, source) in projection.sources.iter().enumerate() {
            let name = format!("{PATCH}{j}");
            let patch = take(&name)?;
            let shape = [projection.channels, source.window.height(), source.window.width()];
            if *patch.dims() != shape {
                return Err(bad(format!("`{name}` has shape {:?}, not {shape:?}", patch.dims())));
            }
            patches.push(patch);
        }
        if let Some(name) = tensors.keys().next() {
            return Err(bad(format!("it holds `{name}`, which does not belong there")));
        }
        if hash(&vectors)? != projection.prototypes_hash {
            return Err(bad(format!("`{VECTORS}` are not those of the record")));
        }
        let (vectors, maps) = (vectors.to_dtype(DType::F32)?, maps.to_dtype(DType::F32)?);
        Ok(Self { vectors, projection, patches, maps })
    }
}

fn sidecar(path: &Path) -> Result<PathBuf> {
    let sidecar = path.with_extension("json");
    if sidecar == path {
        let reason = "the readable record is written under this name".to_owned();
        let hint = "give a name that ends in .safetensors";
        return Err(Error::File { path: path.to_owned(), reason, hint });
    }
    Ok(sidecar)
}

fn file_error(path: &Path, reason: String) -> Error {
    let hint = "give a file of projected prototypes, or project them again";
    Error::File { path: path.to_owned(), reason, hint }
}
