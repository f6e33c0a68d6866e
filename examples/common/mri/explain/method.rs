//! The methods that are compared.

use xdiff::core::FeatureExtractor;
use xdiff::core::cancel::CancelToken;
use xdiff::proto::loss::DiversityScale;
use xdiff::proto::projection::{Projected, ProjectionConfig};
use xdiff::proto::single_class::{SingleClass, SingleClassConfig, Training};
use xdiff::proto::train::Batches;

use super::features::BATCH;
use super::settings::Settings;
use crate::AnyError;

/// A way to find prototypes of images of one class, and to weigh them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Alignment alone; NIS of −d².
    PpNet,
    /// Alignment and diversity, scaled by the dimension; NIS of −d².
    EppNet,
    /// The paper's Eq. 9, which it calls ProtoPool: prototypes by alignment, weighed by the mean α.
    SoftCodebook,
    /// The released code: k-means centres; NIS of −d².
    ReleasedKMeans,
    /// ProtoPNet's own losses on clusters of images as classes; NIS of −d².
    ClusterClasses,
}

impl Method {
    /// All of them, in the order of the paper, then the others.
    pub const ALL: [Method; 5] =
        [Self::PpNet, Self::EppNet, Self::SoftCodebook, Self::ReleasedKMeans, Self::ClusterClasses];

    /// The name in tables and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::PpNet => "PPNet",
            Self::EppNet => "EPPNet",
            Self::SoftCodebook => "soft codebook",
            Self::ReleasedKMeans => "released k-means",
            Self::ClusterClasses => "PPNet on clusters",
        }
    }

    /// The paper's faithfulness, for the model that it gives that name to.
    pub fn paper(self) -> Option<f64> {
        match self {
            Self::PpNet => Some(0.0965),
            Self::EppNet => Some(0.1534),
            Self::SoftCodebook => Some(0.1420),
            Self::ReleasedKMeans | Self::ClusterClasses => None,
        }
    }

    /// Whether prototypes are weighed by the mean α rather than by the softmax over −d².
    pub fn is_codebook(self) -> bool {
        self == Self::SoftCodebook
    }

    fn training(self) -> Training {
        let scale = DiversityScale::Dimension;
        match self {
            Self::PpNet | Self::SoftCodebook => Training::AlignDiv { align: 1.0, diversity: 0.0, scale },
            Self::EppNet => Training::AlignDiv { align: 1.0, diversity: 1.0, scale },
            Self::ReleasedKMeans => Training::ReleasedKMeans { iterations: 100 },
            Self::ClusterClasses => Training::ClusterClasses { classes: 4 },
        }
    }

    /// Finds the prototypes with their sources. Those of [`ReleasedKMeans`](Self::ReleasedKMeans) stay
    /// means; their sources are the patches nearest to them.
    ///
    /// # Errors
    /// When there are fewer patches than prototypes, or features that are the same everywhere.
    pub fn train(
        self,
        features: &dyn FeatureExtractor,
        images: &Batches<'_>,
        settings: &Settings,
        (projection, seed): (&ProjectionConfig, u64),
        cancel: &CancelToken,
    ) -> Result<Projected, AnyError> {
        let ProjectionConfig { distinct, window, similarity, .. } = *projection;
        let usual = SingleClassConfig::default();
        let per_epoch = (images.count() * BATCH).div_ceil(usual.images_per_step).max(1);
        let epochs = settings.steps.div_ceil(per_epoch);
        let config = SingleClassConfig {
            prototypes: settings.prototypes,
            training: self.training(),
            similarity,
            epochs,
            push_every: epochs.div_ceil(2),
            distinct,
            window,
            seed,
            ..usual
        };
        let trained = SingleClass::new(features, config)?.cancel_with(cancel.clone()).train(images)?;
        let vectors = trained.prototypes.vectors().clone();
        Ok(Projected { vectors, ..trained.projected })
    }
}
