//! Which implementation a layer takes.
//!
//! Every differentiable layer here has a path of plain candle operations, which serves any device
//! and dtype, and most have a CPU kernel for f32. The kernel is taken where it applies. Tests and
//! careful users can ask for the plain path within a scope, and users in a hurry for inference with
//! [`Precision::Bf16`].

use std::cell::Cell;

use candle_core::{DType, Device, Tensor};

use crate::kernels::bf16;
use crate::prepared;

/// A family of implementations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// The CPU kernels where they apply, plain candle operations elsewhere.
    #[default]
    Kernels,
    /// Plain candle operations everywhere.
    Plain,
}

/// How precise the CPU kernels' products are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout: the reference.
    #[default]
    F32,
    /// Inference with products of bf16 numbers where this processor has them and gains by them
    /// ([`bf16_support`]); everything else as with [`Precision::F32`].
    ///
    /// Linear layers and convolutions whose arguments are all untracked round both factors of each
    /// product to bf16 (8 significant bits, to the nearest, ties to even) and sum the products in
    /// f32. Inputs, weights and results stay f32. A factor is off by at most 2⁻⁹ of itself, so a
    /// product by 2⁻⁸; since errors of both signs meet, a layer's result is off by about 0.25 % of
    /// its root mean square, whatever the length of the sums. Numbers above 3.39e38 count as
    /// infinite, those below 1.2e-38 may count as 0.
    ///
    /// Whether f32 is taken depends on the processor and on the shape of one sample, so a sample's
    /// result depends neither on its batch nor on the number of threads. Between processors it
    /// differs by the order of sums.
    ///
    /// A layer whose weight is a variable is tracked: load or build models for inference with
    /// frozen parameters.
    Bf16,
}

/// Products of bf16 numbers that a processor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Support {
    /// Tiles (Intel's AMX-BF16, under Linux).
    Amx,
    /// Vectors (AVX-512 BF16).
    Avx512Bf16,
    /// None: [`Precision::Bf16`] changes nothing.
    None,
}

thread_local! {
    static PATH: Cell<Path> = const { Cell::new(Path::Kernels) };
    static PRECISION: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// The path that layers take on this thread.
pub fn path() -> Path {
    PATH.get()
}

/// Runs `work` with the layers of this thread on `path`; the former path returns afterwards, also
/// when `work` panics. A backward pass that should take the same path belongs inside.
///
/// ```
/// use xdiff_nn::compute::{Path, path, with_path};
///
/// let inside = with_path(Path::Plain, path);
/// assert_eq!((inside, path()), (Path::Plain, Path::Kernels));
/// ```
pub fn with_path<T>(path: Path, work: impl FnOnce() -> T) -> T {
    struct Restore(Path);
    impl Drop for Restore {
        fn drop(&mut self) {
            PATH.set(self.0);
        }
    }
    let _restore = Restore(PATH.replace(path));
    work()
}

/// The precision that layers take on this thread.
pub fn precision() -> Precision {
    PRECISION.get()
}

/// Runs `work` with the layers of this thread at `precision`; the former precision returns
/// afterwards, also when `work` panics.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::Rng;
/// use xdiff_nn::compute::{Precision, precision, with_precision};
/// use xdiff_nn::layers::linear;
///
/// let mut rng = Rng::new(1);
/// let (x, w) = (rng.randn((64, 64), &Device::Cpu)?, rng.randn((64, 64), &Device::Cpu)?);
/// let fast = with_precision(Precision::Bf16, || linear(&x, &w, None))?;
/// let off = (fast - linear(&x, &w, None)?)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
/// assert!(off < 64.0 * 4e-3f32.powi(2));
/// assert_eq!(precision(), Precision::F32);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn with_precision<T>(precision: Precision, work: impl FnOnce() -> T) -> T {
    struct Restore(Precision);
    impl Drop for Restore {
        fn drop(&mut self) {
            PRECISION.set(self.0);
        }
    }
    let _restore = Restore(PRECISION.replace(precision));
    work()
}

/// What this processor offers for [`Precision::Bf16`].
pub fn bf16_support() -> Bf16Support {
    bf16::support()
}

/// The precision for a kernel of these arguments: f32 where one is tracked, since its gradient
/// would be that of the f32 kernel.
pub(crate) fn precision_for(tensors: &[&Tensor]) -> Precision {
    if tensors.iter().any(|t| t.track_op()) { Precision::F32 } else { precision() }
}

/// Whether a CPU kernel may serve these tensors: all f32 on the CPU, and kernels asked for.
pub(crate) fn use_kernel(tensors: &[&Tensor]) -> bool {
    path() == Path::Kernels
        && tensors.iter().all(|t| matches!(t.device(), Device::Cpu) && t.dtype() == DType::F32)
}

/// Sets how many bytes all layers together may keep of frozen weights in the form that the kernels
/// multiply by; 0 keeps nothing. What is kept already stays.
///
/// A convolution whose weights take no gradient keeps them from its second call on, and forms them
/// anew whenever they have changed. It takes up to four times the memory of the weights.
///
/// ```
/// use xdiff_nn::compute::{set_weight_budget, weight_budget, weights_kept};
///
/// set_weight_budget(64 << 20);
/// assert!(weight_budget() == 64 << 20 && weights_kept() <= weight_budget());
/// ```
pub fn set_weight_budget(bytes: usize) {
    prepared::set_budget(bytes);
}

/// How many bytes all layers together may keep; 384 MiB unless
/// [`set_weight_budget`] was called.
pub fn weight_budget() -> usize {
    prepared::budget()
}

/// How many bytes they keep now.
pub fn weights_kept() -> usize {
    prepared::kept()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_returns_after_a_panic() {
        let failed = std::panic::catch_unwind(|| with_path(Path::Plain, || panic!("on purpose")));
        assert!(failed.is_err());
        assert_eq!(path(), Path::Kernels);
    }

    #[test]
    fn the_precision_returns_after_a_panic() {
        let failed = std::panic::catch_unwind(|| with_precision(Precision::Bf16, || panic!("on purpose")));
        assert!(failed.is_err());
        assert_eq!(precision(), Precision::F32);
    }

    #[test]
    fn kernels_serve_f32_only() {
        let x = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
        let y = x.to_dtype(DType::F64).unwrap();
        assert!(use_kernel(&[&x]));
        assert!(!use_kernel(&[&x, &y]));
        assert!(!with_path(Path::Plain, || use_kernel(&[&x])));
    }
}
