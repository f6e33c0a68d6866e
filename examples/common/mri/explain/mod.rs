//! Explaining samples by prototypes on the features of the very network that drew them.

pub mod features;
pub mod figures;
pub mod method;
pub mod over_time;
pub mod report;
pub mod settings;
pub mod study;
pub mod truth;

use xdiff::core::FeatureExtractor;
use xdiff::core::cancel::CancelToken;
use xdiff::viz::Report;

use self::method::Method;
use self::report::Findings;
use self::settings::Settings;
use self::study::Samples;
use super::paper::Work;
use crate::AnyError;

/// Finds prototypes by every method, holds the samples against them, and adds what was found to the
/// report. Returns the main tables as Markdown; `None` when it was cancelled.
///
/// # Errors
/// When the network has no such features, or a file cannot be written.
pub fn explain(
    report: &mut Report,
    work: &Work<'_>,
    settings: &Settings,
    cancel: &CancelToken,
) -> Result<Option<String>, AnyError> {
    let (train, mask) = (&*work.data.train, &work.data.mask);
    let (features, statistics) = features::features(work.model, settings, train)?;
    let samples = Samples::new(&features, work.sampled)?;
    let training = features::batches(train, mask);
    let images = features::Images::new(train, mask)?;
    let projection = study::projection(settings, &samples.embedded, work.sampled.size)?;
    let outcomes = study::study(&features, &samples, (&training, &images), (&projection, settings), cancel)?;
    let Some(outcomes) = outcomes else { return Ok(None) };
    let shown = outcomes.iter().find(|o| o.method == Method::EppNet).and_then(|o| o.runs.first());
    let over_time = shown
        .map(|run| {
            let prototypes = run.projected.prototypes()?;
            let source = (&features as &dyn FeatureExtractor, &statistics);
            over_time::watch(work.model, work.sampled, &prototypes, source, settings, cancel)
        })
        .transpose()?;
    let truth = truth::truth(&features, work.data, (&projection, settings), cancel)?;
    let motifs = truth::motifs(&features, work.data, (&projection, settings), cancel)?;
    if cancel.is_cancelled() {
        return Ok(None);
    }
    let findings = Findings {
        features: &features.identity(),
        images: &images,
        samples: &samples,
        outcomes: &outcomes,
        projection: &projection,
        over_time: over_time.as_ref(),
        truth: truth.as_ref(),
        motifs: motifs.as_ref(),
    };
    report::add(report, work.out, &findings, settings).map(Some)
}
