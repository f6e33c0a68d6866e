//! NIfTI volumes: the `.nii` and `.nii.gz` files, and `.hdr`/`.img` pairs, of versions 1 and 2.
//!
//! What is read: whole numbers of 8 to 64 bits, signed or not, floats of 32 and 64 bits, both byte
//! orders, slope and intercept, three dimensions or four, of which the fourth is time. Colours, complex
//! numbers and floats of 128 bits are refused by name, as are the Analyze 7.5 files from which NIfTI
//! came, since they do not say which side is left. Sources: the header files `nifti1.h` and `nifti2.h`
//! of the NIfTI data format working group; where they leave a choice, nibabel's is taken:
//!
//! - a slope of 0, NaN or infinity means that values stand as they are;
//! - the place in the patient comes from the sform if its code is 1 to 5, else from the qform if its code
//!   is, else from the voxel sizes alone, with the centre at 0 and x running to the left;
//! - voxel sizes of 0 count as 1, and of negative ones the sign is dropped.
//!
//! Unlike nibabel's, affine maps are always in mm, whatever the unit of the file, and a file that is
//! compressed is told by its content rather than its name.
//!
//! ```
//! use xdiff_data::nifti::{read_nifti, write_nifti};
//! use xdiff_data::{Affine, Axis, Grid, Limits, Volume};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("map.nii.gz");
//! let grid = Grid::new([2, 3, 1], Affine::scaling([0.5, 0.5, 2.0])?)?;
//! write_nifti(&path, &Volume::new(grid, vec![0.0, 0.1, 0.2, 0.3, 0.4, 0.5])?)?;
//!
//! let volume = read_nifti(&path, &Limits::default())?;
//! assert_eq!(volume.grid(), &grid);
//! assert_eq!(volume.slice(Axis::K, 0)?.data(), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod datatype;
mod folder;
mod header;
mod read;
mod space;
mod write;

use std::path::Path;

pub use datatype::{ByteOrder, Datatype};
pub use folder::{nifti_folder, nifti_pairs};
pub use header::{NiftiHeader, NiftiVersion};
pub use read::NiftiFile;
pub use space::Placement;
pub use write::{write_nifti, write_nifti_labels};

use crate::image::Limits;
use crate::volume::{LabelVolume, Volume};
use crate::{Error, Result};

/// Reads a volume, with all its frames. Of a pair, either file may be named.
///
/// # Errors
/// - [`Error::Io`] when the file cannot be read;
/// - [`Error::Malformed`] when it is no NIfTI file, ends early or contradicts itself;
/// - [`Error::Unsupported`] when it holds colours, complex numbers, more than four dimensions or is
///   Analyze 7.5;
/// - [`Error::TooLarge`] when it goes beyond `limits`, which is found before voxels are read.
pub fn read_nifti(path: impl AsRef<Path>, limits: &Limits) -> Result<Volume> {
    NiftiFile::open(path, limits)?.volume()
}

/// Reads a volume of labels: whole numbers from 0 on.
///
/// # Errors
/// As [`read_nifti`], and when a value is no label or there are several frames.
pub fn read_nifti_labels(path: impl AsRef<Path>, limits: &Limits) -> Result<LabelVolume> {
    LabelVolume::from_volume(read_nifti(path, limits)?)
}

const DAMAGED: &str = "the file is damaged or was cut off: copy or download it again";

fn broken(path: &Path, reason: impl Into<String>) -> Error {
    Error::malformed(path, reason, DAMAGED)
}
