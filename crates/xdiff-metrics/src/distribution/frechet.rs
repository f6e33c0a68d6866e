//! The Fréchet distance between two sets of features.

use std::fmt;

use faer::{Mat, Side};
use serde::Serialize;
use xdiff_core::Metric;

use super::features::{FeatureBatch, Features, check_joins, is_fid_network};
use super::moments::{FeatureMoments, Moments, Spread};
use crate::error::check_finite;
use crate::{Error, Result};

const METRIC: &str = "Fréchet distance";

/// The number of vectors in a set below which the bias of the distance is named in its score.
pub const SMALL_SAMPLE: usize = 2048;

/// A loss of digits above this share of the distance's terms is an error and not rounding.
const ROUNDING: f64 = 1e-7;

/// The Fréchet distance between the normal distributions that have the moments of two sets of
/// features (Dowson and Landau 1982; Heusel et al. 2017):
///
/// d² = ‖µ₁ − µ₂‖² + Tr Σ₁ + Tr Σ₂ − 2·Tr √(Σ₁Σ₂), with covariances divided by n−1.
///
/// The last term needs no square root of a matrix: it is the sum of the singular values of ABᵀ for
/// Σ₁ = AᵀA and Σ₂ = BᵀB. While a set is small, A is its centred data and the term is exact to
/// rounding even for a singular covariance; nothing is added to the diagonal. For larger sets it is
/// the sum of the roots of the eigenvalues of LᵀΣ₂L with Σ₁ = LLᵀ, where an eigenvalue below d·ε
/// times the largest counts as zero.
///
/// The distance is biased upwards by about 1/n, so only scores with the same n can be compared;
/// [`frechet_infinity`](crate::frechet_infinity) takes the bias off. It is called FID over the
/// features of one network with its published weights only: see [`FrechetScore::name`].
///
/// Images of any number stream through it: the memory is that of the moments, O(d²).
///
/// ```
/// use xdiff_core::Metric;
/// use xdiff_metrics::{FeatureBatch, Features, FrechetDistance};
///
/// let real = Features::new(vec![0.0, 0.0, 2.0, 0.0, 1.0, 3.0], 2, "two pixels")?;
/// let made = Features::new(vec![3.0, 0.0, 5.0, 0.0, 4.0, 3.0], 2, "two pixels")?;
/// let mut distance = FrechetDistance::new(2, "two pixels")?;
/// distance.update(FeatureBatch::Reference(&real))?;
/// distance.update(FeatureBatch::Generated(&made))?;
/// let score = distance.compute()?;
/// assert!((score.value - 9.0).abs() < 1e-12);
/// assert!(score.to_string().starts_with("Fréchet distance (two pixels): "));
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FrechetDistance {
    reference: FeatureMoments,
    generated: FeatureMoments,
}

/// A Fréchet distance, with what a reader must know to compare it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrechetScore {
    /// d², zero or above.
    pub value: f64,
    /// ‖µ₁ − µ₂‖², the part of the means.
    pub mean_term: f64,
    /// Tr(Σ₁ + Σ₂ − 2√(Σ₁Σ₂)), the part of the covariances.
    pub covariance_term: f64,
    /// What made the features: architecture, weights, resize.
    pub extractor: String,
    /// The length of a feature vector.
    pub dim: usize,
    /// Vectors in the reference set.
    pub n_reference: usize,
    /// Vectors in the set that is judged.
    pub n_generated: usize,
    /// Whether a set has fewer than [`SMALL_SAMPLE`] vectors, so that the bias is of the order of
    /// the distance itself.
    pub biased_small_sample: bool,
}

/// The name of a distance over features of this extractor.
pub(super) fn name(extractor: &str) -> &'static str {
    if is_fid_network(extractor) { "FID" } else { METRIC }
}

impl FrechetScore {
    /// `FID` over the features of [the FID network](crate::is_fid_network), `Fréchet distance` over
    /// all others.
    pub fn name(&self) -> &'static str {
        name(&self.extractor)
    }
}

