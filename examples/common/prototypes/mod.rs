//! A classifier that shows what an image looks like, beside the same one without prototypes.

pub mod judging;
pub mod panels;
pub mod report;
pub mod training;
