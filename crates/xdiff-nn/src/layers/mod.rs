//! Layers with right gradients.
//!
//! Each layer has a path of plain candle operations for any device and type, and most a CPU kernel
//! for f32; [`compute`](crate::compute) says which is taken. The kernels' gradients cannot be
//! differentiated again: second derivatives need [`Path::Plain`](crate::compute::Path::Plain).

mod activation;
mod add;
mod attention;
mod batch_norm;
#[cfg(test)]
mod compare;
mod conv;
mod dropout;
mod embedding;
mod empty;
#[cfg(test)]
mod frozen;
mod group_norm;
mod layer_norm;
mod linear;
mod patches;
mod pool;
mod resample;
mod resize;
mod softmax;
mod upsample;

pub use activation::Activation;
pub use add::add;
pub use attention::{AttentionOptions, attend, attention, attention_probabilities};
pub use batch_norm::{BatchNorm2d, BatchNormConfig, Mode};
pub(crate) use conv::ConvShape;
pub use conv::{Conv2d, Conv2dConfig, ConvGeometry, Padding, conv2d};
pub use dropout::dropout;
pub use embedding::Embedding;
pub use group_norm::{GroupNorm, group_norm};
pub use layer_norm::{LayerNorm, layer_norm};
pub use linear::{Linear, linear};
pub use patches::{nearest_patch, patch_distances};
pub use pool::{Pool2d, adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d};
pub use resize::{Resize, resize2d};
pub use softmax::{log_softmax, softmax, softmax_last_dim};
pub use upsample::{upsample_bicubic2d, upsample_bilinear2d, upsample_nearest2d};

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
