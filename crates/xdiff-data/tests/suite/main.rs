//! The crate's tests from outside, in one program so that they link once.

mod common;
mod composites;
mod configs;
#[cfg(feature = "dicom")]
mod dicom_files;
#[cfg(feature = "dicom")]
mod dicom_reference;
#[cfg(feature = "dicom")]
mod dicom_series;
mod files;
#[cfg(feature = "hub")]
mod hub;
mod images;
mod loader;
#[cfg(feature = "nifti")]
mod nifti;
mod phantoms;
mod shared;
mod slices;
mod splits;
mod volumes;
