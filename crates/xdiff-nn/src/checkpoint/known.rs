//! Operations whose result is there already.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

/// A tensor of the values of `value` that is computed from `arg` as far as the graph knows:
/// `backward` turns its gradient into that of `arg`.
///
/// The values are copied, so that `value` can be let go.
pub(super) fn known(
    arg: &Tensor,
    value: Tensor,
    backward: impl Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync + 'static,
) -> Result<Tensor> {
    arg.apply_op1(Known { value: Mutex::new(Some(value)), backward })
}

struct Known<F> {
    /// The result, until it has been asked for.
    value: Mutex<Option<Tensor>>,
    backward: F,
}

impl<F> Known<F> {
    fn value(&self) -> Result<Tensor> {
        match self.value.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(value) => Ok(value),
            None => bail!("checkpoint: a known result is asked for twice"),
        }
    }
}

fn copy<S: BackendStorage>(values: &S, layout: &Layout) -> Result<(S, Shape)>
where
    S::Device: BackendDevice<Storage = S>,
{
    let mut copy = values.device().zeros_impl(layout.shape(), values.dtype())?;
    values.copy_strided_src(&mut copy, 0, layout)?;
    Ok((copy, layout.shape().clone()))
}

impl<F: Fn(&Tensor) -> Result<Option<Tensor>>> CustomOp1 for Known<F> {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let value = self.value()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cpu(values) = &*storage else {
            bail!("checkpoint: arguments on the CPU give a result on another device");
        };
        copy(values, layout)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let value = self.value()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cuda(values) = &*storage else {
            bail!("checkpoint: arguments on a CUDA device give a result on another device");
        };
        copy(values, layout)
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        let value = self.value()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Metal(values) = &*storage else {
            bail!("checkpoint: arguments on a Metal device give a result on another device");
        };
        copy(values, layout)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(grad)
    }
}
