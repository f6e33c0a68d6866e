//! Faithfulness with everything that it has to be read beside.

use std::fmt;

use serde::{Deserialize, Serialize};
use xdiff_core::statistics::{mean, sample_deviation};
use xdiff_nn::Rng;

use super::baseline::{by_image, mean_defined};
use super::{Baseline, Definition, Evidence};
use crate::correlation::Correlation;
use crate::influence::effective_number;
use crate::{Error, Result};

/// What a report holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaithfulnessConfig {
    /// The definitions, by default all that ask for correlations at most. Each must be
    /// [supported](Evidence::supports) by the evidence of every run.
    pub definitions: Vec<Definition>,
    /// How often the influences of each image are dealt out at random.
    pub permutations: usize,
    /// Smaller numbers of prototypes for which the scores are computed as well, on random choices among
    /// the prototypes, so that methods with different m can be compared. None by default.
    pub matched: Vec<usize>,
    /// How often prototypes are chosen for each such number.
    pub choices: usize,
    /// The seed of both.
    pub seed: u64,
}

impl Default for FaithfulnessConfig {
    fn default() -> Self {
        Self {
            definitions: vec![
                Definition::Eq14,
                Definition::Eq14Sum,
                Definition::Eq14SumClamp,
                Definition::ReleasedMaxNis,
            ],
            permutations: 20,
            matched: Vec::new(),
            choices: 20,
            seed: 0,
        }
    }
}

impl FaithfulnessConfig {
    /// Checks the values for m prototypes.
    ///
    /// # Errors
    /// [`Error::Config`] when nothing is to be computed, a number of draws is 0, or a matched number of
    /// prototypes is 0 or above m.
    pub fn validate(&self, m: usize) -> Result<()> {
        if self.definitions.is_empty() {
            return Err(Error::config("definitions", "is empty: name at least one"));
        }
        if self.permutations == 0 || self.choices == 0 {
            let reason = format!("are {} and {}, at least 1", self.permutations, self.choices);
            return Err(Error::config("permutations and choices", reason));
        }
        match self.matched.iter().find(|n| **n == 0 || **n > m) {
            None => Ok(()),
            Some(n) => Err(Error::config("matched", format!("asks for {n} of {m} prototypes"))),
        }
    }
}

/// The prototypes of one training.
#[derive(Clone, Debug)]
pub struct Run {
    /// The seed of the training.
    pub seed: u64,
    /// What it gave for the images.
    pub evidence: Evidence,
    /// What random prototypes of the same number give for the same images, such as
    /// [`random_patches`](super::random_patches) after projection; may be empty.
    pub random: Vec<Evidence>,
}

/// Several numbers, their mean and their standard deviation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The mean of the numbers that are defined.
    pub mean: Option<f64>,
    /// Their standard deviation (n − 1); `None` for fewer than two.
    pub deviation: Option<f64>,
    /// The numbers.
    pub values: Vec<Option<f64>>,
}

impl Spread {
    pub(super) fn of(values: Vec<Option<f64>>) -> Self {
        let defined: Vec<f64> = values.iter().flatten().copied().collect();
        Self { mean: mean(&defined), deviation: sample_deviation(&defined), values }
    }
}

/// A score with fewer prototypes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchedScore {
    /// How many there are.
    pub prototypes: usize,
    /// The least and the greatest value of the definition for so many.
    pub range: (f64, f64),
    /// The score over random choices among the prototypes of each run.
    pub choices: Baseline,
}

/// The score under one definition and what stands beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinitionScore {
    /// The definition.
    pub definition: Definition,
    /// The least and the greatest value that it can have for this number of prototypes.
    pub range: (f64, f64),
    /// The mean over images, one for each run.
    pub score: Spread,
    /// The score by run and image; `None` where it is undefined.
    pub images: Vec<Vec<Option<f64>>>,
    /// How many of these are undefined.
    pub undefined: usize,
    /// With each image's influences dealt out among the prototypes at random. The largest influence does
    /// not depend on that: for `released_max_nis` it is the score itself.
    pub permuted: Baseline,
    /// With random prototypes, where they and what the definition asks for were given.
    pub random: Option<Baseline>,
    /// With fewer prototypes.
    pub matched: Vec<MatchedScore>,
}

