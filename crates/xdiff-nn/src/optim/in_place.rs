//! Changing the values of a tensor where they lie.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, bail};

struct Update<F>(RefCell<F>);

impl<F: FnMut(&mut [f32], &[f32])> InplaceOp2 for Update<F> {
    fn name(&self) -> &'static str {
        "optimiser-update"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_layout: &Layout,
        from: &CpuStorage,
        from_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(to), CpuStorage::F32(from)) = (to, from) else {
            bail!("an update in place takes f32 tensors");
        };
        let (Some((a, b)), Some((c, d))) = (to_layout.contiguous_offsets(), from_layout.contiguous_offsets())
        else {
            bail!("an update in place takes contiguous tensors");
        };
        (self.0.borrow_mut())(&mut to[a..b], &from[c..d]);
        Ok(())
    }
}

/// Calls `f` with the values of `to`, to be changed, and those of `from`: both f32 on the CPU.
/// `to` must be contiguous; `from` may have any strides.
pub(super) fn update_f32(
    to: &Tensor,
    from: &Tensor,
    f: impl FnMut(&mut [f32], &[f32]),
) -> candle_core::Result<()> {
    to.inplace_op2(&from.contiguous()?, &Update(RefCell::new(f)))
}

/// From this many elements on, work is spread over threads, in chunks of this many.
pub(super) const CHUNK: usize = 1 << 15;
