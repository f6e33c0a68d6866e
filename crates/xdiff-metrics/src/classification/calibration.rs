//! Whether predicted probabilities are the shares that come true.

use serde::{Deserialize, Serialize};

use super::probability::check_rows;
use super::report::first_highest;
use crate::{Error, Result};

const METRIC: &str = "calibration error";

/// How confidences are sorted into bins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binning {
    /// Bins ((m−1)/M, m/M] of equal width, closed above as in Guo et al. 2017; the first holds 0 too.
    #[default]
    EqualWidth,
    /// Bins of as equal a number of samples as n/M allows, in order of confidence (the adaptive
    /// calibration error of Nguyen and O'Connor 2015). Equal confidences share the bin of the first of
    /// them, so that the order of the samples does not matter.
    EqualMass,
}

/// Which probability is held against which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationTarget {
    /// The highest probability of a sample against whether that class is right: the "confidence
    /// calibration" of Guo et al. 2017, and what torchmetrics computes for several classes.
    #[default]
    TopLabel,
    /// The probability of one class against whether the label is that class; with class 1 of two,
    /// what torchmetrics computes for a binary task.
    Class(usize),
}

/// How [`calibration`] is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrationConfig {
    /// How many bins.
    pub bins: usize,
    /// How confidences are sorted into them.
    pub binning: Binning,
    /// Which probability is held against which outcome.
    pub target: CalibrationTarget,
}

impl Default for CalibrationConfig {
    /// 15 bins of equal width for the top label, as Guo et al. 2017.
    fn default() -> Self {
        Self { bins: 15, binning: Binning::default(), target: CalibrationTarget::default() }
    }
}

/// One bar of a reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CalibrationBin {
    /// Confidences above this (for [`Binning::EqualMass`]: from the least in the bin on).
    pub low: f64,
    /// Up to this one.
    pub high: f64,
    /// How many samples are in the bin.
    pub count: usize,
    /// Their mean confidence; NaN in an empty bin.
    pub confidence: f64,
    /// The share of them that came true; NaN in an empty bin.
    pub accuracy: f64,
}

/// What [`calibration`] computes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// The bins in order of confidence, with those that are empty.
    pub bins: Vec<CalibrationBin>,
    /// Σ (count/n)·|accuracy − confidence|, the expected calibration error (ECE).
    pub expected: f64,
    /// The largest |accuracy − confidence| of a bin, the maximum calibration error (MCE).
    pub maximum: f64,
    /// √Σ (count/n)·(accuracy − confidence)², the root mean square calibration error.
    pub root_mean_square: f64,
    /// How many samples there are.
    pub n: usize,
}

/// Sorts samples into bins of confidence and compares, bin by bin, how sure the predictions were with
/// how often they were right (Naeini et al. 2015; Guo et al., ICML 2017).
///
/// The error depends on the number of bins and grows with fewer samples in each: print both with it.
///
/// # Shapes
/// `probabilities` are rows of `classes` values, one row for each label.
///
/// ```
/// use xdiff_metrics::{CalibrationConfig, calibration};
///
/// let probabilities = [0.9, 0.1, 0.9, 0.1, 0.2, 0.8];
/// let found = calibration(&probabilities, 2, &[0, 1, 1], &CalibrationConfig::default())?;
/// // Of two predictions with confidence 0.9 one is right, and the one with 0.8 is too.
/// assert!((found.expected - (2.0 * 0.4 + 0.2) / 3.0).abs() < 1e-12);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
///
/// # Errors
/// When there are no samples or bins, lengths do not fit, a label or the target is no class, or a row
/// is no distribution.
pub fn calibration(
    probabilities: &[f64],
    classes: usize,
    labels: &[usize],
    config: &CalibrationConfig,
) -> Result<Calibration> {
    config.validate(classes)?;
    check_rows(METRIC, probabilities, classes, labels)?;
    let rows = probabilities.chunks(classes).zip(labels);
    let pairs: Vec<(f64, bool)> = rows.map(|(row, label)| config.target.outcome(row, *label)).collect();
    let bins = match config.binning {
        Binning::EqualWidth => equal_width(&pairs, config.bins),
        Binning::EqualMass => equal_mass(pairs, config.bins),
    };
    let n = labels.len();
    let gaps = || {
        let filled = bins.iter().filter(|b| b.count > 0);
        filled.map(|b| ((b.accuracy - b.confidence).abs(), b.count as f64 / n as f64))
    };
    let (expected, maximum) =
        (gaps().map(|(gap, share)| gap * share).sum(), gaps().map(|g| g.0).fold(0.0, f64::max));
    let root_mean_square = gaps().map(|(gap, share)| gap * gap * share).sum::<f64>().sqrt();
    Ok(Calibration { bins, expected, maximum, root_mean_square, n })
}

impl CalibrationConfig {
    fn validate(&self, classes: usize) -> Result<()> {
        if !(1..=1 << 20).contains(&self.bins) {
            return Err(Error::config("bins", format!("must be 1 to 1048576, got {}", self.bins)));
        }
        match self.target {
            CalibrationTarget::Class(class) if class >= classes => {
                Err(Error::config("target", format!("there is no class {class} of {classes}")))
            }
            _ => Ok(()),
        }
    }
}

impl CalibrationTarget {
    /// The confidence, and whether it came true.
    pub(super) fn outcome(self, row: &[f64], label: usize) -> (f64, bool) {
        let class = match self {
            CalibrationTarget::TopLabel => first_highest(row),
            CalibrationTarget::Class(class) => class,
        };
        (row[class], class == label)
    }
}

/// The bin of equal width that a confidence belongs to.
pub(super) fn width_bin(confidence: f64, bins: usize) -> usize {
    // The edges m/M themselves decide, since confidence·M is rounded.
    let edge = |m: usize| m as f64 / bins as f64;
    let mut bin = ((confidence * bins as f64) as usize).min(bins - 1);
    while bin > 0 && confidence <= edge(bin) {
        bin -= 1;
    }
    while bin + 1 < bins && confidence > edge(bin + 1) {
        bin += 1;
    }
    bin
}

fn bin(low: f64, high: f64, pairs: &[(f64, bool)]) -> CalibrationBin {
    let n = pairs.len() as f64;
    let confidence = pairs.iter().map(|p| p.0).sum::<f64>() / n;
    let accuracy = pairs.iter().filter(|p| p.1).count() as f64 / n;
    CalibrationBin { low, high, count: pairs.len(), confidence, accuracy }
}

fn equal_width(pairs: &[(f64, bool)], bins: usize) -> Vec<CalibrationBin> {
    let mut members = vec![Vec::new(); bins];
    for pair in pairs {
        members[width_bin(pair.0, bins)].push(*pair);
    }
    let edge = |m: usize| m as f64 / bins as f64;
    members.iter().enumerate().map(|(m, pairs)| bin(edge(m), edge(m + 1), pairs)).collect()
}

fn equal_mass(mut pairs: Vec<(f64, bool)>, bins: usize) -> Vec<CalibrationBin> {
    // By outcome too, so that the sums do not depend on the order of the samples.
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let n = pairs.len();
    let mut members: Vec<Vec<(f64, bool)>> = vec![Vec::new(); bins.min(n)];
    let bins = members.len();
    let mut start = 0;
    for ties in pairs.chunk_by(|a, b| a.0 == b.0) {
        members[(start as u128 * bins as u128 / n as u128) as usize].extend(ties);
        start += ties.len();
    }
    let filled = members.iter().filter(|m| !m.is_empty());
    filled.map(|pairs| bin(pairs[0].0, pairs[pairs.len() - 1].0, pairs)).collect()
}
