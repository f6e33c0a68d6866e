//! What is explained, and how thoroughly.

use serde::{Deserialize, Serialize};

/// Where prototypes look into the network, how many there are, and how often all of it is repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The activation that serves as features.
    pub site: String,
    /// The time step at which the network sees the images.
    pub timestep: usize,
    /// m: prototypes of each method.
    pub prototypes: usize,
    /// A smaller number of prototypes, for which all scores are given too: at most this many keep
    /// |F| ≤ 1/m within reach of the paper's numbers.
    pub fewer: usize,
    /// Mean squared distance of two patches after standardising: it sets how sharp the softmax over
    /// −d² is.
    pub spread: f64,
    /// Side of the window that stands for a patch, in cells of the feature map.
    pub window: usize,
    /// How often each method is trained, with seeds from the first on.
    pub seeds: u64,
    /// The first seed.
    pub seed: u64,
    /// Optimiser steps of a training of prototypes, of 32 images each, rounded up to whole epochs.
    pub steps: usize,
    /// Composites of known parts, for each seed, that test whether the right source is found.
    pub composites: usize,
    /// How many training images they are composed of.
    pub composed_of: usize,
    /// Prototypes that are found in these.
    pub composed_prototypes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            site: "up_blocks.1.resnets.1".to_owned(),
            timestep: 100,
            prototypes: 16,
            fewer: 6,
            spread: 20.0,
            window: 3,
            seeds: 5,
            seed: 0,
            steps: 600,
            composites: 40,
            composed_of: 24,
            composed_prototypes: 48,
        }
    }
}

impl Settings {
    /// Seconds: shows that everything runs.
    pub fn tiny() -> Self {
        Self {
            prototypes: 5,
            fewer: 3,
            seeds: 2,
            steps: 4,
            composites: 4,
            composed_of: 6,
            composed_prototypes: 12,
            ..Self::default()
        }
    }
}
