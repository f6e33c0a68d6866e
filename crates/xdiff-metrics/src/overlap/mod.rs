//! Agreement of segmentation masks: overlap of regions, and distances between their surfaces.

mod distance_transform;
mod labels;
mod region;
mod surface;

pub use labels::LabelDice;
pub use region::{Dice, Empty, Iou};
pub use surface::{AverageSurfaceDistance, EmptySurface, Hausdorff, SurfaceDice, SurfacePreset};
