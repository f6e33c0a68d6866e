//! Weights in and out.

mod report;

pub use report::{KeyReport, Misshaped};
