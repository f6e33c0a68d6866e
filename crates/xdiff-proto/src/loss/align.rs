//! Alignment.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Ownership, check_distance, least_allowed};
use crate::{Error, Result};

/// X_j of Eq. 6: the images that a prototype may look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlignOver {
    /// All images of the batch.
    #[default]
    All,
    /// The images of the classes that the prototype belongs to. A prototype without such an image in the
    /// batch adds nothing.
    Own,
}

/// L_align = Σⱼ min over x ∈ Xⱼ of ‖pⱼ − f(x)‖² at the nearest position (Dey & Saikia 2025, Eq. 6): each
/// prototype shall look like a patch of an image. It goes over the prototypes, where
/// [`cluster`](super::cluster) goes over the images.
///
/// The paper leaves Xⱼ open: all images of the batch, or, with labels, those of the prototype's own
/// classes.
///
/// # Shapes
/// `distance` (B, P), the least squared distance of each image to each prototype; B labels → one number,
/// at least 0. Differentiable.
///
/// # Errors
/// [`Error::Input`] when shapes do not fit, a label is no class, or no prototype has an image.
pub fn align(distance: &Tensor, own: Option<(&[u32], &Ownership)>) -> Result<Tensor> {
    let &[images, prototypes] = distance.dims() else {
        let reason = format!("have shape {:?}, must be (B, P)", distance.dims());
        return Err(Error::input("distances", reason));
    };
    if images * prototypes == 0 {
        return Err(Error::input("distances", "are of no image or no prototype"));
    }
    let by_prototype = distance.t()?.contiguous()?;
    let Some((labels, ownership)) = own else {
        let position = by_prototype.detach().argmin_keepdim(1)?;
        return Ok(by_prototype.gather(&position, 1)?.sum_all()?);
    };
    check_distance(distance, labels, ownership)?;
    let (mut kept, mut allowed) = (Vec::new(), Vec::new());
    for prototype in 0..prototypes {
        let of_image = |label: &u32| u8::from(ownership.owns(*label as usize, prototype));
        let row: Vec<u8> = labels.iter().map(of_image).collect();
        if row.contains(&1) {
            kept.push(prototype as u32);
            allowed.extend(row);
        }
    }
    if kept.is_empty() {
        let reason = "no prototype belongs to the class of an image of the batch; give larger batches, or align \
                      over all images";
        return Err(Error::input("labels", reason));
    }
    let device = distance.device();
    let allowed = Tensor::from_vec(allowed, (kept.len(), images), device)?;
    let kept = Tensor::new(kept, device)?;
    Ok(least_allowed(&by_prototype.index_select(&kept, 0)?, &allowed)?.sum_all()?)
}