impl fmt::Display for FrechetScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, extractor, n_reference, n_generated, .. } = self;
        write!(f, "{} ({extractor}): {value} (n = {n_reference} and {n_generated}", self.name())?;
        if self.biased_small_sample {
            write!(f, "; biased upwards, a set has fewer than {SMALL_SAMPLE} vectors")?;
        }
        write!(f, ")")
    }
}

impl FrechetDistance {
    /// An empty accumulator for vectors of length `dim` of an extractor.
    ///
    /// # Errors
    /// When `dim` is 0.
    pub fn new(dim: usize, extractor: impl Into<String>) -> Result<Self> {
        let empty = FeatureMoments::new(dim, extractor)?;
        Ok(Self { reference: empty.clone(), generated: empty })
    }

    /// Takes two streams that were gathered elsewhere.
    ///
    /// # Errors
    /// When their vectors have different lengths or extractors.
    pub fn from_moments(reference: FeatureMoments, generated: FeatureMoments) -> Result<Self> {
        check_joins(
            METRIC,
            (reference.extractor(), reference.dim()),
            (generated.extractor(), generated.dim()),
        )?;
        Ok(Self { reference, generated })
    }
}

impl Metric for FrechetDistance {
    type Batch<'a> = FeatureBatch<'a>;
    type Value = FrechetScore;
    type Error = Error;

    fn update(&mut self, batch: FeatureBatch<'_>) -> Result<()> {
        match batch {
            FeatureBatch::Reference(features) => self.reference.push(features),
            FeatureBatch::Generated(features) => self.generated.push(features),
        }
    }

    fn compute(&self) -> Result<FrechetScore> {
        let (n_reference, n_generated) = (self.reference.n(), self.generated.n());
        let terms = terms(self.reference.moments(METRIC)?, self.generated.moments(METRIC)?)?;
        Ok(FrechetScore {
            value: terms.mean + terms.covariance,
            mean_term: terms.mean,
            covariance_term: terms.covariance,
            extractor: self.reference.extractor().to_owned(),
            dim: self.reference.dim(),
            n_reference,
            n_generated,
            biased_small_sample: n_reference.min(n_generated) < SMALL_SAMPLE,
        })
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        self.reference.merge(&other.reference)?;
        self.generated.merge(&other.generated)
    }

    fn reset(&mut self) {
        self.reference.reset();
        self.generated.reset();
    }
}

/// The distance between two sets that are there as a whole.
///
/// # Errors
/// When the sets have different feature lengths or extractors, or one has fewer than two vectors.
pub fn frechet_distance(reference: &Features, generated: &Features) -> Result<FrechetScore> {
    let mut distance = FrechetDistance::new(reference.dim(), reference.extractor())?;
    distance.update(FeatureBatch::Reference(reference))?;
    distance.update(FeatureBatch::Generated(generated))?;
    distance.compute()
}

/// The distance d² between two normal distributions given by mean (d) and covariance (d·d values,
/// row-major), such as published reference statistics.
///
/// # Errors
/// When lengths do not fit, a value is not finite, or a covariance is not symmetric and positive
/// semi-definite.
pub fn frechet_of_moments(first: (&[f64], &[f64]), second: (&[f64], &[f64])) -> Result<f64> {
    let dim = first.0.len();
    let moments = |(mean, covariance): (&[f64], &[f64])| {
        if mean.is_empty() || mean.len() != dim || Some(covariance.len()) != dim.checked_mul(dim) {
            let expected = format!("a mean of {dim} values and a covariance of {dim}×{dim}");
            return Err(Error::shape(METRIC, expected, &[mean.len(), covariance.len()]));
        }
        check_finite(METRIC, "the mean", mean)?;
        check_finite(METRIC, "the covariance", covariance)?;
        let scale = covariance.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for i in 0..dim {
            for j in 0..i {
                if (covariance[i * dim + j] - covariance[j * dim + i]).abs() > ROUNDING * scale {
                    return Err(not_semi_definite());
                }
            }
        }
        let covariance = Mat::from_fn(dim, dim, |i, j| covariance[i * dim + j]);
        Ok(Moments { mean: mean.to_vec(), spread: Spread::Covariance(covariance) })
    };
    let terms = terms(moments(first)?, moments(second)?)?;
    Ok(terms.mean + terms.covariance)
}

