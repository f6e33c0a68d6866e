//! Training of a prototype network on the features of a trained classifier.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use xdiff::core::FeatureExtractor;
use xdiff::core::cancel::CancelToken;
use xdiff::core::train::Progress;
use xdiff::data::{Augmented, DataLoader, Position, infos};
use xdiff::nn::layers::adaptive_avg_pool2d;
use xdiff::nn::{ParamSet, Params, Rng, Tap};
use xdiff::proto::projection::Projected;
use xdiff::proto::stage::Schedule;
use xdiff::proto::train::{Batches, History, Outcome, TrainConfig, TrainData, Trainer};
use xdiff::proto::window::WindowRule;
use xdiff::proto::{Batch, PrototypeConfig, PrototypeNetwork, Similarity, ppnet};
use xdiff::vision::train::balanced_weights;
use xdiff::vision::{Backbone, Network};

use crate::AnyError;
use crate::classify::source::ClassData;
use crate::classify::training::{Plan, loader};

/// The pixels that stand for a patch: those of its position. The box of Chen et al. 2019 around the most
/// active twentieth is larger than the patch where a map is active in two places.
pub const WINDOW: WindowRule = WindowRule::Cell;

/// The features of a network, averaged to few positions, so that a patch is a region of the image
/// rather than a point: the published networks have 7 × 7.
#[derive(Debug)]
pub struct Regions {
    network: Network,
    grid: usize,
}

impl Regions {
    fn averaged(&self, maps: &Tensor) -> xdiff::core::Result<Tensor> {
        let (_, _, h, w) = maps.dims4()?;
        Ok(adaptive_avg_pool2d(maps, (h.min(self.grid), w.min(self.grid)))?)
    }
}

impl FeatureExtractor for Regions {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff::core::Result<Tensor> {
        self.averaged(&self.network.features(images, tap)?)
    }

    fn features_training(&self, images: &Tensor, rng: &Rng) -> xdiff::core::Result<Tensor> {
        self.averaged(&self.network.features_training(images, rng)?)
    }

    fn identity(&self) -> String {
        format!("{}, averaged to at most {} positions a side", self.network.identity(), self.grid)
    }
}

/// How the prototypes are trained.
#[derive(Clone, Debug)]
pub struct ProtoPlan {
    /// The plain classifier's network, batches and augmentation.
    pub plain: Plan,
    /// Prototypes of each class.
    pub each: usize,
    /// Numbers of a prototype.
    pub width: usize,
    /// Side of the images.
    pub side: usize,
    /// ε of the logarithmic similarity.
    pub epsilon: f64,
    /// Most positions a side at which patches are looked at.
    pub grid: usize,
    /// The stages.
    pub schedule: Schedule,
}

impl ProtoPlan {
    /// The schedule with the classes weighted alike in the cross-entropy, and windows as published.
    fn schedule(&self, weights: &[f64]) -> Schedule {
        let mut schedule = self.schedule.clone();
        for stage in &mut schedule.stages {
            stage.losses.class_weights = Some(weights.to_vec());
            if let Some(push) = &mut stage.push {
                push.window = WINDOW;
            }
        }
        schedule
    }
}

/// A trained prototype network.
#[derive(Debug)]
pub struct Trained {
    /// The network.
    pub network: PrototypeNetwork<Regions>,
    /// Its weights.
    pub params: ParamSet,
    /// Where its prototypes come from.
    pub projected: Projected,
    /// What happened.
    pub history: History,
}

