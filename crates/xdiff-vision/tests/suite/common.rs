//! What the tests share.

use candle_core::{Device, Tensor};
use xdiff_nn::Rng;

/// Seeded normal numbers.
pub(crate) fn noise(dims: [usize; 4]) -> Tensor {
    Rng::new(1).randn(&dims[..], &Device::Cpu).unwrap()
}

/// The numbers of a tensor in row-major order.
pub(crate) fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}
