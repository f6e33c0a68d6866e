//! The type that products are computed in.

use serde::Serialize;
use xdiff::nn::compute::{self, Bf16Support, bf16_support, with_precision};
use xdiff_examples::AnyError;

/// In which type a workload computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    F32,
    /// 16 bits with the exponent of f32, where an operation has a kernel for it.
    Bf16,
}

impl Precision {
    /// Runs `work` with this precision.
    ///
    /// # Errors
    /// Those of `work`; and [`Precision::Bf16`] fails on a processor without such products.
    pub fn within<T>(self, work: impl FnOnce() -> Result<T, AnyError>) -> Result<T, AnyError> {
        match self {
            Self::F32 => work(),
            Self::Bf16 if bf16_support() == Bf16Support::None => {
                Err("this processor has no products of bf16 numbers".into())
            }
            Self::Bf16 => with_precision(compute::Precision::Bf16, work),
        }
    }
}
