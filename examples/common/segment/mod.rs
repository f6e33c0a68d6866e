//! Learning to segment: settings, training, scores and the report of the example `segment`.

pub mod model;
pub mod report;
pub mod scores;
pub mod settings;
