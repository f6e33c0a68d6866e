//! The prototype network: features, add-on layers, prototypes, assignment, head.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_core::{Classifier, FeatureExtractor};
use xdiff_nn::tap::visit;
use xdiff_nn::{Params, Rng, Tap};

use crate::add_on::AddOnLayers;
use crate::codebook::Codes;
use crate::head::HeadLayer;
use crate::similarity::unit;
use crate::slots::{SlotReading, Slots};
use crate::{AddOn, Assignment, Error, Head, Nearest, Prototypes, Result, Similarity, nearest};

/// What a [`PrototypeNetwork`] is made of. The presets are [`ppnet`](crate::ppnet),
/// [`eppnet`](crate::eppnet), [`protopool`](crate::protopool) and
/// [`soft_codebook`](crate::soft_codebook).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrototypeConfig {
    /// Channels of the features.
    pub channels: usize,
    /// P, how many prototypes there are.
    pub prototypes: usize,
    /// D, how many numbers a prototype has.
    pub width: usize,
    /// The layers between features and prototypes.
    pub add_on: AddOn,
    /// How alike a patch and a prototype at a distance are.
    pub similarity: Similarity,
    /// Which prototypes speak for which class.
    pub assignment: Assignment,
    /// How classes are read from them.
    pub head: Head,
}

impl PrototypeConfig {
    /// Checks the values and that the parts fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.prototypes == 0 {
            return Err(Error::config("prototypes", "are 0, at least 1"));
        }
        self.add_on.validate(self.channels, self.width)?;
        self.similarity.validate()?;
        self.assignment.validate(self.prototypes)?;
        self.head.validate(&self.assignment)
    }
}

/// What a network finds in some images.
#[derive(Clone, Debug)]
pub struct Reading {
    /// One number a class (B, C), where there is a head.
    pub logits: Option<Tensor>,
    /// How alike each prototype and its nearest patch are (B, P): g of the papers.
    pub similarity: Tensor,
    /// The nearest patch of each image to each prototype; under a similarity that
    /// [normalises](Similarity::normalises), both are of length 1.
    pub nearest: Nearest,
    /// What the slots found, where prototypes are shared through slots.
    pub slots: Option<SlotReading>,
    /// What a soft codebook found.
    pub codes: Option<Codes>,
}

/// Prototypes on the features of any network.
///
/// f = add-on(features(x)) has a patch at each of h·w positions; prototype j finds its nearest patch at
/// squared distance d_j = min_hw ‖f_hw − p_j‖², whose [`Similarity`] g_j is what the [`Assignment`] and
/// the [`Head`] make classes of. Under a similarity that [normalises](Similarity::normalises), patches
/// have length 1 from [`embed`](Self::embed) on.
///
/// Parameters have the published names, so that ProtoPNet's and ProtoPool's
/// [files fit](crate::StateDict): `add_on_layers.0.weight` …, `prototype_vectors` (P, D, 1, 1),
/// `proto_presence` (C, P, n), `last_layer.weight`. The features' own are expected below `features`,
/// which is up to who makes them. Sites: those of the features, `add_on_layers.0` …, `add_on_layers`,
/// `last_layer`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::FeatureExtractor;
/// use xdiff_nn::layers::{Conv2d, Conv2dConfig};
/// use xdiff_nn::{Params, Tap};
/// use xdiff_proto::{PrototypeNetwork, ppnet};
///
/// /// One convolution; any backbone of `xdiff-vision` does as well.
/// struct Edges(Conv2d);
/// impl FeatureExtractor for Edges {
///     fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
///         Ok(self.0.forward(images)?)
///     }
///     fn identity(&self) -> String {
///         "edges".to_owned()
///     }
/// }
///
/// let params = Params::fresh(0, &Device::Cpu);
/// let edges = Edges(Conv2d::new(Conv2dConfig::new(1, 8, 3).stride(2), &params.at("features"))?);
/// let mut config = ppnet(8, 2);
/// config.width = 16;
/// let network = PrototypeNetwork::new(&config, edges, &params)?;
///
/// let images = Tensor::zeros((3, 1, 17, 17), DType::F32, &Device::Cpu)?;
/// let reading = network.forward(&images, &mut ())?;
/// assert_eq!(reading.similarity.dims(), [3, 20]);
/// assert_eq!(reading.logits.map(|l| l.dims().to_vec()), Some(vec![3, 2]));
/// assert_eq!(network.class_of().map(|c| (c[9], c[10])), Some((0, 1)));
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
#[derive(Debug)]
pub struct PrototypeNetwork<F> {
    config: PrototypeConfig,
    features: F,
    add_on: AddOnLayers,
    add_on_site: String,
    prototypes: Prototypes,
    slots: Option<Slots>,
    head: HeadLayer,
    head_site: String,
}

