//! Which slices of a volume become samples, and how they are prepared.

use serde::{Deserialize, Serialize};

use super::{SlicePlace, VolumeEntry};
use crate::image::Colour;
use crate::mask::MaskKind;
use crate::transform::{Filter, Geometry};
use crate::volume::{Axis, LabelVolume};
use crate::window::Window;
use crate::{Error, Result};

/// Which frames of a volume give slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frames {
    /// The only one; volumes with several are refused.
    #[default]
    Single,
    /// One of them, from 0.
    At(usize),
    /// All, one after the other.
    All,
}

/// Which slices along the axis are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceRange {
    /// All.
    #[default]
    All,
    /// From the first index up to, without, the second.
    Between(usize, usize),
    /// Those from one share of the way to another: `Share(0.25, 0.75)` is the middle half. Slice i of n
    /// is taken when its centre, (i + ½)/n, lies between them.
    Share(f64, f64),
}

/// Which slices are left out by what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// None.
    #[default]
    Nothing,
    /// Those without a voxel of any label in [`SliceOptions::masks`], and volumes without labels.
    Unlabelled,
    /// Those in which no more than a share of the pixels are above a stored value: air at the ends.
    Empty {
        /// The value, in stored units.
        value: f32,
        /// The share, 0 to 1.
        share: f64,
    },
}

/// The labels that make up one kind of mask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskLabels {
    /// What the mask marks.
    pub kind: MaskKind,
    /// The labels that belong to it; all but 0 when there are none here.
    pub labels: Vec<u32>,
}

/// How a [`VolumeDataset`](super::VolumeDataset) makes samples. There is no default axis or window: they
/// must be chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceOptions {
    /// The axis that slices are taken along.
    pub axis: Axis,
    /// From stored values to [0, 1].
    pub window: Window,
    /// The frames.
    #[serde(default)]
    pub frames: Frames,
    /// The slices.
    #[serde(default)]
    pub range: SliceRange,
    /// What is left out of those.
    #[serde(default)]
    pub skip: Skip,
    /// The masks that are made of the labels.
    #[serde(default)]
    pub masks: Vec<MaskLabels>,
    /// The channels.
    #[serde(default)]
    pub colour: Colour,
    /// Whether slices are resampled, before `geometry`, until pixels are as wide as high: the coarser
    /// side takes the spacing of the finer. Voxels are often longer than wide, so coronal and sagittal
    /// slices are squashed without.
    #[serde(default)]
    pub square_pixels: bool,
    /// The size; as stored when `None`.
    #[serde(default)]
    pub geometry: Option<Geometry>,
    /// How many bytes of volumes may be kept in memory. The last one used always is.
    #[serde(default = "one_gibibyte")]
    pub held_bytes: usize,
}

fn one_gibibyte() -> usize {
    1 << 30
}

impl SliceOptions {
    /// All slices along an axis, as stored, without masks, 1 GiB of volumes held.
    pub fn new(axis: Axis, window: Window) -> Self {
        Self {
            axis,
            window,
            frames: Frames::default(),
            range: SliceRange::default(),
            skip: Skip::default(),
            masks: Vec::new(),
            colour: Colour::default(),
            square_pixels: false,
            geometry: None,
            held_bytes: one_gibibyte(),
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// When a range is empty or a share outside of 0 to 1, a threshold is not finite, two masks are of
    /// one kind, or slices without labels are to be left out but no masks are named.
    pub fn validate(&self) -> Result<()> {
        let range = match self.range {
            SliceRange::All => true,
            SliceRange::Between(from, to) => from < to,
            SliceRange::Share(from, to) => 0.0 <= from && from < to && to <= 1.0,
        };
        if !range {
            return Err(Error::argument("range", format!("{:?} is empty or outside of 0 to 1", self.range)));
        }
        if let Skip::Empty { value, share } = self.skip
            && !(value.is_finite() && (0.0..1.0).contains(&share))
        {
            let reason = format!("{:?}: the value must be finite and the share from 0 to below 1", self.skip);
            return Err(Error::argument("skip", reason));
        }
        if self.skip == Skip::Unlabelled && self.masks.is_empty() {
            return Err(Error::argument(
                "skip",
                "slices without labels are left out, but `masks` names none",
            ));
        }
        let twice = |n: usize| self.masks[..n].iter().any(|m| m.kind == self.masks[n].kind);
        if let Some(n) = (0..self.masks.len()).find(|n| twice(*n)) {
            let reason = format!("`{}` is named twice; put its labels together", self.masks[n].kind);
            return Err(Error::argument("masks", reason));
        }
        Ok(())
    }

    pub(super) fn filter(&self) -> Filter {
        self.geometry.map_or_else(Filter::default, |g| g.filter)
    }

    /// The frames and slices of a volume, before any is skipped.
    pub(super) fn places(&self, n: usize, entry: &VolumeEntry) -> Result<Vec<SlicePlace>> {
        let (name, frames) = (entry.image.name(), entry.image.frames());
        let frames = match self.frames {
            Frames::Single if frames == 1 => 0..1,
            Frames::Single => {
                let reason = format!("{name} has {frames} frames; choose `At` one of them or `All`");
                return Err(Error::argument("frames", reason));
            }
            Frames::At(frame) if frame < frames => frame..frame + 1,
            Frames::At(frame) => {
                return Err(Error::argument("frames", format!("{frame} asked for, but {name} has {frames}")));
            }
            Frames::All => 0..frames,
        };
        let slices = entry.image.grid().slices(self.axis);
        let wanted: Vec<usize> = match self.range {
            SliceRange::All => (0..slices).collect(),
            SliceRange::Between(from, to) if to <= slices => (from..to).collect(),
            SliceRange::Between(..) => {
                let reason = format!("{:?} asked for, but {name} has {slices} slices", self.range);
                return Err(Error::argument("range", reason));
            }
            SliceRange::Share(from, to) => {
                let centre = |i: usize| (i as f64 + 0.5) / slices as f64;
                (0..slices).filter(|i| (from..to).contains(&centre(*i))).collect()
            }
        };
        let all =
            frames.flat_map(|frame| wanted.iter().map(move |i| SlicePlace { entry: n, frame, index: *i }));
        Ok(all.collect())
    }

    /// The places that are not skipped.
    pub(super) fn kept(&self, entry: &VolumeEntry, mut places: Vec<SlicePlace>) -> Result<Vec<SlicePlace>> {
        match (self.skip, &entry.labels) {
            (Skip::Nothing, _) => Ok(places),
            (Skip::Unlabelled, None) => Ok(Vec::new()),
            (Skip::Unlabelled, Some(labels)) => {
                let labels = LabelVolume::from_volume(labels.volume()?)?;
                let mut labelled = Vec::with_capacity(places.len());
                for place in &places {
                    let mut any = false;
                    for wanted in &self.masks {
                        any |= labels.mask_of(&wanted.labels, self.axis, place.index)?.area() > 0;
                    }
                    labelled.push(any);
                }
                let mut labelled = labelled.into_iter();
                places.retain(|_| labelled.next().unwrap_or(false));
                Ok(places)
            }
            (Skip::Empty { value, share }, _) => {
                let image = entry.image.volume()?;
                let mut kept = Vec::with_capacity(places.len());
                for place in places {
                    let slice = image.slice_of_frame(place.frame, self.axis, place.index)?;
                    let above = slice.data().iter().filter(|v| **v > value).count();
                    if above as f64 > share * slice.data().len() as f64 {
                        kept.push(place);
                    }
                }
                Ok(kept)
            }
        }
    }
}
