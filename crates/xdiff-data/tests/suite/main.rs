//! The crate's tests from outside, in one program so that they link once.

mod common;
mod configs;
mod files;
mod images;
mod loader;
mod phantoms;
mod shared;
mod splits;
mod volumes;
