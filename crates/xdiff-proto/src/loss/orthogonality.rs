//! Orthogonality of slots.

use candle_core::Tensor;

use crate::{Error, Result};

/// Below this a vector's length counts as this, as in PyTorch's cosine similarity.
const LEAST_LENGTH: f64 = 1e-8;

/// (1/(n·C)) Σ over classes and all pairs of slots of cos(sᵢ, sⱼ) − 1, where s is a slot's vector of
/// logits over the prototypes (the released code of Rymarczyk et al. 2022; the pairs i = j add the 1 that
/// is taken off): the slots of a class shall take different prototypes. A slot whose logits are all 0 has
/// cosine 0 with every other and with itself.
///
/// # Shapes
/// `slots` (classes, prototypes, slots), logits before any softmax → one number in [−1, n − 1].
/// Differentiable, but for slots of length 0, which get no gradient.
///
/// # Errors
/// [`Error::Input`] for another shape.
pub fn orthogonality(slots: &Tensor) -> Result<Tensor> {
    let &[classes, prototypes, count] = slots.dims() else {
        let reason = format!("have shape {:?}, must be (classes, prototypes, slots)", slots.dims());
        return Err(Error::input("slots", reason));
    };
    if classes * prototypes * count == 0 {
        return Err(Error::input("slots", format!("have shape {:?}: there is none", slots.dims())));
    }
    // The root of 0 has no derivative; where the square is least, it is a constant.
    let square = slots.sqr()?.sum_keepdim(1)?;
    let long = square.detach().gt(LEAST_LENGTH * LEAST_LENGTH)?;
    let least = square.detach().zeros_like()?.affine(0.0, LEAST_LENGTH * LEAST_LENGTH)?;
    let length = long.where_cond(&square, &least)?.sqrt()?;
    // Σᵢⱼ cos(sᵢ, sⱼ) = ‖Σᵢ sᵢ/‖sᵢ‖‖².
    let sum = slots.broadcast_div(&length)?.sum(2)?;
    Ok(sum.sqr()?.sum_all()?.affine(1.0 / (classes * count) as f64, -1.0)?)
}
