//! Training a denoiser: loss, loop, checkpoints.

mod archive;
mod checkpoint;
mod config;
mod loss;
mod observer;
#[cfg(test)]
mod tests;
mod trainer;
mod update;

pub use archive::{Archive, Format, Tensors, checkpoint_error, is_present};
pub use checkpoint::Checkpoint;
pub use config::{ConditionDropout, TrainConfig};
pub use loss::{LossConfig, LossWeight, NoisySample, diffusion_loss};
pub use observer::{Progress, StepReport, TrainObserver};
pub use trainer::{Outcome, TrainBatch, Trainer};
pub use update::{Accumulated, Decay, State, UpdateConfig, Updated, Updater};