/// The network on the features of a trained classifier: its backbone begins with the classifier's
/// weights, everything behind with fresh ones.
fn build(
    plan: &ProtoPlan,
    data: &ClassData,
    plain: &ParamSet,
    seed: u64,
) -> Result<(PrototypeNetwork<Regions>, ParamSet), AnyError> {
    let device = Device::Cpu;
    let headless = |params: &Params| plan.plain.network.build_without_head(data.channels, params);
    let probe = Params::fresh(seed, &device);
    headless(&probe)?;
    let kept = probe.finish()?;
    let weights = plain.tensors()?.into_iter().filter(|(name, _)| kept.get(name).is_some());
    let weights = weights.map(|(name, t)| (format!("features.{name}"), t)).collect();
    let params = Params::trainable(weights, &device).redraw(seed, |name| !name.starts_with("features."));
    let backbone: Box<dyn Backbone> = headless(&params.at("features"))?;
    let network = Network::from_box(backbone, format!("{}, seed {seed}", data.about));
    let features = Regions { network, grid: plan.grid };
    let blank = Tensor::zeros((1, data.channels, plan.side, plan.side), DType::F32, &device)?;
    let channels = features.features(&blank, &mut ())?.dim(1)?;
    let preset = ppnet(channels, data.classes.len());
    let config = PrototypeConfig {
        prototypes: plan.each * data.classes.len(),
        width: plan.width,
        similarity: Similarity::Log { epsilon: plan.epsilon },
        ..preset
    };
    let network = PrototypeNetwork::new(&config, features, &params)?;
    Ok((network, params.finish()?))
}

/// Trains with a seed on the features of a trained classifier, or goes on with what is in the folder;
/// `None` when cancelled.
///
/// # Errors
/// When images cannot be read, or the folder holds another training.
pub fn train(
    plan: &ProtoPlan,
    data: &ClassData,
    plain: &ParamSet,
    (seed, folder): (u64, &Path),
    cancel: &CancelToken,
) -> Result<Option<Trained>, AnyError> {
    let (network, params) = build(plan, data, plain, seed)?;
    let labels: Vec<u32> = infos(&*data.train)?.into_iter().filter_map(|info| info.class).collect();
    let weights = balanced_weights(&labels, data.classes.len())?;
    let description = serde_json::json!({
        "network": plan.plain.network.to_string(), "data": data.about, "classes": data.classes,
        "batch": plan.plain.batch, "augment": plan.plain.augment,
    });
    let config = TrainConfig { clip_norm: Some(5.0), ..TrainConfig::new(plan.schedule(&weights), seed) };
    let mut trainer = Trainer::new(network, params, config, description)?;
    trainer.resume_in(folder)?;

    let augmented = Arc::new(Augmented::new(data.train.clone(), plan.plain.augment)?);
    let batch = plan.plain.batch;
    let training = loader(augmented, batch, Some(seed))?;
    let (validation, as_they_are) =
        (loader(data.val.clone(), batch, None)?, loader(data.train.clone(), batch, None)?);
    let feeds = TrainData::new(batches(&training))
        .validated_on(batches(&validation))
        .pushed_onto(batches(&as_they_are));
    if trainer.run(&feeds, Some(folder), cancel, &mut Progress::new())? == Outcome::Cancelled {
        return Ok(None);
    }
    let (network, params, projected, history) = trainer.into_parts();
    let projected = projected.ok_or("the schedule has no push, so that prototypes have no source")?;
    // Whoever shows where prototypes come from must know that they still do.
    projected.projection.check(network.prototypes(), &network)?;
    Ok(Some(Trained { network, params, projected, history }))
}

/// The batches of a loader by epoch and number, made ahead while they are asked for in order.
fn batches(loader: &DataLoader) -> Batches<'_> {
    let ahead = RefCell::new(None);
    Batches::new(loader.batches(), move |epoch, batch| -> Result<Batch, AnyError> {
        let at = Position { epoch, batch };
        let mut ahead = ahead.borrow_mut();
        let mut stream = match ahead.take() {
            Some((next, stream)) if next == at => stream,
            _ => loader.rest_of_epoch(at),
        };
        let found = stream.next().ok_or_else(|| format!("epoch {epoch} has no batch {batch}"))??;
        *ahead = Some((Position { epoch, batch: batch + 1 }, stream));
        let classes = found.classes.ok_or("the images have no classes")?;
        Ok(Batch::new(found.images, found.ids, classes.to_vec1()?)?)
    })
}
