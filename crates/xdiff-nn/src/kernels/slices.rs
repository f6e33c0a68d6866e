//! From candle's tensors to slices of f32 and back.

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, bail};

use super::simd::Unset;

/// The numbers of a contiguous f32 tensor on the CPU.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("a kernel was given strides {:?} of shape {:?}", layout.stride(), layout.shape()),
    }
}

/// Lends the numbers of f32 tensors on the CPU, made contiguous, to `work`.
pub(crate) fn with_slices<const N: usize, T>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let whole = tensors.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = whole.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("a CPU kernel was given another device") };
        *slice = contiguous(storage, layout)?;
    }
    work(slices)
}

/// `n` numbers that `work` writes. Memory that is about to be written is not cleared first.
///
/// # Safety
/// `work` must write every number.
pub(crate) unsafe fn written(n: usize, work: impl FnOnce(&mut [Unset])) -> Vec<f32> {
    let mut values = Vec::with_capacity(n);
    work(&mut values.spare_capacity_mut()[..n]);
    // SAFETY: the capacity is at least `n`, and `work` has written as many numbers.
    unsafe { values.set_len(n) };
    values
}

/// A tensor on the CPU of these numbers, outside of every graph.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// The gradients of the arguments of an operation of three.
pub(crate) type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// The gradient of an argument, if the graph asks for it.
pub(crate) fn tracked(argument: &Tensor, gradient: Vec<f32>) -> Result<Option<Tensor>> {
    if argument.track_op() { Ok(Some(tensor(gradient, argument.shape())?)) } else { Ok(None) }
}
