//! What a mask-conditioned model of each size is made of.

use serde::{Deserialize, Serialize};
use xdiff::core::Prediction;
use xdiff::core::schedule::{BetaSchedule, ScheduleConfig};
use xdiff::core::spacing::TimestepSpacing;
use xdiff::core::train::{LossConfig, LossWeight, TrainConfig};
use xdiff::core::unet::{DownBlock, UNet2DConfig, UpBlock};
use xdiff::nn::optim::{AdamWConfig, EmaConfig, LrSchedule};

/// A size of model with everything that its training and sampling need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The preset's name.
    pub name: String,
    /// Side of the square images.
    pub size: usize,
    /// The network: one image channel and one mask channel come in, one image channel goes out.
    pub unet: UNet2DConfig,
    /// The noise.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The training.
    pub train: TrainConfig,
    /// Images in a batch.
    pub batch: usize,
    /// Whether images and masks are flipped, turned and shifted at random.
    pub augment: bool,
    /// DDIM steps.
    pub sampling_steps: usize,
    /// How the steps are spread.
    pub spacing: TimestepSpacing,
    /// Whether training takes less memory and more time ([`UNet2D::checkpointing`]): a matter of the
    /// machine, which no file keeps.
    ///
    /// [`UNet2D::checkpointing`]: xdiff::core::unet::UNet2D::checkpointing
    #[serde(skip)]
    pub checkpointing: bool,
}

fn unet(channels: &[usize], attention: &[bool], layers: usize, groups: usize) -> UNet2DConfig {
    let down = |a: &bool| if *a { DownBlock::Attention } else { DownBlock::Plain };
    let up = |a: &bool| if *a { UpBlock::Attention } else { UpBlock::Plain };
    UNet2DConfig {
        in_channels: 2,
        out_channels: 1,
        layers_per_block: layers,
        block_out_channels: channels.to_vec(),
        down_block_types: attention.iter().map(down).collect(),
        up_block_types: attention.iter().rev().map(up).collect(),
        norm_num_groups: groups,
        ..Default::default()
    }
}

/// Zero terminal signal, velocity prediction and trailing steps (Lin et al. 2023): a short training
/// then gets the overall brightness right, because sampling begins where training ended.
fn zero_terminal() -> ScheduleConfig {
    ScheduleConfig {
        beta_schedule: BetaSchedule::ScaledLinear,
        beta_start: 0.00085,
        beta_end: 0.012,
        rescale_betas_zero_snr: true,
        ..Default::default()
    }
}

/// A rise over `warmup` steps and half a cosine down to 0.
fn cosine(warmup: u64, steps: usize) -> LrSchedule {
    LrSchedule::WarmupCosine { warmup, total: steps as u64, cycles: 0.5 }
}

impl Preset {
    /// A model that two CPU cores train in about two minutes.
    pub fn quickstart() -> Self {
        let steps = 700;
        Self {
            name: "quickstart".to_owned(),
            size: 64,
            unet: unet(&[16, 32, 64, 96], &[false, false, false, true], 1, 8),
            schedule: zero_terminal(),
            prediction: Prediction::Velocity,
            train: TrainConfig {
                steps,
                adamw: AdamWConfig { lr: 2e-3, weight_decay: 0.0, ..Default::default() },
                lr_schedule: cosine(30, steps),
                loss: LossConfig { weight: LossWeight::MinSnr { gamma: 5.0 }, offset_noise: 0.0 },
                ema: Some(EmaConfig { max_decay: 0.99 }),
                checkpoint_every: 100,
                ..Default::default()
            },
            batch: 12,
            augment: false,
            sampling_steps: 40,
            spacing: TimestepSpacing::Trailing,
            checkpointing: false,
        }
    }

    /// The same with another number of optimiser steps; the learning rate falls over all of them.
    pub fn with_steps(mut self, steps: usize) -> Self {
        if let LrSchedule::WarmupCosine { warmup, .. } = self.train.lr_schedule {
            self.train.lr_schedule = cosine(warmup.min(steps as u64 / 2), steps);
        }
        self.train.steps = steps;
        self
    }

    /// The same cut down to seconds, to see that everything runs.
    pub fn tiny(mut self) -> Self {
        self = self.with_steps(6);
        self.name.push_str("-tiny");
        self.size = 32;
        self.unet = unet(&[8, 16], &[false, true], 1, 4);
        self.train.checkpoint_every = 3;
        self.batch = 4;
        self.sampling_steps = 10;
        self
    }

    /// A 64² model for two CPU cores and an hour.
    pub fn small() -> Self {
        let steps = 6000;
        Self {
            name: "small".to_owned(),
            size: 64,
            unet: unet(&[32, 64, 96, 128], &[false, false, true, true], 2, 16),
            schedule: zero_terminal(),
            prediction: Prediction::Velocity,
            train: TrainConfig {
                steps,
                adamw: AdamWConfig { lr: 4e-4, ..Default::default() },
                lr_schedule: cosine(200, steps),
                loss: LossConfig { weight: LossWeight::MinSnr { gamma: 5.0 }, offset_noise: 0.0 },
                ema: Some(EmaConfig { max_decay: 0.999 }),
                checkpoint_every: 100,
                ..Default::default()
            },
            batch: 16,
            augment: true,
            sampling_steps: 50,
            spacing: TimestepSpacing::Trailing,
            checkpointing: false,
        }
    }

    /// The configuration of Dey & Saikia 2025 as far as it is published: 256², learning rate 2e-5,
    /// 200 epochs, 200 DDIM steps, on the network of the segmentation-guided diffusion that they
    /// released their sampler with. `images` turns epochs into steps.
    pub fn paper(images: usize) -> Self {
        let (batch, epochs) = (16, 200);
        let steps = epochs * images.div_ceil(batch).max(1);
        Self {
            name: "paper".to_owned(),
            size: 256,
            unet: unet(&[128, 128, 256, 256, 512, 512], &[false, false, false, false, true, false], 2, 32),
            schedule: ScheduleConfig::default(),
            prediction: Prediction::Epsilon,
            train: TrainConfig {
                steps,
                adamw: AdamWConfig { lr: 2e-5, ..Default::default() },
                lr_schedule: cosine(500, steps),
                ema: None,
                checkpoint_every: 200,
                ..Default::default()
            },
            batch,
            augment: false,
            sampling_steps: 200,
            spacing: TimestepSpacing::Leading,
            checkpointing: false,
        }
    }
}
