//! How well predicted classes and scores agree with labels, as scikit-learn defines it.

mod confusion;
mod divergence;
mod ranking;
mod report;

pub use confusion::{Average, ClassCounts, ConfusionMatrix};
pub use divergence::kl_divergence;
pub use ranking::{average_precision, roc_auc, roc_auc_one_vs_rest};
pub use report::{ClassificationReport, classification_report};
