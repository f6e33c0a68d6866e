//! DICOM files: images, series, and segmentation objects that become masks.
//!
//! [`Dicom`] is one file. [`find_series`] sorts the slices of a folder in space. [`Segmentation`] unpacks
//! the masks of a segmentation object and joins them with the slices they were drawn on.
//! [`Image::read`](crate::Image::read) reads DICOM files too, by their content, and gives modality values
//! (Hounsfield units of CT); so they can stand in any listing, and a
//! [`FileDataset`](crate::FileDataset) over them takes the same explicit [`Window`](crate::Window) as over
//! other files. [`listing`] lists the files of a folder with their patients as groups.
//!
//! # What is read
//! Implicit and explicit little endian, explicit big endian, deflated, RLE, JPEG (8 bits, grey of
//! 12 bits, and lossless up to 16), JPEG-LS, JPEG 2000; grey (MONOCHROME1 and 2), RGB, YBR_FULL, YBR_FULL_422, palettes; samples of
//! 1, 8 and 16 bits, signed or not, and 32-bit floats; files of many frames. Anything else is refused by
//! name.
//!
//! # Values
//! - *Stored* values are cut out of their bits: what lies above `HighBit` or below the stored bits is
//!   dropped, and the sign is extended.
//! - *Modality* values are slope · stored + intercept, or come from a table; per frame where the file
//!   says so.
//! - *Shown* values go through a window or table of the file ([`Voi`]) or a [`Window`](crate::Window) of
//!   the caller's, and MONOCHROME1 is turned round there, and nowhere else: 1 is white in either case.

mod access;
mod codec;
mod colour;
mod fault;
mod file;
mod frames;
mod jpeg_12;
mod jpeg_ls;
mod layout;
mod listing;
mod meta;
mod rle;
mod segmentation;
mod series;
mod structure;
mod syntax;
mod transform;

pub use fault::DicomFault;
pub use file::Dicom;
pub use layout::{Photometric, PixelLayout};
pub use listing::{files, listing};
pub use meta::{Laterality, Meta, PatientId, Plane};
pub use segmentation::{Segment, SegmentFrame, Segmentation};
pub use series::{
    FoundSeries, Series, SeriesOptions, SeriesVolume, Slice, SortBy, Spacing, find_series, series_of,
};
pub use syntax::TransferSyntax;
pub use transform::{ModalityTransform, PixelValues, Table, Voi, WindowFunction};

pub(crate) use file::read_image;
pub(crate) use segmentation::drawn_mask;
