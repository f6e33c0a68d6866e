//! From a distance to a similarity.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How alike a patch and a prototype are, as a function of their squared distance d ≥ 0. All fall as d
/// grows, so that the most similar patch is the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Similarity {
    /// ln((d + 1)/(d + ε)), from ln(1/ε) down to 0 (Chen et al. 2019).
    Log {
        /// ε, above 0 and below 1.
        epsilon: f64,
    },
    /// −d (Dey & Saikia 2025, Eq. 4).
    Linear,
    /// The cosine of the angle between patch and prototype, in [−1, 1]: both are scaled to length 1, and
    /// d between them is 2 − 2 cos.
    Cosine,
    /// 1/(1 + d), in (0, 1].
    Reciprocal,
}

impl Default for Similarity {
    /// The logarithm with ε = 1e-4.
    fn default() -> Self {
        Similarity::Log { epsilon: 1e-4 }
    }
}

impl Similarity {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] for an ε outside (0, 1).
    pub fn validate(&self) -> Result<()> {
        match self {
            Similarity::Log { epsilon } if !(*epsilon > 0.0 && *epsilon < 1.0) => {
                Err(Error::config("epsilon", format!("is {epsilon}, must lie between 0 and 1")))
            }
            _ => Ok(()),
        }
    }

    /// Whether patches and prototypes are scaled to length 1 before their distance is taken.
    pub fn normalises(self) -> bool {
        self == Similarity::Cosine
    }

    /// The similarity of squared distances of any shape, of unit vectors where it
    /// [`normalises`](Self::normalises). Differentiable.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn of_distance(&self, distance: &Tensor) -> Result<Tensor> {
        Ok(match *self {
            Similarity::Log { epsilon } => ((distance + 1.0)?.log()? - (distance + epsilon)?.log()?)?,
            Similarity::Linear => distance.neg()?,
            Similarity::Cosine => distance.affine(-0.5, 1.0)?,
            Similarity::Reciprocal => (distance + 1.0)?.recip()?,
        })
    }
}
