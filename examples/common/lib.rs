//! What the examples share.

pub mod conformance;
