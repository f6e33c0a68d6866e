//! How the network is made and trained.

use serde::{Deserialize, Serialize};
use xdiff::nn::optim::AdamWConfig;
use xdiff::vision::segment::{SegNorm, SegUNetConfig, SegmentationLoss};
use xdiff::vision::train::{FitConfig, Measure, Schedule};

/// Everything but the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The side of the images in pixels.
    pub size: usize,
    /// The network.
    pub network: SegUNetConfig,
    /// The loss.
    pub loss: SegmentationLoss,
    /// The training.
    pub fit: FitConfig,
    /// Images in a batch.
    pub batch: usize,
    /// Whether the training images are turned, flipped and shifted.
    pub augment: bool,
}

/// Images that a training sees, each as often as it is seen: what takes about three minutes on two
/// cores.
const SEEN: usize = 4000;

impl Settings {
    /// A training of minutes, for `images` training images.
    pub fn normal(images: usize, seed: u64) -> Self {
        let epochs = (SEEN / images.max(1)).clamp(10, 60);
        Self {
            size: 64,
            network: SegUNetConfig { widths: vec![16, 32, 64], norm: SegNorm::Batch, ..Default::default() },
            loss: SegmentationLoss::default(),
            fit: FitConfig {
                epochs,
                adamw: AdamWConfig { lr: 3e-3, ..Default::default() },
                schedule: Schedule::WarmupCosine { warmup: 1.0 },
                monitor: Measure::Dice,
                checkpoint_every: 20,
                seed,
                ..Default::default()
            },
            batch: 16,
            augment: true,
        }
    }

    /// A training of seconds, which shows that everything runs and not what it can do.
    pub fn tiny(seed: u64) -> Self {
        let normal = Self::normal(0, seed);
        Self {
            size: 32,
            network: SegUNetConfig { widths: vec![8, 16], ..normal.network },
            fit: FitConfig { epochs: 2, ..normal.fit },
            batch: 4,
            ..normal
        }
    }
}
