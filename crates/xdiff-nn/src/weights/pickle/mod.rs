//! Files written by torch.save.

mod archive;
mod legacy;
mod load;
mod machine;
mod objects;
mod select;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::files::map;
use super::malformed::{Malformed, Parse, shown};
use crate::Result;

/// Reads the tensors of a file written by torch.save, zip archive or older stream, in their own
/// types (booleans become u8, int8 becomes i16), onto the CPU. Tensors that share memory in PyTorch
/// are independent here, and strided ones come out contiguous.
///
/// The file's pickle is read by a machine that knows dicts, lists, numbers, strings and PyTorch's
/// tensors and executes nothing; other objects are passed over.
///
/// `key` says which dict of tensors is meant, such as `"model"` or `"ema.params"`; the empty key is
/// the top level. Without a key it is the top level when no dict below it has tensors, else
/// `state_dict`, else the only dict with tensors.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Malformed`](crate::Error::Malformed) saying what is
/// wrong with the file, or which dicts there are to choose from.
pub fn read_pickle(path: impl AsRef<Path>, key: Option<&str>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    read_bytes(&map(path)?, path, key)
}

/// Whether these bytes start as torch.save's files do.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.first() == Some(&0x80)
}

pub(super) fn read_bytes(bytes: &[u8], path: &Path, key: Option<&str>) -> Result<BTreeMap<String, Tensor>> {
    parse(bytes, key).map_err(|m| m.at(path))
}

fn parse(bytes: &[u8], key: Option<&str>) -> Parse<BTreeMap<String, Tensor>> {
    let chosen = |pickle| select::select(pickle, key);
    if bytes.starts_with(b"PK") {
        let (archive, pickle) = archive::Archive::open(bytes)?;
        load::load(&pickle, &chosen(&pickle)?, &archive, bytes.len())
    } else if bytes.first() == Some(&0x80) {
        let (stream, pickle) = legacy::Stream::open(bytes)?;
        load::load(&pickle, &chosen(&pickle)?, &stream, bytes.len())
    } else {
        Err(Malformed::new("it is not a file written by torch.save", "give a PyTorch file of weights"))
    }
}

#[cfg(test)]
mod tests;
