//! From images and frozen features to prototypes.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use xdiff_core::FeatureExtractor;
use xdiff_core::cancel::CancelToken;
use xdiff_nn::{Params, Rng};

use super::bank::{FeatureBank, Reader};
use super::config::{SingleClassConfig, Training};
use super::k_means::{KMeansConfig, k_means};
use super::seeding::PointSample;
use super::self_sup;
use crate::projection::{Projected, ProjectionConfig, project};
use crate::stage::{Parts, Push, Rate, Schedule, Stage, Statistics};
use crate::train::{Batches, History, Outcome, PROTOTYPES, StageObserver, TrainConfig, TrainData, Trainer};
use crate::{AddOn, Assignment, Error, Head, PrototypeConfig, PrototypeNetwork, Prototypes, Result};

/// What a [`SingleClass`] found.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The prototypes: patches of the images, but for [`Training::ReleasedKMeans`], whose are means.
    pub prototypes: Prototypes,
    /// The nearest patch of the images to each prototype (the patch that it is, where it is one).
    pub projected: Projected,
    /// The class of each prototype, where classes were made or given.
    pub class_of: Option<Vec<usize>>,
    /// The class of each image, where classes were made or given.
    pub labels: Option<Vec<u32>>,
    /// The losses; none for k-means.
    pub history: History,
    /// The inertia before each iteration of k-means, where there was one.
    pub inertia: Vec<f64>,
}

/// Finds prototypes on frozen features of images of one class.
///
/// The features are computed once and kept in memory where they fit the
/// [budget](SingleClassConfig::budget). Then prototypes start from patches, learn by the
/// [`Training`] through a [`Trainer`], and are projected onto the images, which go through the extractor
/// once more so that each prototype has its source's pixels.
///
/// The result is the same for one seed, whatever the number of threads, and where features are kept
/// whatever the images' own batches. With a [folder](Self::in_folder) a training that was interrupted goes
/// on to the same bits, except that k-means and [`Training::SelfSup`] begin anew: they take seconds on kept
/// features.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_core::FeatureExtractor;
/// use xdiff_nn::{Rng, Tap};
/// use xdiff_proto::Batch;
/// use xdiff_proto::single_class::{SingleClass, SingleClassConfig};
/// use xdiff_proto::train::Batches;
///
/// /// Each pixel is its own feature.
/// struct Pixels;
/// impl FeatureExtractor for Pixels {
///     fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
///         Ok(images.clone())
///     }
///     fn identity(&self) -> String {
///         "pixels".to_owned()
///     }
/// }
///
/// let images = Rng::new(0).randn((4, 2, 5, 5), &Device::Cpu)?;
/// let ids = (0..4).map(|i| format!("image {i}")).collect();
/// let images = Batches::fixed(vec![Batch::unlabelled(images, ids)?]);
/// let config = SingleClassConfig { prototypes: 6, epochs: 10, ..Default::default() };
/// let trained = SingleClass::new(&Pixels, config)?.train(&images)?;
/// assert_eq!(trained.prototypes.len(), 6);
/// // Each is a pixel of an image.
/// println!("{:?}", trained.projected.projection.sources[0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SingleClass<'a> {
    extractor: &'a dyn FeatureExtractor,
    config: SingleClassConfig,
    second: Option<&'a dyn FeatureExtractor>,
    folder: Option<&'a Path>,
    cancel: CancelToken,
    observer: Option<&'a mut dyn StageObserver>,
}

