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

use crate::workload::{Prepared, Runner, timed};

/// A network, the batch it is given, and what is done with it.
#[derive(Clone, Debug, Serialize)]
pub struct Unet {
    /// The network, in diffusers' words.
    pub unet: UNet2DConfig,
    /// Images at once.
    pub batch: usize,
    /// Side of the square images.
    pub size: usize,
    /// What is done.
    pub run: UnetRun,
}

/// What is done with a U-Net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum UnetRun {
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

impl UnetRun {
    /// As it stands in names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Train => "train",
            Self::Sample { .. } => "sample",
        }
    }
}

impl Unet {
    /// Floating-point operations; a training step counts as three predictions.
    pub fn flops(&self) -> u64 {
        let forward = self.unet.flops(self.batch, self.size, self.size);
        match self.run {
            UnetRun::Forward => forward,
            UnetRun::Train => 3 * forward,
            UnetRun::Sample { steps } => steps as u64 * forward,
        }
    }

    /// # Errors
    /// When the memory does not suffice.
    pub(crate) fn prepare(&self) -> Result<Prepared, AnyError> {
        let training = self.run == UnetRun::Train;
        let params = Params::fresh(0, &Device::Cpu).freeze(move |_| !training);
        let unet = UNet2D::new(&self.unet, &params)?;
        let params = params.finish()?;
        let parameters = params.count();

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

        let run: Runner = match self.run {
            UnetRun::Forward => Box::new(move || timed(|| Ok(unet.predict(&x, &t, &cond, &mut ())?))),
            UnetRun::Train => {
                let config = AdamWConfig::default();
                let mut optimizer = AdamW::new(&params, config)?;
                let mut rng = rng.fork("dropout");
                Box::new(move || {
                    timed(|| {
                        let predicted = unet.predict_training(&x, &t, &cond, &mut rng)?;
                        let loss = (predicted - &target)?.sqr()?.mean_all()?;
                        Ok(optimizer.step(&backward(&loss, &params)?, config.lr)?)
                    })
                })
            }
            UnetRun::Sample { steps } => {
                let scheduler = Ddim::new(DdimConfig::default())?;
                let options = SampleOptions {
                    samples: self.batch,
                    shape: (self.unet.out_channels, self.size, self.size),
                    steps,
                    batch_size: self.batch,
                    ..Default::default()
                };
                Box::new(move || timed(|| Ok(Sampler::new(&unet, &scheduler).run(&cond, &options)?)))
            }
        };
        Ok(Prepared { run, parameters })
    }
}

/// The U-Net by which kernels are compared: 26.6 million parameters, attention in the two smallest
/// of four stages.
pub fn reference() -> UNet2DConfig {
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
