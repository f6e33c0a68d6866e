//! The cluster cost.

use candle_core::Tensor;

use super::{Ownership, check_distance, least_allowed};
use crate::Result;

/// Mean over the images of the least distance to a prototype of the image's own class (Chen et al.
/// 2019): each image shall look like one of its class's prototypes somewhere.
///
/// # Shapes
/// `distance` (B, P), the least squared distance of each image to each prototype; `labels` B → one
/// number, at least 0. Differentiable.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) when shapes do not fit or a label is no class,
/// [`Error::EmptyClass`](crate::Error::EmptyClass) when a label's class has no prototype.
pub fn cluster(distance: &Tensor, labels: &[u32], ownership: &Ownership) -> Result<Tensor> {
    check_distance(distance, labels, ownership)?;
    let own = ownership.mask(labels, true, distance.device())?;
    Ok(least_allowed(distance, &own)?.mean_all()?)
}
