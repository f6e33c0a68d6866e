//! Noise that belongs to a sample, whatever its batch.

use candle_core::{Device, Shape, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_nn::{Rng, TorchRng};

use crate::{Result, scheduler::NoiseSource};

/// Which generator makes the noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseKind {
    /// `Rng::new(seed).fork("sample").sample(i)` for the sample i, with a fork for the initial
    /// noise and one for each step. The noise of a step does not depend on what was drawn before.
    #[default]
    Native,
    /// PyTorch's CPU generator seeded with `seed + i` for the sample i, which draws the initial
    /// noise and then that of each step, as diffusers does when it is given a list of generators.
    Torch,
}

/// The generators of the samples of one batch.
pub(super) struct SampleNoise {
    samples: Vec<Generator>,
    skipped: usize,
}

enum Generator {
    Native(Box<Rng>),
    Torch(Box<TorchRng>),
}

impl SampleNoise {
    /// Generators for the samples of these indices, in a run whose first `skipped` calls are left
    /// out.
    pub(super) fn new(kind: NoiseKind, seed: u64, samples: std::ops::Range<u64>, skipped: usize) -> Self {
        let root = Rng::new(seed).fork("sample");
        let generator = |i| match kind {
            NoiseKind::Native => Generator::Native(Box::new(root.sample(i))),
            NoiseKind::Torch => Generator::Torch(Box::new(TorchRng::new(seed.wrapping_add(i)))),
        };
        Self { samples: samples.map(generator).collect(), skipped }
    }

    /// The noise that the run starts from, shaped like `like`.
    pub(super) fn initial(&mut self, like: &Tensor) -> Result<Tensor> {
        self.each(like, |rng| rng.fork("initial"))
    }

    fn each(&mut self, like: &Tensor, fork: impl Fn(&Rng) -> Rng) -> Result<Tensor> {
        let mut shape = like.dims().to_vec();
        if let Some(batch) = shape.first_mut() {
            *batch = 1;
        }
        let shape = Shape::from(shape);
        let parts = self.samples.iter_mut().map(|sample| match sample {
            Generator::Native(rng) => fork(rng).randn(shape.clone(), &Device::Cpu),
            Generator::Torch(rng) => rng.randn(shape.clone(), &Device::Cpu),
        });
        let parts = parts.collect::<xdiff_nn::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?.to_dtype(like.dtype())?.to_device(like.device())?)
    }
}

impl NoiseSource for SampleNoise {
    fn draw(&mut self, index: usize, like: &Tensor) -> Result<Tensor> {
        let call = (self.skipped + index) as u64;
        self.each(like, |rng| rng.fork("step").sample(call))
    }
}
