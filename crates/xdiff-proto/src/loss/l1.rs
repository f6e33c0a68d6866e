//! Sparse evidence against a class.

use candle_core::Tensor;

use super::Ownership;
use crate::{Error, Result};

/// Σ |w| over the weights that join a class with what does not belong to it (Chen et al. 2019): a class
/// shall be told by what it looks like, not by what it does not look like. The derivative of |w| at 0
/// is 0, as in PyTorch.
///
/// # Shapes
/// `weight` (classes, columns) of the last layer → one number, at least 0. Differentiable.
///
/// # Errors
/// [`Error::Input`] when the shape is not that of `columns`.
pub fn wrong_class_l1(weight: &Tensor, columns: &Ownership) -> Result<Tensor> {
    if weight.dims() != [columns.classes(), columns.prototypes()] {
        let reason = format!(
            "has shape {:?}, must be ({}, {})",
            weight.dims(),
            columns.classes(),
            columns.prototypes()
        );
        return Err(Error::input("the last layer's weight", reason));
    }
    let sign = weight.detach().sign()?;
    let counted = (sign * columns.wrong(weight.device())?)?;
    Ok((weight * counted)?.sum_all()?)
}
