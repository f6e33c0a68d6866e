//! The training loop.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xdiff_core::cancel::CancelToken;
use xdiff_core::train::{
    Accumulated, Archive, Format, State, StepReport, Tensors, Updater, checkpoint_error, is_present,
};
use xdiff_nn::weights::{remove_leftovers, write_safetensors};
use xdiff_nn::{ParamSet, Rng};

use super::config::{FitConfig, Measure};
use super::feed::{Feed, FitData};
use super::history::{EpochReport, History};
use super::objective::{Findings, LossParts, LossTally, Objective};
use super::observer::FitObserver;
use crate::pass::is_below;
use crate::{Error, Pass, Result};

/// The file in the folder of a training from which it goes on.
pub const LAST: &str = "last.safetensors";
/// The file with the best weights, under their own names; its metadata say which epoch they are of.
pub const BEST: &str = "best.safetensors";

const FORMAT: Format =
    Format { name: "xdiff-fit-1", groups: &["model", "ema", "optimizer", "best", "epochs"] };

/// How a run of the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FitOutcome {
    /// All epochs are done.
    Finished,
    /// It no longer improved.
    StoppedEarly,
    /// It was cancelled; a checkpoint was written if there is a place for it.
    Cancelled,
}

/// The best epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// The epoch, from 0.
    pub epoch: usize,
    /// By what it is the best.
    pub measure: Measure,
    /// Its value.
    pub value: f64,
}

/// What a training ends with: the network with its best weights.
#[derive(Debug)]
pub struct Fitted<O> {
    /// The network and its loss.
    pub objective: O,
    /// Its weights.
    pub params: ParamSet,
    /// The epoch that they are of; `None` when there was no validation, and they are the last ones.
    pub best: Option<Best>,
    /// What happened.
    pub history: History,
}

#[derive(Serialize, Deserialize)]
struct Header {
    config: FitConfig,
    description: Value,
    batches: usize,
}

/// Trains an [`Objective`].
///
/// All chance of a step comes from the seed and its number, and the file [`LAST`] holds weights,
/// optimiser, average, history and best weights: a training that was interrupted at any point and
/// goes on from it ends with the same bits as one that ran through, provided that its [`Feed`] gives
/// the same batches. What was done since the last checkpoint is done again.
///
/// Validation, the best weights and [`into_best`](Self::into_best) use the moving average where there
/// is one.
#[derive(Debug)]
pub struct Fit<O> {
    objective: O,
    updater: Updater,
    config: FitConfig,
    description: Value,
    history: History,
    /// Batches of an epoch, once they are known.
    batches: Option<usize>,
    best: Option<Tensors>,
}

/// Where a run reads and writes, and who looks on.
struct Run<'a, 'f, G> {
    data: &'a FitData<'f, G>,
    folder: Option<&'a Path>,
    cancel: &'a CancelToken,
    observer: &'a mut dyn FitObserver,
    /// Steps and epochs that stand in the file.
    saved: (usize, usize),
}

impl<O: Objective> Fit<O> {
    /// A training before its first step. `params` are those of the objective's network;
    /// `description` is kept in the files, for building the network again.
    ///
    /// # Errors
    /// When the configuration does not validate, there is nothing to train, a frozen path names no
    /// parameter, or the objective does not give the monitored measure.
    pub fn new(objective: O, mut params: ParamSet, config: FitConfig, description: Value) -> Result<Self> {
        config.validate()?;
        if !objective.measures().contains(&config.monitor) {
            let known: Vec<&str> = objective.measures().iter().map(|m| m.name()).collect();
            let reason = format!("is {}; this training measures {}", config.monitor, known.join(", "));
            return Err(Error::config("monitor", reason));
        }
        if let Some(path) = config.frozen.iter().find(|path| !params.names().any(|n| is_below(n, path))) {
            let reason =
                format!("`{path}` names no layer of the network; give whole parts of a weight's name");
            return Err(Error::config("frozen", reason));
        }
        params.freeze(|name| config.frozen.iter().any(|path| is_below(name, path)));
        let updater = Updater::new(params, config.update())?;
        let history = History::default();
        Ok(Self { objective, updater, config, description, history, batches: None, best: None })
    }

