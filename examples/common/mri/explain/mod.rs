//! Explaining samples by prototypes on the features of the very network that drew them.

pub mod features;
pub mod figures;
pub mod method;
pub mod over_time;
pub mod report;
pub mod settings;
pub mod study;
pub mod truth;
