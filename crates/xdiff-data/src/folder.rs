//! Folder layouts: one folder a class, a flat folder, images beside masks. Names are sorted, so the
//! order does not depend on the file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::listing::{Entry, Listing};
use crate::mask::MaskKind;
use crate::{Error, Result};

/// The endings, in small letters, of the files that count as images. `dcm` and `dicom` are among them
/// with the feature `dicom`.
pub const EXTENSIONS: &[&str] = if cfg!(feature = "dicom") {
    &["png", "jpg", "jpeg", "tif", "tiff", "bmp", "dib", "dcm", "dicom"]
} else {
    &["png", "jpg", "jpeg", "tif", "tiff", "bmp", "dib"]
};

/// One folder a class: `root/glioma/*.png`, `root/healthy/*.png`, to any depth below the class folder.
///
/// # Errors
/// When the root or a folder cannot be read, an image lies outside the class folders, or a class folder
/// has no images.
pub fn class_folders(root: impl AsRef<Path>) -> Result<Listing> {
    let root = root.as_ref();
    let (mut entries, skipped) = walk(root)?;
    for entry in &mut entries {
        let Some((class, _)) = entry.id.split_once('/') else {
            return Err(Error::layout(
                &entry.path,
                "the image lies beside the class folders, so it has no class",
                "move it into one of them, or read the folder with `flat`",
            ));
        };
        entry.class = Some(class.to_string());
    }
    let listing = Listing::new(entries, skipped);
    for folder in folders(root)? {
        if !listing.classes.contains(&folder) {
            return Err(Error::layout(
                root.join(&folder),
                "the class folder has no images",
                "fill or remove it",
            ));
        }
    }
    Ok(listing)
}

/// All images below a folder, without classes.
///
/// # Errors
/// When a folder cannot be read or there are no images.
pub fn flat(root: impl AsRef<Path>) -> Result<Listing> {
    let (entries, skipped) = walk(root.as_ref())?;
    Ok(Listing::new(entries, skipped))
}

/// Where images and masks lie below a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairLayout {
    /// The folder of the images.
    pub images: String,
    /// The folder of the masks, for each kind of mask.
    pub masks: BTreeMap<MaskKind, String>,
    /// Whether an image may lack a mask.
    pub allow_missing: bool,
}

impl Default for PairLayout {
    /// `images` and `masks`, the latter of lesions, one for each image.
    fn default() -> Self {
        let masks = BTreeMap::from([(MaskKind::Lesion, "masks".to_string())]);
        Self { images: "images".into(), masks, allow_missing: false }
    }
}

/// Images with masks of the same stem: `images/a.png` belongs to `masks/a.tif`.
///
/// # Errors
/// When a folder cannot be read or is empty, two files share a stem, an image lacks a mask (unless
/// allowed) or a mask its image.
pub fn pairs(root: impl AsRef<Path>, layout: &PairLayout) -> Result<Listing> {
    let root = root.as_ref();
    let (entries, mut skipped) = walk(&root.join(&layout.images))?;
    let mut images = by_stem(entries)?;
    for (kind, folder) in &layout.masks {
        let folder = root.join(folder);
        let (found, passed_over) = walk(&folder)?;
        skipped.extend(passed_over);
        let mut masks = by_stem(found)?;
        for (stem, image) in &mut images {
            match masks.remove(stem) {
                Some(mask) => image.masks.push((kind.clone(), mask.path)),
                None if layout.allow_missing => {}
                None => {
                    return Err(Error::layout(
                        &image.path,
                        format!("no `{kind}` mask named {stem} in {}", folder.display()),
                        "add the mask, or set `allow_missing`",
                    ));
                }
            }
        }
        if let Some(orphan) = masks.into_values().next() {
            return Err(Error::layout(
                orphan.path,
                "the mask has no image of its name",
                "add the image or remove the mask",
            ));
        }
    }
    Ok(Listing::new(images.into_values().collect(), skipped))
}

fn by_stem(entries: Vec<Entry>) -> Result<BTreeMap<String, Entry>> {
    let mut known: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in entries {
        let stem = entry.id.rsplit_once('.').map_or(entry.id.as_str(), |(stem, _)| stem).to_string();
        if let Some(other) = known.get(&stem) {
            return Err(Error::layout(
                &entry.path,
                format!("it has the same stem as {}", other.path.display()),
                "keep one of them: pairs are matched by stem",
            ));
        }
        known.insert(stem, entry);
    }
    Ok(known)
}

/// The names of the folders in a folder that are not hidden.
fn folders(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(|e| Error::io(root, e))? {
        let path = entry.map_err(|e| Error::io(root, e))?.path();
        let name = name_of(&path)?;
        if path.is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn name_of(path: &Path) -> Result<String> {
    path.file_name()
        .and_then(|n| n.to_str())
        .map(str::to_string)
        .ok_or_else(|| Error::layout(path, "the name is not valid UTF-8", "rename it"))
}

/// The images below a folder, sorted, and the other files. Links are followed; hidden files are not seen.
fn walk(root: &Path) -> Result<(Vec<Entry>, Vec<PathBuf>)> {
    let is_image = |path: &Path| {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        EXTENSIONS.contains(&ending.as_str())
    };
    let (found, skipped) = files(root, is_image)?;
    let entry = |(id, path)| Entry { id, path, class: None, group: None, part: None, masks: Vec::new() };
    let entries: Vec<Entry> = found.into_iter().map(entry).collect();
    if entries.is_empty() {
        return Err(Error::layout(
            root,
            format!("no images in it ({} other files)", skipped.len()),
            "images are told by their endings: png, jpg, jpeg, tif, tiff, bmp, dib; dcm and dicom with the feature `dicom`",
        ));
    }
    Ok((entries, skipped))
}

/// A file's path relative to a folder, with `/` between names, and the file.
type Found = (String, PathBuf);

/// The files below a folder that are wanted, sorted, and the others. Links are followed; hidden files
/// are not seen.
pub(crate) fn files(root: &Path, wanted: impl Fn(&Path) -> bool) -> Result<(Vec<Found>, Vec<PathBuf>)> {
    let meta = std::fs::metadata(root).map_err(|e| Error::io(root, e))?;
    if !meta.is_dir() {
        return Err(Error::layout(root, "it is a file", "give a folder"));
    }
    let (mut found, mut others) = (Vec::new(), Vec::new());
    let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter().filter_entry(visible) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(root).to_path_buf();
            Error::io(path, e.into())
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path().to_path_buf();
        if !wanted(&path) {
            others.push(path);
            continue;
        }
        let parts = path.strip_prefix(root).unwrap_or(&path).components();
        let names = parts.map(|c| name_of(c.as_ref())).collect::<Result<Vec<_>>>()?;
        found.push((names.join("/"), path));
    }
    Ok((found, others))
}
