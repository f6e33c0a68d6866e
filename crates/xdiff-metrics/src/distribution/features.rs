//! Feature vectors and where they come from.

use candle_core::{DType, Device, Tensor};
use faer::MatRef;
use xdiff_core::FeatureExtractor;

use crate::error::check_finite;
use crate::{Error, Result};

/// Feature vectors, one a row, with the identity of the extractor that made them.
///
/// Scores over features of different extractors cannot be compared, so the identity (architecture,
/// weights, resize) goes with them and into every score.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    extractor: String,
    dim: usize,
    rows: Vec<f64>,
}

/// What a distance between two sets takes: a batch of one of them.
#[derive(Clone, Copy, Debug)]
pub enum FeatureBatch<'a> {
    /// Of the set that is compared with, such as real images.
    Reference(&'a Features),
    /// Of the set that is judged.
    Generated(&'a Features),
}

impl Features {
    /// Takes vectors of length `dim` that lie one after the other.
    ///
    /// # Errors
    /// When there is no vector, the length of `rows` is not a multiple of `dim`, or a value is not
    /// finite.
    pub fn new(rows: Vec<f64>, dim: usize, extractor: impl Into<String>) -> Result<Self> {
        if dim == 0 || rows.is_empty() || !rows.len().is_multiple_of(dim) {
            return Err(Error::shape(
                "features",
                format!("one or more vectors of {dim} values, and at least one value each"),
                &[rows.len()],
            ));
        }
        check_finite("features", "the feature matrix", &rows)?;
        Ok(Self { extractor: extractor.into(), dim, rows })
    }

    /// Takes a tensor.
    ///
    /// # Shapes
    /// (n, d), or feature maps (n, d, h, w), which are averaged over their positions.
    ///
    /// # Errors
    /// When the tensor has another rank or a zero dimension, or a value is not finite.
    pub fn from_tensor(features: &Tensor, extractor: impl Into<String>) -> Result<Self> {
        if !matches!(features.rank(), 2 | 4) || features.elem_count() == 0 {
            let expected = "features (n, d) or (n, d, h, w) without a zero dimension";
            return Err(Error::shape("features", expected, features.dims()));
        }
        let host = features.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let pooled = if host.rank() == 4 { host.flatten_from(2)?.mean(2)? } else { host };
        let dim = pooled.dim(1)?;
        Self::new(pooled.flatten_all()?.to_vec1()?, dim, extractor)
    }

    /// Runs an extractor on images (B, C, H, W) and averages its maps over their positions.
    ///
    /// # Errors
    /// When the extractor refuses the images or gives values that are not finite.
    pub fn extract(extractor: &dyn FeatureExtractor, images: &Tensor) -> Result<Self> {
        Self::from_tensor(&extractor.features(images, &mut ())?, extractor.identity())
    }

    /// How many vectors there are.
    pub fn n(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// What made the vectors.
    pub fn extractor(&self) -> &str {
        &self.extractor
    }

    /// The vectors one after the other.
    pub fn rows(&self) -> &[f64] {
        &self.rows
    }
}

/// Whether an extractor's identity says that it is the Inception network with the weights for which
/// FID and KID were defined (`pt_inception-2015-12-05`), as a file with that hash alone can make it:
/// it begins with `fid_inception (published weights, sha256 6726825d`.
///
/// Only scores over its features are called FID and KID.
pub fn is_fid_network(identity: &str) -> bool {
    identity.starts_with("fid_inception (published weights, sha256 6726825d")
}

/// Fails unless vectors of `features` can join others of that extractor and length.
pub(super) fn check_joins(
    metric: &'static str,
    (extractor, dim): (&str, usize),
    (other, other_dim): (&str, usize),
) -> Result<()> {
    let (what, left, right) = if extractor != other {
        ("the extractor", format!("`{extractor}`"), format!("`{other}`"))
    } else if dim != other_dim {
        ("the feature length", dim.to_string(), other_dim.to_string())
    } else {
        return Ok(());
    };
    Err(Error::Incompatible { metric, what, left, right })
}

/// Rows as a matrix (n, d).
pub(super) fn matrix(rows: &[f64], dim: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(rows, rows.len() / dim, dim)
}
