//! The training loop.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use xdiff_core::FeatureExtractor;
use xdiff_core::cancel::CancelToken;
use xdiff_core::train::{Outcome, StepReport};
use xdiff_nn::optim::backward;
use xdiff_nn::weights::remove_leftovers;
use xdiff_nn::{ParamSet, Rng};

use super::config::TrainConfig;
use super::data::{Batches, TrainData};
use super::history::{EpochReport, History, Pushed, Tally, Validation};
use super::observer::StageObserver;
use super::rule::{PartOptimizer, optimizer, trained};
use super::step::{self, Owners};
use crate::loss::cross_entropy;
use crate::projection::{Projected, ProjectionConfig, project};
use crate::stage::{Part, Push, Stage};
use crate::{Error, PrototypeNetwork, Result};

/// The file in the folder of a training from which it goes on.
pub const LAST: &str = "last.safetensors";
/// The file with the newest projection; a readable record stands beside it.
pub const PROTOTYPES: &str = "prototypes.safetensors";

/// The parameter that a push changes.
const VECTORS: &str = "prototype_vectors";

/// Trains a [`PrototypeNetwork`] by the stages of a [`Schedule`](crate::stage::Schedule).
///
/// All chance of a step comes from the seed and its number, and the file [`LAST`] holds weights, the
/// optimisers of all stages and the history: a training that was interrupted at any point and goes on
/// from it ends with the same bits as one that ran through, provided that its [`TrainData`] gives the
/// same batches. What was done since the last checkpoint is done again.
#[derive(Debug)]
pub struct Trainer<F> {
    pub(super) network: PrototypeNetwork<F>,
    pub(super) params: ParamSet,
    pub(super) config: TrainConfig,
    pub(super) description: Value,
    pub(super) history: History,
    pub(super) tally: Tally,
    /// Batches of an epoch, once they are known.
    pub(super) batches: Option<usize>,
    /// By the name of the stage.
    pub(super) learners: BTreeMap<String, Learner>,
    pub(super) projected: Option<Projected>,
    owners: Owners,
}

/// What the stages of one name share.
#[derive(Debug)]
pub(super) struct Learner {
    params: ParamSet,
    pub(super) optimizer: PartOptimizer,
}

impl Learner {
    pub(super) fn new(params: &ParamSet, stage: &Stage) -> Result<Self> {
        let optimizer = optimizer(params, &stage.train)?;
        Ok(Self { params: trained(params, &stage.train), optimizer })
    }
}

/// Where a run reads and writes, and who looks on.
struct Run<'a, 'd> {
    data: &'a TrainData<'d>,
    folder: Option<&'a Path>,
    cancel: &'a CancelToken,
    observer: &'a mut dyn StageObserver,
    /// Steps and epochs that stand in the file.
    saved: (usize, usize),
}

impl<F: FeatureExtractor> Trainer<F> {
    /// A training before its first step. `params` are those of the whole network, under their published
    /// names; `description` is kept in the files, for building the network again.
    ///
    /// # Errors
    /// [`Error::Config`] when the configuration does not validate or a stage has nothing to train,
    /// [`Error::Input`] when the parameters are not those of the network.
    pub fn new(
        network: PrototypeNetwork<F>,
        params: ParamSet,
        config: TrainConfig,
        description: Value,
    ) -> Result<Self> {
        config.validate()?;
        let (count, width) = (network.prototypes().len(), network.prototypes().width());
        if params.get(VECTORS).is_none_or(|v| v.dims() != [count, width, 1, 1]) {
            let reason = format!(
                "have no `{VECTORS}` of shape [{count}, {width}, 1, 1]; give those of the scope that the network was \
                 made in"
            );
            return Err(Error::input("parameters", reason));
        }
        for stage in &config.schedule.stages {
            if trained(&params, &stage.train).trainable().next().is_none() {
                let parts: Vec<Part> =
                    Part::ALL.into_iter().filter(|p| stage.train.of(*p).is_some()).collect();
                let reason = format!("of stage `{}` is {parts:?}, of which nothing is trainable", stage.name);
                return Err(Error::config("train", reason));
            }
        }
        let owners = Owners::of(&network)?;
        let tally = Tally::new(network.assignment().classes().unwrap_or(0));
        Ok(Self {
            network,
            params,
            config,
            description,
            history: History::default(),
            tally,
            batches: None,
            learners: BTreeMap::new(),
            projected: None,
            owners,
        })
    }

    /// The network.
    pub fn network(&self) -> &PrototypeNetwork<F> {
        &self.network
    }

