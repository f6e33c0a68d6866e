//! What the tests of the networks share.

use candle_core::Tensor;
use xdiff_core::FeatureExtractor;
use xdiff_nn::layers::{Activation, Conv2d, Conv2dConfig};
use xdiff_nn::tap::visit;
use xdiff_nn::{Params, Tap};

/// A strided convolution, or nothing: images are features.
#[derive(Debug)]
pub(crate) struct Grid(Option<Conv2d>);

impl Grid {
    /// Images as they are.
    pub(crate) fn identity() -> Self {
        Self(None)
    }

    /// (B, inputs, H, W) to (B, outputs, about H/2, about W/2), below `features`.
    pub(crate) fn new(inputs: usize, outputs: usize, params: &Params) -> Self {
        let config = Conv2dConfig::new(inputs, outputs, 3).stride(2).padding(1);
        Self(Some(Conv2d::new(config, &params.at("features.conv1")).unwrap()))
    }
}

impl FeatureExtractor for Grid {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        let Some(conv) = &self.0 else { return Ok(images.clone()) };
        let y = Activation::Silu.apply(&conv.forward(images)?)?;
        Ok(visit(tap, "features.conv1", y)?)
    }

    fn identity(&self) -> String {
        "grid".to_owned()
    }
}
