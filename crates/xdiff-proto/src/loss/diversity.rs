//! Diversity.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a distance between prototypes is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiversityScale {
    /// As published.
    #[default]
    Plain,
    /// ‖·‖² · 6/D: two vectors that are drawn uniformly from [0, 1)^D are D/6 apart in the mean, so that
    /// fresh prototypes are 1 apart in any dimension, and the loss has a gradient.
    Dimension,
}

/// L_div = Σ over i ≠ j of exp(−‖pᵢ − pⱼ‖²) (Dey & Saikia 2025, Eq. 8), each pair counted both ways: no
/// two prototypes shall be alike.
///
/// In 128 dimensions fresh prototypes are some 21 apart, so that each pair adds 1e-9 and the plain loss
/// is dead until prototypes have come close; [`DiversityScale::Dimension`] is not. One prototype has no
/// other, and the loss is 0.
///
/// # Shapes
/// `prototypes` (P, D) → one number in [0, P(P − 1)]. Differentiable.
///
/// # Errors
/// [`Error::Input`] for another shape.
pub fn diversity(prototypes: &Tensor, scale: DiversityScale) -> Result<Tensor> {
    let &[count, width] = prototypes.dims() else {
        let reason = format!("have shape {:?}, must be (P, D)", prototypes.dims());
        return Err(Error::input("prototypes", reason));
    };
    if count * width == 0 {
        return Err(Error::input("prototypes", format!("have shape {:?}: there is none", prototypes.dims())));
    }
    let factor = match scale {
        DiversityScale::Plain => 1.0,
        DiversityScale::Dimension => 6.0 / width as f64,
    };
    let norms = prototypes.sqr()?.sum_keepdim(1)?;
    let products = prototypes.matmul(&prototypes.t()?)?;
    let distance = norms.broadcast_add(&norms.t()?)?.sub(&(products * 2.0)?)?.relu()?;
    let others = others(count, prototypes.device())?.to_dtype(prototypes.dtype())?;
    Ok(((distance * -factor)?.exp()? * others)?.sum_all()?)
}

/// 1 everywhere but on the diagonal.
fn others(count: usize, device: &Device) -> Result<Tensor> {
    Ok(Tensor::eye(count, DType::F32, device)?.affine(-1.0, 1.0)?)
}
