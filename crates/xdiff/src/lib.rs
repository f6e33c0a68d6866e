//! Explainable diffusion models for medical images.
//!
//! This crate only re-exports: each module is a crate of its own and can be used alone.

pub use xdiff_core as core;
#[cfg(feature = "data")]
pub use xdiff_data as data;
#[cfg(feature = "metrics")]
pub use xdiff_metrics as metrics;
pub use xdiff_nn as nn;
#[cfg(feature = "proto")]
pub use xdiff_proto as proto;
#[cfg(feature = "vision")]
pub use xdiff_vision as vision;
#[cfg(feature = "viz")]
pub use xdiff_viz as viz;
