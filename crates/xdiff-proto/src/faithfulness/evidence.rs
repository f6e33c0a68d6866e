//! What faithfulness is computed from.

use candle_core::Tensor;
use xdiff_nn::Rng;

use super::Definition;
use crate::correlation::Correlation;
use crate::host::{check_finite, finite_rows};
use crate::influence::{normalised_influence, softmax};
use crate::{Error, Result};

/// The influences of m prototypes on B images, and what they are held against.
///
/// Which [`Definition`]s can be computed depends on what was given: those of Eq. 14 ask for
/// [correlations](Self::with_correlation), the intervention for [changes](Self::with_changes), the ground
/// truth for [contributions](Self::with_contributions).
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Numbers whose softmax is the influence.
    scores: Vec<Vec<f64>>,
    influence: Vec<Vec<f64>>,
    correlation: Option<Vec<Vec<f64>>>,
    kind: Option<Correlation>,
    changes: Option<Vec<Vec<f64>>>,
    contributions: Option<Vec<Vec<f64>>>,
}

impl Evidence {
    /// Influences by Eq. 7 from similarities (B, m).
    ///
    /// # Errors
    /// Those of [`normalised_influence`].
    pub fn from_similarity(similarity: &Tensor) -> Result<Self> {
        let influence = normalised_influence(similarity)?;
        Ok(Self::new(finite_rows("similarity", similarity)?, influence))
    }

    /// Given influences, such as those of [`mean_assignment`](crate::influence::mean_assignment).
    ///
    /// # Errors
    /// [`Error::Input`] when there is none, rows differ in length, or a row does not consist of numbers
    /// of at least 0 that sum to 1; [`Error::NonFinite`] naming the image and the prototype.
    pub fn from_influence(influence: Vec<Vec<f64>>) -> Result<Self> {
        let m = influence.first().map_or(0, Vec::len);
        if m == 0 {
            return Err(Error::input("influence", "holds no image or no prototype"));
        }
        check_finite("influence", &influence)?;
        for (image, row) in influence.iter().enumerate() {
            let sum: f64 = row.iter().sum();
            if row.len() != m || (sum - 1.0).abs() > 1e-3 || row.iter().any(|p| *p < 0.0) {
                let reason = format!("of image {image} has {} numbers that sum to {sum}", row.len());
                return Err(Error::input("influence", reason + &format!("; give {m} of at least 0, sum 1")));
            }
        }
        let scores = influence.iter().map(|row| row.iter().map(|p| p.ln()).collect()).collect();
        Ok(Self::new(scores, influence))
    }

    fn new(scores: Vec<Vec<f64>>, influence: Vec<Vec<f64>>) -> Self {
        Self { scores, influence, correlation: None, kind: None, changes: None, contributions: None }
    }

    /// Adds corr(p_j, x) for each image and prototype (B, m).
    ///
    /// # Errors
    /// [`Error::Input`] for another shape or a number outside [−1, 1], [`Error::NonFinite`].
    pub fn with_correlation(self, correlation: &Tensor) -> Result<Self> {
        let rows = finite_rows("correlation", correlation)?;
        self.set_correlation(rows)
    }

    /// Adds correlations that [`Queries`](crate::correlation::Queries) gave, and remembers of which kind.
    ///
    /// # Errors
    /// As [`with_correlation`](Self::with_correlation).
    pub fn with_correlations(mut self, kind: Correlation, correlation: Vec<Vec<f64>>) -> Result<Self> {
        self.kind = Some(kind);
        self.set_correlation(correlation)
    }

    fn set_correlation(mut self, rows: Vec<Vec<f64>>) -> Result<Self> {
        self.check("correlation", &rows)?;
        // Rounding of f32 may leave the interval.
        if let Some(bad) = rows.iter().flatten().find(|c| c.abs() > 1.0 + 1e-6) {
            return Err(Error::input("correlation", format!("holds {bad}, which is outside [−1, 1]")));
        }
        let clamped = |row: Vec<f64>| row.into_iter().map(|c| c.clamp(-1.0, 1.0)).collect();
        self.correlation = Some(rows.into_iter().map(clamped).collect());
        Ok(self)
    }

