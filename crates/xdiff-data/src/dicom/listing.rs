//! DICOM files of a folder as a [`Listing`], with their patients as groups.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::fault::DicomFault;
use super::file::Dicom;
use super::structure::has_mark;
use crate::folder;
use crate::image::Limits;
use crate::listing::{Entry, Listing};
use crate::{Error, Result};

/// The DICOM files below a folder, told by their content whatever their names, sorted. Links are
/// followed; hidden files are not seen.
///
/// # Errors
/// When the folder or a file in it cannot be read.
pub fn files(root: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    Ok(named_files(root.as_ref())?.into_iter().map(|(_, path)| path).collect())
}

/// The same with their paths relative to the folder.
fn named_files(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let (all, _) = folder::files(root, |_| true)?;
    let told = all.into_iter().map(|(name, path)| Ok(is_dicom(&path)?.then_some((name, path))));
    told.filter_map(Result::transpose).collect()
}

pub(super) fn is_dicom(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(132).read_to_end(&mut head).map_err(|e| Error::io(path, e))?;
    Ok(has_mark(&head))
}

/// The DICOM images below a folder, one of a file, each with its patient as its group, so that
/// [`split`](crate::split()) keeps patients together. Segmentation objects and objects without pixels are
/// in [`Listing::skipped`].
///
/// # Errors
/// When a file cannot be read, has several frames, or names no patient; when there are no images.
pub fn listing(root: impl AsRef<Path>, limits: &Limits) -> Result<Listing> {
    let root = root.as_ref();
    let (mut entries, mut skipped) = (Vec::new(), Vec::new());
    for (id, path) in named_files(root)? {
        let file = Dicom::read(&path, limits)?;
        if !file.has_pixels() || file.is_segmentation() {
            skipped.push(path);
            continue;
        }
        let frames = file.frames()?;
        if frames != 1 {
            return Err(Error::Dicom { path, fault: DicomFault::ManyFrames { frames } });
        }
        entries.push(Entry {
            id,
            class: None,
            group: Some(patient(&file)?),
            part: None,
            masks: Vec::new(),
            path,
        });
    }
    if entries.is_empty() {
        let reason = format!("no DICOM images in it ({} other DICOM files)", skipped.len());
        return Err(Error::layout(root, reason, "give a folder of DICOM images of one frame"));
    }
    Ok(Listing::new(entries, skipped))
}

/// The patient of a file, as a split takes it.
fn patient(file: &Dicom) -> Result<String> {
    file.meta().patient.as_ref().map(|p| p.as_str().to_string()).ok_or_else(|| Error::Dicom {
        path: file.path().to_path_buf(),
        fault: DicomFault::Missing {
            name: "PatientID",
            tag: "(0010,0020)".into(),
            why: "without it patients cannot be kept together; give groups by folder or name",
        },
    })
}

impl Listing {
    /// Gives each DICOM file without a group its patient as one.
    ///
    /// # Errors
    /// When such a file cannot be read, is not DICOM, or names no patient.
    pub fn group_by_patient(mut self, limits: &Limits) -> Result<Self> {
        for entry in self.entries.iter_mut().filter(|e| e.group.is_none()) {
            entry.group = Some(patient(&Dicom::read(&entry.path, limits)?)?);
        }
        Ok(self)
    }
}
