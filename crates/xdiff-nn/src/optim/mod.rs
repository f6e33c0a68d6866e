//! Optimisers whose numbers are PyTorch's and whose state can be saved.
//!
//! A training step is: [`backward`] (a gradient for every trainable parameter, or an error), perhaps
//! [`Gradients::add`] over several batches and [`Gradients::clip_norm`], then
//! [`Optimizer::step`] with the rate that an [`LrSchedule`] gives, then [`Ema::update`].
//! After [`Optimizer::load_state`] training goes on to the same bits as without the interruption.

mod adamw;
mod ema;
mod engine;
pub(crate) mod in_place;
mod schedule;
mod sgd;

pub use crate::grad::{Gradients, backward, backward_partial};
pub use adamw::{AdamW, AdamWConfig};
pub use ema::{Ema, EmaConfig};
pub use engine::{Optimizer, Rule, StepAt};
pub use schedule::LrSchedule;
pub use sgd::{Sgd, SgdConfig};

#[cfg(test)]
mod tests;
