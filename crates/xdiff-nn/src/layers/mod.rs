//! Layers with right gradients.

mod activation;
mod attention;
mod batch_norm;
#[cfg(test)]
mod compare;
mod dropout;
mod embedding;
mod group_norm;
mod layer_norm;
mod softmax;

pub use activation::Activation;
pub use attention::{AttentionOptions, attend, attention, attention_probabilities};
pub use batch_norm::{BatchNorm2d, BatchNormConfig, Mode};
pub use dropout::dropout;
pub use embedding::Embedding;
pub use group_norm::{GroupNorm, group_norm};
pub use layer_norm::{LayerNorm, layer_norm};
pub use softmax::{softmax, softmax_last_dim};

use candle_core::{DType, Tensor};

use crate::Result;

/// The type that statistics of a tensor are formed in: its own, and f32 for shorter ones.
fn working(x: &Tensor) -> DType {
    if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

/// A parameter in the type of a computation.
fn cast(t: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(if t.dtype() == dtype { t.clone() } else { t.to_dtype(dtype)? })
}
