//! Whether the right source is found, on images whose making is known.

mod composites;
mod motifs;

use std::sync::Arc;

use candle_core::Tensor;
use xdiff::core::FeatureExtractor;
use xdiff::data::phantom::Provenance;
use xdiff::data::{Dataset, Sample, Subset};
use xdiff::proto::correlation::Queries;
use xdiff::proto::faithfulness::Evidence;
use xdiff::proto::projection::{Projected, ProjectionConfig};
use xdiff::proto::provenance::{PlantedPart, ProvenanceMap};
use xdiff::viz::Cell;

pub use composites::{Hits, Truth, truth};
pub use motifs::{MotifHits, Motifs, motifs};

use super::features::stacked;
use super::method::Method;
use super::study::influences;
use crate::AnyError;
use crate::mri::scores::mean_sd;
use crate::mri::source::MriData;

/// Mean and standard deviation over seeds.
fn spread(values: &[f64]) -> Cell {
    if values.is_empty() {
        return Cell::Missing;
    }
    let (mean, sd) = mean_sd(values);
    Cell::from(format!("{mean:.3} ± {sd:.3}"))
}

/// Images with their features.
struct Seen {
    images: Tensor,
    embedded: Tensor,
}

impl Seen {
    fn new(samples: &[Sample], data: &MriData, features: &dyn FeatureExtractor) -> Result<Self, AnyError> {
        let side = samples.first().map_or(1, |s| s.image.height());
        let pairs = samples
            .iter()
            .map(|s| {
                let mask = s.masks.get(&data.mask).ok_or_else(|| format!("{} has no mask", s.info.id))?;
                Ok((s.image.data(), mask.data()))
            })
            .collect::<Result<Vec<_>, AnyError>>()?;
        let images = stacked(pairs.into_iter(), side)?;
        let embedded = features.features(&images, &mut ())?;
        Ok(Self { images, embedded })
    }

    fn influences(
        &self,
        method: Method,
        projected: &Projected,
        projection: &ProjectionConfig,
    ) -> Result<Evidence, AnyError> {
        let queries = Queries::new(&self.images, &self.embedded, projected, projection)?;
        influences(method, &queries, &self.embedded, &projected.vectors)
    }
}

/// A record of the data as prototypes take it.
fn provenance(of: Provenance) -> Result<ProvenanceMap, AnyError> {
    let parts = of.contributions.into_iter().map(|p| PlantedPart { source: p.id, weights: p.weights });
    Ok(ProvenanceMap::new((of.height, of.width), parts.collect())?)
}

/// Up to `count` training images, spread evenly.
fn few(data: &MriData, count: usize) -> Result<Arc<dyn Dataset>, AnyError> {
    let n = count.min(data.train.len());
    let chosen = (0..n).map(|k| k * data.train.len() / n.max(1)).collect();
    Ok(Arc::new(Subset::new(data.train.clone(), chosen)?))
}
