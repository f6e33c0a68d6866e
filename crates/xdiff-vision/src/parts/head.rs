//! From the last feature maps to logits.

use candle_core::Tensor;
use xdiff_nn::Params;
use xdiff_nn::layers::adaptive_avg_pool2d;

use super::sequence::{Layer, Passed, Sequence};
use super::site::LinearSite;
use crate::{Error, Head, Pass, Result};

/// The head of a network, unless it was built without one.
pub(crate) fn head_of<H>(head: &Option<H>) -> Result<&H> {
    head.as_ref().ok_or_else(|| {
        Error::input("head", "the network was built without one; build the whole network for logits")
    })
}

/// The mean of each map, perhaps dropout, and a linear layer.
#[derive(Debug)]
pub(crate) struct PooledHead {
    /// Where the pooling is a module.
    pool_site: Option<String>,
    /// The site of dropout and its probability.
    dropout: Option<(String, f64)>,
    /// Whether dropout sees (B, D, 1, 1) instead of (B, D).
    dropout_of_maps: bool,
    linear: LinearSite,
}

impl PooledHead {
    pub(crate) fn new(linear: LinearSite) -> Self {
        Self { pool_site: None, dropout: None, dropout_of_maps: false, linear }
    }

    /// With a site for the means (B, D, 1, 1).
    pub(crate) fn pool_site(self, site: String) -> Self {
        Self { pool_site: Some(site), ..self }
    }

    /// With dropout of the means, as vectors (B, D).
    pub(crate) fn dropout(self, site: String, p: f64) -> Self {
        Self { dropout: Some((site, p)), ..self }
    }

    /// With dropout of the means, as maps (B, D, 1, 1).
    pub(crate) fn dropout_of_maps(self, site: String, p: f64) -> Self {
        Self { dropout_of_maps: true, ..self.dropout(site, p) }
    }

    pub(crate) fn forward(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let mut x = adaptive_avg_pool2d(maps, (1, 1))?;
        if let Some(site) = &self.pool_site {
            x = pass.visit(site, x)?;
        }
        if !self.dropout_of_maps {
            x = x.flatten_from(1)?;
        }
        if let Some((site, p)) = &self.dropout {
            let kept = pass.dropout(site, x, *p)?;
            x = pass.visit(site, kept)?;
        }
        let features = x.flatten_from(1)?;
        Ok(Head { logits: self.linear.forward(&features, pass)?, features })
    }
}

/// The mean of each of a number of parts of the maps (`avgpool`), and a sequence of linear layers
/// (`classifier`).
#[derive(Debug)]
pub(crate) struct SequenceHead {
    avgpool: String,
    side: usize,
    classifier: Sequence,
}

impl SequenceHead {
    /// `side` is how many parts there are along each side; `params` the scope of the network.
    pub(crate) fn new(
        side: usize,
        classifier: impl IntoIterator<Item = Layer>,
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
