//! What the examples share.

pub mod conformance;
pub mod mri;

/// An error of any of the crates, or a plain sentence.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;
