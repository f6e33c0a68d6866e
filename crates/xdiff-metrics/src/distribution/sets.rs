//! Two sets of feature vectors that are kept whole.

use super::features::{FeatureBatch, check_joins};
use super::rows::Sorted;
use crate::{Error, Result};

/// The vectors of a reference set and of the set that is judged, all of one extractor and length.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TwoSets {
    metric: &'static str,
    extractor: String,
    dim: usize,
    reference: Vec<f64>,
    generated: Vec<f64>,
}

impl TwoSets {
    /// Nothing yet; `metric` is named in errors.
    pub(super) fn new(metric: &'static str, dim: usize, extractor: impl Into<String>) -> Result<Self> {
        if dim == 0 {
            return Err(Error::config("dim", "feature vectors need at least one value"));
        }
        let extractor = extractor.into();
        Ok(Self { metric, extractor, dim, reference: Vec::new(), generated: Vec::new() })
    }

    pub(super) fn push(&mut self, batch: FeatureBatch<'_>) -> Result<()> {
        let (features, set) = match batch {
            FeatureBatch::Reference(features) => (features, &mut self.reference),
            FeatureBatch::Generated(features) => (features, &mut self.generated),
        };
        let joined = (features.extractor(), features.dim());
        check_joins(self.metric, (&self.extractor, self.dim), joined)?;
        set.extend_from_slice(features.rows());
        Ok(())
    }

    pub(super) fn merge(&mut self, other: &Self) -> Result<()> {
        check_joins(self.metric, (&self.extractor, self.dim), (&other.extractor, other.dim))?;
        self.reference.extend_from_slice(&other.reference);
        self.generated.extend_from_slice(&other.generated);
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.reference.clear();
        self.generated.clear();
    }

    /// The reference set and the other, each in an order of its own.
    pub(super) fn sorted(&self) -> (Sorted<'_>, Sorted<'_>) {
        (Sorted::new(&self.reference, self.dim), Sorted::new(&self.generated, self.dim))
    }

    pub(super) fn extractor(&self) -> &str {
        &self.extractor
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }
}
