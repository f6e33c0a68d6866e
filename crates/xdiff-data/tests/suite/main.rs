//! The crate's tests from outside, in one program so that they link once.

mod common;
mod configs;
#[cfg(feature = "dicom")]
mod dicom_files;
#[cfg(feature = "dicom")]
mod dicom_reference;
#[cfg(feature = "dicom")]
mod dicom_series;
mod files;
mod images;
mod loader;
mod phantoms;
mod shared;
mod splits;
mod volumes;
