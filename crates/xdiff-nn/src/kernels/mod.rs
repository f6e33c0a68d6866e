//! CPU kernels for f32, and the only place with `unsafe` code.
//!
//! A kernel is a function over slices and sizes that the layer has checked. Results do not depend
//! on the number of threads: every sum has one order, given by shape alone.

pub(crate) mod activation;
pub(crate) mod add;
pub(crate) mod attention;
pub(crate) mod batch_norm;
pub(crate) mod bf16;
pub(crate) mod buffer;
pub(crate) mod conv;
mod depthwise;
mod dots;
pub(crate) mod group_norm;
mod im2col;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod matrix;
pub(crate) mod moments;
mod packing;
mod panels;
pub(crate) mod patches;
pub(crate) mod pool;
pub(crate) mod resample;
pub(crate) mod simd;
pub(crate) mod slices;
pub(crate) mod softmax;
mod sum;
mod winograd;
