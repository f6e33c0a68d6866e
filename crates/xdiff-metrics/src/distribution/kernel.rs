//! The kernel distance between two sets of features.

use std::fmt;

use faer::Mat;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xdiff_core::Metric;
use xdiff_nn::Rng;

use super::features::{FeatureBatch, Features, is_fid_network};
use super::rows::{Sorted, products};
use super::sets::TwoSets;
use crate::{Error, Result};

const METRIC: &str = "kernel distance";

/// The squared maximum mean discrepancy between two sets of features under the cubic kernel
/// k(x, y) = (x·y/d + 1)³, with the unbiased estimator of Gretton et al. 2012 (Bińkowski et al.
/// 2018, who call it KID over Inception features):
///
/// MMD² = Σ_{i≠j} k(xᵢ, xⱼ)/(n(n−1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(m(m−1)) − 2·Σ k(xᵢ, yⱼ)/(nm).
///
/// It has no bias, so it can be below zero. All vectors are kept: the memory is O((n+m)·d). With
/// [`Subsets`] the mean and spread over random subsets are computed too, as papers report them. The
/// vectors are sorted first, so that no number depends on the order in which they were added or
/// merged, to the last bit.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelDistance {
    sets: TwoSets,
    subsets: Option<Subsets>,
}

/// Random subsets over which the distance is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subsets {
    /// How many.
    pub count: usize,
    /// Vectors of each set in a subset, drawn without replacement.
    pub size: usize,
    /// The seed of the draw.
    pub seed: u64,
}

impl Default for Subsets {
    /// The 100 subsets of 1000 vectors that are usual in papers, seed 0.
    fn default() -> Self {
        Self { count: 100, size: 1000, seed: 0 }
    }
}

/// The distance over subsets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SubsetScore {
    /// How the subsets were drawn.
    pub subsets: Subsets,
    /// The mean over the subsets.
    pub mean: f64,
    /// Their standard deviation, divided by the count and not by one less, as is usual for KID.
    pub sd: f64,
}

/// A kernel distance, with what a reader must know to compare it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelScore {
    /// MMD² over the whole sets.
    pub value: f64,
    /// Over random subsets, when they were asked for.
    pub over_subsets: Option<SubsetScore>,
    /// What made the features: architecture, weights, resize.
    pub extractor: String,
    /// The length of a feature vector.
    pub dim: usize,
    /// Vectors in the reference set.
    pub n_reference: usize,
    /// Vectors in the set that is judged.
    pub n_generated: usize,
}

impl KernelScore {
    /// `KID` over the features of [the FID network](crate::is_fid_network), `Cubic kernel distance`
    /// over all others.
    pub fn name(&self) -> &'static str {
        if is_fid_network(&self.extractor) { "KID" } else { "Cubic kernel distance" }
    }
}

impl fmt::Display for KernelScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, extractor, n_reference, n_generated, .. } = self;
        write!(f, "{} ({extractor}): {value} (n = {n_reference} and {n_generated}", self.name())?;
        if let Some(SubsetScore { subsets, mean, sd }) = self.over_subsets {
            let Subsets { count, size, seed } = subsets;
            write!(f, "; {mean} ± {sd} over {count} subsets of {size}, seed {seed}")?;
        }
        write!(f, ")")
    }
}

impl KernelDistance {
    /// An empty accumulator for vectors of length `dim` of an extractor.
    ///
    /// # Errors
    /// When `dim` is 0, or there are no subsets or they have fewer than two vectors.
    pub fn new(dim: usize, extractor: impl Into<String>, subsets: Option<Subsets>) -> Result<Self> {
        if let Some(Subsets { count, size, .. }) = subsets {
            if count == 0 {
                return Err(Error::config("count", "needs at least one subset"));
            }
            if size < 2 {
                return Err(Error::config("size", format!("needs at least 2 vectors, got {size}")));
            }
        }
        Ok(Self { sets: TwoSets::new(METRIC, dim, extractor)?, subsets })
    }

    fn over_subsets(
        &self,
        subsets: Subsets,
        reference: &Sorted<'_>,
        generated: &Sorted<'_>,
    ) -> Result<SubsetScore> {
        let Subsets { count, size, seed } = subsets;
        let least = reference.n().min(generated.n());
        if least < size {
            let unit = "feature vectors in each set for its subsets";
            return Err(Error::TooFew { metric: METRIC, unit, need: size, got: least });
        }
        let root = Rng::new(seed).fork("kernel distance subsets");
        let values: Vec<f64> = (0..count as u64)
            .into_par_iter()
            .map(|i| {
                let mut rng = root.sample(i);
                let reference = reference.pick(draw(reference.n(), size, &mut rng));
                let generated = generated.pick(draw(generated.n(), size, &mut rng));
                mmd2(&Sorted::new(&reference, self.sets.dim()), &Sorted::new(&generated, self.sets.dim()))
            })
            .collect();
        let mean = values.iter().sum::<f64>() / count as f64;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count as f64;
        Ok(SubsetScore { subsets, mean, sd: variance.sqrt() })
    }
}

