//! Training every method with every seed, and holding the samples against what it found.

use candle_core::Tensor;
use indicatif::{ProgressBar, ProgressStyle};
use xdiff::core::FeatureExtractor;
use xdiff::core::cancel::CancelToken;
use xdiff::nn::Rng;
use xdiff::nn::layers::softmax;
use xdiff::proto::correlation::{Correlation, Queries};
use xdiff::proto::faithfulness::{
    Definition, Evidence, FaithfulnessConfig, FaithfulnessReport, Run, random_patches, reconstruction_change,
};
use xdiff::proto::influence::mean_assignment;
use xdiff::proto::projection::{Projected, ProjectionConfig, project};
use xdiff::proto::train::Batches;
use xdiff::proto::window::{ReceptiveField, WindowRule};
use xdiff::proto::{Prototypes, Similarity, squared_distances};

use super::features::{BATCH, Features, Images, all, stacked};
use super::method::Method;
use super::settings::Settings;
use crate::AnyError;
use crate::mri::sampling::Sampled;

/// The samples as the network sees them, and their features.
#[derive(Debug)]
pub struct Samples {
    /// Images with their masks (B, 2, side, side).
    pub images: Tensor,
    /// Features (B, D, h, w).
    pub embedded: Tensor,
    /// Names and groups: each sample has a mask of another image, which is its group.
    pub names: Vec<(String, String)>,
}

impl Samples {
    /// # Errors
    /// When the network refuses the samples.
    pub fn new(features: &dyn FeatureExtractor, sampled: &Sampled) -> Result<Self, AnyError> {
        let pairs = sampled.cases.iter().map(|c| (c.sample.as_slice(), c.mask.as_slice()));
        let images = stacked(pairs, sampled.size)?;
        let n = images.dim(0)?;
        let parts = (0..n)
            .step_by(BATCH)
            .map(|start| {
                let batch = images.narrow(0, start, BATCH.min(n - start))?.contiguous()?;
                Ok(features.features(&batch, &mut ())?)
            })
            .collect::<Result<Vec<_>, AnyError>>()?;
        let names = sampled.cases.iter().map(|c| (c.id.clone(), c.id.clone())).collect();
        Ok(Self { images, embedded: Tensor::cat(&parts, 0)?, names })
    }
}

/// Prototypes of one method and seed, and what the samples look like in their light.
#[derive(Debug)]
pub struct Explained {
    /// The seed.
    pub seed: u64,
    /// The prototypes with their sources.
    pub projected: Projected,
    /// Influences by sample and prototype.
    pub influence: Vec<Vec<f64>>,
    /// Similarities by sample, prototype and place (B, P, h, w).
    pub maps: Tensor,
}

/// One method with all its seeds.
#[derive(Debug)]
pub struct Outcome {
    /// The method.
    pub method: Method,
    /// One for each seed.
    pub runs: Vec<Explained>,
    /// Faithfulness with each correlation, in the order of [`Correlation::ALL`].
    pub reports: Vec<FaithfulnessReport>,
}

impl Outcome {
    /// The report with this correlation.
    pub fn report(&self, correlation: Correlation) -> Option<&FaithfulnessReport> {
        self.reports.iter().find(|r| r.correlation == Some(correlation))
    }
}

/// How prototypes become patches: each of them another patch, and a few cells around it stand for it.
///
/// # Errors
/// When the features have no size.
pub fn projection(settings: &Settings, embedded: &Tensor, side: usize) -> Result<ProjectionConfig, AnyError> {
    let cell = side as f64 / embedded.dim(2)? as f64;
    let field = ReceptiveField { jump: cell, size: cell * settings.window as f64, start: cell / 2.0 };
    Ok(ProjectionConfig {
        distinct: true,
        window: WindowRule::Field(field),
        similarity: Similarity::Linear,
        ..Default::default()
    })
}

/// What a set of prototypes gives for the samples: influences, and evidence with each correlation.
struct Seen {
    influence: Vec<Vec<f64>>,
    maps: Tensor,
    evidence: Vec<Evidence>,
}

/// The influences of prototypes as a method weighs them.
///
/// # Errors
/// When features or prototypes are not finite.
pub fn influences(
    method: Method,
    queries: &Queries<'_>,
    embedded: &Tensor,
    prototypes: &Tensor,
) -> Result<Evidence, AnyError> {
    Ok(if method.is_codebook() {
        let alpha = softmax(&squared_distances(embedded, prototypes)?.neg()?, 1)?;
        Evidence::from_influence(mean_assignment(&alpha)?)?
    } else {
        Evidence::from_similarity(&queries.similarity()?)?
    })
}

