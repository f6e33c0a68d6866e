//! Volumes: images of three dimensions, over time if they have frames, with their place in the patient.

mod affine;
mod grid;
mod labels;
mod orientation;

pub use affine::Affine;
pub use grid::{Axis, Grid};
pub use labels::LabelVolume;
pub use orientation::{Direction, Orientation};

use crate::image::{Depth, Image, Origin, Scale};
use crate::{Error, Result};

/// Grey values on a [`Grid`], once or for several frames.
///
/// Values are those that the file means: stored numbers after its slope and intercept, Hounsfield units
/// for CT. They may be NaN, as in some files the background is; [`Volume::slice`] refuses such a slice,
/// so replace them first ([`Volume::with_non_finite`]).
///
/// # Shapes
/// Voxel (i, j, k) of frame t stands at i + I·(j + J·(k + K·t)): the first axis is the fastest, as in
/// NIfTI files.
///
/// ```
/// use xdiff_data::{Affine, Axis, Grid, Orientation, Volume};
///
/// // Two columns to the patient's right, two rows to the front, one slice.
/// let grid = Grid::new([2, 2, 1], Affine::scaling([0.7, 0.7, 5.0])?)?;
/// let volume = Volume::new(grid, vec![1.0, 2.0, 3.0, 4.0])?;
/// assert_eq!(volume.grid().orientation(), Orientation::RAS);
/// // As shown to a radiologist: the patient's right on the left, the front at the top.
/// assert_eq!(volume.slice(Axis::Axial, 0)?.data(), [4.0, 3.0, 2.0, 1.0]);
/// assert_eq!(volume.slice(Axis::K, 0)?.data(), [1.0, 2.0, 3.0, 4.0]);
/// assert_eq!(volume.grid().pixel_spacing(Axis::Coronal), (5.0, 0.7));
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    grid: Grid,
    frames: usize,
    voxels: Vec<f32>,
    /// The seconds from one frame to the next, where the file says so.
    pub frame_seconds: Option<f64>,
    /// Where the volume came from.
    pub origin: Origin,
}

impl Volume {
    /// A volume of one frame made in memory.
    ///
    /// # Errors
    /// When the length does not fit the grid.
    pub fn new(grid: Grid, voxels: Vec<f32>) -> Result<Self> {
        Self::with_frames(grid, 1, voxels)
    }

    /// A volume of several frames, one after the other.
    ///
    /// # Errors
    /// When there are no frames or the length does not fit.
    pub fn with_frames(grid: Grid, frames: usize, voxels: Vec<f32>) -> Result<Self> {
        if frames == 0 || grid.voxels().checked_mul(frames) != Some(voxels.len()) {
            return Err(Error::argument(
                "voxels",
                format!("{} values for {frames} frames of {:?} voxels", voxels.len(), grid.dims()),
            ));
        }
        Ok(Self::assembled(grid, frames, voxels))
    }

    fn assembled(grid: Grid, frames: usize, voxels: Vec<f32>) -> Self {
        let origin = Origin { path: None, depth: Depth::F32, channels: 1, inverted: false, windowed: None };
        Self { grid, frames, voxels, frame_seconds: None, origin }
    }

    /// The size and the place in the patient.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// How many frames there are; 1 for a volume without time.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// All values, frame after frame.
    pub fn voxels(&self) -> &[f32] {
        &self.voxels
    }

    /// All values, moved out.
    pub fn into_voxels(self) -> Vec<f32> {
        self.voxels
    }

    /// The file's path, or "volume" for one made in memory.
    pub fn name(&self) -> String {
        self.origin.path.as_ref().map_or_else(|| "volume".to_string(), |p| p.display().to_string())
    }

    /// The least and the greatest of the finite values; `None` when there are none.
    pub fn extent(&self) -> Option<(f32, f32)> {
        let finite = self.voxels.iter().filter(|v| v.is_finite());
        finite.fold(None, |seen, v| {
            let (lo, hi) = seen.unwrap_or((*v, *v));
            Some((v.min(lo), v.max(hi)))
        })
    }

    /// The same volume with `value` for what is NaN or infinite, and how many voxels that were.
    ///
    /// # Errors
    /// When the value itself is not finite.
    pub fn with_non_finite(mut self, value: f32) -> Result<(Self, usize)> {
        if !value.is_finite() {
            return Err(Error::argument("value", format!("{value} is not finite")));
        }
        let mut count = 0;
        for v in self.voxels.iter_mut().filter(|v| !v.is_finite()) {
            *v = value;
            count += 1;
        }
        Ok((self, count))
    }

