//! Training a classifier, and judging it on images that it never saw.

pub mod source;
