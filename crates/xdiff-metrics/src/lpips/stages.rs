//! Reading the compared activations out of a running network.

use candle_core::Tensor;
use xdiff_core::FeatureExtractor;
use xdiff_nn::Tap;

use super::METRIC;
use crate::{Error, Result};

/// Keeps the outputs of some modules and ends the run after the last of them.
pub(super) struct Stages {
    sites: &'static [(&'static str, usize)],
    seen: Vec<Option<Tensor>>,
}

impl Stages {
    pub(super) fn new(sites: &'static [(&'static str, usize)]) -> Self {
        Self { sites, seen: vec![None; sites.len()] }
    }

    /// The outputs (B, C, h, w) of the modules, in order.
    pub(super) fn run(mut self, extractor: &dyn FeatureExtractor, images: &Tensor) -> Result<Vec<Tensor>> {
        let outcome = extractor.features(images, &mut self);
        // Once every output is there, the error is the one with which this tap ended the run.
        if !self.complete() {
            outcome?;
        }
        let batch = images.dim(0)?;
        let mut outputs = Vec::with_capacity(self.sites.len());
        for ((site, channels), seen) in self.sites.iter().zip(self.seen) {
            let identity = || extractor.identity();
            let Some(output) = seen else {
                let reason = format!("`{}` offers no activation `{site}` to a tap", identity());
                return Err(Error::config("extractor", reason));
            };
            match *output.dims() {
                [b, c, h, w] if b == batch && c == *channels && h * w > 0 => outputs.push(output),
                _ => {
                    let expected = format!("({batch}, {channels}, h, w) from {site} of `{}`", identity());
                    return Err(Error::shape(METRIC, expected, output.dims()));
                }
            }
        }
        Ok(outputs)
    }

    fn complete(&self) -> bool {
        self.seen.iter().all(Option::is_some)
    }
}

impl Tap for Stages {
    fn wants(&self, site: &str) -> bool {
        self.sites.iter().any(|(name, _)| *name == site)
    }

    fn activation(&mut self, site: &str, x: Tensor) -> xdiff_nn::Result<Tensor> {
        if let Some(i) = self.sites.iter().position(|(name, _)| *name == site) {
            self.seen[i] = Some(x.clone());
        }
        if self.complete() {
            return Err(xdiff_nn::Error::argument("tap", "the run ends here: nothing more is needed"));
        }
        Ok(x)
    }
}
