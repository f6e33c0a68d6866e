//! Mask-conditioned MRI: the main job that `quickstart` and `faithful_mri` share.

pub mod explain;
pub mod model;
pub mod paper;
pub mod preset;
pub mod quality;
pub mod report;
pub mod sampling;
pub mod scores;
pub mod source;
pub mod store;
