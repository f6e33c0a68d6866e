//! Which implementation a layer takes.
//!
//! Every differentiable layer here has a path of plain candle operations, which serves any device
//! and dtype, and most have a CPU kernel for f32. The kernel is taken where it applies. Tests and
//! careful users can ask for the plain path within a scope.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor};

/// A family of implementations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// The CPU kernels where they apply, plain candle operations elsewhere.
    #[default]
    Kernels,
    /// Plain candle operations everywhere.
    Plain,
}

thread_local! {
    static PATH: Cell<Path> = const { Cell::new(Path::Kernels) };
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

/// Whether a CPU kernel may serve these tensors: all f32 on the CPU, and kernels asked for.
pub(crate) fn use_kernel(tensors: &[&Tensor]) -> bool {
    path() == Path::Kernels
        && tensors.iter().all(|t| matches!(t.device(), Device::Cpu) && t.dtype() == DType::F32)
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
    fn kernels_serve_f32_only() {
        let x = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
        let y = x.to_dtype(DType::F64).unwrap();
        assert!(use_kernel(&[&x]));
        assert!(!use_kernel(&[&x, &y]));
        assert!(!with_path(Path::Plain, || use_kernel(&[&x])));
    }
}
