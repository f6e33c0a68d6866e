//! Folders of NIfTI volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::NiftiFile;
use crate::folder::files;
use crate::image::Limits;
use crate::slices::VolumeEntry;
use crate::{Error, Result};

/// The endings, in small letters, of the files that count as NIfTI volumes. Of a pair, the header counts.
const ENDINGS: [&str; 4] = [".nii", ".nii.gz", ".hdr", ".hdr.gz"];

/// A name without its NIfTI ending; `None` when it has none.
fn stem(name: &str) -> Option<&str> {
    let small = name.to_ascii_lowercase();
    // The endings are ASCII, so lengths are the same in both.
    ENDINGS.iter().find(|ending| small.ends_with(*ending)).map(|ending| &name[..name.len() - ending.len()])
}

/// The NIfTI files below a folder by their relative path without the ending, with `/` between names.
fn by_stem(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let named = |path: &Path| stem(&path.file_name().unwrap_or_default().to_string_lossy()).is_some();
    let (found, others) = files(root, named)?;
    if found.is_empty() {
        return Err(Error::layout(
            root,
            format!("no NIfTI volumes in it ({} other files)", others.len()),
            "volumes are told by their endings: .nii, .nii.gz, .hdr, .hdr.gz",
        ));
    }
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (id, path) in found {
        let stem = stem(&id).unwrap_or(&id).to_string();
        if let Some(other) = known.get(&stem) {
            return Err(Error::layout(
                &path,
                format!("it has the same name, but for the ending, as {}", other.display()),
                "keep one of them",
            ));
        }
        known.insert(stem, path);
    }
    Ok(known)
}

/// All NIfTI volumes below a folder, by name, each a group of its own. Only headers are read.
///
/// # Errors
/// When a folder cannot be read or has no volumes, two files differ in their ending alone, or a header
/// is refused.
pub fn nifti_folder(root: impl AsRef<Path>, limits: &Limits) -> Result<Vec<VolumeEntry>> {
    let found = by_stem(root.as_ref())?;
    found.into_iter().map(|(id, path)| Ok(VolumeEntry::new(id, NiftiFile::open(path, limits)?))).collect()
}

/// Volumes with labels of the same name in another folder: `images/a.nii.gz` and `labels/a.nii`.
///
/// An image may carry a channel after its name, `images/a_0000.nii.gz`, when there is only one: the
/// layout of nnU-Net.
///
/// # Errors
/// As [`nifti_folder`], and when a volume has no labels or labels no volume.
pub fn nifti_pairs(
    images: impl AsRef<Path>,
    labels: impl AsRef<Path>,
    limits: &Limits,
) -> Result<Vec<VolumeEntry>> {
    let mut labels_left = by_stem(labels.as_ref())?;
    let mut entries = Vec::new();
    for (id, path) in by_stem(images.as_ref())? {
        let plain = id.strip_suffix("_0000").unwrap_or(&id).to_string();
        let found = labels_left.remove(&id).map(|l| (id.clone(), l));
        let found = found.or_else(|| labels_left.remove(&plain).map(|l| (plain, l)));
        let Some((id, label_path)) = found else {
            return Err(Error::layout(
                path,
                format!("no labels of its name in {}", labels.as_ref().display()),
                "add them, or list the volumes alone with `nifti_folder`",
            ));
        };
        let image = NiftiFile::open(path, limits)?;
        entries.push(VolumeEntry::new(id, image).with_labels(NiftiFile::open(label_path, limits)?));
    }
    if let Some(orphan) = labels_left.into_values().next() {
        return Err(Error::layout(
            orphan,
            "the labels have no volume of their name",
            "add the volume or remove the labels",
        ));
    }
    Ok(entries)
}
