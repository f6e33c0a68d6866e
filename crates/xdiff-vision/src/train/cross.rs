//! Cross-validation.

use std::path::{Path, PathBuf};

use serde_json::Value;
use xdiff_core::cancel::CancelToken;
use xdiff_nn::{ParamSet, Rng};

use super::classification::{Classification, Labelled, predict};
use super::config::FitConfig;
use super::feed::{Feed, FitData};
use super::fit::{Best, Fit, FitOutcome};
use super::history::History;
use super::observer::FitObserver;
use super::predictions::Predictions;
use crate::{Error, Result};

/// One fold: indices into the data. `xdiff-data`'s `k_fold` gives such lists and keeps patients
/// together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// The indices to train on.
    pub train: Vec<usize>,
    /// The indices that are predicted.
    pub held_out: Vec<usize>,
}

/// The batches of one fold.
#[derive(Debug)]
pub struct FoldData<'f> {
    /// Those of [`Fold::train`], all of them, or a part to learn from and another to choose the best
    /// epoch on: a network that was chosen on what it is then judged by is judged too well.
    pub fit: FitData<'f, Labelled>,
    /// Those of [`Fold::held_out`], each image once.
    pub held_out: Feed<'f, Labelled>,
}

/// Which fold is being trained.
#[derive(Clone, Copy, Debug)]
pub struct FoldRun<'a> {
    /// Its number.
    pub index: usize,
    /// The fold.
    pub fold: &'a Fold,
    /// A seed of its own, for the network's weights.
    pub seed: u64,
}

/// What a cross-validation gives.
#[derive(Clone, Debug)]
pub struct CrossValidation {
    /// What each image was taken for by the network that had not seen it; fold by fold, by name.
    pub predictions: Predictions,
    /// The fold of each prediction.
    pub folds: Vec<usize>,
    /// The best epoch of each fold, where there was a validation.
    pub best: Vec<Option<Best>>,
    /// What happened in each fold.
    pub histories: Vec<History>,
}

/// What is cross-validated.
#[derive(Clone, Copy, Debug)]
pub struct CrossConfig<'a> {
    /// How many images there are.
    pub count: usize,
    /// The folds, which hold out each of them once.
    pub folds: &'a [Fold],
    /// How each network is trained.
    pub fit: &'a FitConfig,
    /// Fold i works in `fold-i` there; nothing is written without.
    pub folder: Option<&'a Path>,
}

/// Trains a fresh network for each fold and predicts what that fold holds out.
///
/// `model` builds network, loss and weights for a fold, from its own seed; `data` gives its batches.
/// Each fold trains with a seed drawn from [`FitConfig::seed`] and its number, so that a fold does not
/// depend on the others. With a folder, a cross-validation that was interrupted goes on where it
/// stopped.
///
/// # Errors
/// [`Error::Input`] when the folds do not hold out every index just once, or train on what
/// they hold out, or the batches held out are fewer or more than the fold has; [`Error::Cancelled`]
/// naming the step; those of [`Fit`].
pub fn cross_validate<'f>(
    config: CrossConfig<'_>,
    mut model: impl FnMut(FoldRun<'_>) -> Result<(Classification, ParamSet)>,
    mut data: impl FnMut(FoldRun<'_>) -> Result<FoldData<'f>>,
    cancel: &CancelToken,
    observer: &mut dyn FitObserver,
) -> Result<CrossValidation> {
    let CrossConfig { count, folds, fit: config, folder } = config;
    check(folds, count)?;
    let mut all: Option<Predictions> = None;
    let (mut of, mut best, mut histories) = (Vec::new(), Vec::new(), Vec::new());
    for (index, fold) in folds.iter().enumerate() {
        let mut rng = Rng::new(config.seed).fork("fold").sample(index as u64);
        let (seed, fit_seed) = (rng.next_seed(), rng.next_seed());
        let run = FoldRun { index, fold, seed };
        let FoldData { fit: fit_data, held_out } = data(run)?;
        let (objective, params) = model(run)?;
        let config = FitConfig { seed: fit_seed, ..config.clone() };
        let mut fit = Fit::new(objective, params, config, description(index, fold))?;
        let place: Option<PathBuf> = folder.map(|folder| folder.join(format!("fold-{index}")));
        if let Some(place) = &place {
            fit.resume_in(place)?;
        }
        if fit.run(&fit_data, place.as_deref(), cancel, observer)? == FitOutcome::Cancelled {
            return Err(Error::Cancelled { step: fit.step() });
        }
        let fitted = fit.into_best()?;
        let predictions = predict(fitted.objective.network(), held_out.epoch(0, 0))?;
        if predictions.len() != fold.held_out.len() {
            let reason = format!(
                "fold {index} holds out {} images, the batches have {}; each must come once",
                fold.held_out.len(),
                predictions.len()
            );
            return Err(Error::input("held-out data", reason));
        }
        of.resize(of.len() + predictions.len(), index);
        best.push(fitted.best);
        histories.push(fitted.history);
        match &mut all {
            None => all = Some(predictions),
            Some(all) => all.extend(predictions)?,
        }
    }
    let predictions = all.ok_or_else(|| Error::input("folds", "there are none"))?;
    Ok(CrossValidation { predictions, folds: of, best, histories })
}

fn description(index: usize, fold: &Fold) -> Value {
    serde_json::json!({ "fold": index, "train": fold.train, "held_out": fold.held_out })
}

fn check(folds: &[Fold], n: usize) -> Result<()> {
    let bad = |reason: String| Err(Error::input("folds", reason));
    if folds.len() < 2 {
        return bad(format!("{} given; at least 2", folds.len()));
    }
    if folds.len() > n {
        return bad(format!("{} given for {n} images; at most one fold an image", folds.len()));
    }
    let mut holds: Vec<Option<usize>> = vec![None; n];
    for (k, fold) in folds.iter().enumerate() {
        if fold.train.is_empty() || fold.held_out.is_empty() {
            return bad(format!(
                "fold {k} has nothing to train on or holds nothing out; ask for fewer folds"
            ));
        }
        for i in &fold.held_out {
            match holds.get_mut(*i) {
                Some(held @ None) => *held = Some(k),
                Some(Some(other)) => return bad(format!("image {i} is held out by folds {other} and {k}")),
                None => return bad(format!("fold {k} names image {i} of {n}")),
            }
        }
    }
    for (k, fold) in folds.iter().enumerate() {
        if let Some(i) = fold.train.iter().find(|i| holds.get(**i) == Some(&Some(k))) {
            return bad(format!("fold {k} trains on image {i}, which it holds out"));
        }
    }
    match holds.iter().position(Option::is_none) {
        Some(i) => bad(format!("no fold holds out image {i}")),
        None => Ok(()),
    }
}