    /// The network and its loss.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// The weights as they are now.
    pub fn params(&self) -> &ParamSet {
        self.updater.params()
    }

    /// What happened so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.history.losses.len()
    }

    /// The best epoch so far; `None` before the first validation.
    pub fn best(&self) -> Option<Best> {
        let (epoch, value) = self.history.best(self.config.monitor)?;
        Some(Best { epoch, measure: self.config.monitor, value })
    }

    /// Trains until all epochs are done, it no longer improves, or the token is raised.
    ///
    /// With a `folder`, [`LAST`] is written there after each epoch, every
    /// [`FitConfig::checkpoint_every`] steps and when cancelled, and [`BEST`] after each epoch that is
    /// better than all before. What a killed run left half written is removed first.
    ///
    /// # Errors
    /// When there is no batch, batches fail or do not fit, a loss or gradient is not finite, a file
    /// cannot be written, or early stopping or a measure is asked for without validation data. The
    /// files remain as they were.
    pub fn run<'f>(
        &mut self,
        data: &FitData<'f, O::Group>,
        folder: Option<&Path>,
        cancel: &CancelToken,
        observer: &mut dyn FitObserver,
    ) -> Result<FitOutcome>
    where
        O::Group: 'f,
    {
        self.check(data)?;
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|e| xdiff_nn::Error::io(folder, e))?;
            [LAST, BEST].iter().for_each(|name| remove_leftovers(folder.join(name)));
        }
        self.batches = Some(data.train.batches());
        let saved = (self.step(), self.history.epochs.len());
        let mut run = Run { data, folder, cancel, observer, saved };
        while self.history.epochs.len() < self.config.epochs {
            if self.history.has_stopped(self.config.monitor, self.config.early_stopping) {
                return Ok(FitOutcome::StoppedEarly);
            }
            if !(self.train_epoch(&mut run)? && self.end_epoch(&mut run)?) {
                self.save(&mut run)?;
                return Ok(FitOutcome::Cancelled);
            }
        }
        Ok(FitOutcome::Finished)
    }

    fn check<'f>(&self, data: &FitData<'f, O::Group>) -> Result<()>
    where
        O::Group: 'f,
    {
        let (train, validation) = (&data.train, &data.validation);
        if train.batches() == 0 {
            return Err(Error::input("training data", "there is no batch; give at least one"));
        }
        if let Some(batches) = self.batches
            && batches != train.batches()
        {
            let reason = format!(
                "{} batches an epoch, it began with {batches}; give the same data and batch size",
                train.batches()
            );
            return Err(Error::input("training data", reason));
        }
        match validation {
            Some(feed) if feed.batches() == 0 => {
                return Err(Error::input(
                    "validation data",
                    "there is no batch; give at least one, or no data",
                ));
            }
            None if self.config.early_stopping.is_some() || self.config.monitor != Measure::Loss => {
                let reason = format!("{} needs validation data, and there are none", self.config.monitor);
                return Err(Error::config("monitor", reason));
            }
            _ => {}
        }
        match self.history.epochs.first() {
            Some(first) if first.validation.is_empty() == validation.is_some() => {
                let reason = "some epochs were validated and some would not be; go on as it was begun";
                Err(Error::input("validation data", reason))
            }
            _ => Ok(()),
        }
    }

    fn steps_per_epoch(&self, batches: usize) -> usize {
        batches.div_ceil(self.config.accumulate)
    }

    /// The steps of the present epoch that are still to do; `false` when cancelled.
    fn train_epoch<'f>(&mut self, run: &mut Run<'_, 'f, O::Group>) -> Result<bool>
    where
        O::Group: 'f,
    {
        let per_epoch = self.steps_per_epoch(run.data.train.batches());
        let epoch = self.history.epochs.len();
        let done = self.step() - epoch * per_epoch;
        if done == per_epoch {
            return Ok(true);
        }
        let mut batches = run.data.train.epoch(epoch as u64, done * self.config.accumulate);
        for _ in done..per_epoch {
            if run.cancel.is_cancelled() {
                return Ok(false);
            }
            let report = self.one_step(per_epoch, batches.by_ref().take(self.config.accumulate))?;
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
        per_epoch: usize,
        batches: impl Iterator<Item = Result<Vec<O::Group>>>,
    ) -> Result<StepReport> {
        let step = self.step();
        let rng = Rng::new(self.config.seed).fork("fit").sample(step as u64);
        let mut sum = Accumulated::default();
        for (micro, batch) in batches.enumerate() {
            let rng = rng.sample(micro as u64);
            let mut loss = LossParts::default();
            for (i, group) in batch?.iter().enumerate() {
                let rng = rng.sample(i as u64);
                let tap = &mut ();
                let mut pass = Pass::train(tap).with_dropout(&rng).with_frozen(&self.config.frozen);
                loss = loss.join(self.objective.loss(group, &mut pass)?)?;
            }
            sum.add(&loss.value()?, self.updater.params(), step)?;
        }
        let lr = self.config.lr(step, per_epoch);
        let done = self.updater.apply(sum, lr, step)?;
        self.history.losses.push(done.loss as f32);
        let total = self.config.epochs.saturating_mul(per_epoch);
        let (loss, grad_norm) = (done.loss, done.grad_norm);
        Ok(StepReport { step: step + 1, total, loss, grad_norm, lr })
    }

    /// Validates and notes the epoch; `false` when cancelled.
    fn end_epoch<'f>(&mut self, run: &mut Run<'_, 'f, O::Group>) -> Result<bool>
    where
        O::Group: 'f,
    {
        let averaged = self.updater.averaged()?;
        let mut validation = BTreeMap::new();
        if let Some(feed) = &run.data.validation {
            match self.validate_with(&averaged, feed, run.cancel)? {
                Some(values) => validation = values,
                None => return Ok(false),
            }
        }
        let per_epoch = self.steps_per_epoch(run.data.train.batches());
        let losses = &self.history.losses[self.step() - per_epoch..];
        let train_loss = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / per_epoch as f64;
        let lr = self.config.lr(self.step() - 1, per_epoch);
        let epoch = self.history.epochs.len();
        self.history.epochs.push(EpochReport { epoch, train_loss, lr, validation });
        if let Some(best) = self.best()
            && best.epoch == epoch
        {
            if let Some(folder) = run.folder {
                let metadata = [
                    ("epoch", epoch.to_string()),
                    ("measure", best.measure.to_string()),
                    ("value", best.value.to_string()),
                    ("description", self.description.to_string()),
                ];
                let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
                write_safetensors(folder.join(BEST), &averaged, &metadata)?;
            }
            self.best = Some(averaged);
        }
        // The epoch stands in the file before anybody hears of it.
        self.save(run)?;
        run.observer.epoch(&self.history.epochs[epoch])?;
        Ok(true)
    }

    /// What the network measures with these weights; `None` when cancelled.
    fn validate_with<'f>(
        &self,
        weights: &Tensors,
        feed: &Feed<'f, O::Group>,
        cancel: &CancelToken,
    ) -> Result<Option<BTreeMap<Measure, f64>>>
    where
        O::Group: 'f,
    {
        if self.config.ema.is_none() {
            return self.validate(feed, cancel);
        }
        let live = self.params().tensors()?;
        self.params().load(weights)?;
        let measured = self.validate(feed, cancel);
        self.params().load(&live)?;
        measured
    }

    fn validate<'f>(
        &self,
        feed: &Feed<'f, O::Group>,
        cancel: &CancelToken,
    ) -> Result<Option<BTreeMap<Measure, f64>>>
    where
        O::Group: 'f,
    {
        let (mut findings, mut loss) = (self.objective.findings(), LossTally::default());
        for batch in feed.epoch(0, 0) {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            for group in batch? {
                loss.add(&self.objective.observe(&group, &mut findings)?)?;
            }
        }
        let loss = loss.value()?;
        if !loss.is_finite() {
            let hint = "lower the learning rate, clip the gradient, and check the validation images";
            return Err(Error::NonFinite { what: "the validation loss", step: self.step(), hint });
        }
        let measure = |which: &Measure| -> Result<(Measure, f64)> {
            let value = if *which == Measure::Loss { Some(loss) } else { findings.measure(*which) };
            let missing = || format!("{which} is not defined over {} images", findings.count());
            Ok((*which, value.ok_or_else(|| Error::input("validation data", missing()))?))
        };
        self.objective.measures().iter().map(measure).collect::<Result<_>>().map(Some)
    }

    fn save<G>(&self, run: &mut Run<'_, '_, G>) -> Result<()> {
        let now = (self.step(), self.history.epochs.len());
        if let Some(folder) = run.folder
            && run.saved != now
        {
            self.write(&folder.join(LAST))?;
            run.saved = now;
        }
        Ok(())
    }

    /// Writes a file from which [`resume`](Self::resume) goes on, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let State { weights, ema, optimizer } = self.updater.state()?;
        let groups = [
            ("model", weights),
            ("ema", ema.unwrap_or_default()),
            ("optimizer", optimizer),
            ("best", self.best.clone().unwrap_or_default()),
            ("epochs", self.history.columns()?),
        ];
        let header = Header {
            config: self.config.clone(),
            description: self.description.clone(),
            batches: self.batches.unwrap_or(0),
        };
        let groups = groups.map(|(name, tensors)| (name.to_owned(), tensors)).into();
        Archive { header, groups, history: self.history.losses.clone() }.write(path, FORMAT)
    }

    /// Goes on from the file [`LAST`] of a folder, if there is one; whether there was.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub fn resume_in(&mut self, folder: &Path) -> Result<bool> {
        let path = folder.join(LAST);
        let found = is_present(&path)?;
        if found {
            self.resume(&path)?;
        }
        Ok(found)
    }

    /// Goes on where a file that a training wrote stopped.
    ///
    /// # Errors
    /// When the file cannot be read; [`Error::Checkpoint`] when it is no such file, or was made under
    /// another configuration or for another network. The training is then as it was.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let differs = |what: String| {
            let hint = "resume with what it was made with, or start anew in another folder";
            checkpoint_error(Some(path), what, hint)
        };
        let mut archive = Archive::<Header>::read(path, FORMAT)?;
        if !self.config.continues(&archive.header.config) {
            return Err(differs("it was made with another training configuration".to_owned()));
        }
        if self.description != archive.header.description {
            return Err(differs("it was made with another description of network or data".to_owned()));
        }
        let (epochs, best) = (archive.take("epochs"), archive.take("best"));
        let history = History::from_columns(std::mem::take(&mut archive.history), epochs).map_err(differs)?;
        let (steps, ended) = (history.losses.len(), history.epochs.len());
        let batches = archive.header.batches;
        let per_epoch = self.steps_per_epoch(batches);
        if batches == 0 && steps > 0
            || steps < per_epoch.saturating_mul(ended)
            || steps > per_epoch.saturating_mul(ended + 1)
        {
            let what = format!("it holds {steps} steps and {ended} epochs of {per_epoch} steps");
            return Err(differs(what));
        }
        let expected = history.best(self.config.monitor).is_some();
        let fits = self.params().iter().all(|(n, p)| best.get(n).is_some_and(|t| t.dims() == p.dims()));
        if expected && !fits {
            return Err(differs("its best weights are not those of this network".to_owned()));
        }
        let ema = archive.take("ema");
        let ema = (!ema.is_empty()).then_some(ema);
        let (weights, optimizer) = (archive.take("model"), archive.take("optimizer"));
        self.updater.load_state(&State { weights, ema, optimizer })?;
        self.history = history;
        self.batches = (batches > 0).then_some(batches);
        self.best = expected.then_some(best);
        Ok(())
    }

    /// Ends the training with the weights of the best epoch; without validation, with the last ones.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn into_best(mut self) -> Result<Fitted<O>> {
        let best = self.best();
        let weights = match self.best.take() {
            Some(weights) => weights,
            None => self.updater.averaged()?,
        };
        let params = self.updater.into_params();
        params.load(&weights)?;
        Ok(Fitted { objective: self.objective, params, best, history: self.history })
    }
}
