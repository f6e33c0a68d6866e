//! Training a classifier, and judging it on images that it never saw.

pub mod judging;
pub mod report;
pub mod source;
pub mod training;
