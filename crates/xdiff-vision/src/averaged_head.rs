//! The head of GoogLeNet and Inception.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::adaptive_avg_pool2d;

use crate::conv_unit::LinearSite;
use crate::{Head, Pass, Result};

/// The mean of each map, dropout, and a linear layer.
#[derive(Debug)]
pub(crate) struct AveragedHead {
    avgpool: String,
    dropout: (String, f64),
    fc: LinearSite,
}

impl AveragedHead {
    /// `params` is the scope of the network.
    pub(crate) fn new(dropout: f64, fc: LinearSite, params: &Params) -> Self {
        Self { avgpool: params.full("avgpool"), dropout: (params.full("dropout"), dropout), fc }
    }

    pub(crate) fn forward(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let pooled = pass.visit(&self.avgpool, adaptive_avg_pool2d(maps, (1, 1))?)?;
        self.last(pooled, pass)
    }

    /// The same where the pooled maps become vectors before dropout and not after.
    pub(crate) fn forward_flat(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let pooled = pass.visit(&self.avgpool, adaptive_avg_pool2d(maps, (1, 1))?)?;
        self.last(pooled.flatten_from(1)?, pass)
    }

    fn last(&self, pooled: Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let (site, p) = &self.dropout;
        let kept = pass.dropout(site, pooled, *p)?;
        let features = pass.visit(site, kept)?.flatten_from(1)?;
        Ok(Head { logits: self.fc.forward(&features, pass)?, features })
    }
}
