//! Published scores of prototypes: whether they mean one thing, keep to it, and matter.
//!
//! - [`Correspondence`]: the consistency and stability scores of Huang et al. 2023.
//! - [`Purity`]: the purity of Nauta et al. 2023 (PIP-Net).
//! - [`pointing_game`]: the pointing game of Zhang et al. 2018.
//! - [`pruning_curves`]: a score as prototypes are removed in order of influence.
//!
//! The first three hold activation maps against annotated parts of the images ([`ImageParts`]): points,
//! as in the data set of birds for which the scores were made, or regions, as medical images have them.

mod correspondence;
mod parts;
mod peak;
mod pointing;
mod pruning_curve;
mod purity;
#[cfg(test)]
mod tests;

pub use correspondence::{
    Consistency, Correspondence, CorrespondenceConfig, PerturbationConfig, Stability, perturb,
};
pub use parts::ImageParts;
pub use pointing::{PointingGame, pointing_game};
pub use pruning_curve::{PruningCurve, PruningCurves, PruningCurvesConfig, pruning_curves};
pub use purity::{PrototypePurity, Purity, PurityConfig, PurityScore};
