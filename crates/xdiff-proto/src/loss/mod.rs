//! What a prototype network learns by: terms that are added with a weight each.
//!
//! A term is a function of a few tensors that stands alone, as the equations do. [`LossConfig`] adds
//! them up for a training.

mod align;
mod cluster;
mod config;
mod cross_entropy;
mod diversity;
mod l1;
mod orthogonality;
mod ownership;
mod separation;
mod sum;
#[cfg(test)]
mod tests;

pub use align::{AlignOver, align};
pub use cluster::cluster;
pub use config::{LossConfig, LossWeights, Term};
pub use cross_entropy::cross_entropy;
pub use diversity::{DiversityScale, diversity};
pub use l1::wrong_class_l1;
pub use orthogonality::orthogonality;
pub use ownership::Ownership;
pub use separation::separation;
pub use sum::{LossInputs, Losses};

use candle_core::Tensor;

use crate::{Error, Result};

/// The least value of each row among those that are allowed, the first of equals, with a gradient to
/// that one alone.
///
/// # Shapes
/// `values` (n, m), `allowed` (n, m) u8 with at least one that is not 0 in each row → (n).
fn least_allowed(values: &Tensor, allowed: &Tensor) -> Result<Tensor> {
    let open = values.detach();
    let shut = open.zeros_like()?.affine(0.0, f64::INFINITY)?;
    let position = allowed.where_cond(&open, &shut)?.argmin_keepdim(1)?;
    Ok(values.gather(&position, 1)?.squeeze(1)?)
}

/// Fails unless `distance` is (B, P) with one label for each image and one column for each prototype.
fn check_distance(distance: &Tensor, labels: &[u32], ownership: &Ownership) -> Result<()> {
    if distance.dims() == [labels.len(), ownership.prototypes()] && !labels.is_empty() {
        return Ok(());
    }
    let reason = format!(
        "have shape {:?} for {} labels and {} prototypes, must be (B, P)",
        distance.dims(),
        labels.len(),
        ownership.prototypes()
    );
    Err(Error::input("distances", reason))
}