impl DefinitionScore {
    /// One number for each image, the mean over runs, NaN where undefined: what an interval of the mean
    /// is made of (`xdiff_metrics::bootstrap_mean` with the report's groups as its design).
    pub fn image_values(&self) -> Vec<f64> {
        by_image(&self.images).into_iter().map(|v| v.unwrap_or(f64::NAN)).collect()
    }
}

/// Scores of several runs of one method on the same images. It prints as a line for each definition.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_proto::faithfulness::{Evidence, FaithfulnessConfig, FaithfulnessReport, Run};
///
/// let corr = Tensor::new(&[[0.9f32, 0.1], [0.2, 0.8]], &Device::Cpu)?;
/// let run = |seed, g: [[f32; 2]; 2]| -> xdiff_proto::Result<Run> {
///     let evidence = Evidence::from_similarity(&Tensor::new(&g, &Device::Cpu)?)?;
///     Ok(Run { seed, evidence: evidence.with_correlation(&corr)?, random: Vec::new() })
/// };
/// let runs = [run(0, [[2., 0.], [0., 2.]])?, run(1, [[1., 0.], [0., 1.]])?];
/// let images = [("a".to_owned(), "patient 1".to_owned()), ("b".to_owned(), "patient 2".to_owned())];
/// let report = FaithfulnessReport::new("EPPNet", &runs, &images, &FaithfulnessConfig::default())?;
/// let sum = &report.scores[1];
/// assert!(sum.score.mean > sum.permuted.score.mean && sum.range == (-1.0, 1.0));
/// assert!(report.to_string().contains("eq14_sum"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaithfulnessReport {
    /// The method's name.
    pub method: String,
    /// How many prototypes there are, m.
    pub prototypes: usize,
    /// 1/m: the most that Eq. 14 can reach, and each prototype's influence if all were equal.
    pub uniform: f64,
    /// The images' names.
    pub images: Vec<String>,
    /// What each image belongs to (a patient, or itself): images of a group are not independent.
    pub groups: Vec<String>,
    /// The seeds of the runs.
    pub seeds: Vec<u64>,
    /// Which correlation was used, where that is known.
    pub correlation: Option<Correlation>,
    /// The effective number of prototypes, exp of the entropy of the influences, averaged over images:
    /// one for each run.
    pub effective_number: Spread,
    /// The scores.
    pub scores: Vec<DefinitionScore>,
    /// How it was made.
    pub config: FaithfulnessConfig,
}