    /// Adds how much an output changes when prototype j is removed, for each image: see
    /// [`embedding_change`](super::embedding_change) and its neighbours.
    ///
    /// # Errors
    /// [`Error::Input`] for another shape than (B, m), [`Error::NonFinite`].
    pub fn with_changes(mut self, changes: Vec<Vec<f64>>) -> Result<Self> {
        self.check("change", &changes)?;
        self.changes = Some(changes);
        Ok(self)
    }

    /// Adds what the source of each prototype contributed to each image whose making is known, such as
    /// the share of its pixels.
    ///
    /// # Errors
    /// As [`with_changes`](Self::with_changes).
    pub fn with_contributions(mut self, contributions: Vec<Vec<f64>>) -> Result<Self> {
        self.check("contribution", &contributions)?;
        self.contributions = Some(contributions);
        Ok(self)
    }

    fn check(&self, what: &'static str, rows: &[Vec<f64>]) -> Result<()> {
        if rows.len() != self.images() || rows.iter().any(|row| row.len() != self.prototypes()) {
            let (b, m) = (self.images(), self.prototypes());
            let found = (rows.len(), rows.iter().find(|r| r.len() != m).or(rows.first()).map_or(0, Vec::len));
            return Err(Error::input(what, format!("has shape {found:?}, influences have {:?}", (b, m))));
        }
        check_finite(what, rows)
    }

    /// How many images there are; at least 1.
    pub fn images(&self) -> usize {
        self.influence.len()
    }

    /// How many prototypes there are, m; at least 1.
    pub fn prototypes(&self) -> usize {
        self.influence[0].len()
    }

    /// The influences, a row for each image.
    pub fn influence(&self) -> &[Vec<f64>] {
        &self.influence
    }

    /// Which correlation was given, where that is known.
    pub fn correlation_kind(&self) -> Option<Correlation> {
        self.kind
    }

    /// Whether a definition can be computed.
    pub fn supports(&self, definition: Definition) -> bool {
        self.other(definition).is_ok()
    }

    /// The score of each image; `None` where it is undefined.
    ///
    /// # Errors
    /// [`Error::Input`] when what the definition asks for was not given.
    pub fn score(&self, definition: Definition) -> Result<Vec<Option<f64>>> {
        let other = self.other(definition)?;
        Ok(self.influence.iter().zip(other).map(|(n, o)| definition.of(n, o)).collect())
    }

    /// The scores when the influences of each image are dealt out among the prototypes at random.
    pub(super) fn permuted(&self, definition: Definition, rng: &Rng) -> Result<Vec<Option<f64>>> {
        let other = self.other(definition)?;
        let dealt = self.influence.iter().zip(other).zip(0..).map(|((influence, other), image)| {
            let mut influence = influence.clone();
            rng.sample(image).shuffle(&mut influence);
            definition.of(&influence, other)
        });
        Ok(dealt.collect())
    }

    /// The scores when there are only these prototypes; undefined for an image in which they have no
    /// influence at all.
    pub(super) fn among(&self, definition: Definition, chosen: &[usize]) -> Result<Vec<Option<f64>>> {
        let pick = |row: &[f64]| -> Vec<f64> { chosen.iter().map(|j| row[*j]).collect() };
        let other = self.other(definition)?;
        let score =
            |(scores, other): (&Vec<f64>, &Vec<f64>)| definition.of(&softmax(&pick(scores))?, &pick(other));
        Ok(self.scores.iter().zip(other).map(score).collect())
    }

    /// What the influences are held against; the influences themselves where that is nothing.
    fn other(&self, definition: Definition) -> Result<&[Vec<f64>]> {
        let (rows, what) = match definition {
            Definition::ReleasedMaxNis => return Ok(&self.influence),
            Definition::Intervention => (&self.changes, "changes of an output"),
            Definition::GroundTruth => (&self.contributions, "known contributions"),
            _ => (&self.correlation, "correlations"),
        };
        let missing = || Error::input("evidence", format!("has no {what}, which `{definition}` asks for"));
        rows.as_deref().ok_or_else(missing)
    }
}
