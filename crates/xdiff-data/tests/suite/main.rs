//! The crate's tests from outside, in one program so that they link once.

mod common;
mod configs;
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