impl FaithfulnessReport {
    /// # Errors
    /// [`Error::Input`] when there is no run, runs differ in their images, prototypes or correlation,
    /// the names do not fit the images, or a definition asks for what a run does not have; those of
    /// [`FaithfulnessConfig::validate`].
    pub fn new(
        method: impl Into<String>,
        runs: &[Run],
        images: &[(String, String)],
        config: &FaithfulnessConfig,
    ) -> Result<Self> {
        let Some(first) = runs.first() else {
            return Err(Error::input("runs", "is empty: give at least one"));
        };
        let (count, m) = (first.evidence.images(), first.evidence.prototypes());
        let correlation = first.evidence.correlation_kind();
        for evidence in runs.iter().flat_map(|run| std::iter::once(&run.evidence).chain(&run.random)) {
            let found = (evidence.images(), evidence.prototypes());
            if found != (count, m) {
                let reason = format!("have (images, prototypes) {:?} and {found:?}", (count, m));
                return Err(Error::input("runs", reason));
            }
            if evidence.correlation_kind() != correlation {
                let reason =
                    format!("have correlation {correlation:?} and {:?}", evidence.correlation_kind());
                return Err(Error::input("runs", reason));
            }
        }
        if images.len() != count {
            return Err(Error::input("images", format!("are {} names for {count} images", images.len())));
        }
        config.validate(m)?;
        let number = |run: &Run| {
            let numbers: Vec<f64> =
                run.evidence.influence().iter().map(|row| effective_number(row)).collect();
            mean(&numbers)
        };
        let score = |definition: &Definition| score(*definition, runs, config);
        Ok(Self {
            method: method.into(),
            prototypes: m,
            uniform: 1.0 / m as f64,
            images: images.iter().map(|(name, _)| name.clone()).collect(),
            groups: images.iter().map(|(_, group)| group.clone()).collect(),
            seeds: runs.iter().map(|run| run.seed).collect(),
            correlation,
            effective_number: Spread::of(runs.iter().map(number).collect()),
            scores: config.definitions.iter().map(score).collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// The score under a definition, where the report has it.
    pub fn score(&self, definition: Definition) -> Option<&DefinitionScore> {
        self.scores.iter().find(|score| score.definition == definition)
    }
}

fn score(definition: Definition, runs: &[Run], config: &FaithfulnessConfig) -> Result<DefinitionScore> {
    let m = runs[0].evidence.prototypes();
    let rng = Rng::new(config.seed).fork("faithfulness");
    let images = runs.iter().map(|run| run.evidence.score(definition)).collect::<Result<Vec<_>>>()?;
    let mut permuted = Vec::new();
    let mut random = Vec::new();
    for (run, k) in runs.iter().zip(0..) {
        for draw in 0..config.permutations as u64 {
            let rng = rng.fork("permutation").sample(k).sample(draw);
            permuted.push(run.evidence.permuted(definition, &rng)?);
        }
        for evidence in run.random.iter().filter(|evidence| evidence.supports(definition)) {
            random.push(evidence.score(definition)?);
        }
    }
    let matched = config.matched.iter().map(|n| {
        let mut choices = Vec::new();
        for (run, k) in runs.iter().zip(0..) {
            for draw in 0..config.choices as u64 {
                let mut order: Vec<usize> = (0..m).collect();
                rng.fork("choice").sample(k).sample(draw).shuffle(&mut order);
                choices.push(run.evidence.among(definition, &order[..*n])?);
            }
        }
        let range = definition.range(*n);
        Ok(MatchedScore { prototypes: *n, range, choices: Baseline::of(&choices) })
    });
    Ok(DefinitionScore {
        definition,
        range: definition.range(m),
        score: Spread::of(images.iter().map(|run| mean_defined(run)).collect()),
        undefined: images.iter().flatten().filter(|v| v.is_none()).count(),
        permuted: Baseline::of(&permuted),
        random: (!random.is_empty()).then(|| Baseline::of(&random)),
        matched: matched.collect::<Result<_>>()?,
        images,
    })
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mean, self.deviation) {
            (Some(mean), Some(deviation)) => write!(f, "{mean:.4} ± {deviation:.4}"),
            (Some(mean), None) => write!(f, "{mean:.4}"),
            (None, _) => f.write_str("undefined"),
        }
    }
}

impl fmt::Display for FaithfulnessReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups = self.groups.clone();
        groups.sort_unstable();
        groups.dedup();
        write!(f, "{}: m = {} prototypes, 1/m = {:.4}", self.method, self.prototypes, self.uniform)?;
        write!(f, ", effective number {}", self.effective_number)?;
        write!(f, ", {} images in {} groups, {} seeds", self.images.len(), groups.len(), self.seeds.len())?;
        if let Some(correlation) = self.correlation {
            write!(f, ", correlation {correlation}")?;
        }
        for score in &self.scores {
            let (low, high) = score.range;
            write!(f, "\n  {:<17} {} in [{low:.4}, {high:.4}]", score.definition, score.score)?;
            write!(f, ", permuted {}", score.permuted.score)?;
            match &score.random {
                Some(random) => write!(f, ", random prototypes {}", random.score)?,
                None => f.write_str(", random prototypes not given")?,
            }
            for matched in &score.matched {
                write!(f, ", m = {}: {}", matched.prototypes, matched.choices.score)?;
            }
            if score.undefined > 0 {
                let all = self.images.len() * self.seeds.len();
                write!(f, ", undefined for {} of {all}", score.undefined)?;
            }
        }
        Ok(())
    }
}
