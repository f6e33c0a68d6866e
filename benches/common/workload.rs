//! The pixel U-Nets that are timed, and what is done with them.

use candle_core::{Device, Tensor};
use serde::Serialize;
use xdiff::core::sample::{SampleOptions, Sampler};
use xdiff::core::scheduler::{Ddim, DdimConfig};
use xdiff::core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
use xdiff::core::{Cond, Denoiser};
use xdiff::nn::optim::{AdamW, AdamWConfig, backward};
use xdiff::nn::{Params, Rng};
use xdiff_examples::AnyError;
use xdiff_examples::mri::preset::Preset;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Work {
    /// One prediction, without gradients.
    Forward,
    /// Prediction, mean square error, backward pass and a step of AdamW.
    Train,
    /// A batch of samples by DDIM (η = 0), without gradients.
    Sample {
        /// DDIM steps.
        steps: usize,
    },
}

/// A network, the batch it is given, and what is done with it.
#[derive(Clone, Debug, Serialize)]
pub struct Workload {
    /// The network's name and the work's, with a slash between.
    pub name: String,
    /// The network, in diffusers' words.
    pub unet: UNet2DConfig,
    /// Images at once.
    pub batch: usize,
    /// Side of the square images.
    pub size: usize,
    /// What is done.
    pub work: Work,
    /// Floating-point operations of it.
    pub flops: u64,
}

/// Does the work once at each call.
pub type Runner = Box<dyn FnMut() -> Result<(), AnyError>>;

const STEPS: usize = 10;

impl Workload {
    /// All workloads, in the order of the table.
    pub fn all() -> Vec<Self> {
        let works = [Work::Forward, Work::Train, Work::Sample { steps: STEPS }];
        let mut all = Vec::new();
        for preset in [Preset::quickstart(), Preset::small()] {
            all.extend(works.map(|w| Self::new(&preset.name, &preset.unet, preset.batch, preset.size, w)));
        }
        let unet = reference();
        all.extend(works[..2].iter().map(|w| Self::new("reference", &unet, 8, 64, *w)));
        all.push(Self::new("reference_256", &unet, 1, 256, Work::Forward));
        all
    }

    fn new(model: &str, unet: &UNet2DConfig, batch: usize, size: usize, work: Work) -> Self {
        let forward = unet.flops(batch, size, size);
        let (what, flops) = match work {
            Work::Forward => ("forward", forward),
            Work::Train => ("train", 3 * forward),
            Work::Sample { steps } => ("sample", steps as u64 * forward),
        };
        Self { name: format!("{model}/{what}"), unet: unet.clone(), batch, size, work, flops }
    }

    /// Builds the network, with seeded weights, and the inputs. Returns how many parameters it has
    /// too.
    ///
    /// # Errors
    /// When the memory does not suffice.
    pub fn prepare(&self) -> Result<(Runner, usize), AnyError> {
        let training = self.work == Work::Train;
        let params = Params::fresh(0, &Device::Cpu).freeze(move |_| !training);
        let unet = UNet2D::new(&self.unet, &params)?;
        let params = params.finish()?;
        let count = params.count();

        let mut rng = Rng::new(1);
        let mut images =
            |channels: usize| rng.randn((self.batch, channels, self.size, self.size), &Device::Cpu);
        let (x, target) = (images(self.unet.out_channels)?, images(self.unet.out_channels)?);
        let image = match self.unet.in_channels - self.unet.out_channels {
            0 => None,
            channels => Some(images(channels)?),
        };
        let cond = Cond { image, ..Default::default() };
        let t = Tensor::full(500f32, self.batch, &Device::Cpu)?;

        let runner: Runner = match self.work {
            Work::Forward => Box::new(move || {
                unet.predict(&x, &t, &cond, &mut ())?;
                Ok(())
            }),
            Work::Train => {
                let config = AdamWConfig::default();
                let mut optimizer = AdamW::new(&params, config)?;
                let mut rng = rng.fork("dropout");
                Box::new(move || {
                    let predicted = unet.predict_training(&x, &t, &cond, &mut rng)?;
                    let loss = (predicted - &target)?.sqr()?.mean_all()?;
                    optimizer.step(&backward(&loss, &params)?, config.lr)?;
                    Ok(())
                })
            }
            Work::Sample { steps } => {
                let scheduler = Ddim::new(DdimConfig::default())?;
                let options = SampleOptions {
                    samples: self.batch,
                    shape: (self.unet.out_channels, self.size, self.size),
                    steps,
                    batch_size: self.batch,
                    ..Default::default()
                };
                Box::new(move || {
                    Sampler::new(&unet, &scheduler).run(&cond, &options)?;
                    Ok(())
                })
            }
        };
        Ok((runner, count))
    }
}

/// The U-Net by which kernels are compared: 26.6 million parameters, attention in the two smallest
/// of four stages.
fn reference() -> UNet2DConfig {
    use DownBlock as D;
    use UpBlock as U;
    UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![64, 128, 256, 256],
        down_block_types: vec![D::Plain, D::Plain, D::Attention, D::Attention],
        up_block_types: vec![U::Attention, U::Attention, U::Plain, U::Plain],
        layers_per_block: 2,
        attention_head_dim: Some(8),
        ..Default::default()
    }
}
