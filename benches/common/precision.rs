//! The type that products are computed in.

use serde::Serialize;
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
    /// Those of `work`; and any work in [`Precision::Bf16`] fails, since no kernel computes in it.
    pub fn within<T>(self, work: impl FnOnce() -> Result<T, AnyError>) -> Result<T, AnyError> {
        match self {
            Self::F32 => work(),
            Self::Bf16 => Err("there are no kernels for bf16".into()),
        }
    }
}
