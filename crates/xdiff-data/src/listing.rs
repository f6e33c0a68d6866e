//! Lists of image files with their classes, groups and masks, and the dataset that reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use crate::dataset::{Dataset, Sample, SampleInfo, check_index};
use crate::image::{Colour, Image, Limits};
use crate::mask::{Mask, MaskKind, MaskRule};
use crate::split::Part;
use crate::transform::{Geometry, resize_mask};
use crate::window::{Span, Window};
use crate::{Error, Result};

/// One image file and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path relative to the listing's root, with `/` between folders.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// The class by name.
    pub class: Option<String>,
    /// The patient or other group.
    pub group: Option<String>,
    /// The part that the source put it in.
    pub part: Option<Part>,
    /// Its mask files.
    pub masks: Vec<(MaskKind, PathBuf)>,
}

/// How the group of a file without one is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// The folder that the file lies in.
    Folder,
    /// The file's name up to the first of this character, such as `_` in `p07_slice3.png`; the whole
    /// name when it does not occur.
    NameBefore(char),
}

/// Image files in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The files.
    pub entries: Vec<Entry>,
    /// The names of all classes, sorted; an entry's class index is its place here.
    pub classes: Vec<String>,
    /// Files that were passed over because their names are not those of images.
    pub skipped: Vec<PathBuf>,
}

impl Listing {
    /// A listing of these files, with the classes that they name.
    pub fn new(entries: Vec<Entry>, skipped: Vec<PathBuf>) -> Self {
        let mut classes: Vec<String> = entries.iter().filter_map(|e| e.class.clone()).collect();
        classes.sort();
        classes.dedup();
        Self { entries, classes, skipped }
    }

    /// The entries of one part; the classes keep their numbers.
    pub fn part(&self, part: Part) -> Self {
        let entries = self.entries.iter().filter(|e| e.part == Some(part)).cloned().collect();
        Self { entries, ..self.clone() }
    }

    /// Gives each entry without a group one by its name or folder.
    pub fn group_by(mut self, grouping: Grouping) -> Self {
        for entry in self.entries.iter_mut().filter(|e| e.group.is_none()) {
            let (folder, name) = entry.id.rsplit_once('/').unwrap_or(("", &entry.id));
            entry.group = Some(match grouping {
                Grouping::Folder => folder.to_string(),
                Grouping::NameBefore(c) => name.split(c).next().unwrap_or(name).to_string(),
            });
        }
        self
    }

    /// The extent of the stored values of all images, for [`Window::Span`]. Reads every file.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn span(&self, limits: &Limits) -> Result<Span> {
        let mut span = Span::new();
        self.entries.iter().try_for_each(|e| span.include(&Image::read(&e.path, limits)?))?;
        Ok(span)
    }
}

/// How a [`FileDataset`] reads its files. There is no default window: it must be chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOptions {
    /// From stored values to [0, 1].
    pub window: Window,
    /// The channels.
    #[serde(default)]
    pub colour: Colour,
    /// The size; as stored when `None`.
    #[serde(default)]
    pub geometry: Option<Geometry>,
    /// From the values of mask files to labels.
    #[serde(default = "above_zero")]
    pub mask_rule: MaskRule,
    /// Whether a mask of another size than its image is resized to it rather than refused.
    #[serde(default)]
    pub resize_masks: bool,
    /// The largest file that is read.
    #[serde(default)]
    pub limits: Limits,
}

fn above_zero() -> MaskRule {
    MaskRule::Above(0.0)
}

impl ReadOptions {
    /// Channels and size as stored; a mask is what is not 0.
    pub fn new(window: Window) -> Self {
        Self {
            window,
            colour: Colour::Keep,
            geometry: None,
            mask_rule: above_zero(),
            resize_masks: false,
            limits: Limits::default(),
        }
    }

    /// The same with a size and colour.
    pub fn with(self, geometry: Geometry, colour: Colour) -> Self {
        Self { geometry: Some(geometry), colour, ..self }
    }
}

