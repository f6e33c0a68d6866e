//! Training a network on the labelled images.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use xdiff::core::cancel::CancelToken;
use xdiff::core::train::Progress;
use xdiff::data::{Augment, Augmented, Batch, DataLoader, Dataset, LoaderConfig, Position, Values, infos};
use xdiff::nn::Params;
use xdiff::nn::optim::AdamWConfig;
use xdiff::vision::Architecture;
use xdiff::vision::train::{
    Classification, CrossEntropy, EarlyStopping, Feed, Fit, FitConfig, FitData, FitOutcome, Fitted, Labelled,
    Measure, Schedule, balanced_weights,
};

use super::source::ClassData;
use crate::AnyError;

/// How a classifier is trained.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The network.
    pub network: Architecture,
    /// Passes through the training images, at most.
    pub epochs: usize,
    /// Images in a batch.
    pub batch: usize,
    /// The peak of the learning rate.
    pub lr: f64,
    /// How far images are changed.
    pub augment: Augment,
}

impl Plan {
    /// The augmentation of all classifiers here: small turns, shifts and changes of tone, and flips
    /// from left to right.
    pub fn augmentation() -> Augment {
        Augment {
            flip_horizontal: 0.5,
            rotate: 10.0,
            translate: 0.05,
            scale: (0.9, 1.1),
            brightness: 0.1,
            contrast: 0.1,
            ..Default::default()
        }
    }

    /// The configuration of the training, for reports too.
    pub fn fit(&self, seed: u64) -> FitConfig {
        FitConfig {
            epochs: self.epochs,
            adamw: AdamWConfig { lr: self.lr, weight_decay: 0.05, ..Default::default() },
            schedule: Schedule::WarmupCosine { warmup: (0.05 * self.epochs as f64).min(3.0) },
            monitor: Measure::Loss,
            early_stopping: Some(EarlyStopping { patience: (self.epochs / 3).max(5), min_delta: 0.0 }),
            seed,
            ..Default::default()
        }
    }
}

/// A trained classifier.
#[derive(Debug)]
pub struct Trained {
    /// The network with the weights of its best epoch.
    pub fitted: Fitted<Classification>,
    /// Whether it stopped before the last epoch.
    pub stopped_early: bool,
}

/// Trains with a seed, or goes on with what is in the folder; `None` when cancelled.
///
/// # Errors
/// When images cannot be read, or the folder holds another training.
pub fn train(
    plan: &Plan,
    data: &ClassData,
    seed: u64,
    folder: &Path,
    cancel: &CancelToken,
) -> Result<Option<Trained>, AnyError> {
    let params = Params::fresh(seed, &Device::Cpu);
    let network = plan.network.build(data.channels, data.classes.len(), &params)?;
    let labels: Vec<u32> = infos(&*data.train)?.into_iter().filter_map(|info| info.class).collect();
    let weights = balanced_weights(&labels, data.classes.len())?;
    let loss = CrossEntropy { class_weights: Some(weights), label_smoothing: 0.05 };
    let description = serde_json::json!({
        "network": plan.network.to_string(), "data": data.about, "classes": data.classes, "batch": plan.batch,
        "augment": plan.augment,
    });
    let objective = Classification::from_box(network, loss)?;
    let mut fit = Fit::new(objective, params.finish()?, plan.fit(seed), description)?;
    fit.resume_in(folder)?;

    let augmented = Arc::new(Augmented::new(data.train.clone(), plan.augment)?);
    let training = loader(augmented, plan.batch, Some(seed))?;
    let validation = loader(data.val.clone(), plan.batch, None)?;
    let feeds = FitData::new(feed(&training)).validated_on(feed(&validation));
    let outcome = fit.run(&feeds, Some(folder), cancel, &mut Progress::new())?;
    if outcome == FitOutcome::Cancelled {
        return Ok(None);
    }
    Ok(Some(Trained { fitted: fit.into_best()?, stopped_early: outcome == FitOutcome::StoppedEarly }))
}

/// Batches of images in [−1, 1], shuffled with a seed or in order.
///
/// # Errors
/// When the dataset is empty.
pub fn loader(
    dataset: Arc<dyn Dataset>,
    batch_size: usize,
    seed: Option<u64>,
) -> Result<DataLoader, AnyError> {
    let (shuffle, seed) = (seed.is_some(), seed.unwrap_or(0));
    let config = LoaderConfig { batch_size, shuffle, seed, values: Values::Signed, ..Default::default() };
    Ok(DataLoader::new(dataset, config)?)
}

fn feed(loader: &DataLoader) -> Feed<'_, Labelled> {
    Feed::new(loader.batches(), |epoch, batch| {
        loader.rest_of_epoch(Position { epoch, batch }).map(|batch| labelled(batch?))
    })
}

/// A batch of the loader as the trainer takes it.
///
/// # Errors
/// When the images have no classes.
pub fn labelled(batch: Batch) -> Result<Vec<Labelled>, AnyError> {
    let classes: Tensor = batch.classes.ok_or("the images have no classes")?;
    Ok(vec![Labelled::new(batch.images, classes.to_vec1()?, batch.ids)?])
}
