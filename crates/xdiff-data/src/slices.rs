//! Slices of volumes as a dataset.

mod held;
mod options;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;
use xdiff_nn::Rng;

use held::Held;
pub use options::{Frames, MaskLabels, Skip, SliceOptions, SliceRange};

use crate::dataset::{Dataset, Sample, SampleInfo, check_index};
use crate::image::Image;
use crate::mask::{Mask, MaskKind};
use crate::transform::{resize, resize_mask};
use crate::volume::{Axis, Grid, LabelVolume, Volume};
use crate::window::Span;
use crate::{Error, Result};

/// Something that gives a volume when asked, and knows its size before: a file, a series of files, a
/// volume in memory.
pub trait VolumeSource: fmt::Debug + Send + Sync {
    /// A name for errors, such as the path.
    fn name(&self) -> String;

    /// The size and place of the volume.
    fn grid(&self) -> Grid;

    /// How many frames it has.
    fn frames(&self) -> usize {
        1
    }

    /// The volume, of that grid and number of frames.
    ///
    /// # Errors
    /// When it cannot be read.
    fn volume(&self) -> Result<Volume>;
}

impl VolumeSource for Volume {
    fn name(&self) -> String {
        Volume::name(self)
    }

    fn grid(&self) -> Grid {
        *Volume::grid(self)
    }

    fn frames(&self) -> usize {
        Volume::frames(self)
    }

    fn volume(&self) -> Result<Volume> {
        Ok(self.clone())
    }
}

impl VolumeSource for LabelVolume {
    fn name(&self) -> String {
        LabelVolume::name(self)
    }

    fn grid(&self) -> Grid {
        *LabelVolume::grid(self)
    }

    fn volume(&self) -> Result<Volume> {
        self.to_volume()
    }
}

#[cfg(feature = "nifti")]
impl VolumeSource for crate::nifti::NiftiFile {
    fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn grid(&self) -> Grid {
        self.header().grid
    }

    fn frames(&self) -> usize {
        self.header().frames
    }

    fn volume(&self) -> Result<Volume> {
        crate::nifti::NiftiFile::volume(self)
    }
}

/// A volume and what belongs to it.
#[derive(Clone, Debug)]
pub struct VolumeEntry {
    /// A name that is unique in the dataset.
    pub id: String,
    /// The class by name, of the volume as a whole.
    pub class: Option<String>,
    /// The patient. Without one the volume is a group of its own, so that no split tears it.
    pub group: Option<String>,
    /// The grey values.
    pub image: Arc<dyn VolumeSource>,
    /// The labels, on the same grid.
    pub labels: Option<Arc<dyn VolumeSource>>,
}

impl VolumeEntry {
    /// A volume without class, patient or labels.
    pub fn new(id: impl Into<String>, image: impl VolumeSource + 'static) -> Self {
        Self { id: id.into(), class: None, group: None, image: Arc::new(image), labels: None }
    }

    /// The same with labels.
    pub fn with_labels(self, labels: impl VolumeSource + 'static) -> Self {
        Self { labels: Some(Arc::new(labels)), ..self }
    }
}

/// The extent of the stored values of volumes, for [`Window::Span`](crate::Window::Span). Reads each.
///
/// # Errors
/// When a volume cannot be read, or holds no finite value.
pub fn span(entries: &[VolumeEntry]) -> Result<Span> {
    let mut span = Span::new();
    entries.iter().try_for_each(|e| span.include_volume(&e.image.volume()?))?;
    Ok(span)
}