    /// One frame as a volume of its own.
    ///
    /// # Errors
    /// When there is no such frame.
    pub fn frame(&self, frame: usize) -> Result<Self> {
        let voxels = self.frame_voxels(frame)?.to_vec();
        Ok(Self { grid: self.grid, frames: 1, voxels, frame_seconds: None, origin: self.origin.clone() })
    }

    /// A volume of one frame full of zeros.
    pub fn zeros(grid: Grid) -> Self {
        Self::assembled(grid, 1, vec![0.0; grid.voxels()])
    }

    fn frame_voxels(&self, frame: usize) -> Result<&[f32]> {
        let n = self.grid.voxels();
        let missing = || {
            let reason = format!("{frame} was asked for, but {} has {}", self.name(), self.frames);
            Error::argument("frame", reason)
        };
        if frame >= self.frames {
            return Err(missing());
        }
        self.voxels.get(frame * n..(frame + 1) * n).ok_or_else(missing)
    }

    fn single_frame(&self) -> Result<()> {
        if self.frames == 1 {
            return Ok(());
        }
        let reason = format!("{} has {} frames; choose one with `frame`", self.name(), self.frames);
        Err(Error::argument("frame", reason))
    }

    /// A slice of a volume of one frame, as an image of stored values. [`Axis`] says which slice is the
    /// first and how rows and columns run.
    ///
    /// # Errors
    /// When there are several frames, no such slice, or NaN in it.
    pub fn slice(&self, axis: Axis, index: usize) -> Result<Image> {
        self.single_frame()?;
        self.slice_of_frame(0, axis, index)
    }

    /// A slice of one frame.
    ///
    /// # Errors
    /// When there is no such frame or slice, or NaN in it.
    pub fn slice_of_frame(&self, frame: usize, axis: Axis, index: usize) -> Result<Image> {
        let (rows, columns) = check_slice(&self.grid, axis, index, &self.name())?;
        let plane = self.grid.walk(axis).plane(self.frame_voxels(frame)?, self.grid.dims(), index);
        let count = plane.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            let name = format!("{}, slice {index}", self.name());
            return Err(Error::NonFinite { name, count, total: plane.len() });
        }
        let mut image = Image::new(1, rows, columns, plane, Scale::Stored)?;
        image.origin = self.origin.clone();
        Ok(image)
    }

    /// Puts an image of stored values, such as a saliency map of a slice, in the place that
    /// [`Volume::slice_of_frame`] takes a slice from.
    ///
    /// # Errors
    /// When there is no such frame or slice, or the image is not grey or of another size.
    pub fn set_slice(&mut self, frame: usize, axis: Axis, index: usize, image: &Image) -> Result<()> {
        let (rows, columns) = check_slice(&self.grid, axis, index, &self.name())?;
        if (image.channels(), image.height(), image.width()) != (1, rows, columns) {
            let got = [image.channels(), image.height(), image.width()];
            let reason = format!("{got:?} (channels, height, width) given for a slice of {rows}×{columns}");
            return Err(Error::argument("image", reason));
        }
        let start = self.frame_voxels(frame)?.len() * frame;
        let places = self.grid.walk(axis).places(self.grid.dims(), index);
        places.zip(image.data()).for_each(|(place, v)| self.voxels[start + place] = *v);
        Ok(())
    }

    /// The same voxels in the same places of the patient, with axes that point as asked: axes are
    /// reordered and reversed, nothing is interpolated.
    pub fn reoriented(&self, orientation: Orientation) -> Self {
        let walk = self.grid.walk_towards(orientation.axes());
        let dims = self.grid.dims();
        let frames = self.voxels.chunks(self.grid.voxels());
        let voxels = frames.flat_map(|frame| walk.all(frame, dims)).collect();
        Self { grid: self.grid.walked(&walk), voxels, origin: self.origin.clone(), ..*self }
    }

    /// Checks that another volume lies on the same grid, voxel on voxel.
    ///
    /// # Errors
    /// [`Error::Grids`] when it does not.
    pub fn check_same_grid(&self, other: &Self) -> Result<()> {
        self.grid.check_same(&self.name(), &other.grid, &other.name())
    }
}

/// The rows and columns of a slice, once it is known to exist.
fn check_slice(grid: &Grid, axis: Axis, index: usize, name: &str) -> Result<(usize, usize)> {
    let slices = grid.slices(axis);
    if index < slices {
        return Ok(grid.slice_size(axis));
    }
    Err(Error::argument("slice", format!("{index} was asked for, but {name} has {slices} along {axis:?}")))
}
