//! A training on disk.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xdiff_core::FeatureExtractor;
use xdiff_core::train::{Archive, Format, Tensors, checkpoint_error, is_present};

use super::config::TrainConfig;
use super::history::{History, Tally};
use super::trainer::{LAST, Learner, PROTOTYPES, Trainer};
use crate::projection::Projected;
use crate::{PrototypeConfig, Result};

const FORMAT: Format =
    Format { name: "xdiff-prototypes-training-1", groups: &["model", "optimizer", "epochs", "tally"] };

#[derive(Serialize, Deserialize)]
struct Header {
    config: TrainConfig,
    network: PrototypeConfig,
    description: Value,
    batches: usize,
}

impl<F: FeatureExtractor> Trainer<F> {
    /// Writes a file from which [`resume`](Self::resume) goes on, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut optimizer = Tensors::new();
        for (stage, learner) in &self.learners {
            let state = learner.optimizer.state()?;
            optimizer.extend(state.into_iter().map(|(name, t)| (format!("{stage}/{name}"), t)));
        }
        let groups = [
            ("model", self.params.tensors()?),
            ("optimizer", optimizer),
            ("epochs", self.history.tensors()?),
            ("tally", self.tally.tensors()?),
        ];
        let header = Header {
            config: self.config.clone(),
            network: self.network.config().clone(),
            description: self.description.clone(),
            batches: self.batches.unwrap_or(0),
        };
        let groups = groups.map(|(name, tensors)| (name.to_owned(), tensors)).into();
        Ok(Archive { header, groups, history: self.history.losses.clone() }.write(path, FORMAT)?)
    }

    /// Goes on from the file [`LAST`] of a folder, if there is one; whether there was. The projection of
    /// its last push is read too.
    ///
    /// # Errors
    /// As [`resume`](Self::resume); those of [`Projected::read`].
    pub fn resume_in(&mut self, folder: &Path) -> Result<bool> {
        let (path, prototypes) = (folder.join(LAST), folder.join(PROTOTYPES));
        if !is_present(&path)? {
            return Ok(false);
        }
        self.resume(&path)?;
        let pushed = self.history.epochs.iter().any(|epoch| epoch.pushed.is_some());
        if pushed && is_present(&prototypes)? {
            self.projected = Some(Projected::read(prototypes)?);
        }
        Ok(true)
    }

    /// Goes on where a file that a training wrote stopped. The newest projection is not in it.
    ///
    /// # Errors
    /// When the file cannot be read; [`xdiff_core::Error::Checkpoint`] when it is no such file, or was
    /// made under another configuration or for another network. The training is then as it was.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let differs = |what: String| {
            let hint = "resume with what it was made with, or start anew in another folder";
            checkpoint_error(Some(path), what, hint)
        };
        let mut archive = Archive::<Header>::read(path, FORMAT)?;
        let header = &archive.header;
        for (what, same) in [
            ("training configuration", self.config.continues(&header.config)),
            ("prototype network", *self.network.config() == header.network),
            ("description of network or data", self.description == header.description),
        ] {
            if !same {
                return Err(differs(format!("it was made with another {what}")).into());
            }
        }
        let batches = header.batches;
        let (epochs, tally) = (archive.take("epochs"), archive.take("tally"));
        let losses = std::mem::take(&mut archive.history);
        let history = History::from_tensors(losses, &epochs).map_err(differs)?;
        let (steps, ended) = (history.losses.len(), history.epochs.len());
        if batches == 0 && steps > 0
            || steps < batches.saturating_mul(ended)
            || steps > batches.saturating_mul(ended + 1)
            || ended > self.config.schedule.epochs()
        {
            let what = format!("it holds {steps} steps and {ended} epochs of {batches} steps");
            return Err(differs(what).into());
        }
        let tally = Tally::from_tensors(self.tally.classes.len(), &tally)
            .ok_or_else(|| differs("its sums of the present epoch cannot be read".to_owned()))?;
        let mut learners = BTreeMap::new();
        for (name, state) in by_stage(archive.take("optimizer")) {
            let Some(stage) = self.config.schedule.stages.iter().find(|stage| stage.name == name) else {
                return Err(differs(format!("it holds an optimiser of `{name}`, which is no stage")).into());
            };
            let mut learner = Learner::new(&self.params, stage)?;
            learner.optimizer.load_state(&state)?;
            learners.insert(name, learner);
        }
        self.params.load(&archive.take("model"))?;
        self.learners = learners;
        self.history = history;
        self.tally = tally;
        self.batches = (batches > 0).then_some(batches);
        self.projected = None;
        Ok(())
    }
}

/// The state of each stage's optimiser out of names like `joint/step.prototype_vectors`.
fn by_stage(state: Tensors) -> BTreeMap<String, Tensors> {
    let mut stages: BTreeMap<String, Tensors> = BTreeMap::new();
    for (name, t) in state {
        let (stage, rest) = name.split_once('/').unwrap_or(("", &name));
        stages.entry(stage.to_owned()).or_default().insert(rest.to_owned(), t);
    }
    stages
}
