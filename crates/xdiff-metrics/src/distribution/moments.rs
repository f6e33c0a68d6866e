//! The mean and covariance of a stream of feature vectors.

use std::fmt;

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, Par};

use super::features::{Features, check_joins, matrix};
use crate::{Error, Result};

/// The mean and covariance of feature vectors that arrive batch by batch.
///
/// Up to max(d, 256) vectors are kept as they are, so that a distance between small sets loses no
/// digits to a singular covariance. When more arrive, they are folded into the running mean and the
/// scatter matrix Σ(x−µ)(x−µ)ᵀ by the pairwise update of Chan, Golub and LeVeque 1979:
/// M = M₁ + M₂ + δδᵀ·n₁n₂/(n₁+n₂). The memory is O(d²) however many vectors are seen, and the size
/// of the batches changes nothing but rounding.
#[derive(Clone, PartialEq)]
pub struct FeatureMoments {
    extractor: String,
    dim: usize,
    /// Vectors that are not folded yet.
    pending: Vec<f64>,
    folded: Option<Folded>,
}

/// The moments of the vectors that are no longer kept.
#[derive(Clone, PartialEq)]
struct Folded {
    n: usize,
    mean: Vec<f64>,
    /// The lower triangle of Σ(x−µ)(x−µ)ᵀ.
    scatter: Mat<f64>,
}

/// A mean and what is known of the spread about it.
pub(super) struct Moments {
    pub(super) mean: Vec<f64>,
    pub(super) spread: Spread,
}

/// A covariance Σ, in the form that keeps the most digits.
pub(super) enum Spread {
    /// A matrix A (n, d) with Σ = AᵀA.
    Root(Mat<f64>),
    /// Σ (d, d).
    Covariance(Mat<f64>),
}

/// The least number of vectors that are kept before they are folded.
const KEPT: usize = 256;

impl fmt::Debug for FeatureMoments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeatureMoments")
            .field("extractor", &self.extractor)
            .field("dim", &self.dim)
            .field("n", &self.n())
            .finish_non_exhaustive()
    }
}

impl FeatureMoments {
    /// An empty stream of vectors of length `dim` of an extractor.
    ///
    /// # Errors
    /// When `dim` is 0.
    pub fn new(dim: usize, extractor: impl Into<String>) -> Result<Self> {
        if dim == 0 {
            return Err(Error::config("dim", "feature vectors need at least one value"));
        }
        Ok(Self { extractor: extractor.into(), dim, pending: Vec::new(), folded: None })
    }

    /// Adds a batch.
    ///
    /// # Errors
    /// When the vectors have another length or extractor.
    pub fn push(&mut self, features: &Features) -> Result<()> {
        self.check(features.extractor(), features.dim())?;
        self.push_rows(features.rows());
        Ok(())
    }

    /// Adds everything that another stream saw.
    ///
    /// # Errors
    /// When its vectors have another length or extractor.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.check(&other.extractor, other.dim)?;
        if let Some(theirs) = &other.folded {
            self.fold().merge(theirs);
        }
        self.push_rows(&other.pending);
        Ok(())
    }

    /// Forgets every vector.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.folded = None;
    }

    /// How many vectors were added.
    pub fn n(&self) -> usize {
        self.pending.len() / self.dim + self.folded.as_ref().map_or(0, |f| f.n)
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// What made the vectors.
    pub fn extractor(&self) -> &str {
        &self.extractor
    }

    /// The mean (d) and the unbiased covariance (d, d), divided by n−1, in row-major order.
    ///
    /// # Errors
    /// When fewer than two vectors were added.
    pub fn mean_and_covariance(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let Moments { mean, spread } = self.moments("covariance")?;
        let covariance = spread.into_covariance();
        let values = (0..self.dim).flat_map(|i| (0..self.dim).map(move |j| (i, j)));
        Ok((mean, values.map(|(i, j)| covariance[(i, j)]).collect()))
    }

    pub(super) fn moments(&self, metric: &'static str) -> Result<Moments> {
        let n = self.n();
        if n < 2 {
            return Err(Error::TooFew { metric, unit: "feature vectors in each set", need: 2, got: n });
        }
        let scale = 1.0 / (n - 1) as f64;
        let Some(folded) = &self.folded else {
            let mean = mean(&self.pending, self.dim);
            let scale = scale.sqrt();
            let rows = matrix(&self.pending, self.dim);
            let root = Mat::from_fn(n, self.dim, |i, j| scale * (rows[(i, j)] - mean[j]));
            return Ok(Moments { mean, spread: Spread::Root(root) });
        };
        let mut all = folded.clone();
        all.add_rows(&self.pending);
        let covariance = Mat::from_fn(self.dim, self.dim, |i, j| scale * all.scatter[(i.max(j), i.min(j))]);
        Ok(Moments { mean: all.mean, spread: Spread::Covariance(covariance) })
    }

    fn check(&self, extractor: &str, dim: usize) -> Result<()> {
        check_joins("feature moments", (&self.extractor, self.dim), (extractor, dim))
    }

    fn push_rows(&mut self, mut rows: &[f64]) {
        let room = self.dim.saturating_mul(self.dim.max(KEPT));
        while !rows.is_empty() {
            if self.pending.len() >= room {
                self.fold();
            }
            let (now, later) = rows.split_at(rows.len().min(room - self.pending.len()));
            self.pending.extend_from_slice(now);
            rows = later;
        }
    }

    /// Moves the kept vectors into the moments.
    fn fold(&mut self) -> &mut Folded {
        let folded = self.folded.get_or_insert_with(|| Folded {
            n: 0,
            mean: vec![0.0; self.dim],
            scatter: Mat::zeros(self.dim, self.dim),
        });
        folded.add_rows(&self.pending);
        self.pending.clear();
        folded
    }
}