impl Metric for KernelDistance {
    type Batch<'a> = FeatureBatch<'a>;
    type Value = KernelScore;
    type Error = Error;

    fn update(&mut self, batch: FeatureBatch<'_>) -> Result<()> {
        self.sets.push(batch)
    }

    fn compute(&self) -> Result<KernelScore> {
        let (reference, generated) = self.sets.sorted();
        let (n_reference, n_generated) = (reference.n(), generated.n());
        let got = n_reference.min(n_generated);
        if got < 2 {
            let unit = "feature vectors in each set";
            return Err(Error::TooFew { metric: METRIC, unit, need: 2, got });
        }
        Ok(KernelScore {
            value: mmd2(&reference, &generated),
            over_subsets: self.subsets.map(|s| self.over_subsets(s, &reference, &generated)).transpose()?,
            extractor: self.sets.extractor().to_owned(),
            dim: self.sets.dim(),
            n_reference,
            n_generated,
        })
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        if self.subsets != other.subsets {
            return Err(Error::Incompatible {
                metric: METRIC,
                what: "the choice of subsets",
                left: format!("{:?}", self.subsets),
                right: format!("{:?}", other.subsets),
            });
        }
        self.sets.merge(&other.sets)
    }

    fn reset(&mut self) {
        self.sets.clear();
    }
}

/// The distance between two sets that are there as a whole.
///
/// # Errors
/// When the sets have different feature lengths or extractors, one has fewer than two vectors or
/// than a subset, or the subsets cannot be used.
pub fn kernel_distance(
    reference: &Features,
    generated: &Features,
    subsets: Option<Subsets>,
) -> Result<KernelScore> {
    let mut distance = KernelDistance::new(reference.dim(), reference.extractor(), subsets)?;
    distance.update(FeatureBatch::Reference(reference))?;
    distance.update(FeatureBatch::Generated(generated))?;
    distance.compute()
}

/// `size` of `n` places without replacement.
pub(super) fn draw(n: usize, size: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..size {
        let j = i + rng.below(n - i);
        order.swap(i, j);
    }
    order.truncate(size);
    order
}

fn mmd2(x: &Sorted<'_>, y: &Sorted<'_>) -> f64 {
    let (n, m) = (x.n() as f64, y.n() as f64);
    among(x) / (n * (n - 1.0)) + among(y) / (m * (m - 1.0)) - 2.0 * between(x, y) / (n * m)
}

/// Σ k(xᵢ, yⱼ) over all pairs.
fn between(x: &Sorted<'_>, y: &Sorted<'_>) -> f64 {
    let sums: Vec<f64> = (0..x.blocks())
        .into_par_iter()
        .map(|a| {
            let a = x.block(a);
            (0..y.blocks()).map(|b| block(&a, &y.block(b), |_, _| 1.0)).sum::<f64>()
        })
        .collect();
    sums.iter().sum()
}

/// Σ k(xᵢ, xⱼ) over i ≠ j.
fn among(x: &Sorted<'_>) -> f64 {
    let sums: Vec<f64> = (0..x.blocks())
        .into_par_iter()
        .map(|i| {
            let a = x.block(i);
            let weight = |j| move |r, c| if i == j && r <= c { 0.0 } else { 2.0 };
            (0..=i).map(|j| block(&a, &x.block(j), weight(j))).sum::<f64>()
        })
        .collect();
    sums.iter().sum()
}

