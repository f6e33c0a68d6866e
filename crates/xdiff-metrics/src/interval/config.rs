//! What an interval is, and how it is asked for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the ends of an interval were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalMethod {
    /// The bias-corrected and accelerated bootstrap (Efron 1987; Efron and Tibshirani 1993, §14.3).
    #[default]
    Bca,
    /// The percentiles of the bootstrap replicates.
    Percentile,
    /// The score interval of a proportion (Wilson 1927).
    Wilson,
    /// The exact interval of a proportion (Clopper and Pearson 1934).
    ClopperPearson,
    /// The normal interval with the variance of DeLong et al. 1988.
    DeLong,
}

/// What is drawn with replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResamplingUnit {
    /// Whole groups (all images of a patient) where the samples have groups, else samples. Images of
    /// one patient resemble each other, and an interval over samples would be too narrow.
    #[default]
    Group,
    /// Each sample by itself, whatever its group.
    Sample,
}

/// How an interval is computed by resampling.
///
/// Replicate r draws from the generator of (`seed`, r), so it depends neither on the number of
/// threads nor on how many replicates there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// How often the data are drawn anew. 1000 serve for 95 %; the ends then still vary with the seed
    /// by a few percent of the width.
    pub replicates: usize,
    /// The share of intervals that shall hold the true value, between 0 and 1.
    pub level: f64,
    /// [`IntervalMethod::Bca`] or [`IntervalMethod::Percentile`].
    pub method: IntervalMethod,
    /// The seed of the draw.
    pub seed: u64,
    /// For data with classes: whether each class keeps its number of units, as when a study was
    /// designed with so many of each.
    pub stratify: bool,
    /// For data with groups: what is drawn.
    pub unit: ResamplingUnit,
    /// The acceleration of BCa leaves out each unit once; with more units than this in a stratum it
    /// leaves out blocks of them, so that large data take no longer.
    pub jackknife: usize,
}

impl Default for BootstrapConfig {
    /// 1000 replicates, 95 %, BCa, seed 0, whole groups, classes not held fixed.
    fn default() -> Self {
        Self {
            replicates: 1000,
            level: 0.95,
            method: IntervalMethod::default(),
            seed: 0,
            stratify: false,
            unit: ResamplingUnit::default(),
            jackknife: 2000,
        }
    }
}

impl BootstrapConfig {
    /// # Errors
    /// When there are fewer than 2 replicates or more than 10 million, the level is not between 0 and
    /// 1, the method does not resample, or `jackknife` is below 2.
    pub fn validate(&self) -> Result<()> {
        if !(2..=10_000_000).contains(&self.replicates) {
            let reason = format!("must be 2 to 10 million, got {}", self.replicates);
            return Err(Error::config("replicates", reason));
        }
        check_level(self.level)?;
        if !matches!(self.method, IntervalMethod::Bca | IntervalMethod::Percentile) {
            return Err(Error::config("method", "resampling takes `bca` or `percentile`"));
        }
        if self.jackknife < 2 {
            return Err(Error::config("jackknife", format!("must be 2 or more, got {}", self.jackknife)));
        }
        Ok(())
    }
}

pub(super) fn check_level(level: f64) -> Result<()> {
    if level > 0.0 && level < 1.0 {
        return Ok(());
    }
    Err(Error::config("level", format!("must be between 0 and 1, such as 0.95, got {level}")))
}

/// A value with the interval in which the true one is to be expected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The value over all the data.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The share of such intervals that hold the true value.
    pub level: f64,
    /// How the ends were found. Percentiles stand in for BCa where that is not defined: when every
    /// replicate lies on one side of the value, or the value is not defined without some unit.
    pub method: IntervalMethod,
    /// How many samples there are.
    pub n: usize,
    /// How many groups they form, when groups were drawn.
    pub groups: Option<usize>,
    /// How often the data were drawn; 0 for a formula.
    pub replicates: usize,
    /// How many of the replicates had no value, as an area under the ROC curve without positives.
    /// The interval is that of the others.
    pub undefined: usize,
    /// The seed of the draw.
    pub seed: Option<u64>,
}

impl fmt::Display for IntervalMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IntervalMethod::Bca => "BCa",
            IntervalMethod::Percentile => "percentile",
            IntervalMethod::Wilson => "Wilson",
            IntervalMethod::ClopperPearson => "Clopper-Pearson",
            IntervalMethod::DeLong => "DeLong",
        })
    }
}

impl fmt::Display for Interval {
    /// `0.8125 [0.5312, 0.9706] (95 % BCa, n = 24 in 8 groups, 1000 replicates, seed 0)`; a precision,
    /// as in `{:.2}`, sets the digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(4);
        let Self { value, low, high, method, n, .. } = self;
        let percent = (self.level * 1e6).round() / 1e4;
        write!(f, "{value:.digits$} [{low:.digits$}, {high:.digits$}] ({percent} % {method}, n = {n}")?;
        if let Some(groups) = self.groups {
            write!(f, " in {groups} groups")?;
        }
        if self.replicates > 0 {
            write!(f, ", {} replicates", self.replicates)?;
        }
        if self.undefined > 0 {
            write!(f, ", {} of them undefined", self.undefined)?;
        }
        if let Some(seed) = self.seed {
            write!(f, ", seed {seed}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let good = BootstrapConfig::default();
        good.validate().unwrap();
        let table = [
            BootstrapConfig { replicates: 1, ..good.clone() },
            BootstrapConfig { replicates: usize::MAX, ..good.clone() },
            BootstrapConfig { level: 0.0, ..good.clone() },
            BootstrapConfig { level: 1.0, ..good.clone() },
            BootstrapConfig { level: f64::NAN, ..good.clone() },
            BootstrapConfig { method: IntervalMethod::Wilson, ..good.clone() },
            BootstrapConfig { jackknife: 1, ..good },
        ];
        let passed: Vec<_> = table.iter().filter(|c| c.validate().is_ok()).collect();
        assert!(passed.is_empty(), "{passed:?}");
    }

    #[test]
    fn an_interval_prints_what_it_depends_on() {
        let interval = Interval {
            value: 0.5,
            low: 0.25,
            high: 0.75,
            level: 0.95,
            method: IntervalMethod::Bca,
            n: 24,
            groups: Some(8),
            replicates: 1000,
            undefined: 3,
            seed: Some(7),
        };
        let want =
            "0.50 [0.25, 0.75] (95 % BCa, n = 24 in 8 groups, 1000 replicates, 3 of them undefined, seed 7)";
        assert_eq!(format!("{interval:.2}"), want);
    }
}
