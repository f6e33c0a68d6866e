//! The weights of the terms.

use serde::{Deserialize, Serialize};

use super::align::AlignOver;
use super::cross_entropy::check_class_weights;
use super::diversity::DiversityScale;
use crate::{Error, Result};

/// A term of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// [`cross_entropy`](super::cross_entropy).
    CrossEntropy,
    /// [`cluster`](super::cluster).
    Cluster,
    /// [`separation`](super::separation).
    Separation,
    /// [`wrong_class_l1`](super::wrong_class_l1).
    L1,
    /// [`align`](super::align).
    Align,
    /// [`diversity`](super::diversity).
    Diversity,
    /// [`orthogonality`](super::orthogonality).
    Orthogonality,
}

impl Term {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CrossEntropy,
        Self::Cluster,
        Self::Separation,
        Self::L1,
        Self::Align,
        Self::Diversity,
        Self::Orthogonality,
    ];

    /// The name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::Cluster => "cluster",
            Self::Separation => "separation",
            Self::L1 => "l1",
            Self::Align => "align",
            Self::Diversity => "diversity",
            Self::Orthogonality => "orthogonality",
        }
    }
}

/// By what each term is multiplied; a term of weight 0 is not computed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// Of [`Term::CrossEntropy`].
    pub cross_entropy: f64,
    /// Of [`Term::Cluster`].
    pub cluster: f64,
    /// Of [`Term::Separation`]; negative, as the distance to other classes shall grow.
    pub separation: f64,
    /// Of [`Term::L1`].
    pub l1: f64,
    /// Of [`Term::Align`].
    pub align: f64,
    /// Of [`Term::Diversity`].
    pub diversity: f64,
    /// Of [`Term::Orthogonality`].
    pub orthogonality: f64,
}

impl Default for LossWeights {
    /// Nothing: each term that is wanted is named.
    fn default() -> Self {
        Self {
            cross_entropy: 0.0,
            cluster: 0.0,
            separation: 0.0,
            l1: 0.0,
            align: 0.0,
            diversity: 0.0,
            orthogonality: 0.0,
        }
    }
}

impl LossWeights {
    /// Cross-entropy + 0.8 cluster − 0.08 separation + 1e-4 L1 (Chen et al. 2019, released settings).
    pub fn ppnet() -> Self {
        Self { cluster: 0.8, separation: -0.08, ..Self::last_layer() }
    }

    /// Those of [`ppnet`](Self::ppnet) and orthogonality (Rymarczyk et al. 2022, released code).
    pub fn protopool() -> Self {
        Self { orthogonality: 1.0, ..Self::ppnet() }
    }

    /// Cross-entropy + 1e-4 L1: what the last layer is tuned by after a push. In the published training
    /// of that layer cluster and separation stand in the sum too, but are constants.
    pub fn last_layer() -> Self {
        Self { cross_entropy: 1.0, l1: 1e-4, ..Self::default() }
    }

    /// Cross-entropy + alignment: the two objectives that Dey & Saikia 2025 name for ProtoPNet. They give
    /// no weights; these are 1.
    pub fn aligned() -> Self {
        Self { cross_entropy: 1.0, align: 1.0, ..Self::default() }
    }

    /// Those of [`aligned`](Self::aligned) and diversity (Dey & Saikia 2025, Eq. 8, for their EPPNet;
    /// they give no weights, these are 1).
    pub fn eppnet() -> Self {
        Self { diversity: 1.0, ..Self::aligned() }
    }

    /// Alignment + diversity: all that is left of [`eppnet`](Self::eppnet) where there is one class.
    pub fn single_class() -> Self {
        Self { cross_entropy: 0.0, ..Self::eppnet() }
    }

    /// The weight of a term.
    pub fn of(&self, term: Term) -> f64 {
        match term {
            Term::CrossEntropy => self.cross_entropy,
            Term::Cluster => self.cluster,
            Term::Separation => self.separation,
            Term::L1 => self.l1,
            Term::Align => self.align,
            Term::Diversity => self.diversity,
            Term::Orthogonality => self.orthogonality,
        }
    }
}

/// What a prototype network learns by.
///
/// ```
/// use xdiff_proto::loss::{DiversityScale, LossConfig, LossWeights};
///
/// let weights = LossWeights { diversity: 0.1, ..LossWeights::ppnet() };
/// let config = LossConfig { weights, diversity: DiversityScale::Dimension, ..Default::default() };
/// config.validate()?;
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// The weights of the terms.
    pub weights: LossWeights,
    /// What the alignment goes over.
    pub align_over: AlignOver,
    /// How the diversity counts distances.
    pub diversity: DiversityScale,
    /// One weight a class in the cross-entropy; all alike without.
    pub class_weights: Option<Vec<f64>>,
}

impl Default for LossConfig {
    /// The weights of ProtoPNet.
    fn default() -> Self {
        Self::new(LossWeights::ppnet())
    }
}

impl LossConfig {
    /// With these weights, and everything else as published.
    pub fn new(weights: LossWeights) -> Self {
        Self {
            weights,
            align_over: AlignOver::default(),
            diversity: DiversityScale::default(),
            class_weights: None,
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] for a weight that is not finite and where all are 0, [`Error::Input`] for weights
    /// of classes that cannot be used.
    pub fn validate(&self) -> Result<()> {
        if let Some(term) = Term::ALL.into_iter().find(|term| !self.weights.of(*term).is_finite()) {
            let reason = format!("is {}, must be finite", self.weights.of(term));
            return Err(Error::config(term.name(), reason));
        }
        if Term::ALL.into_iter().all(|term| self.weights.of(term) == 0.0) {
            return Err(Error::config("weights", "are all 0, so that there is nothing to learn"));
        }
        self.class_weights.as_deref().map_or(Ok(()), check_class_weights)
    }
}