/// Σ weight(i, j)·k(xᵢ, yⱼ) over the columns.
fn block(x: &Mat<f64>, y: &Mat<f64>, weight: impl Fn(usize, usize) -> f64) -> f64 {
    let products = products(x, y, 1.0 / x.nrows() as f64);
    let mut sum = 0.0;
    for j in 0..products.ncols() {
        for (i, product) in products.col(j).iter().enumerate() {
            sum += weight(i, j) * (product + 1.0).powi(3);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, n: usize, shift: f64) -> Features {
        let mut rng = Rng::new(seed);
        Features::new((0..n * 6).map(|_| rng.normal() + shift).collect(), 6, "noise").unwrap()
    }

    fn naive(x: &Features, y: &Features) -> f64 {
        let mean = |x: &Features, y: &Features, distinct: bool| {
            let (mut sum, mut count) = (0.0, 0.0);
            for (i, a) in x.rows().chunks(x.dim()).enumerate() {
                for (j, b) in y.rows().chunks(x.dim()).enumerate() {
                    if !(distinct && i == j) {
                        let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                        sum += (dot / x.dim() as f64 + 1.0).powi(3);
                        count += 1.0;
                    }
                }
            }
            sum / count
        };
        mean(x, x, true) + mean(y, y, true) - 2.0 * mean(x, y, false)
    }

    #[test]
    fn blocks_give_the_definition_and_symmetry() {
        for (n, m) in [(2, 3), (256, 257), (300, 513)] {
            let (x, y) = (noise(1, n, 0.0), noise(2, m, 0.3));
            let got = kernel_distance(&x, &y, None).unwrap().value;
            assert!((got - naive(&x, &y)).abs() < 1e-10, "{n} {m}");
            let swapped = kernel_distance(&y, &x, None).unwrap().value;
            assert!((got - swapped).abs() < 1e-12, "{n} {m}");
        }
    }

    /// sin(a·i·j) + b·cos(0.7i + 0.3j²), from 1, of eight values.
    fn formula(n: usize, a: f64, b: f64) -> Features {
        let at = |i: f64, j: f64| (a * i * j).sin() + b * (0.7 * i + 0.3 * j * j).cos();
        let rows = (1..=n).flat_map(|i| (1..=8).map(move |j| at(i as f64, f64::from(j)))).collect();
        Features::new(rows, 8, "formula").unwrap()
    }

    #[test]
    fn numbers_of_the_libraries() {
        let (x, y) = (formula(40, 0.37, 0.5), formula(40, 0.41, 0.3));
        // torch-fidelity 0.4.0 `kernel_mmd` and torchmetrics 1.9.0 `poly_mmd`.
        let got = kernel_distance(&x, &y, None).unwrap().value;
        assert!((got + 0.1266161197001474).abs() < 1e-12, "{got}");
        // 100 subsets of 20 out of 50 and 40, as torch-fidelity draws them: −0.1146 ± 0.0495.
        let subsets = Some(Subsets { count: 100, size: 20, seed: 0 });
        let over = kernel_distance(&formula(50, 0.37, 0.5), &y, subsets).unwrap().over_subsets.unwrap();
        assert!((over.mean + 0.1146).abs() < 3.0 * 0.0495 / 10.0 * 1.5, "{over:?}");
        assert!((over.sd / 0.0495 - 1.0).abs() < 0.3, "{over:?}");
        assert_eq!(Subsets::default(), Subsets { count: 100, size: 1000, seed: 0 });
    }

    #[test]
    fn shards_in_another_order_give_the_same_distance() {
        let (x, y) = (noise(1, 70, 0.0), noise(2, 50, 0.5));
        let piece =
            |from: usize, to: usize| Features::new(x.rows()[from * 6..to * 6].to_vec(), 6, "noise").unwrap();
        let subsets = Some(Subsets { count: 3, size: 20, seed: 1 });
        let mut a = KernelDistance::new(6, "noise", subsets).unwrap();
        a.update(FeatureBatch::Reference(&piece(30, 70))).unwrap();
        let mut b = a.clone();
        b.reset();
        assert!(matches!(b.compute(), Err(Error::TooFew { .. })));
        b.update(FeatureBatch::Reference(&piece(0, 30))).unwrap();
        b.update(FeatureBatch::Generated(&y)).unwrap();
        a.merge(&b).unwrap();
        let whole = kernel_distance(&x, &y, subsets).unwrap();
        let merged = a.compute().unwrap();
        assert_eq!(merged, whole);
        assert_eq!((merged.n_reference, merged.n_generated), (70, 50));
    }

    #[test]
    fn subsets_are_seeded_and_centre_on_the_whole() {
        let (x, y) = (noise(1, 400, 0.0), noise(2, 400, 0.5));
        let subsets = Subsets { count: 40, size: 60, seed: 3 };
        let run = |subsets| kernel_distance(&x, &y, Some(subsets)).unwrap();
        let score = run(subsets);
        assert_eq!(score, run(subsets));
        assert_ne!(score.over_subsets, run(Subsets { seed: 4, ..subsets }).over_subsets);
        let over = score.over_subsets.unwrap();
        assert!((over.mean - score.value).abs() < over.sd, "{score}");
        assert!(score.to_string().contains("over 40 subsets of 60, seed 3"), "{score}");
        // A subset of everything is the whole, in another order.
        let all = run(Subsets { count: 2, size: 400, seed: 0 }).over_subsets.unwrap();
        assert!((all.mean - score.value).abs() < 1e-10 && all.sd < 1e-10);
    }

    #[test]
    fn what_cannot_be_computed_is_a_typed_error() {
        let (x, y) = (noise(1, 5, 0.0), noise(2, 9, 0.0));
        let subsets = |count, size| Some(Subsets { count, size, seed: 0 });
        assert!(matches!(kernel_distance(&x, &y, subsets(1, 6)), Err(Error::TooFew { need: 6, .. })));
        assert!(matches!(kernel_distance(&x, &y, subsets(0, 3)), Err(Error::Config { .. })));
        assert!(matches!(kernel_distance(&x, &y, subsets(1, 1)), Err(Error::Config { .. })));
        assert!(matches!(kernel_distance(&noise(1, 1, 0.0), &y, None), Err(Error::TooFew { .. })));
        let other = Features::new(vec![0.0; 12], 6, "another").unwrap();
        assert!(matches!(kernel_distance(&x, &other, None), Err(Error::Incompatible { .. })));
        let mut plain = KernelDistance::new(6, "noise", None).unwrap();
        let drawn = KernelDistance::new(6, "noise", subsets(2, 2)).unwrap();
        assert!(matches!(plain.merge(&drawn), Err(Error::Incompatible { .. })));
    }
}
