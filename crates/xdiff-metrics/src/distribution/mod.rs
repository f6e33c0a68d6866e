//! Distances between two sets of images by the distributions of their features.

mod features;
mod frechet;
mod kernel;
mod moments;

pub use features::{FeatureBatch, Features};
pub use frechet::{FrechetDistance, FrechetScore, SMALL_SAMPLE, frechet_distance, frechet_of_moments};
pub use kernel::{KernelDistance, KernelScore, SubsetScore, Subsets, kernel_distance};
pub use moments::FeatureMoments;