/// The slices of volumes, in their order: all of the first, then all of the second.
///
/// Patients, or else volumes, are the groups of [`split`](crate::split()) and
/// [`k_fold`](crate::k_fold), so that slices of one never stand on both sides.
///
/// Volumes are read when a slice is asked for and kept up to
/// [`held_bytes`](SliceOptions::held_bytes), the least recently used leaving first. When not all fit and
/// slices are shuffled, almost every slice reads its volume anew: let more be held, or put
/// [`Cached`](crate::Cached) around the dataset, whose slices take less room than the volumes.
///
/// ```
/// use xdiff_data::{
///     Affine, Axis, Dataset, Grid, MaskKind, MaskLabels, Skip, SliceOptions, Volume, VolumeDataset,
///     VolumeEntry, Window,
/// };
/// use xdiff_nn::Rng;
///
/// // Two volumes of three slices; a lesion in one slice of each.
/// let grid = Grid::new([8, 8, 3], Affine::scaling([1.0, 1.0, 5.0])?)?;
/// let entry = |id: &str, lesion: usize| -> xdiff_data::Result<VolumeEntry> {
///     let image = Volume::new(grid, (0..192).map(|v| v as f32).collect())?;
///     let labels = Volume::new(grid, (0..192).map(|v| f32::from(v == lesion)).collect())?;
///     Ok(VolumeEntry::new(id, image).with_labels(labels))
/// };
/// let options = SliceOptions {
///     skip: Skip::Unlabelled,
///     masks: vec![MaskLabels { kind: MaskKind::Lesion, labels: vec![1] }],
///     ..SliceOptions::new(Axis::Axial, Window::Range { lo: 0.0, hi: 191.0 })
/// };
/// let slices = VolumeDataset::new(vec![entry("a", 10)?, entry("b", 150)?], options)?;
/// assert_eq!(slices.len(), 2);
/// let sample = slices.get(1, &mut Rng::new(0))?;
/// assert_eq!((sample.info.id.as_str(), sample.info.group.as_deref()), ("b/axial_0002", Some("b")));
/// assert_eq!(sample.masks[&MaskKind::Lesion].area(), 1);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Debug)]
pub struct VolumeDataset {
    entries: Vec<VolumeEntry>,
    classes: Vec<String>,
    /// The class number of each entry.
    numbers: Vec<Option<u32>>,
    places: Vec<SlicePlace>,
    options: SliceOptions,
    held: Held<Loaded>,
}

/// Where a sample of a [`VolumeDataset`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlicePlace {
    /// The volume's place among the entries.
    pub entry: usize,
    /// The frame.
    pub frame: usize,
    /// The slice along the axis.
    pub index: usize,
}

#[derive(Debug)]
struct Loaded {
    image: Volume,
    labels: Option<LabelVolume>,
}

impl Loaded {
    fn bytes(&self) -> usize {
        let labels = self.labels.as_ref().map_or(0, |l| size_of_val(l.labels()));
        size_of_val(self.image.voxels()) + labels
    }
}

impl VolumeDataset {
    /// The slices of these volumes. Unless slices are skipped by what they hold, only sizes are looked
    /// at; otherwise each volume, or its labels, is read once.
    ///
    /// # Errors
    /// When there are no volumes or no slices, two volumes share an id, labels lie on another grid than
    /// their volume, a volume does not have the frames or slices asked for, or one cannot be read.
    pub fn new(entries: Vec<VolumeEntry>, options: SliceOptions) -> Result<Self> {
        options.validate()?;
        if entries.is_empty() {
            return Err(Error::argument("entries", "no volumes given; at least one"));
        }
        check_entries(&entries)?;
        let mut classes: Vec<String> = entries.iter().filter_map(|e| e.class.clone()).collect();
        classes.sort();
        classes.dedup();
        let number = |e: &VolumeEntry| {
            let place = e.class.as_ref().and_then(|c| classes.binary_search(c).ok());
            place.map(|p| p as u32)
        };
        let numbers = entries.iter().map(number).collect();
        let places: Vec<Result<Vec<SlicePlace>>> = (0..entries.len())
            .into_par_iter()
            .map(|n| {
                let places = options.places(n, &entries[n])?;
                options.kept(&entries[n], places)
            })
            .collect();
        let places: Vec<SlicePlace> = places.into_iter().collect::<Result<Vec<_>>>()?.concat();
        if places.is_empty() {
            let reason = format!("every slice of {} volumes is skipped by {:?}", entries.len(), options.skip);
            return Err(Error::argument("skip", reason));
        }
        let held = Held::new(entries.len(), options.held_bytes);
        Ok(Self { entries, classes, numbers, places, options, held })
    }

    /// The volumes.
    pub fn entries(&self) -> &[VolumeEntry] {
        &self.entries
    }

