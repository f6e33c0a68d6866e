//! A backbone behind the traits through which the crates compose.

use candle_core::Tensor;
use xdiff_core::{Classifier, FeatureExtractor};
use xdiff_nn::{Rng, Tap};

use crate::{Backbone, Output, Pass, Result};

/// A backbone with a name for its weights: a [`Classifier`] and a [`FeatureExtractor`] (of the last
/// feature maps).
///
/// One without a head is a feature extractor only: [`classify`](Classifier::classify) is an error.
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
            Err(e) => self.backbone.describe().check(images).and(Err(e)),
        }
    }

    fn features_training(&self, images: &Tensor, rng: &Rng) -> Result<Tensor> {
        let mut tap = ();
        Ok(self.backbone.maps(images, &mut Pass::train(&mut tap).with_dropout(rng))?.maps)
    }

    fn identity(&self) -> String {
        format!("{} ({})", self.backbone.describe().name, self.weights)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use xdiff_nn::Params;

    use super::*;
    use crate::Architecture;

    #[test]
    fn a_tap_may_end_the_run_before_a_layer_that_an_image_is_too_small_for() {
        /// Ends the run with the output of the second convolution.
        #[derive(Default)]
        struct First(Option<Tensor>);
        impl Tap for First {
            fn wants(&self, site: &str) -> bool {
                site == "features.3"
            }
            fn activation(&mut self, _: &str, x: Tensor) -> xdiff_nn::Result<Tensor> {
                self.0 = Some(x);
                Err(xdiff_nn::Error::argument("tap", "seen enough"))
            }
        }
        let params = Params::fresh(0, &Device::Cpu);
        let backbone = Architecture::SqueezeNet1_1.build(3, 2, &params).unwrap();
        let network = Network::from_box(backbone, "random, seed 0");
        let least = network.backbone().describe().least_side;
        let images = |side| Tensor::zeros((1, 3, side, side), DType::F32, &Device::Cpu).unwrap();
        let mut tap = First::default();
        assert!(network.features(&images(least - 2), &mut tap).is_err() && tap.0.is_some());
        assert!(network.features(&images(least), &mut ()).is_ok());
        let e = network.features(&images(least - 1), &mut ()).unwrap_err().to_string();
        assert!(e.contains(&format!("sides of {least} or more")), "{e}");
    }
}
