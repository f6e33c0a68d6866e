//! How far a score can be trusted: confidence intervals by resampling and for proportions.

mod bootstrap;
mod config;
mod design;
mod estimate;
mod paired;
mod proportion;

pub use bootstrap::{bootstrap, bootstrap_features, bootstrap_mean, bootstrap_two_samples};
pub use config::{BootstrapConfig, Interval, IntervalMethod, ResamplingUnit};
pub use design::Design;
pub use paired::{AucComparison, McNemar, bootstrap_difference, delong, mcnemar};
pub use proportion::{clopper_pearson, wilson};

pub(crate) use bootstrap::intervals;
pub(crate) use estimate::percentile_of_sorted;
