//! Training a denoiser: loss, loop, checkpoints.

mod checkpoint;
mod config;
mod loss;
mod observer;
#[cfg(test)]
mod tests;
mod trainer;

pub use checkpoint::Checkpoint;
pub use config::{ConditionDropout, TrainConfig};
pub use loss::{LossConfig, LossWeight, NoisySample, diffusion_loss};
pub use observer::{Progress, StepReport, TrainObserver};
pub use trainer::{Outcome, TrainBatch, Trainer};
