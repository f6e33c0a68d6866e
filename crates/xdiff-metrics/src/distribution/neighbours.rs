//! Precision, recall, density and coverage of one set of features by another.

use std::fmt;

use faer::Mat;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xdiff_core::Metric;

use super::features::{FeatureBatch, Features};
use super::rows::{BLOCK, Sorted, products};
use super::sets::TwoSets;
use crate::{Error, Result};

const METRIC: &str = "precision and recall";

/// How many nearest neighbours span the neighbourhood of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Neighbours {
    /// For precision and recall.
    pub precision_recall: usize,
    /// For density and coverage.
    pub density_coverage: usize,
}

impl Default for Neighbours {
    /// The numbers of the two papers: 3 and 5.
    fn default() -> Self {
        Self { precision_recall: 3, density_coverage: 5 }
    }
}

impl Neighbours {
    /// # Errors
    /// When a number is 0.
    pub fn validate(&self) -> Result<()> {
        for (field, k) in
            [("precision_recall", self.precision_recall), ("density_coverage", self.density_coverage)]
        {
            if k == 0 {
                return Err(Error::config(field, "needs at least 1 neighbour (the papers take 3 and 5)"));
            }
        }
        Ok(())
    }
}

/// Improved precision and recall (Kynkäänniemi et al. 2019) and density and coverage (Naeem et al.
/// 2020) between a reference set X and a generated set Y.
///
/// Let r_k(v) be the distance from a vector to its k-th nearest other in its own set. Then
///
/// - precision = share of Y with ‖x − y‖ ≤ r_k(x) for some x: how much of what is made looks real,
/// - recall = share of X with ‖x − y‖ ≤ r_k(y) for some y: how much of what is real can be made,
/// - density = Σ_y #{x : ‖x − y‖ < r_k(x)} / (k·m), which an outlier in X cannot raise as it does
///   precision; it may exceed 1,
/// - coverage = share of X with ‖x − y‖ < r_k(x) for some y.
///
/// The two signs are those of the authors' code each. They differ only where vectors repeat: more
/// than k copies of an image have r_k = 0, and then count for precision and recall alone.
///
/// Distances are Euclidean, in f64, formed block by block from products of the centred vectors, so
/// that the memory is O((n+m)·d) and never n·m. Vectors are sorted first: shards may be merged in
/// any order and the numbers stay the same to the last bit.
///
/// ```
/// use xdiff_core::Metric;
/// use xdiff_metrics::{FeatureBatch, Features, Neighbours, PrecisionRecall};
///
/// let line = |from: f64| Features::new((0..8).map(|i| from + f64::from(i)).collect(), 1, "one pixel");
/// let mut metric = PrecisionRecall::new(1, "one pixel", Neighbours::default())?;
/// metric.update(FeatureBatch::Reference(&line(0.0)?))?;
/// metric.update(FeatureBatch::Generated(&line(4.5)?))?;
/// let score = metric.compute()?;
/// assert_eq!((score.precision, score.recall), (0.75, 0.75));
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionRecall {
    sets: TwoSets,
    neighbours: Neighbours,
}

/// Precision, recall, density and coverage, with what a reader must know to compare them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrecisionRecallScore {
    /// The share of generated vectors near a reference vector.
    pub precision: f64,
    /// The share of reference vectors near a generated vector.
    pub recall: f64,
    /// How many neighbourhoods of reference vectors a generated vector lies in, over k.
    pub density: f64,
    /// The share of reference vectors with a generated vector in their neighbourhood.
    pub coverage: f64,
    /// The k of each pair.
    pub neighbours: Neighbours,
    /// What made the features: architecture, weights, resize.
    pub extractor: String,
    /// The length of a feature vector.
    pub dim: usize,
    /// Vectors in the reference set.
    pub n_reference: usize,
    /// Vectors in the set that is judged.
    pub n_generated: usize,
}

impl fmt::Display for PrecisionRecallScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { precision, recall, density, coverage, extractor, n_reference, n_generated, .. } = self;
        let Neighbours { precision_recall, density_coverage } = self.neighbours;
        write!(
            f,
            "Precision {precision}, recall {recall} (k = {precision_recall}), density {density}, coverage \
             {coverage} (k = {density_coverage}) ({extractor}; n = {n_reference} and {n_generated})"
        )
    }
}