fn look(
    method: Method,
    samples: &Samples,
    projected: &Projected,
    (config, images): (&ProjectionConfig, &Images<'_>),
) -> Result<Seen, AnyError> {
    let sources = &projected.projection.sources;
    let sources = sources.iter().map(|s| images.get(&s.image)).collect::<Result<Vec<_>, _>>()?;
    // The mask is the condition and not what was drawn: only the image is compared.
    let queries = Queries::new(&samples.images, &samples.embedded, projected, config)?
        .of_channels(1)?
        .with_sources(&sources)?;
    let bare = influences(method, &queries, &samples.embedded, &projected.vectors)?;
    let changes = reconstruction_change(&samples.embedded, &projected.vectors)?;
    let evidence = Correlation::ALL
        .into_iter()
        .map(|kind| {
            let with = bare.clone().with_correlations(kind, queries.correlation(kind)?)?;
            Ok(with.with_changes(changes.clone())?)
        })
        .collect::<Result<Vec<_>, AnyError>>()?;
    Ok(Seen { influence: bare.influence().to_vec(), maps: queries.maps().clone(), evidence })
}

/// The definitions that the samples allow; their making is not known.
const DEFINITIONS: [Definition; 5] = [
    Definition::Eq14,
    Definition::Eq14Sum,
    Definition::Eq14SumClamp,
    Definition::ReleasedMaxNis,
    Definition::Intervention,
];

/// Trains all methods with all seeds and scores them; `None` when cancelled.
///
/// # Errors
/// When there are fewer patches than prototypes, or features that are the same everywhere.
pub fn study(
    features: &Features<'_>,
    samples: &Samples,
    (training, images): (&Batches<'_>, &Images<'_>),
    (config, settings): (&ProjectionConfig, &Settings),
    cancel: &CancelToken,
) -> Result<Option<Vec<Outcome>>, AnyError> {
    let push = |prototypes: &Prototypes| project(features, prototypes, all(training), config);
    let seeds: Vec<u64> = (0..settings.seeds).map(|k| settings.seed + k).collect();
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {pos}/{len} {eta}")?;
    let bar = ProgressBar::new((seeds.len() * (Method::ALL.len() + 1)) as u64).with_style(style);

    bar.set_message("random prototypes");
    let mut random = Vec::new();
    for seed in &seeds {
        let rng = Rng::new(*seed).fork("random prototypes");
        random.push(push(&random_patches(features, all(training), settings.prototypes, &rng)?)?);
        bar.inc(1);
    }
    let faithfulness = FaithfulnessConfig {
        definitions: DEFINITIONS.to_vec(),
        matched: vec![settings.fewer.min(settings.prototypes)],
        seed: settings.seed,
        ..Default::default()
    };
    let of_random = |method| {
        let evidence = |projected| Ok(look(method, samples, projected, (config, images))?.evidence);
        random.iter().map(evidence).collect::<Result<Vec<_>, AnyError>>()
    };
    let (weighed_by_distance, weighed_by_alpha) =
        (of_random(Method::PpNet)?, of_random(Method::SoftCodebook)?);
    let mut outcomes = Vec::new();
    for method in Method::ALL {
        bar.set_message(method.name());
        let chance = if method.is_codebook() { &weighed_by_alpha } else { &weighed_by_distance };
        let (mut explained, mut evidence) = (Vec::new(), Vec::new());
        for seed in &seeds {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let projected = method.train(features, training, settings, (config, *seed), cancel)?;
            let seen = look(method, samples, &projected, (config, images))?;
            explained.push(Explained { seed: *seed, projected, influence: seen.influence, maps: seen.maps });
            evidence.push(seen.evidence);
            bar.inc(1);
        }
        let kinds = evidence.first().map_or(0, Vec::len);
        let reports = (0..kinds)
            .map(|kind| {
                let runs: Vec<Run> = seeds
                    .iter()
                    .zip(&evidence)
                    .map(|(seed, evidence)| Run {
                        seed: *seed,
                        evidence: evidence[kind].clone(),
                        random: chance.iter().map(|e| e[kind].clone()).collect(),
                    })
                    .collect();
                Ok(FaithfulnessReport::new(method.name(), &runs, &samples.names, &faithfulness)?)
            })
            .collect::<Result<Vec<_>, AnyError>>()?;
        outcomes.push(Outcome { method, runs: explained, reports });
    }
    bar.finish_and_clear();
    Ok(Some(outcomes))
}
