//! What all networks for classification have in common.

use std::fmt::Debug;

use candle_core::Tensor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xdiff_nn::Params;

use crate::{Error, Pass, Result, check};

/// What a backbone is and takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// torchvision's name of the architecture, such as `resnet18`.
    pub name: String,
    /// Channels of an image.
    pub in_channels: usize,
    /// How many classes the head tells apart; 0 for a network that was built without a head.
    pub classes: usize,
    /// The least height and width of an image, in pixels.
    pub least_side: usize,
    /// The path of the layer that gives the logits, such as `fc`: another number of classes replaces
    /// it.
    pub classifier: String,
    /// The paths of the like layers of auxiliary classifiers.
    pub auxiliary_classifiers: Vec<String>,
    /// The path of the first convolution, such as `conv1`: another number of channels changes its
    /// weight.
    pub stem: String,
}

impl Description {
    /// The same network without its head.
    pub(crate) fn without_head(self) -> Self {
        Self { classes: 0, ..self }
    }

    /// Fails unless images have the channels and the least side that the network takes.
    pub(crate) fn check(&self, images: &Tensor) -> Result<()> {
        check::images(&self.name, self.in_channels, self.least_side, images)
    }
}

/// What the convolutional part of a backbone gives.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The last feature maps (B, D, h, w).
    pub maps: Tensor,
    /// Logits (B, K) of the auxiliary classifiers, in order of depth; empty in a prediction and for
    /// networks without them.
    pub auxiliary: Vec<Tensor>,
}

/// What the head of a backbone gives.
#[derive(Clone, Debug)]
pub struct Head {
    /// One number a class (B, K), before the softmax.
    pub logits: Tensor,
    /// The vector from which the last layer forms them (B, D).
    pub features: Tensor,
}

/// What a backbone gives.
#[derive(Clone, Debug)]
pub struct Output {
    /// One number a class (B, K), before the softmax.
    pub logits: Tensor,
    /// The vector from which the last layer forms them (B, D).
    pub features: Tensor,
    /// As [`Maps::auxiliary`].
    pub auxiliary: Vec<Tensor>,
}

/// A network for classification, in two parts.
///
/// Tap sites are the paths of torchvision's modules, which are the weight paths: every block, every
/// stage, and every layer of a plain sequence (`layer1.0`, `layer1`, `features.4`).
pub trait Backbone: Debug + Send + Sync {
    /// What the network is and takes.
    fn describe(&self) -> Description;

    /// Images to the last feature maps.
    ///
    /// # Shapes
    /// (B, C, H, W), normalised as the weights ask for, to (B, D, h, w).
    ///
    /// # Errors
    /// When the tap reports an error, or shapes do not fit: the layer that an image is too small for
    /// says so. [`forward`](Self::forward) looks first.
    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps>;

    /// The last feature maps to logits and penultimate features.
    ///
    /// # Shapes
    /// (B, D, h, w) to (B, K) and (B, D′); D′ is D unless the head has several linear layers.
    ///
    /// # Errors
    /// [`Error::Input`] for a network that was [built without a head](BackboneConfig::build_without_head);
    /// when the tap reports an error, or shapes do not fit.
    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head>;

    /// Images to logits and penultimate features.
    ///
    /// # Shapes
    /// (B, C, H, W) to (B, K) and (B, D).
    ///
    /// # Errors
    /// [`Error::Input`] when the images have another shape than [`describe`](Self::describe) says;
    /// those of the two parts.
    fn forward(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Output> {
        self.describe().check(images)?;
        let Maps { maps, auxiliary } = self.maps(images, pass)?;
        let Head { logits, features } = self.head(&maps, pass)?;
        Ok(Output { logits, features, auxiliary })
    }
}

/// What a backbone is made of: a plain struct with torchvision's keyword arguments.
pub trait BackboneConfig: Debug + Send + Sync {
    /// What the backbone will be and take.
    fn describe(&self) -> Description;

    /// This configuration with some of its fields changed: an object of the constructor's keyword
    /// arguments, such as `{"num_classes": 5, "dropout": 0.2}`.
    ///
    /// # Errors
    /// [`Error::Input`] for a field that the configuration does not have, or of another type.
    fn with_arguments(&self, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>>;

    /// The backbone, with torchvision's initialisation where the parameters are fresh.
    ///
    /// # Errors
    /// [`Error::Config`] when a field holds a value that cannot be used; those of
    /// [`Params::weight`].
    fn build(&self, params: &Params) -> Result<Box<dyn Backbone>>;

    /// The backbone without its head and auxiliary classifiers, whose parameters are not asked for:
    /// enough for [`Backbone::maps`], and in VGG-16 about a tenth of the memory.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn build_without_head(&self, params: &Params) -> Result<Box<dyn Backbone>>;
}

/// What [`BackboneConfig::with_arguments`] returns for a configuration of this type.
pub(crate) fn changed<C>(config: &C, arguments: &Map<String, Value>) -> Result<Box<dyn BackboneConfig>>
where
    C: BackboneConfig + Serialize + DeserializeOwned + 'static,
{
    let change = || -> serde_json::Result<C> {
        let mut fields = serde_json::to_value(config)?;
        if let Value::Object(fields) = &mut fields {
            fields.extend(arguments.clone());
        }
        serde_json::from_value(fields)
    };
    match change() {
        Ok(config) => Ok(Box::new(config)),
        Err(e) => Err(Error::input("arguments of a network", e.to_string())),
    }
}