impl<F> PrototypeNetwork<F> {
    /// A network on given features. `params` is the scope of the whole network, below which the features
    /// were made as `features`.
    ///
    /// # Errors
    /// Those of [`PrototypeConfig::validate`] and [`Params::weight`].
    pub fn new(config: &PrototypeConfig, features: F, params: &Params) -> Result<Self> {
        config.validate()?;
        let sizes = (config.prototypes, config.width);
        let prototypes = Prototypes::new(config.prototypes, config.width, params)?;
        let slots = match &config.assignment {
            Assignment::Slots { classes, slots, sampling, .. } => {
                Some(Slots::new((*classes, config.prototypes, *slots), *sampling, params)?)
            }
            _ => None,
        };
        let add_on_scope = params.at("add_on_layers");
        let head_scope = params.at("last_layer");
        Ok(Self {
            features,
            add_on: AddOnLayers::new(config.add_on, config.channels, config.width, &add_on_scope)?,
            add_on_site: add_on_scope.path().to_owned(),
            prototypes,
            slots,
            head: HeadLayer::new(config.head, &config.assignment, sizes, &head_scope)?,
            head_site: head_scope.path().to_owned(),
            config: config.clone(),
        })
    }

    /// What the network is made of.
    pub fn config(&self) -> &PrototypeConfig {
        &self.config
    }

    /// Where its features come from.
    pub fn extractor(&self) -> &F {
        &self.features
    }

    /// The prototypes, as they are learnt.
    pub fn prototypes(&self) -> &Prototypes {
        &self.prototypes
    }

    /// How alike a patch and a prototype at a distance are.
    pub fn similarity(&self) -> Similarity {
        self.config.similarity
    }

    /// Which prototypes speak for which class.
    pub fn assignment(&self) -> &Assignment {
        &self.config.assignment
    }

    /// The class of each prototype, where each has one.
    pub fn class_of(&self) -> Option<Vec<usize>> {
        self.config.assignment.class_of(self.config.prototypes)
    }

    /// The learnt scores of the slots (C, P, n), where there are slots.
    pub fn presence(&self) -> Option<&Tensor> {
        self.slots.as_ref().map(Slots::presence)
    }

    /// The distribution of each slot over the prototypes (C, n, P), without chance, where there are slots.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn slot_weights(&self) -> Result<Option<Tensor>> {
        self.slots.as_ref().map(|slots| slots.weights(None)).transpose()
    }

    /// Reads patches that [`embed`](Self::embed) gave.
    ///
    /// # Shapes
    /// (B, D, h, w); the result's are those of [`Reading`]. An image's numbers do not depend on the
    /// others of its batch.
    ///
    /// # Errors
    /// [`Error::Input`] for another shape; [`Error::NonFinite`] naming the first image or prototype
    /// with a number that is not finite; those of a layer.
    pub fn read(&self, embedded: &Tensor) -> Result<Reading> {
        self.read_as(embedded, None)
    }

    /// The same in training: slots draw their noise from `rng` (anew for each call, so fork it by step),
    /// as sharp as the epoch, counted from 0, asks for.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_training(&self, embedded: &Tensor, epoch: usize, rng: &Rng) -> Result<Reading> {
        self.read_as(embedded, Some((epoch, rng)))
    }

    fn read_as(&self, embedded: &Tensor, training: Option<(usize, &Rng)>) -> Result<Reading> {
        self.check(embedded)?;
        let similarity = self.config.similarity;
        let (patches, prototypes) = similarity.space(embedded, self.prototypes.vectors())?;
        let nearest = nearest(&patches, &prototypes)?;
        let alike = similarity.of_distance(&nearest.distance)?;
        let (mut slots, mut codes) = (None, None);
        let logits = match (&self.config.assignment, &self.slots) {
            (Assignment::Slots { mixing, .. }, Some(layer)) => {
                let found = SlotReading::new(
                    (&patches, &prototypes),
                    (&nearest.distance, &alike),
                    (similarity, *mixing),
                    layer.weights(training)?,
                )?;
                let logits = self.head.logits(&found.similarity.flatten_from(1)?)?;
                slots = Some(found);
                logits
            }
            (Assignment::SoftCodebook, _) => {
                let found = Codes::new(&patches, &prototypes, self.prototypes.vectors())?;
                let logits = self.head.logits(&found.pooled()?)?;
                codes = Some(found);
                logits
            }
            _ => self.head.logits(&alike)?,
        };
        Ok(Reading { logits, similarity: alike, nearest, slots, codes })
    }

    fn check(&self, embedded: &Tensor) -> Result<()> {
        let width = self.config.width;
        match *embedded.dims() {
            [b, d, h, w] if b * h * w > 0 && d == width => {}
            _ => {
                let reason = format!("have shape {:?}, not (B, {width}, h, w)", embedded.dims());
                return Err(Error::input("embedded features", reason));
            }
        }
        finite(
            embedded,
            "embedded features",
            "image",
            "look at the images and at the weights of the features",
        )?;
        finite(
            self.prototypes.vectors(),
            "a vector",
            "prototype",
            "training has diverged: lower the learning rate, or go back to an earlier checkpoint",
        )
    }

    /// As the similarity takes patches.
    fn scaled(&self, embedded: Tensor) -> Result<Tensor> {
        if self.config.similarity.normalises() { Ok(unit(&embedded)?.0) } else { Ok(embedded) }
    }
}

