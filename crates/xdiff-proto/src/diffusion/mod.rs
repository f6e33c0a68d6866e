//! What a diffusion network sees in an image: its frozen features as a
//! [`FeatureExtractor`](xdiff_core::FeatureExtractor), and how the influence of prototypes moves while it
//! samples.

mod features;
mod noise;
mod sites;
mod standardised;
mod statistics;
#[cfg(test)]
mod tests;
mod trajectory;

pub use features::{DiffusionFeatures, DiffusionFeaturesConfig};
pub use noise::FeatureNoise;
pub use sites::{MapGrid, SiteMap};
pub use standardised::Standardised;
pub use statistics::FeatureStatistics;
pub(crate) use statistics::constant;
pub use trajectory::{InfluenceOverTime, InfluenceRow, InfluenceStep};