/// Reads the files of a [`Listing`].
///
/// With the feature `dicom`, a mask file may be a DICOM segmentation object: the mask is then that of the
/// segments whose label, in small letters, is the mask's kind, on the slice that the image is.
#[derive(Clone, Debug)]
pub struct FileDataset {
    listing: Listing,
    /// The class number of each entry.
    numbers: Vec<Option<u32>>,
    options: ReadOptions,
}

impl FileDataset {
    /// A dataset over the files of a listing. Files are read when asked for.
    ///
    /// # Errors
    /// When the listing has no entries, or one of a class that `classes` does not name.
    pub fn new(listing: Listing, options: ReadOptions) -> Result<Self> {
        if listing.entries.is_empty() {
            return Err(Error::argument(
                "listing",
                "it has no images; check the folder, the filter or the part",
            ));
        }
        let number = |class: &String| {
            let place = listing.classes.iter().position(|c| c == class);
            place.map(|p| p as u32).ok_or_else(|| {
                Error::argument(
                    "listing",
                    format!("`{class}` is not among its classes {:?}", listing.classes),
                )
            })
        };
        let numbers = listing.entries.iter().map(|e| e.class.as_ref().map(number).transpose());
        let numbers = numbers.collect::<Result<_>>()?;
        Ok(Self { listing, numbers, options })
    }

    /// The files.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    fn mask(&self, kind: &MaskKind, path: &Path, image: &Image) -> Result<Mask> {
        let mask = match drawn_mask(kind, path, image, &self.options.limits)? {
            Some(mask) => mask,
            None => Mask::from_image(&Image::read(path, &self.options.limits)?, self.options.mask_rule)?,
        };
        if (mask.height(), mask.width()) == (image.height(), image.width()) {
            return Ok(mask);
        }
        if self.options.resize_masks {
            return resize_mask(&mask, image.height(), image.width());
        }
        Err(Error::MaskSize {
            image: image.name(),
            height: image.height(),
            width: image.width(),
            mask: path.display().to_string(),
            mask_height: mask.height(),
            mask_width: mask.width(),
        })
    }
}

/// The mask of a segmentation object, for the slice that the image is.
#[cfg(feature = "dicom")]
fn drawn_mask(kind: &MaskKind, path: &Path, image: &Image, limits: &Limits) -> Result<Option<Mask>> {
    crate::dicom::drawn_mask(kind, path, image, limits)
}

#[cfg(not(feature = "dicom"))]
fn drawn_mask(_: &MaskKind, _: &Path, _: &Image, _: &Limits) -> Result<Option<Mask>> {
    Ok(None)
}

impl Dataset for FileDataset {
    fn len(&self) -> usize {
        self.listing.entries.len()
    }

    fn classes(&self) -> &[String] {
        &self.listing.classes
    }

    fn info(&self, index: usize) -> Result<SampleInfo> {
        check_index(index, self.len())?;
        let entry = &self.listing.entries[index];
        Ok(SampleInfo { id: entry.id.clone(), class: self.numbers[index], group: entry.group.clone() })
    }

    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        let info = self.info(index)?;
        let entry = &self.listing.entries[index];
        let stored = Image::read(&entry.path, &self.options.limits)?.with_colour(self.options.colour)?;
        let image = self.options.window.apply(stored)?;
        let masks = entry.masks.iter().map(|(kind, path)| Ok((kind.clone(), self.mask(kind, path, &image)?)));
        let masks = masks.collect::<Result<BTreeMap<_, _>>>()?;
        let Some(geometry) = &self.options.geometry else { return Ok(Sample { info, image, masks }) };
        let masks = masks.into_iter().map(|(kind, mask)| Ok((kind, geometry.mask(&mask)?)));
        Ok(Sample { info, masks: masks.collect::<Result<_>>()?, image: geometry.image(image)? })
    }
}
