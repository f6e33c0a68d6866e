//! The separation cost.

use candle_core::Tensor;

use super::{Ownership, check_distance, least_allowed};
use crate::Result;

/// Mean over the images of the least distance to a prototype of another class (Chen et al. 2019). It
/// shall be great, so its weight is negative.
///
/// # Shapes
/// `distance` (B, P), the least squared distance of each image to each prototype; `labels` B → one
/// number, at least 0. Differentiable.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) when shapes do not fit or a label is no class,
/// [`Error::EmptyClass`](crate::Error::EmptyClass) when all prototypes are of a label's class.
pub fn separation(distance: &Tensor, labels: &[u32], ownership: &Ownership) -> Result<Tensor> {
    check_distance(distance, labels, ownership)?;
    let others = ownership.mask(labels, false, distance.device())?;
    Ok(least_allowed(distance, &others)?.mean_all()?)
}
