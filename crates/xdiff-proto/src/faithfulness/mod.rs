//! How far the influence of prototypes can be believed, under every definition that has been given for
//! it, and beside the numbers without which none of them means anything.
//!
//! Dey & Saikia 2025 define one score (their Eq. 14) and print values that it cannot take: with weights
//! that sum to 1 and correlations in [−1, 1] its magnitude is at most 1/m, so that 0.1534 needs m ≤ 6,
//! while the released code has m = 100 and averages the largest influence instead. So each reading has a
//! name here ([`Definition`]), is computed from the same [`Evidence`], and a [`FaithfulnessReport`] holds
//! it together with its range, the same score with influences dealt out at random, with prototypes that
//! are random patches ([`random_patches`]), at smaller numbers of prototypes, and its spread over seeds.
//! No ordering of methods is assumed.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use xdiff_proto::faithfulness::{Definition, Evidence};
//!
//! let g = Tensor::new(&[[0f32, 0.], [2f32.ln(), 0.]], &Device::Cpu)?;
//! let corr = Tensor::new(&[[0.5f32, -0.25], [0.5, -0.25]], &Device::Cpu)?;
//! let evidence = Evidence::from_similarity(&g)?.with_correlation(&corr)?;
//! let score = evidence.score(Definition::Eq14Sum)?;
//! assert_eq!(score[0], Some(0.125));
//! assert!((score[1].unwrap() - 0.25).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod baseline;
mod evidence;
mod intervention;
mod report;

use serde::{Deserialize, Serialize};
use xdiff_core::statistics::{pearson, spearman};

pub use baseline::{Baseline, random_patches};
pub use evidence::Evidence;
pub use intervention::{embedding_change, output_change, reconstruction_change};
pub use report::{DefinitionScore, FaithfulnessConfig, FaithfulnessReport, MatchedScore, Run, Spread};

/// What "faithful" means for the influences NIS_1 … NIS_m of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Definition {
    /// (1/m) Σ_j NIS_j · corr_j, Eq. 14 as printed; in [−1/m, 1/m].
    Eq14,
    /// Σ_j NIS_j · corr_j: Eq. 14 without the 1/m, the mean correlation weighted by influence; in
    /// [−1, 1].
    #[default]
    Eq14Sum,
    /// Σ_j NIS_j · max(corr_j, 0), in [0, 1] as the paper says of its score.
    Eq14SumClamp,
    /// max_j NIS_j, in [1/m, 1]: what the released code averages. It looks at no image, and one
    /// prototype that always wins has the best score.
    ReleasedMaxNis,
    /// Pearson's correlation over the prototypes between NIS_j and how much an output changes when
    /// prototype j is removed; in [−1, 1], undefined when either is the same for all prototypes.
    Intervention,
    /// Spearman's correlation over the prototypes between NIS_j and how much the source of prototype j
    /// contributed to an image whose making is known; in [−1, 1], undefined when either is the same for
    /// all prototypes.
    GroundTruth,
}

impl Definition {
    /// All of them.
    pub const ALL: [Definition; 6] = [
        Definition::Eq14,
        Definition::Eq14Sum,
        Definition::Eq14SumClamp,
        Definition::ReleasedMaxNis,
        Definition::Intervention,
        Definition::GroundTruth,
    ];

    /// The name under which it is written.
    pub fn name(self) -> &'static str {
        match self {
            Definition::Eq14 => "eq14",
            Definition::Eq14Sum => "eq14_sum",
            Definition::Eq14SumClamp => "eq14_sum_clamp",
            Definition::ReleasedMaxNis => "released_max_nis",
            Definition::Intervention => "intervention",
            Definition::GroundTruth => "ground_truth",
        }
    }

    /// The least and the greatest value that it can have with m prototypes, whatever the images.
    pub fn range(self, m: usize) -> (f64, f64) {
        let share = 1.0 / m.max(1) as f64;
        match self {
            Definition::Eq14 => (-share, share),
            Definition::Eq14SumClamp => (0.0, 1.0),
            Definition::ReleasedMaxNis => (share, 1.0),
            Definition::Eq14Sum | Definition::Intervention | Definition::GroundTruth => (-1.0, 1.0),
        }
    }

    /// The score of one image; `other` holds the correlations, changes or contributions it asks for.
    fn of(self, influence: &[f64], other: &[f64]) -> Option<f64> {
        let sum = |f: fn(f64) -> f64| influence.iter().zip(other).map(|(n, c)| n * f(*c)).sum::<f64>();
        match self {
            Definition::Eq14 => Some(sum(|c| c) / influence.len() as f64),
            Definition::Eq14Sum => Some(sum(|c| c)),
            Definition::Eq14SumClamp => Some(sum(|c| c.max(0.0))),
            Definition::ReleasedMaxNis => influence.iter().copied().reduce(f64::max),
            Definition::Intervention => pearson(influence, other),
            Definition::GroundTruth => spearman(influence, other),
        }
    }
}

impl std::fmt::Display for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests;
