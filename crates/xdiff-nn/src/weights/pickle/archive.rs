//! Zip archives, which torch.save has written since PyTorch 1.6.

use std::io::{Cursor, Read};

use candle_core::Tensor;
use zip::ZipArchive;

use super::load::Elements;
use super::machine;
use super::value::Pickle;
use crate::weights::elements::Element;
use crate::weights::malformed::{Malformed, Parse, REFUSED, shown};

/// An archive with one pickle and a file for each storage.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    folder: String,
}

fn damaged(e: impl std::fmt::Display) -> Malformed {
    Malformed::damaged(format!("its zip archive cannot be read: {e}"))
}

impl<'a> Archive<'a> {
    /// Opens the archive and reads its pickle.
    pub(super) fn open(bytes: &'a [u8]) -> Parse<(Self, Pickle)> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        let pickles = zip.file_names().filter(|n| *n == "data.pkl" || n.ends_with("/data.pkl"));
        let Some(name) = pickles.min_by_key(|n| (n.len(), *n)).map(str::to_owned) else {
            return Err(Malformed::new(
                "it is a zip archive without a data.pkl",
                "give a file written by torch.save",
            ));
        };
        let folder = name.trim_end_matches("data.pkl").to_owned();
        let archive = Self { zip, folder };
        if archive.small("byteorder", 16)?.is_some_and(|order| order.trim_ascii() != b"little") {
            return Err(Malformed::new(
                "its numbers are big-endian",
                "save it again on a little-endian machine",
            ));
        }
        // Tensors lie beside the pickle, so it is small; a file may not make it large.
        let most = bytes.len().saturating_mul(8).saturating_add(1 << 20);
        let pickle = archive.small("data.pkl", most)?.ok_or_else(|| damaged("data.pkl is gone"))?;
        let pickle = machine::run(&pickle)?;
        Ok((archive, pickle))
    }

    /// A file of at most so many bytes.
    fn small(&self, name: &str, most: usize) -> Parse<Option<Vec<u8>>> {
        let mut zip = self.zip.clone();
        let Some(index) = zip.index_for_name(&format!("{}{name}", self.folder)) else {
            return Ok(None);
        };
        let entry = zip.by_index(index).map_err(damaged)?;
        let mut content = Vec::new();
        entry.take(most as u64 + 1).read_to_end(&mut content).map_err(damaged)?;
        if content.len() > most {
            return Err(Malformed::new(format!("its {name} unpacks to more than {most} bytes"), REFUSED));
        }
        Ok(Some(content))
    }
}

impl Elements for Archive<'_> {
    fn read(&self, key: &str, element: Element, start: usize, count: usize) -> Parse<Tensor> {
        let mut zip = self.zip.clone();
        let name = format!("{}data/{key}", self.folder);
        let Some(index) = zip.index_for_name(&name) else {
            return Err(Malformed::damaged(format!("storage {} is missing", shown(key))));
        };
        let mut entry = zip.by_index(index).map_err(damaged)?;
        let size = element.size() as u64;
        let (skipped, wanted) = (start as u64 * size, count as u64 * size);
        if skipped.checked_add(wanted).is_none_or(|n| n > entry.size()) {
            let reason =
                format!("storage {} has {} bytes, its tensors take {wanted}", shown(key), entry.size());
            return Err(Malformed::damaged(reason));
        }
        let skip = std::io::copy(&mut entry.by_ref().take(skipped), &mut std::io::sink()).map_err(damaged)?;
        if skip != skipped {
            return Err(Malformed::damaged(format!("storage {} ends too early", shown(key))));
        }
        let tensor = element.read(count, &mut entry)?;
        // Reading on to the end compares the checksum.
        std::io::copy(&mut entry.take(wanted), &mut std::io::sink()).map_err(damaged)?;
        Ok(tensor)
    }
}
