//! Squared distances between patches and prototypes.

use candle_core::{D, Tensor};

use crate::{Error, Result};

/// The nearest patch of each image to each prototype.
#[derive(Clone, Debug)]
pub struct Nearest {
    /// The least squared distance (B, P); differentiable.
    pub distance: Tensor,
    /// Where it is (B, P), u32: row · w + column. The first of equals.
    pub position: Tensor,
}

/// ‖f_hw − p‖² for all positions.
///
/// # Shapes
/// `features` (B, D, h, w), `prototypes` (P, D) → (B, P, h, w), at least 0. Differentiable.
///
/// # Errors
/// [`Error::Input`] when shapes do not fit.
pub fn squared_distances(features: &Tensor, prototypes: &Tensor) -> Result<Tensor> {
    let (b, d, h, w) = features.dims4()?;
    if prototypes.rank() != 2 || prototypes.dims()[1] != d {
        let reason = format!("have shape {:?}, features of width {d} were given", prototypes.dims());
        return Err(Error::input("prototypes", reason));
    }
    let patches = features.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
    let norms = patches.sqr()?.sum_keepdim(D::Minus1)?;
    let products = xdiff_nn::layers::linear(&patches, prototypes, None)?;
    let distances =
        (norms.broadcast_sub(&(products * 2.0)?)?).broadcast_add(&prototypes.sqr()?.sum(1)?)?.relu()?;
    Ok(distances.transpose(1, 2)?.reshape((b, prototypes.dims()[0], h, w))?)
}

/// The nearest patch of each image to each prototype, without forming all distances.
///
/// # Shapes
/// `features` (B, D, h, w), `prototypes` (P, D).
///
/// # Errors
/// As [`squared_distances`]; [`Error::Input`] when there is no position.
pub fn nearest(features: &Tensor, prototypes: &Tensor) -> Result<Nearest> {
    let all = squared_distances(features, prototypes)?.flatten_from(2)?;
    let position = all.argmin_keepdim(2)?;
    let distance = all.gather(&position, 2)?.squeeze(2)?;
    Ok(Nearest { distance, position: position.squeeze(2)? })
}
