//! A backbone behind the traits through which the crates compose.

use candle_core::Tensor;
use xdiff_core::{Classifier, FeatureExtractor};
use xdiff_nn::Tap;

use crate::backbone::check_images;
use crate::{Backbone, Output, Pass, Result};

/// A backbone with a name for its weights: a [`Classifier`] and a [`FeatureExtractor`] (of the last
/// feature maps).
#[derive(Debug)]
pub struct Network {
    backbone: Box<dyn Backbone>,
    weights: String,
}

impl Network {
    /// `weights` says which weights the backbone has (`ImageNet, sha256 1a2b…`, `random, seed 0`):
    /// it stands beside every score that the network makes.
    pub fn new(backbone: impl Backbone + 'static, weights: impl Into<String>) -> Self {
        Self::from_box(Box::new(backbone), weights)
    }

    /// As [`new`](Self::new).
    pub fn from_box(backbone: Box<dyn Backbone>, weights: impl Into<String>) -> Self {
        Self { backbone, weights: weights.into() }
    }

    /// The backbone.
    pub fn backbone(&self) -> &dyn Backbone {
        self.backbone.as_ref()
    }

    /// As [`Backbone::forward`].
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    pub fn forward(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Output> {
        self.backbone.forward(images, pass)
    }
}

impl Classifier for Network {
    fn classify(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<(Tensor, Tensor)> {
        let output = self.backbone.forward(images, &mut Pass::eval(tap))?;
        Ok((output.logits, output.features))
    }
}

impl FeatureExtractor for Network {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        match self.backbone.maps(images, &mut Pass::eval(tap)) {
            Ok(output) => Ok(output.maps),
            // Only now, since a tap may end the run before the layer that an image is too small for.
            Err(e) => check_images(&self.backbone.describe(), images).and(Err(e)),
        }
    }

    fn identity(&self) -> String {
        format!("{} ({})", self.backbone.describe().name, self.weights)
    }
}