    /// Where each sample comes from, so that what is computed for it, such as a map, can be put back
    /// with [`Volume::set_slice`].
    pub fn places(&self) -> &[SlicePlace] {
        &self.places
    }

    /// The options.
    pub fn options(&self) -> &SliceOptions {
        &self.options
    }

    fn load(&self, entry: usize) -> Result<Loaded> {
        let VolumeEntry { image, labels, .. } = &self.entries[entry];
        let (grid, frames) = (image.grid(), image.frames());
        let image = image.volume()?;
        if *image.grid() != grid || image.frames() != frames {
            let reason = format!("{} is not of the grid and frames that it promised", image.name());
            return Err(Error::argument("volume", reason));
        }
        let labels = labels.as_ref().map(|l| LabelVolume::from_volume(l.volume()?)).transpose()?;
        Ok(Loaded { image, labels })
    }

    /// Brings a slice's image and masks to pixels that are as wide as high.
    fn squared(&self, grid: &Grid, image: Image, masks: &mut BTreeMap<MaskKind, Mask>) -> Result<Image> {
        let (row, column) = grid.pixel_spacing(self.options.axis);
        let finer = row.min(column);
        let side = |n: usize, spacing: f64| ((n as f64 * spacing / finer).round() as usize).max(1);
        let (height, width) = (side(image.height(), row), side(image.width(), column));
        for mask in masks.values_mut() {
            *mask = resize_mask(mask, height, width)?;
        }
        resize(image, height, width, self.options.filter())
    }
}

fn check_entries(entries: &[VolumeEntry]) -> Result<()> {
    let mut ids: Vec<&str> = entries.iter().map(|e| e.id.as_str()).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::argument("entries", format!("two volumes are called `{}`", pair[0])));
    }
    for entry in entries {
        if let Some(labels) = &entry.labels {
            entry.image.grid().check_same(&entry.image.name(), &labels.grid(), &labels.name())?;
            if labels.frames() != 1 {
                let reason = format!("{} has {} frames; labels have one", labels.name(), labels.frames());
                return Err(Error::argument("labels", reason));
            }
        }
    }
    Ok(())
}

impl Dataset for VolumeDataset {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn info(&self, index: usize) -> Result<SampleInfo> {
        check_index(index, self.len())?;
        let place = self.places[index];
        let entry = &self.entries[place.entry];
        let axis = self.options.axis.name();
        let frame =
            if entry.image.frames() > 1 { format!("frame_{:04}/", place.frame) } else { String::new() };
        Ok(SampleInfo {
            id: format!("{}/{frame}{axis}_{:04}", entry.id, place.index),
            class: self.numbers[place.entry],
            group: Some(entry.group.clone().unwrap_or_else(|| entry.id.clone())),
        })
    }

    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        let info = self.info(index)?;
        let SlicePlace { entry, frame, index } = self.places[index];
        let SliceOptions { axis, ref window, colour, geometry, .. } = self.options;
        let loaded = self.held.get(entry, Loaded::bytes, || self.load(entry))?;
        let stored = loaded.image.slice_of_frame(frame, axis, index)?;
        let mut image = window.apply(stored)?.with_colour(colour)?;
        let mut masks = BTreeMap::new();
        if let Some(labels) = &loaded.labels {
            for wanted in &self.options.masks {
                masks.insert(wanted.kind.clone(), labels.mask_of(&wanted.labels, axis, index)?);
            }
        }
        if self.options.square_pixels {
            image = self.squared(loaded.image.grid(), image, &mut masks)?;
        }
        if let Some(geometry) = geometry {
            image = geometry.image(image)?;
            for mask in masks.values_mut() {
                *mask = geometry.mask(mask)?;
            }
        }
        Ok(Sample { info, image, masks })
    }
}

impl Axis {
    /// A short name for ids.
    fn name(self) -> &'static str {
        match self {
            Self::Axial => "axial",
            Self::Coronal => "coronal",
            Self::Sagittal => "sagittal",
            Self::I => "i",
            Self::J => "j",
            Self::K => "k",
        }
    }
}
