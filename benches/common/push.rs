//! The projection of prototypes onto the nearest patches of many images.

use candle_core::{Device, Tensor};
use serde::Serialize;
use xdiff::core::FeatureExtractor;
use xdiff::nn::{Rng, Tap};
use xdiff::proto::projection::{ProjectionConfig, project};
use xdiff::proto::{Batch, Prototypes};
use xdiff_examples::AnyError;

use crate::workload::{Prepared, Runner, timed};

/// A projection whose images are their own features, so that nothing but it is timed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Push {
    /// Images.
    pub images: usize,
    /// How many of them a batch has.
    pub at_once: usize,
    /// Channels.
    pub channels: usize,
    /// Side.
    pub size: usize,
    /// Prototypes.
    pub prototypes: usize,
}

/// Images as features.
struct Given;

impl FeatureExtractor for Given {
    fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff::core::Result<Tensor> {
        Ok(images.clone())
    }

    fn identity(&self) -> String {
        "the images themselves".to_owned()
    }
}

impl Push {
    /// The name of the workload.
    pub(crate) fn name(self) -> String {
        let Self { images, channels, size, prototypes, .. } = self;
        format!("push/{images}x{channels}x{size}^2_{prototypes}")
    }

    /// Those of the products of all patches and prototypes.
    pub(crate) fn flops(self) -> u64 {
        (2 * self.images * self.size * self.size * self.channels * self.prototypes) as u64
    }

    /// # Errors
    /// When the memory does not suffice.
    pub(crate) fn prepare(self) -> Result<Prepared, AnyError> {
        let mut rng = Rng::new(1);
        let vectors = rng.rand(0.0, 1.0, (self.prototypes, self.channels), &Device::Cpu)?;
        let prototypes = Prototypes::from_vectors(&vectors)?;
        let mut batches = Vec::new();
        for first in (0..self.images).step_by(self.at_once) {
            let count = self.at_once.min(self.images - first);
            let images = rng.randn((count, self.channels, self.size, self.size), &Device::Cpu)?;
            let names = (first..first + count).map(|i| i.to_string()).collect();
            batches.push(Batch::unlabelled(images, names)?);
        }
        let run: Runner = Box::new(move || {
            timed(|| {
                let stream = batches.iter().cloned().map(Ok::<_, xdiff::proto::Error>);
                Ok(project(&Given, &prototypes, stream, &ProjectionConfig::default())?)
            })
        });
        Ok(Prepared { run, parameters: self.prototypes * self.channels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_runs() {
        let push = Push { images: 5, at_once: 2, channels: 3, size: 4, prototypes: 6 };
        let mut prepared = push.prepare().unwrap();
        (prepared.run)().unwrap();
        assert_eq!((prepared.parameters, push.flops()), (18, 2 * 5 * 16 * 3 * 6));
    }
}
