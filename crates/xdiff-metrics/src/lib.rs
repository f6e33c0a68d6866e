//! Metrics for images, masks, feature distributions and predictions, each with one exact definition.
//!
//! A number is only worth printing with what it depends on, so every preset has a name, a data range
//! is never guessed, and a score over features carries its extractor and its sample sizes.
//!
//! - Image pairs ([`PairMetric`]): [`Psnr`], [`Mse`], [`Mae`], [`Ssim`], [`MsSsim`],
//!   [`MsSsimReduced`], [`Lpips`]; masks: [`Dice`], [`Iou`], [`LabelDice`], [`Hausdorff`],
//!   [`AverageSurfaceDistance`], [`SurfaceDice`]. [`Running`] gathers them over a data set.
//! - Feature distributions: [`FrechetDistance`], [`frechet_infinity`], [`KernelDistance`],
//!   [`PrecisionRecall`] over [`Features`].
//! - Predictions: [`Predictions`], [`ConfusionMatrix`], [`ClassTable`], [`roc_auc`],
//!   [`average_precision`], [`calibration`], [`brier_score`], [`kl_divergence`], [`js_divergence`],
//!   [`classification_report`]; series: [`pearson`], [`spearman`].
//! - How far a score can be trusted: [`classification_scores`] gives every score of a classifier with
//!   its interval, [`bootstrap`] that of any statistic, [`wilson`] that of a proportion, [`delong`] and
//!   [`bootstrap_difference`] compare two models.
//!
//! Statistics are computed in f64.

mod classification;
mod correlation;
mod distribution;
mod error;
mod interval;
mod lpips;
mod overlap;
mod pair;
mod psnr;
mod running;
mod ssim;

pub use classification::{
    Average, Binning, BrierScale, Calibration, CalibrationBin, CalibrationConfig, CalibrationTarget,
    ClassCounts, ClassRow, ClassTable, ClassificationReport, ConfusionMatrix, PrecisionRecallPoint,
    PredictionBatch, Predictions, RocPoint, ScoreKind, ScoreRow, ScoreTable, average_precision,
    average_precision_one_vs_rest, brier_score, calibration, classification_differences,
    classification_report, classification_scores, js_distance, js_divergence, kl_divergence, log_loss,
    precision_recall_curve, roc_auc, roc_auc_one_vs_rest, roc_curve, top_k_accuracy,
};
pub use correlation::{pearson, spearman};
pub use distribution::{
    ExtrapolatedScore, Extrapolation, FeatureBatch, FeatureMoments, Features, FrechetDistance, FrechetScore,
    KernelDistance, KernelScore, Neighbours, PrecisionRecall, PrecisionRecallScore, SMALL_SAMPLE,
    SubsetDistance, SubsetScore, Subsets, frechet_distance, frechet_infinity, frechet_of_moments,
    is_fid_network, kernel_distance, precision_recall,
};
pub use error::{Error, Result};
pub use interval::{
    AucComparison, BootstrapConfig, Design, Interval, IntervalMethod, McNemar, ResamplingUnit, bootstrap,
    bootstrap_difference, bootstrap_features, bootstrap_mean, bootstrap_two_samples, clopper_pearson, delong,
    mcnemar, wilson,
};
pub use lpips::{Lpips, LpipsHeads, LpipsNet};
pub use overlap::{
    AverageSurfaceDistance, Dice, Empty, EmptySurface, Hausdorff, Iou, LabelDice, SurfaceDice, SurfacePreset,
};
pub use pair::PairMetric;
pub use psnr::{Mae, Mse, Psnr, mae, mse};
pub use running::{Running, Summary};
pub use ssim::{MS_SSIM_WEIGHTS, MsSsim, MsSsimReduced, ReducedScores, Ssim, SsimPreset};
