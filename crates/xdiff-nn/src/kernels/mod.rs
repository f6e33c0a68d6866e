//! CPU kernels for f32, behind the layers; all unsafe code of the crate stands in this folder.
//!
//! A kernel is a function over slices and sizes that the layer has checked. Work is split by the
//! sizes alone and every sum has one order, so a result does not depend on the number of threads.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod conv;
pub(crate) mod depthwise;
pub(crate) mod group_norm;
mod im2col;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod matmul;
pub(crate) mod matrix;
pub(crate) mod moments;
pub(crate) mod pool;
pub(crate) mod resample;
pub(crate) mod simd;
pub(crate) mod slices;
pub(crate) mod softmax;
mod sum;
mod vector;

use candle_core::{CpuStorage, Layout};

/// The values of a contiguous f32 tensor.
///
/// # Errors
/// When the tensor is of another type or not contiguous.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => candle_core::bail!("a kernel was given a tensor that is not contiguous"),
    }
}