impl PrecisionRecall {
    /// An empty accumulator for vectors of length `dim` of an extractor.
    ///
    /// # Errors
    /// When `dim` or a number of neighbours is 0.
    pub fn new(dim: usize, extractor: impl Into<String>, neighbours: Neighbours) -> Result<Self> {
        neighbours.validate()?;
        Ok(Self { sets: TwoSets::new(METRIC, dim, extractor)?, neighbours })
    }
}

impl Metric for PrecisionRecall {
    type Batch<'a> = FeatureBatch<'a>;
    type Value = PrecisionRecallScore;
    type Error = Error;

    fn update(&mut self, batch: FeatureBatch<'_>) -> Result<()> {
        self.sets.push(batch)
    }

    fn compute(&self) -> Result<PrecisionRecallScore> {
        let Neighbours { precision_recall, density_coverage } = self.neighbours;
        let (reference, generated) = self.sets.sorted();
        let (n, m) = (reference.n(), generated.n());
        let largest = precision_recall.max(density_coverage);
        for (unit, got, k) in [
            ("reference vectors, one more than neighbours,", n, largest),
            ("generated vectors, one more than neighbours,", m, precision_recall),
        ] {
            if got <= k {
                return Err(Error::TooFew { metric: METRIC, unit, need: k.saturating_add(1), got });
            }
        }
        let centre = reference.mean();
        let (x, y) = (Centred::new(&reference, &centre), Centred::new(&generated, &centre));
        let (near_x, near_y) = (nearest(&x, largest), nearest(&y, precision_recall));
        let balls = Balls {
            precision: near_x.radii(precision_recall),
            recall: near_y.radii(precision_recall),
            density: near_x.radii(density_coverage),
        };
        let hits = balls.hits(&x, &y);
        let share = |flags: &[bool]| flags.iter().filter(|f| **f).count() as f64 / flags.len() as f64;
        Ok(PrecisionRecallScore {
            precision: share(&hits.precise),
            recall: share(&hits.recalled),
            density: hits.memberships as f64 / (density_coverage as f64 * m as f64),
            coverage: share(&hits.covered),
            neighbours: self.neighbours,
            extractor: self.sets.extractor().to_owned(),
            dim: self.sets.dim(),
            n_reference: n,
            n_generated: m,
        })
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.neighbours != other.neighbours {
            return Err(Error::Incompatible {
                metric: METRIC,
                what: "the number of neighbours",
                left: format!("{:?}", self.neighbours),
                right: format!("{:?}", other.neighbours),
            });
        }
        self.sets.merge(&other.sets)
    }

    fn reset(&mut self) {
        self.sets.clear();
    }
}

/// Precision, recall, density and coverage of two sets that are there as a whole.
///
/// # Errors
/// When the sets have different feature lengths or extractors, a number of neighbours is 0, or a set
/// does not have more vectors than neighbours.
pub fn precision_recall(
    reference: &Features,
    generated: &Features,
    neighbours: Neighbours,
) -> Result<PrecisionRecallScore> {
    let mut metric = PrecisionRecall::new(reference.dim(), reference.extractor(), neighbours)?;
    metric.update(FeatureBatch::Reference(reference))?;
    metric.update(FeatureBatch::Generated(generated))?;
    metric.compute()
}

/// A set about a common centre, in blocks.
struct Centred<'a> {
    rows: &'a Sorted<'a>,
    centre: &'a [f64],
}

/// Vectors as columns, and the square of the length of each.
struct Block {
    columns: Mat<f64>,
    squares: Vec<f64>,
}

impl<'a> Centred<'a> {
    fn new(rows: &'a Sorted<'a>, centre: &'a [f64]) -> Self {
        Self { rows, centre }
    }

    fn block(&self, block: usize) -> Block {
        let mut columns = self.rows.block(block);
        let mut squares = Vec::with_capacity(columns.ncols());
        for j in 0..columns.ncols() {
            columns.col_mut(j).iter_mut().zip(self.centre).for_each(|(v, c)| *v -= c);
            squares.push(columns.col(j).squared_norm_l2());
        }
        Block { columns, squares }
    }
}

/// Below this share of ‖x‖² + ‖y‖² a squared distance is summed term by term, because the products
/// would leave it too few digits.
const CANCELLED: f64 = 1e-6;

