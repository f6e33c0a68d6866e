//! The head that the older networks share.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::adaptive_avg_pool2d;

use crate::sequence::{Passed, Plan, Sequence};
use crate::{Head, Pass, Result};

/// The mean of each of a number of parts of the maps (`avgpool`), and linear layers (`classifier`).
#[derive(Debug)]
pub(crate) struct PlainHead {
    avgpool: String,
    side: usize,
    classifier: Sequence,
}

impl PlainHead {
    pub(crate) fn new(
        side: usize,
        classifier: impl IntoIterator<Item = Plan>,
        params: &Params,
    ) -> Result<Self> {
        Ok(Self {
            avgpool: params.full("avgpool"),
            side,
            classifier: Sequence::new(classifier, &params.at("classifier"))?,
        })
    }

    pub(crate) fn forward(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let parts = adaptive_avg_pool2d(maps, (self.side, self.side))?;
        let parts = pass.visit(&self.avgpool, parts)?;
        let Passed { before_last, output } = self.classifier.forward(&parts.flatten_from(1)?, pass)?;
        Ok(Head { logits: output, features: before_last })
    }
}
