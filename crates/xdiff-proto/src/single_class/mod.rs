//! Prototypes of images that are all of one class, on frozen features.
//!
//! Dey & Saikia 2025 explain a diffusion model of one class with networks that learn by telling classes
//! apart. With one class cross-entropy and separation vanish, and the paper does not say what is learnt
//! instead. [`Training`] holds the readings; alignment and diversity is what its equations leave.

mod bank;
mod config;
mod k_means;
mod seeding;
mod self_sup;
#[cfg(test)]
mod tests;
mod train;

pub use bank::FeatureBank;
pub use config::{SingleClassConfig, Training};
pub use k_means::{KMeans, KMeansConfig, Points, k_means};
pub use seeding::Seeding;
pub use train::{SingleClass, Trained};