impl std::fmt::Debug for SingleClass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SingleClass")
            .field("extractor", &self.extractor.identity())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<'a> SingleClass<'a> {
    /// # Errors
    /// [`Error::Config`] when a value cannot be used.
    pub fn new(extractor: &'a dyn FeatureExtractor, config: SingleClassConfig) -> Result<Self> {
        config.validate()?;
        let cancel = CancelToken::default();
        Ok(Self { extractor, config, second: None, folder: None, cancel, observer: None })
    }

    /// The second view of [`Training::SelfSup`]: the same features under another noise, or of a changed
    /// image.
    #[must_use]
    pub fn second_view(self, extractor: &'a dyn FeatureExtractor) -> Self {
        Self { second: Some(extractor), ..self }
    }

    /// Where the training's files are written, and from where one that was interrupted goes on.
    #[must_use]
    pub fn in_folder(self, folder: &'a Path) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// Stops before the next step once the token says so.
    #[must_use]
    pub fn cancel_with(self, cancel: CancelToken) -> Self {
        Self { cancel, ..self }
    }

    /// Shows each step and epoch.
    #[must_use]
    pub fn observe(self, observer: &'a mut dyn StageObserver) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Finds the prototypes. Epoch 0 of the images is taken each time.
    ///
    /// # Errors
    /// Those of [`FeatureBank::new`]; [`Error::TooFewPatches`] when there are fewer different patches than
    /// prototypes; [`Error::EmptyClass`] and [`Error::Input`] for classes that do not fit the training;
    /// [`Error::Core`] with [`Cancelled`](xdiff_core::Error::Cancelled) when the token was raised; those
    /// of the trainer.
    pub fn train(mut self, images: &Batches<'_>) -> Result<Trained> {
        let images = &Batches::new(images.count(), |epoch, number| images.get(epoch, number));
        let bank = FeatureBank::new(self.extractor, images, self.config.budget)?;
        let root = Rng::new(self.config.seed).fork("single class");
        let sample = PointSample::new(&bank, self.config.seeding_patches, &root)?;
        let m = self.config.prototypes;
        if let Training::ReleasedKMeans { iterations } = self.config.training {
            let start = sample.start(m, self.config.seeding, &root)?.to_device(bank.device())?;
            let found = k_means(&bank, &start, KMeansConfig { iterations })?;
            let prototypes = Prototypes::from_vectors(&found.centres)?;
            let projected = self.project(&bank, &prototypes, None, &vec![0; bank.images()])?;
            return Ok(Trained {
                prototypes,
                projected,
                class_of: None,
                labels: None,
                history: History::default(),
                inertia: found.inertia,
            });
        }
        let (labels, inertia) = self.labels(&bank, &root)?;
        let classes = labels.as_ref().map(|labels| labels.iter().max().map_or(1, |c| *c as usize + 1));
        let class_of: Option<Vec<usize>> = classes.map(|n| (0..m).map(|j| j * n / m).collect());
        let start = match (&class_of, &labels) {
            (Some(class_of), Some(labels)) => {
                let positions = bank.positions();
                let class_at = |place: usize| labels[place / positions];
                sample.start_of_classes(class_of, class_at, self.config.seeding, &root)?
            }
            _ => sample.start(m, self.config.seeding, &root)?,
        };
        let start = start.to_device(bank.device())?;
        let zeros = vec![0; bank.images()];
        let given = labels.as_deref().unwrap_or(&zeros);
        let (network, params) = self.network(&bank, &start, class_of.clone())?;
        let (vectors, history) = match self.config.training {
            Training::SelfSup { agreement, .. } => {
                let Some(second) = self.second else {
                    let reason = "needs a second view of the images; give it with SingleClass::second_view";
                    return Err(Error::config("training", reason));
                };
                let other = FeatureBank::new(second, images, self.config.budget)?;
                let views = self_sup::Views { first: &bank, second: &other };
                self_sup::train(&views, (network, params), &self.config, agreement, &self.cancel)?
            }
            _ => self.run(&bank, network, params, given)?,
        };
        let projected = self.project(&bank, &Prototypes::from_vectors(&vectors)?, class_of.clone(), given)?;
        let prototypes = projected.prototypes()?;
        Ok(Trained { prototypes, projected, class_of, labels, history, inertia })
    }

    /// The class of each image, where the training asks for classes.
    fn labels(&self, bank: &FeatureBank<'_>, root: &Rng) -> Result<(Option<Vec<u32>>, Vec<f64>)> {
        match self.config.training {
            Training::ClusterClasses { classes } => {
                let means = bank.means()?;
                let rng = root.fork("clusters");
                let start = PointSample::new(&means, bank.images(), &rng)?;
                let start = start.start(classes, self.config.seeding, &rng)?.to_device(bank.device())?;
                let found = k_means(&means, &start, KMeansConfig::default())?;
                return Ok((Some(found.cluster_of), found.inertia));
            }
            Training::SliceBins | Training::RealVsGenerated => {}
            _ => return Ok((None, Vec::new())),
        }
        let labels = bank.classes().to_vec();
        let classes = labels.iter().max().map_or(0, |c| *c as usize + 1);
        let most = if self.config.training == Training::RealVsGenerated { 2 } else { self.config.prototypes };
        if classes < 2 || classes > most.min(self.config.prototypes) {
            let reason = format!(
                "{classes} classes for {} prototypes; give 2 or more (real 0 and generated 1 exactly two), and a \
                 prototype for each",
                self.config.prototypes
            );
            return Err(Error::input("classes", reason));
        }
        if let Some(class) = (0..classes).find(|c| !labels.contains(&(*c as u32))) {
            let hint = "number the classes from 0 without gaps";
            return Err(Error::EmptyClass { class, what: "image", hint });
        }
        Ok((Some(labels), Vec::new()))
    }

    fn network<'b>(
        &self,
        bank: &FeatureBank<'b>,
        start: &Tensor,
        class_of: Option<Vec<usize>>,
    ) -> Result<(PrototypeNetwork<Reader<'b>>, xdiff_nn::ParamSet)> {
        let (m, width) = start.dims2()?;
        let (assignment, head) = match class_of {
            None => (Assignment::Fixed { classes: 1 }, Head::None),
            Some(class_of) => {
                let classes = class_of.iter().max().map_or(1, |c| c + 1);
                (Assignment::Given { classes, class_of }, Head::PPNET)
            }
        };
        let config = PrototypeConfig {
            channels: width,
            prototypes: m,
            width,
            add_on: AddOn::None,
            similarity: self.config.similarity,
            assignment,
            head,
        };
        let fresh = Params::fresh(self.config.seed, start.device());
        let network = PrototypeNetwork::new(&config, bank.reader(), &fresh)?;
        let params = fresh.finish()?;
        let mut values: BTreeMap<String, Tensor> = params.tensors()?;
        values.insert("prototype_vectors".to_owned(), start.reshape((m, width, 1, 1))?);
        params.load(&values)?;
        Ok((network, params))
    }

    /// Stages of equal length with a push behind each.
    fn schedule(&self) -> Schedule {
        let SingleClassConfig { epochs, push_every, distinct, window, .. } = self.config;
        let every = if push_every == 0 { epochs } else { push_every.min(epochs) };
        let stage = |epochs| Stage {
            name: "prototypes".to_owned(),
            epochs,
            train: Parts { prototypes: Some(Rate::new(self.config.lr)), ..Default::default() },
            decay: Default::default(),
            losses: self.config.training.losses(self.config.prototypes),
            statistics: Statistics::Frozen,
            push: Some(Push { distinct, window }),
        };
        let lengths = (0..epochs).step_by(every).map(|first| every.min(epochs - first));
        Schedule { stages: lengths.map(stage).collect() }
    }

    fn run(
        &mut self,
        bank: &FeatureBank<'_>,
        network: PrototypeNetwork<Reader<'_>>,
        params: xdiff_nn::ParamSet,
        labels: &[u32],
    ) -> Result<(Tensor, History)> {
        let config = TrainConfig::new(self.schedule(), self.config.seed);
        // All that decides on the batches and the start, besides what the trainer keeps by itself.
        let SingleClassConfig { training, seeding, seeding_patches, images_per_step, .. } = &self.config;
        let description = serde_json::json!({
            "extractor": self.extractor.identity(),
            "images": bank.images(),
            "kept": bank.is_kept(),
            "training": training,
            "seeding": seeding,
            "seeding_patches": seeding_patches,
            "images_per_step": images_per_step,
        });
        let mut trainer = Trainer::new(network, params, config, description)?;
        if let Some(folder) = self.folder {
            trainer.resume_in(folder)?;
        }
        let (n, seed) = (self.config.images_per_step, self.config.seed);
        let steps = Batches::new(bank.steps(n), |epoch, number| bank.step(n, seed, epoch, number, labels));
        let own = Batches::new(bank.own_batches(), |_, number| bank.own(number, labels));
        let data = TrainData::new(steps).pushed_onto(own);
        let mut silent = ();
        let observer: &mut dyn StageObserver = match &mut self.observer {
            Some(observer) => &mut **observer,
            None => &mut silent,
        };
        match trainer.run(&data, self.folder, &self.cancel, observer)? {
            Outcome::Finished => {}
            _ => return Err(xdiff_core::Error::Cancelled { step: trainer.step() }.into()),
        }
        let history = trainer.history().clone();
        Ok((trainer.network().prototypes().vectors().detach().copy()?, history))
    }

    /// The nearest patches, with their pixels; written where there is a folder.
    fn project(
        &self,
        bank: &FeatureBank<'_>,
        prototypes: &Prototypes,
        class_of: Option<Vec<usize>>,
        labels: &[u32],
    ) -> Result<Projected> {
        let SingleClassConfig { distinct, window, similarity, .. } = self.config;
        let config = ProjectionConfig { class_of, distinct, window, similarity };
        let images = (0..bank.own_batches()).map(|number| bank.labelled(number, labels));
        let projected = project(self.extractor, prototypes, images, &config)?;
        if let Some(folder) = self.folder {
            std::fs::create_dir_all(folder).map_err(|e| xdiff_nn::Error::io(folder, e))?;
            projected.write(folder.join(PROTOTYPES))?;
        }
        Ok(projected)
    }
}
