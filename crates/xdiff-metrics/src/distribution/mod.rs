//! Distances between two sets of images by the distributions of their features.

mod extrapolation;
mod features;
mod frechet;
mod kernel;
mod moments;
mod neighbours;
mod rows;
mod sets;

pub use extrapolation::{ExtrapolatedScore, Extrapolation, SubsetDistance, frechet_infinity};
pub use features::{FeatureBatch, Features, is_fid_network};
pub use frechet::{FrechetDistance, FrechetScore, SMALL_SAMPLE, frechet_distance, frechet_of_moments};
pub use kernel::{KernelDistance, KernelScore, SubsetScore, Subsets, kernel_distance};
pub use moments::FeatureMoments;
pub use neighbours::{Neighbours, PrecisionRecall, PrecisionRecallScore, precision_recall};
