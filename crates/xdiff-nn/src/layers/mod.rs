//! Layers with right gradients.
//!
//! Each layer has a path of plain candle operations for any device and type, and most a CPU kernel
//! for f32; [`compute`](crate::compute) says which is taken. The kernels' gradients cannot be
//! differentiated again: second derivatives need [`Path::Plain`](crate::compute::Path::Plain).

mod conv;
mod empty;
mod linear;
mod pool;
mod resample;
#[cfg(test)]
mod testing;
mod upsample;

pub(crate) use conv::ConvShape;
pub use conv::{Conv2d, Conv2dConfig, ConvGeometry, Padding, conv2d};
pub use linear::{Linear, linear};
pub use pool::{Pool2d, adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d};
pub use upsample::{upsample_bicubic2d, upsample_bilinear2d, upsample_nearest2d};
