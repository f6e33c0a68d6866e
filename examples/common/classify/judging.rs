//! What a trained classifier says about images that it never saw.

use serde::Serialize;
use xdiff::core::Metric;
use xdiff::data::infos;
use xdiff::metrics::{
    BootstrapConfig, Calibration, CalibrationConfig, ClassTable, PredictionBatch, Predictions, ScoreKind,
    ScoreTable, calibration, classification_scores,
};
use xdiff::vision::Backbone;
use xdiff::vision::train::{Predictions as Answers, predict};

use super::source::ClassData;
use super::training::{labelled, loader};
use crate::AnyError;

/// A classifier's answers to the test images, and all that follows from them.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The answers.
    pub predictions: Predictions,
    /// Every score with its interval.
    pub scores: ScoreTable,
    /// The rates of each class.
    pub classes: ClassTable,
    /// Confidence against accuracy.
    pub calibration: Calibration,
}

/// Answers of a network to the test images, in their order.
///
/// # Errors
/// When an image cannot be read.
pub fn answers(network: &dyn Backbone, data: &ClassData, batch: usize) -> Result<Predictions, AnyError> {
    let loader = loader(data.test.clone(), batch, None)?;
    scored(&predict(network, loader.epoch(0).map(|batch| labelled(batch?)))?, data)
}

/// Answers to the test images, in their order, with the patients that they belong to.
///
/// # Errors
/// When the data cannot be asked.
pub fn scored(answered: &Answers, data: &ClassData) -> Result<Predictions, AnyError> {
    let scores: Vec<f64> = answered.rows().flatten().map(|v| f64::from(*v)).collect();
    let labels: Vec<usize> = answered.labels().iter().map(|label| *label as usize).collect();
    // Without patients, each image stands for itself.
    let groups: Vec<String> =
        infos(&*data.test)?.into_iter().map(|info| info.group.unwrap_or(info.id)).collect();
    let mut predictions = Predictions::new(data.classes.len())?;
    predictions.update(PredictionBatch {
        kind: ScoreKind::Logits,
        scores: &scores,
        labels: &labels,
        ids: answered.ids(),
        groups: &groups,
    })?;
    Ok(predictions)
}

/// Scores of answers.
///
/// # Errors
/// When there are too few of them.
pub fn judge(predictions: Predictions, data: &ClassData, seed: u64) -> Result<Judged, AnyError> {
    let names: Vec<&str> = data.classes.iter().map(String::as_str).collect();
    let k = data.classes.len();
    let calibration = calibration(
        predictions.probabilities(),
        k,
        predictions.labels(),
        &CalibrationConfig { bins: 10, ..Default::default() },
    )?;
    Ok(Judged {
        scores: classification_scores(&predictions, &BootstrapConfig { seed, ..Default::default() })?,
        classes: ClassTable::new(&predictions.confusion()?, Some(&names))?,
        calibration,
        predictions,
    })
}

/// The share of test images that the most frequent class of the training images would get right.
///
/// # Errors
/// When the data cannot be asked.
pub fn majority(data: &ClassData) -> Result<(String, f64), AnyError> {
    let mut counts = vec![0usize; data.classes.len()];
    infos(&*data.train)?.iter().filter_map(|i| i.class).for_each(|c| counts[c as usize] += 1);
    let most = (0..counts.len()).rev().max_by_key(|c| counts[*c]).ok_or("there are no classes")?;
    let test = infos(&*data.test)?;
    let right = test.iter().filter(|i| i.class == Some(most as u32)).count();
    Ok((data.classes[most].clone(), right as f64 / test.len() as f64))
}