impl Folded {
    fn add_rows(&mut self, rows: &[f64]) {
        let dim = self.mean.len();
        let (n, added) = (self.n, rows.len() / dim);
        if added == 0 {
            return;
        }
        let mean = mean(rows, dim);
        // The term δδᵀ·n₁n₂/(n₁+n₂) is one more row of the product.
        let weight = (n as f64 * added as f64 / (n + added) as f64).sqrt();
        let rows = matrix(rows, dim);
        let centred = Mat::from_fn(added + 1, dim, |i, j| {
            if i < added { rows[(i, j)] - mean[j] } else { weight * (mean[j] - self.mean[j]) }
        });
        triangular::matmul(
            &mut self.scatter,
            BlockStructure::TriangularLower,
            Accum::Add,
            centred.transpose(),
            BlockStructure::Rectangular,
            &centred,
            BlockStructure::Rectangular,
            1.0,
            Par::rayon(0),
        );
        self.shift_mean(&mean, added);
    }

    fn merge(&mut self, other: &Self) {
        let (n, added) = (self.n as f64, other.n as f64);
        let weight = n * added / (n + added);
        let delta: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(b, a)| b - a).collect();
        for j in 0..delta.len() {
            for i in j..delta.len() {
                self.scatter[(i, j)] += other.scatter[(i, j)] + weight * delta[i] * delta[j];
            }
        }
        self.shift_mean(&other.mean, other.n);
    }

    fn shift_mean(&mut self, mean: &[f64], added: usize) {
        self.n += added;
        let share = added as f64 / self.n as f64;
        for (ours, theirs) in self.mean.iter_mut().zip(mean) {
            *ours += share * (theirs - *ours);
        }
    }
}

impl Spread {
    /// Tr Σ.
    pub(super) fn trace(&self) -> f64 {
        match self {
            Spread::Root(a) => a.squared_norm_l2(),
            Spread::Covariance(c) => (0..c.nrows()).map(|i| c[(i, i)]).sum(),
        }
    }

    pub(super) fn into_covariance(self) -> Mat<f64> {
        match self {
            Spread::Root(a) => a.transpose() * &a,
            Spread::Covariance(c) => c,
        }
    }
}

fn mean(rows: &[f64], dim: usize) -> Vec<f64> {
    let mut mean = vec![0.0; dim];
    for row in rows.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v);
    }
    let n = (rows.len() / dim) as f64;
    mean.iter_mut().for_each(|m| *m /= n);
    mean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u64, n: usize, dim: usize) -> Features {
        let mut rng = xdiff_nn::Rng::new(seed);
        let rows = (0..n * dim).map(|i| rng.normal() + 10.0 * (i % dim) as f64).collect();
        Features::new(rows, dim, "noise").unwrap()
    }

    fn part(all: &Features, from: usize, to: usize) -> FeatureMoments {
        let mut moments = FeatureMoments::new(all.dim(), "noise").unwrap();
        if from < to {
            let rows = all.rows()[from * all.dim()..to * all.dim()].to_vec();
            moments.push(&Features::new(rows, all.dim(), "noise").unwrap()).unwrap();
        }
        moments
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn shards_in_any_order_equal_the_two_pass_covariance(
            n in 2usize..1200, first in 0usize..1200, second in 0usize..1200, seed in 0u64..9,
        ) {
            let dim = 3;
            let all = noise(seed, n, dim);
            let (first, second) = (first.min(second).min(n), first.max(second).min(n));
            let mut merged = part(&all, second, n);
            merged.merge(&part(&all, 0, first)).unwrap();
            merged.merge(&part(&all, first, second)).unwrap();
            prop_assert_eq!(merged.n(), n);
            let (mean, covariance) = merged.mean_and_covariance().unwrap();
            let want = super::mean(all.rows(), dim);
            for (i, m) in want.iter().enumerate() {
                prop_assert!((mean[i] - m).abs() < 1e-10);
                for (j, l) in want.iter().enumerate() {
                    let sum: f64 = all.rows().chunks(dim).map(|r| (r[i] - m) * (r[j] - l)).sum();
                    prop_assert!((covariance[i * dim + j] - sum / (n - 1) as f64).abs() < 1e-10);
                }
            }
        }
    }

    #[test]
    fn ten_thousand_vectors_take_no_more_room_than_the_first_hundreds() {
        let dim = 8;
        let mut moments = FeatureMoments::new(dim, "noise").unwrap();
        let mut room = 0;
        for batch in 0..100 {
            moments.push(&noise(batch, 100, dim)).unwrap();
            let folded = moments.folded.as_ref().map_or(0, |f| f.mean.len() + dim * f.scatter.ncols());
            let now = moments.pending.capacity() + folded;
            if batch == 9 {
                room = now;
            }
            assert!(batch < 9 || now == room, "{now} values after {batch} batches, {room} before");
        }
        assert_eq!(moments.n(), 10_000);
        assert!(room <= dim * (2 * KEPT + dim + 1), "{room}");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let mut moments = FeatureMoments::new(3, "noise").unwrap();
        assert!(matches!(moments.mean_and_covariance(), Err(Error::TooFew { .. })));
        moments.push(&noise(1, 1, 3)).unwrap();
        assert!(matches!(moments.mean_and_covariance(), Err(Error::TooFew { got: 1, .. })));
        assert!(matches!(moments.push(&noise(1, 4, 2)), Err(Error::Incompatible { .. })));
        let other = FeatureMoments::new(3, "another").unwrap();
        assert!(matches!(moments.merge(&other), Err(Error::Incompatible { .. })));
        assert!(FeatureMoments::new(0, "none").is_err());
        assert_eq!(moments.n(), 1);
        moments.reset();
        assert_eq!(moments.n(), 0);
    }
}