/// Calls `visit(i, j, ‖xᵢ − yⱼ‖²)` for all pairs of two blocks.
fn squared_distances(x: &Block, y: &Block, mut visit: impl FnMut(usize, usize, f64)) {
    let doubled = products(&x.columns, &y.columns, 2.0);
    for (j, y_square) in y.squares.iter().enumerate() {
        for (i, (product, x_square)) in doubled.col(j).iter().zip(&x.squares).enumerate() {
            let sum = x_square + y_square;
            let square = sum - product;
            let square = if square > CANCELLED * sum {
                square
            } else {
                let pairs = x.columns.col(i).iter().zip(y.columns.col(j).iter());
                pairs.map(|(a, b)| (a - b) * (a - b)).sum()
            };
            visit(i, j, square);
        }
    }
}

/// The squared distances from each vector to its k nearest others, in rising order.
struct Nearest {
    k: usize,
    squares: Vec<f64>,
}

impl Nearest {
    fn new(n: usize, k: usize) -> Self {
        Self { k, squares: vec![f64::INFINITY; n * k] }
    }

    fn offer(&mut self, row: usize, square: f64) {
        let kept = &mut self.squares[row * self.k..(row + 1) * self.k];
        if square < kept[kept.len() - 1] {
            let at = kept.partition_point(|v| *v <= square);
            kept[at..].rotate_right(1);
            kept[at] = square;
        }
    }

    fn join(mut self, other: &Self) -> Self {
        for (i, square) in other.squares.iter().enumerate() {
            self.offer(i / self.k, *square);
        }
        self
    }

    /// The squared distance to the k-th neighbour of each.
    fn radii(&self, k: usize) -> Vec<f64> {
        self.squares.chunks_exact(self.k).map(|kept| kept[k - 1]).collect()
    }
}

fn nearest(x: &Centred<'_>, k: usize) -> Nearest {
    let blocks = x.rows.blocks();
    let pairs: Vec<_> = (0..blocks).flat_map(|i| (0..=i).map(move |j| (i, j))).collect();
    let empty = || Nearest::new(x.rows.n(), k);
    pairs
        .par_iter()
        .with_min_len(pairs.len().div_ceil(8 * rayon::current_num_threads()))
        .fold(empty, |mut nearest, (i, j)| {
            squared_distances(&x.block(*i), &x.block(*j), |r, c, square| {
                let (r, c) = (i * BLOCK + r, j * BLOCK + c);
                // A pair within a block is met twice.
                if r != c {
                    nearest.offer(r, square);
                    if i != j {
                        nearest.offer(c, square);
                    }
                }
            });
            nearest
        })
        .reduce(empty, |a, b| a.join(&b))
}

/// Squared radii of the neighbourhoods.
struct Balls {
    /// Of reference vectors, for precision.
    precision: Vec<f64>,
    /// Of generated vectors, for recall.
    recall: Vec<f64>,
    /// Of reference vectors, for density and coverage.
    density: Vec<f64>,
}

/// Which vectors lie in a neighbourhood.
struct Hits {
    precise: Vec<bool>,
    recalled: Vec<bool>,
    covered: Vec<bool>,
    memberships: u64,
}

impl Balls {
    fn hits(&self, x: &Centred<'_>, y: &Centred<'_>) -> Hits {
        let (n, m) = (x.rows.n(), y.rows.n());
        let none = || Hits {
            precise: vec![false; m],
            recalled: vec![false; n],
            covered: vec![false; n],
            memberships: 0,
        };
        (0..x.rows.blocks())
            .into_par_iter()
            .fold(none, |mut hits, i| {
                let a = x.block(i);
                for j in 0..y.rows.blocks() {
                    squared_distances(&a, &y.block(j), |r, c, square| {
                        let (r, c) = (i * BLOCK + r, j * BLOCK + c);
                        hits.precise[c] |= square <= self.precision[r];
                        hits.recalled[r] |= square <= self.recall[c];
                        let inside = square < self.density[r];
                        hits.covered[r] |= inside;
                        hits.memberships += u64::from(inside);
                    });
                }
                hits
            })
            .reduce(none, |mut a, b| {
                let or = |a: &mut [bool], b: &[bool]| a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
                or(&mut a.precise, &b.precise);
                or(&mut a.recalled, &b.recalled);
                or(&mut a.covered, &b.covered);
                a.memberships += b.memberships;
                a
            })
    }
}

#[cfg(test)]
mod tests;
