//! How well predicted classes and scores agree with labels, as scikit-learn defines it.

mod agreement;
mod calibration;
mod class_table;
mod confusion;
mod curve;
mod divergence;
mod predictions;
mod probability;
mod ranking;
mod report;
mod scores;

pub use calibration::{
    Binning, Calibration, CalibrationBin, CalibrationConfig, CalibrationTarget, calibration,
};
pub use class_table::{ClassRow, ClassTable};
pub use confusion::{Average, ClassCounts, ConfusionMatrix};
pub use curve::{PrecisionRecallPoint, RocPoint, precision_recall_curve, roc_curve};
pub use divergence::{js_distance, js_divergence, kl_divergence};
pub use predictions::{PredictionBatch, Predictions, ScoreKind};
pub use probability::{BrierScale, brier_score, log_loss};
pub use ranking::{
    average_precision, average_precision_one_vs_rest, roc_auc, roc_auc_one_vs_rest, top_k_accuracy,
};
pub use report::{ClassificationReport, classification_report};
pub use scores::{ScoreRow, ScoreTable, classification_differences, classification_scores};

pub(crate) use confusion::check_classes;

#[cfg(test)]
mod tests;
