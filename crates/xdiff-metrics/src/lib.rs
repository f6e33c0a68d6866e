//! Metrics for images, masks, feature distributions and predictions, each with one exact definition.
//!
//! A number is only worth printing with what it depends on, so every preset has a name, a data range
//! is never guessed, and a score over features carries its extractor and its sample sizes.
//!
//! - Image pairs ([`PairMetric`]): [`Psnr`], [`Mse`], [`Mae`], [`Ssim`], [`MsSsim`],
//!   [`MsSsimReduced`], [`Lpips`]; masks: [`Dice`], [`Iou`]. [`Running`] gathers them over a data set.
//! - Feature distributions: [`FrechetDistance`], [`frechet_infinity`], [`KernelDistance`],
//!   [`PrecisionRecall`] over [`Features`].
//! - Predictions: [`ConfusionMatrix`], [`roc_auc`], [`average_precision`], [`kl_divergence`],
//!   [`classification_report`]; series: [`pearson`], [`spearman`].
//!
//! Statistics are computed in f64.

mod classification;
mod correlation;
mod distribution;
mod error;
mod lpips;
mod overlap;
mod pair;
mod psnr;
mod running;
mod ssim;

pub use classification::{
    Average, ClassCounts, ClassificationReport, ConfusionMatrix, average_precision, classification_report,
    kl_divergence, roc_auc, roc_auc_one_vs_rest,
};
pub use correlation::{pearson, spearman};
pub use distribution::{
    ExtrapolatedScore, Extrapolation, FeatureBatch, FeatureMoments, Features, FrechetDistance, FrechetScore,
    KernelDistance, KernelScore, Neighbours, PrecisionRecall, PrecisionRecallScore, SMALL_SAMPLE,
    SubsetDistance, SubsetScore, Subsets, frechet_distance, frechet_infinity, frechet_of_moments,
    is_fid_network, kernel_distance, precision_recall,
};
pub use error::{Error, Result};
pub use lpips::{Lpips, LpipsHeads, LpipsNet};
pub use overlap::{Dice, Empty, Iou};
pub use pair::PairMetric;
pub use psnr::{Mae, Mse, Psnr, mae, mse};
pub use running::{Running, Summary};
pub use ssim::{MS_SSIM_WEIGHTS, MsSsim, MsSsimReduced, ReducedScores, Ssim, SsimPreset};