struct Terms {
    mean: f64,
    covariance: f64,
}

fn terms(first: Moments, second: Moments) -> Result<Terms> {
    let mean: f64 = first.mean.iter().zip(&second.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    let traces = first.spread.trace() + second.spread.trace();
    let covariance = traces - 2.0 * trace_of_root(first.spread, second.spread)?;
    if covariance >= 0.0 {
        return Ok(Terms { mean, covariance });
    }
    if covariance < -ROUNDING * traces {
        return Err(Error::Numerics {
            metric: METRIC,
            reason: format!("the covariances lost digits: {covariance} from traces of {traces}"),
        });
    }
    Ok(Terms { mean, covariance: 0.0 })
}

/// Tr √(Σ₁Σ₂).
fn trace_of_root(first: Spread, second: Spread) -> Result<f64> {
    match (first, second) {
        (Spread::Root(a), Spread::Root(b)) => {
            let singular = (&a * b.transpose()).singular_values().map_err(|e| failed(&e))?;
            Ok(singular.iter().sum())
        }
        (Spread::Root(a), Spread::Covariance(c)) | (Spread::Covariance(c), Spread::Root(a))
            if a.nrows() <= a.ncols() =>
        {
            sum_of_roots(&(&a * (c * a.transpose())))
        }
        (first, second) => {
            let (first, second) = (first.into_covariance(), second.into_covariance());
            let root = root(&first)?;
            sum_of_roots(&(root.transpose() * (second * &root)))
        }
    }
}

/// A matrix L with Σ = LLᵀ: Cholesky's, or that of the eigenvectors when Σ is singular.
fn root(covariance: &Mat<f64>) -> Result<Mat<f64>> {
    if let Ok(cholesky) = covariance.llt(Side::Lower) {
        return Ok(cholesky.L().to_owned());
    }
    let eigen = covariance.self_adjoint_eigen(Side::Lower).map_err(|e| failed(&e))?;
    let values: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
    let roots = roots(&values)?;
    let mut vectors = eigen.U().to_owned();
    for (j, root) in roots.iter().enumerate() {
        vectors.col_mut(j).iter_mut().for_each(|v| *v *= root);
    }
    Ok(vectors)
}

/// Σ√λ over the eigenvalues of a symmetric matrix.
fn sum_of_roots(matrix: &Mat<f64>) -> Result<f64> {
    let values = matrix.self_adjoint_eigenvalues(Side::Lower).map_err(|e| failed(&e))?;
    Ok(roots(&values)?.iter().sum())
}

/// √λ of eigenvalues that are zero or above but for rounding.
fn roots(eigenvalues: &[f64]) -> Result<Vec<f64>> {
    let largest = eigenvalues.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let noise = eigenvalues.len() as f64 * f64::EPSILON * largest;
    if eigenvalues.iter().any(|v| *v < -ROUNDING.max(noise) * largest) {
        return Err(not_semi_definite());
    }
    Ok(eigenvalues.iter().map(|v| if *v > noise { v.sqrt() } else { 0.0 }).collect())
}

fn failed(e: &dyn fmt::Debug) -> Error {
    Error::Numerics { metric: METRIC, reason: format!("the decomposition did not converge: {e:?}") }
}

fn not_semi_definite() -> Error {
    Error::Numerics {
        metric: METRIC,
        reason: "a covariance is not symmetric and positive semi-definite; compute it in f64".into(),
    }
}

#[cfg(test)]
mod tests;
