//! Explaining samples by prototypes on the features of the very network that drew them.

pub mod features;
pub mod figures;
pub mod method;
pub mod settings;
pub mod study;
