//! Composites of known parts.

use std::sync::Arc;

use xdiff::core::FeatureExtractor;
use xdiff::core::cancel::CancelToken;
use xdiff::data::phantom::{CompositeConfig, CompositeDataset};
use xdiff::data::{Dataset, Sample};
use xdiff::proto::faithfulness::Definition;
use xdiff::proto::projection::ProjectionConfig;
use xdiff::proto::provenance::{ProvenanceMap, top_k_hits};
use xdiff::viz::{Cell, Table};

use super::super::features::batches;
use super::super::method::Method;
use super::super::settings::Settings;
use super::{Seen, few, provenance, spread};
use crate::AnyError;
use crate::mri::source::MriData;

/// What one method found.
#[derive(Clone, Debug)]
pub struct Hits {
    /// The method.
    pub method: Method,
    /// For each seed the share of composites with a right source among the top five prototypes.
    pub top_five: Vec<f64>,
    /// For each seed what five prototypes drawn at random give.
    pub random: Vec<f64>,
    /// For each seed the share of right ones among the top five.
    pub precision: Vec<f64>,
    /// For each seed the share of right ones among all.
    pub random_precision: Vec<f64>,
    /// For each seed the mean rank correlation of influence and contribution.
    pub ground_truth: Vec<f64>,
}

/// All methods.
#[derive(Clone, Debug)]
pub struct Truth {
    /// By method.
    pub hits: Vec<Hits>,
    /// How it was measured.
    pub about: String,
}

impl Truth {
    /// One row a method.
    ///
    /// # Errors
    /// Never, as long as the columns agree.
    pub fn table(&self) -> Result<Table, AnyError> {
        let mut table = Table::new([
            "method",
            "right source among the top five",
            "five prototypes at random",
            "share of right ones among the five",
            "at random",
            "rank correlation of NIS and contribution",
            "seeds",
        ]);
        for hits in &self.hits {
            table.push([
                Cell::from(hits.method.name()),
                spread(&hits.top_five),
                spread(&hits.random),
                spread(&hits.precision),
                spread(&hits.random_precision),
                spread(&hits.ground_truth),
                Cell::from(hits.top_five.len()),
            ])?;
        }
        Ok(table)
    }
}

/// Composites and what they are made of.
struct Composites {
    seen: Seen,
    made_of: Vec<ProvenanceMap>,
}

impl Composites {
    fn draw(
        base: &Arc<dyn Dataset>,
        data: &MriData,
        features: &dyn FeatureExtractor,
        (count, seed): (usize, u64),
    ) -> Result<Self, AnyError> {
        let config = CompositeConfig { count, seed, ..Default::default() };
        let composites = CompositeDataset::new(base.clone(), config)?;
        let drawn = (0..count).map(|i| composites.composite(i)).collect::<Result<Vec<_>, _>>()?;
        let samples: Vec<Sample> = drawn.iter().map(|c| c.sample.clone()).collect();
        let seen = Seen::new(&samples, data, features)?;
        let made_of = drawn.into_iter().map(|c| provenance(c.provenance)).collect::<Result<_, _>>()?;
        Ok(Self { seen, made_of })
    }
}

/// Trains every method with every seed on a few training images, makes composites of four quarters of
/// these, and asks whether the prototypes of the largest influence come from the right quarters of the
/// right images; `None` when cancelled or there are too few images.
///
/// # Errors
/// When the images cannot be put together.
pub fn truth(
    features: &dyn FeatureExtractor,
    data: &MriData,
    (projection, settings): (&ProjectionConfig, &Settings),
    cancel: &CancelToken,
) -> Result<Option<Truth>, AnyError> {
    let n = settings.composed_of.min(data.train.len());
    if n < 4 {
        return Ok(None);
    }
    let base = few(data, n)?;
    let training = batches(&*base, &data.mask);
    let settings = &Settings { prototypes: settings.composed_prototypes, ..settings.clone() };
    let mut all: Vec<Hits> = Method::ALL
        .into_iter()
        .map(|method| Hits {
            method,
            top_five: vec![],
            random: vec![],
            precision: vec![],
            random_precision: vec![],
            ground_truth: vec![],
        })
        .collect();
    let mut unanswerable = 0;
    for seed in (0..settings.seeds).map(|k| settings.seed + k) {
        let composites = Composites::draw(&base, data, features, (settings.composites, seed))?;
        for hits in &mut all {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let projected = hits.method.train(features, &training, settings, (projection, seed), cancel)?;
            let evidence = composites.seen.influences(hits.method, &projected, projection)?;
            let planted = composites
                .made_of
                .iter()
                .map(|map| map.planted(&projected.projection.sources))
                .collect::<Result<Vec<_>, _>>()?;
            let five = 5.min(settings.prototypes);
            if let Some(rate) = top_k_hits(evidence.influence(), &planted, five)? {
                hits.top_five.push(rate.rate);
                hits.random.push(rate.random);
                hits.precision.push(rate.precision);
                hits.random_precision.push(rate.random_precision);
                unanswerable += rate.images - rate.answerable;
            }
            let ranks = evidence.with_contributions(planted)?.score(Definition::GroundTruth)?;
            let ranks: Vec<f64> = ranks.into_iter().flatten().collect();
            if !ranks.is_empty() {
                hits.ground_truth.push(ranks.iter().sum::<f64>() / ranks.len() as f64);
            }
        }
    }
    let about = format!(
        "{} composites a seed, each of four quarters of four of {n} training images, from which {} prototypes were found. A \
         prototype is right where pixels of its window came from its source. Influences are those of the section above, and \
         the random numbers are exact. Composites without a right prototype count neither for nor against ({unanswerable} of \
         {}). These are {}.",
        settings.composites,
        settings.prototypes,
        settings.composites * all.len() * settings.seeds as usize,
        data.about,
    );
    Ok(Some(Truth { hits: all, about }))
}