    /// Its weights as they are now.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// What happened so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.history.losses.len()
    }

    /// The newest projection. It is of the network as it is now if no stage behind it changed features,
    /// add-on layers or prototypes; [`Projection::check`](crate::projection::Projection::check) tells.
    pub fn projected(&self) -> Option<&Projected> {
        self.projected.as_ref()
    }

    /// Ends the training: the network, its weights, the newest projection and what happened.
    pub fn into_parts(self) -> (PrototypeNetwork<F>, ParamSet, Option<Projected>, History) {
        (self.network, self.params, self.projected, self.history)
    }

    /// Trains until all stages are done or the token is raised.
    ///
    /// With a `folder`, [`LAST`] is written there after each epoch, every
    /// [`TrainConfig::checkpoint_every`] steps and when cancelled, and [`PROTOTYPES`] at each push. What a
    /// killed run left half written is removed first.
    ///
    /// # Errors
    /// When there is no batch, batches fail or do not fit, a class has no training image, a loss or
    /// gradient is not finite, a file cannot be written, a push lacks images, or validation data are given
    /// to a network without answers. The files remain as they were.
    pub fn run(
        &mut self,
        data: &TrainData<'_>,
        folder: Option<&Path>,
        cancel: &CancelToken,
        observer: &mut dyn StageObserver,
    ) -> Result<Outcome> {
        self.check(data)?;
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|e| xdiff_nn::Error::io(folder, e))?;
            [LAST, PROTOTYPES].iter().for_each(|name| remove_leftovers(folder.join(name)));
        }
        self.batches = Some(data.train.count());
        let saved = (self.step(), self.history.epochs.len());
        let mut run = Run { data, folder, cancel, observer, saved };
        while let Some((stage, within)) = self.config.schedule.at(self.history.epochs.len()) {
            let (stage, last) = (stage.clone(), within + 1 == stage.epochs);
            if !(self.train_epoch(&stage, &mut run)? && self.end_epoch(&stage, last, &mut run)?) {
                self.save(&mut run)?;
                return Ok(Outcome::Cancelled);
            }
        }
        Ok(Outcome::Finished)
    }

    fn check(&self, data: &TrainData<'_>) -> Result<()> {
        data.validate()?;
        if let Some(batches) = self.batches
            && batches != data.train.count()
        {
            let reason = format!(
                "{} batches an epoch, it began with {batches}; give the same data and batch size",
                data.train.count()
            );
            return Err(Error::input("training data", reason));
        }
        if data.push.is_none() && self.config.schedule.stages.iter().any(|stage| stage.push.is_some()) {
            let reason = "there are none, but a stage ends with a push; give the training images";
            return Err(Error::input("images to project onto", reason));
        }
        Ok(())
    }

    /// The steps of the present epoch that are still to do; `false` when cancelled.
    fn train_epoch(&mut self, stage: &Stage, run: &mut Run<'_, '_>) -> Result<bool> {
        let (epoch, per_epoch) = (self.history.epochs.len(), run.data.train.count());
        let factor = stage.decay.factor(self.config.schedule.epochs_of(&stage.name, epoch));
        for number in self.step() - epoch * per_epoch..per_epoch {
            if run.cancel.is_cancelled() {
                return Ok(false);
            }
            let report = self.one_step(stage, (epoch, number), factor, run.data)?;
            run.observer.step(&report)?;
            let every = self.config.checkpoint_every;
            if every > 0 && report.step % every == 0 {
                self.save(run)?;
            }
        }
        Ok(true)
    }

    fn one_step(
        &mut self,
        stage: &Stage,
        (epoch, number): (usize, usize),
        factor: f64,
        data: &TrainData<'_>,
    ) -> Result<StepReport> {
        let step = self.step();
        let batch = data.train.get(epoch as u64, number)?;
        let rng = Rng::new(self.config.seed).fork("prototypes").sample(step as u64);
        let model = (&self.network, &self.params, &self.owners);
        let found = step::loss(model, (stage, epoch, step), &batch, &rng)?;
        if !self.learners.contains_key(&stage.name) {
            self.learners.insert(stage.name.clone(), Learner::new(&self.params, stage)?);
        }
        let Some(learner) = self.learners.get_mut(&stage.name) else {
            return Err(Error::config("stages", format!("have no `{}`", stage.name)));
        };
        let mut gradients = backward(&found.total, &learner.params)?;
        let grad_norm = match self.config.clip_norm {
            Some(longest) => gradients.clip_norm(longest)?,
            None => gradients.global_norm()?,
        };
        if !grad_norm.is_finite() {
            let hint = "lower the learning rates and check the images for NaN";
            return Err(Error::NonFinite { what: "the gradient", of: format!("step {step}"), hint });
        }
        learner.optimizer.step(&gradients, factor)?;
        self.history.losses.push(found.value as f32);
        self.tally.add(&found.terms, found.right, batch.classes());
        let rates = Part::ALL.into_iter().filter_map(|part| stage.train.of(part));
        Ok(StepReport {
            step: step + 1,
            total: self.config.schedule.epochs().saturating_mul(data.train.count()),
            loss: found.value,
            grad_norm,
            lr: factor * rates.map(|rate| rate.lr).fold(0.0, f64::max),
        })
    }

    /// Validates, projects where the stage asks for it, and notes the epoch; `false` when cancelled.
    fn end_epoch(&mut self, stage: &Stage, last: bool, run: &mut Run<'_, '_>) -> Result<bool> {
        if let Some(class) = self.tally.classes.iter().position(|n| *n == 0)
            && self.history.epochs.is_empty()
        {
            let hint = "give each class at least one, or leave the class out";
            return Err(Error::EmptyClass { class, what: "training image", hint });
        }
        let Some(validation) = self.validate_on(run.data, run.cancel)? else { return Ok(false) };
        let mut pushed = None;
        if let (Some(push), Some(images), true) = (&stage.push, &run.data.push, last) {
            match self.push(push, images, run)? {
                Some(done) => pushed = Some(done),
                None => return Ok(false),
            }
        }
        let per_epoch = run.data.train.count();
        let losses = &self.history.losses[self.step() - per_epoch..];
        self.history.epochs.push(EpochReport {
            epoch: self.history.epochs.len(),
            loss: losses.iter().map(|l| f64::from(*l)).sum::<f64>() / per_epoch as f64,
            terms: self.tally.terms(),
            accuracy: self.tally.accuracy(),
            validation,
            pushed,
        });
        self.tally = Tally::new(self.tally.classes.len());
        // The epoch stands in the file before anybody hears of it.
        self.save(run)?;
        match self.history.epochs.last() {
            Some(report) => run.observer.epoch(stage, report)?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Projects the prototypes, unless it is cancelled: then nothing has changed.
    fn push(&mut self, push: &Push, images: &Batches<'_>, run: &Run<'_, '_>) -> Result<Option<Pushed>> {
        let config = ProjectionConfig {
            class_of: self.network.class_of(),
            distinct: push.distinct,
            window: push.window,
            similarity: self.network.similarity(),
        };
        let cancelled = Cell::new(false);
        let batches = (0..images.count()).map_while(|i| {
            cancelled.set(run.cancel.is_cancelled());
            (!cancelled.get()).then(|| images.get(0, i))
        });
        let projected = project(&self.network, self.network.prototypes(), batches, &config);
        if cancelled.get() {
            return Ok(None);
        }
        let projected = projected?;
        let before = self.network.prototypes().vectors().detach().copy()?;
        self.set_vectors(&projected.vectors)?;
        let validation = match self.validate_on(run.data, run.cancel) {
            Ok(Some(validation)) => validation,
            // It will be done again from here, and must find what it found now.
            other => {
                self.set_vectors(&before)?;
                return other.map(|_| None);
            }
        };
        if let Some(folder) = run.folder {
            projected.write(folder.join(PROTOTYPES))?;
        }
        let moved = projected.projection.sources.iter().map(|source| source.distance.max(0.0).sqrt());
        let moved = moved.sum::<f64>() / projected.projection.sources.len().max(1) as f64;
        self.projected = Some(projected);
        Ok(Some(Pushed { moved, validation }))
    }

    fn set_vectors(&self, vectors: &Tensor) -> Result<()> {
        let Some(var) = self.params.get(VECTORS) else {
            return Err(Error::input("parameters", format!("have no `{VECTORS}`")));
        };
        Ok(var.set(&vectors.reshape(var.shape())?.to_device(var.device())?.contiguous()?)?)
    }

    /// What the network answers to the validation images, if there are any; `None` when cancelled.
    fn validate_on(&self, data: &TrainData<'_>, cancel: &CancelToken) -> Result<Option<Option<Validation>>> {
        let Some(batches) = &data.validation else { return Ok(Some(None)) };
        let (mut loss, mut right, mut count) = (0.0, 0, 0);
        for i in 0..batches.count() {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let batch = batches.get(0, i)?;
            let logits = self.network.forward(batch.images(), &mut ())?.logits;
            let Some(logits) = logits else {
                let reason = "are given to a network without a head, which answers nothing; leave them out";
                return Err(Error::input("validation data", reason));
            };
            let logits = logits.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            right += step::right(&logits, batch.classes())?;
            loss += f64_cross_entropy(&logits, batch.classes())?;
            count += batch.len();
        }
        if !loss.is_finite() {
            let hint = "lower the learning rates, clip the gradient, and check the validation images";
            return Err(Error::NonFinite {
                what: "the validation loss",
                of: format!("step {}", self.step()),
                hint,
            });
        }
        let n = count as f64;
        Ok(Some(Some(Validation { cross_entropy: loss / n, accuracy: right as f64 / n })))
    }

    fn save(&self, run: &mut Run<'_, '_>) -> Result<()> {
        let now = (self.step(), self.history.epochs.len());
        if let Some(folder) = run.folder
            && run.saved != now
        {
            self.write(&folder.join(LAST))?;
            run.saved = now;
        }
        Ok(())
    }
}

/// The sum over the images.
fn f64_cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    Ok(cross_entropy(logits, labels, None)?.to_scalar::<f64>()? * labels.len() as f64)
}