/// Fails with the first row of a tensor whose sum is not finite.
fn finite(x: &Tensor, what: &'static str, row: &str, hint: &'static str) -> Result<()> {
    let sums = x.detach().flatten_from(1)?.sum(1)?.to_vec1::<f32>()?;
    match sums.iter().position(|sum| !sum.is_finite()) {
        Some(i) => Err(Error::NonFinite { what, of: format!("{row} {i}"), hint }),
        None => Ok(()),
    }
}

impl<F: FeatureExtractor> PrototypeNetwork<F> {
    /// Images to patches: features, then add-on layers.
    ///
    /// # Shapes
    /// (B, C, H, W) → (B, D, h, w).
    ///
    /// # Errors
    /// Those of the features; [`Error::Input`] when they do not have the channels of the configuration.
    pub fn embed(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let features = self.features.features(images, tap)?;
        self.embed_features(&features, tap)
    }

    /// The same in training, as [`FeatureExtractor::features_training`].
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_training(&self, images: &Tensor, rng: &Rng) -> Result<Tensor> {
        let features = self.features.features_training(images, rng)?;
        self.embed_features(&features, &mut ())
    }

    /// Features that are there already, through the add-on layers.
    ///
    /// # Shapes
    /// (B, channels, h, w) → (B, D, h, w).
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_features(&self, features: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let channels = self.config.channels;
        match *features.dims() {
            [b, c, h, w] if b * h * w > 0 && c == channels => {}
            _ => {
                let reason = format!("have shape {:?}, not (B, {channels}, h, w)", features.dims());
                return Err(Error::input("features", reason));
            }
        }
        let embedded = self.scaled(self.add_on.forward(features, tap)?)?;
        Ok(visit(tap, &self.add_on_site, embedded)?)
    }

    /// Images to what the prototypes find in them.
    ///
    /// # Errors
    /// Those of [`embed`](Self::embed) and [`read`](Self::read).
    pub fn forward(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<Reading> {
        let embedded = self.embed(images, tap)?;
        let mut reading = self.read(&embedded)?;
        if let Some(logits) = reading.logits.take() {
            reading.logits = Some(visit(tap, &self.head_site, logits)?);
        }
        Ok(reading)
    }

    /// The same in training: [`embed_training`](Self::embed_training), then
    /// [`read_training`](Self::read_training).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_training(&self, images: &Tensor, epoch: usize, rng: &Rng) -> Result<Reading> {
        self.read_training(&self.embed_training(images, rng)?, epoch, rng)
    }
}

impl<F: FeatureExtractor> FeatureExtractor for PrototypeNetwork<F> {
    /// As [`embed`](PrototypeNetwork::embed).
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        self.embed(images, tap).map_err(core)
    }

    fn features_training(&self, images: &Tensor, rng: &Rng) -> xdiff_core::Result<Tensor> {
        self.embed_training(images, rng).map_err(core)
    }

    fn identity(&self) -> String {
        let (channels, width) = (self.config.channels, self.config.width);
        let unit = if self.config.similarity.normalises() { ", of length 1" } else { "" };
        let features = self.features.identity();
        match self.config.add_on {
            AddOn::None => format!("{features}{unit}"),
            kind => format!("{features}, add-on layers {kind:?} {channels} to {width}{unit}"),
        }
    }
}

impl<F: FeatureExtractor> Classifier for PrototypeNetwork<F> {
    /// The second tensor is what the head takes: similarities (B, P), those of slots (B, C·n), or the
    /// pooled code (B, D). A network without a head has no classes: an error.
    fn classify(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<(Tensor, Tensor)> {
        let reading = self.forward(images, tap).map_err(core)?;
        let Some(logits) = reading.logits else {
            return Err(xdiff_core::Error::input("classes", "are none: the prototype network has no head"));
        };
        let taken = match (&reading.slots, &reading.codes) {
            (Some(slots), _) => slots.similarity.flatten_from(1)?,
            (_, Some(codes)) => codes.pooled().map_err(core)?,
            _ => reading.similarity,
        };
        Ok((logits, taken))
    }
}

/// The error of the crate whose trait is implemented.
fn core(e: Error) -> xdiff_core::Error {
    match e {
        Error::Core(e) => e,
        e => xdiff_core::Error::input("prototype network", e.to_string()),
    }
}

#[cfg(test)]
mod tests;
