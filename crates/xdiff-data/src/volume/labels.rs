//! Volumes of labels: which voxel belongs to what.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::grid::{Axis, Grid};
use super::orientation::Orientation;
use super::{Volume, check_slice};
use crate::mask::Mask;
use crate::{Error, Result};

/// A whole number per voxel, in the order of a [`Volume`]; 0 is background.
///
/// ```
/// use xdiff_data::{Affine, Axis, Grid, LabelVolume};
///
/// let grid = Grid::new([3, 2, 1], Affine::scaling([1.0; 3])?)?;
/// let labels = LabelVolume::new(grid, vec![0, 2, 2, 0, 0, 700])?;
/// assert_eq!(labels.counts().into_iter().collect::<Vec<_>>(), [(2, 2), (700, 1)]);
/// let mask = labels.mask(700, Axis::K, 0)?;
/// assert_eq!(mask.data(), [0, 0, 0, 0, 0, 1]);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LabelVolume {
    grid: Grid,
    labels: Vec<u32>,
    /// The file it was read from.
    pub path: Option<PathBuf>,
}

/// The whole numbers up to here are all held by an f32.
const LARGEST: f32 = 16_777_216.0;

impl LabelVolume {
    /// A volume of labels, the first axis fastest.
    ///
    /// # Errors
    /// When the length does not fit.
    pub fn new(grid: Grid, labels: Vec<u32>) -> Result<Self> {
        if labels.len() != grid.voxels() {
            return Err(Error::argument(
                "labels",
                format!("{} labels for {:?} voxels", labels.len(), grid.dims()),
            ));
        }
        Ok(Self { grid, labels, path: None })
    }

    /// The labels that a volume of one frame holds as numbers.
    ///
    /// # Errors
    /// When it has several frames, or a value is not a whole number of 0 to 16,777,216.
    pub fn from_volume(volume: Volume) -> Result<Self> {
        volume.single_frame()?;
        let whole = |v: &f32| (0.0..=LARGEST).contains(v) && v.fract() == 0.0;
        if let Some(value) = volume.voxels().iter().find(|v| !whole(v)) {
            let reason = format!(
                "{} holds {value}, which is no label; labels are whole numbers of 0 to {LARGEST}",
                volume.name()
            );
            return Err(Error::argument("labels", reason));
        }
        let path = volume.origin.path.clone();
        let grid = *volume.grid();
        let labels = volume.voxels().iter().map(|v| *v as u32).collect();
        Ok(Self { path, ..Self::new(grid, labels)? })
    }

    /// The labels as the numbers of a volume.
    ///
    /// # Errors
    /// When a label is beyond 16,777,216, which an f32 does not hold.
    pub fn to_volume(&self) -> Result<Volume> {
        if let Some(label) = self.labels.iter().find(|l| **l > LARGEST as u32) {
            let reason = format!("{} holds {label}; an f32 holds labels of up to {LARGEST}", self.name());
            return Err(Error::argument("labels", reason));
        }
        let mut volume = Volume::new(self.grid, self.labels.iter().map(|l| *l as f32).collect())?;
        volume.origin.path = self.path.clone();
        Ok(volume)
    }

    /// The size and the place in the patient.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The labels, the first axis fastest.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The file's path, or "labels" for labels made in memory.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "labels".to_string(), |p| p.display().to_string())
    }

    /// How many voxels each label has, without 0.
    pub fn counts(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        self.labels.iter().filter(|l| **l != 0).for_each(|l| *counts.entry(*l).or_insert(0) += 1);
        counts
    }

    /// The binary mask of one label in a slice, laid out as [`Volume::slice`] lays out its image.
    ///
    /// # Errors
    /// When there is no such slice.
    pub fn mask(&self, label: u32, axis: Axis, index: usize) -> Result<Mask> {
        self.mask_where(axis, index, |l| l == label)
    }

    /// The mask of all labels but 0 in a slice.
    ///
    /// # Errors
    /// When there is no such slice.
    pub fn foreground(&self, axis: Axis, index: usize) -> Result<Mask> {
        self.mask_where(axis, index, |l| l != 0)
    }

    /// The binary mask of several labels in a slice; of all but 0 when none are named.
    ///
    /// # Errors
    /// When there is no such slice.
    pub fn mask_of(&self, labels: &[u32], axis: Axis, index: usize) -> Result<Mask> {
        if labels.is_empty() {
            return self.foreground(axis, index);
        }
        self.mask_where(axis, index, |l| labels.contains(&l))
    }

    fn mask_where(&self, axis: Axis, index: usize, wanted: impl Fn(u32) -> bool) -> Result<Mask> {
        let (rows, columns) = check_slice(&self.grid, axis, index, &self.name())?;
        let plane = self.grid.walk(axis).plane(&self.labels, self.grid.dims(), index);
        Mask::new(rows, columns, plane.into_iter().map(|l| u8::from(wanted(l))).collect())
    }

    /// The same labels in the same places, with axes that point as asked.
    pub fn reoriented(&self, orientation: Orientation) -> Self {
        let walk = self.grid.walk_towards(orientation.axes());
        let labels = walk.all(&self.labels, self.grid.dims());
        Self { grid: self.grid.walked(&walk), labels, path: self.path.clone() }
    }

    /// Checks that these labels lie on a volume, voxel on voxel.
    ///
    /// # Errors
    /// [`Error::Grids`] when they do not.
    pub fn check_same_grid(&self, volume: &Volume) -> Result<()> {
        volume.grid().check_same(&volume.name(), &self.grid, &self.name())
    }
}
