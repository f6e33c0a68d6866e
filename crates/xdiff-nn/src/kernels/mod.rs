//! CPU kernels for f32, and the only place with `unsafe` code.
//!
//! Results do not depend on the number of threads: work is cut by shape alone, and partial sums are
//! added in a fixed order.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod group_norm;
pub(crate) mod layer_norm;
pub(crate) mod matrix;
pub(crate) mod moments;
pub(crate) mod simd;
pub(crate) mod slices;
pub(crate) mod softmax;
