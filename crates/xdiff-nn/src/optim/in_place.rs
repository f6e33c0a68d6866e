//! Changing the values of tensors where they lie.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;

struct Change<F>(RefCell<F>);

fn values<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => Ok(&mut all[from..to]),
        _ => bail!("a change in place takes a contiguous f32 tensor"),
    }
}

impl<F: FnMut(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change-in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        (self.0.borrow_mut())(values(storage, layout)?);
        Ok(())
    }
}

struct Update<F>(RefCell<F>);

impl<F: FnMut(&mut [f32], &[f32])> InplaceOp2 for Update<F> {
    fn name(&self) -> &'static str {
        "update-in-place"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_layout: &Layout,
        from: &CpuStorage,
        from_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(from), Some((a, b))) = (from, from_layout.contiguous_offsets()) else {
            bail!("an update in place takes contiguous f32 tensors");
        };
        (self.0.borrow_mut())(values(to, to_layout)?, &from[a..b]);
        Ok(())
    }
}

/// Calls `f` with the values of `t`, to be changed, in chunks: contiguous f32 on the CPU.
pub(crate) fn change_f32(t: &Tensor, f: impl Fn(&mut [f32]) + Sync) -> Result<()> {
    t.inplace_op1(&Change(RefCell::new(|t: &mut [f32]| match t.len() {
        ..=SPREAD => f(t),
        _ => t.par_chunks_mut(CHUNK).for_each(&f),
    })))
}

/// Calls `f` with the values of `to`, to be changed, and those of `from`: both f32 on the CPU.
/// `to` must be contiguous; `from` may have any strides.
pub(crate) fn update_f32(to: &Tensor, from: &Tensor, f: impl FnMut(&mut [f32], &[f32])) -> Result<()> {
    to.inplace_op2(&from.contiguous()?, &Update(RefCell::new(f)))
}

/// As [`update_f32`], in chunks.
pub(crate) fn update_chunks_f32(
    to: &Tensor,
    from: &Tensor,
    f: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Result<()> {
    update_f32(to, from, |to, from| match to.len() {
        ..=SPREAD => f(to, from),
        _ => to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| f(to, from)),
    })
}

/// Above this many elements the work on one tensor is spread over threads.
pub(crate) const SPREAD: usize = 1 << 18;
/// Elements of a chunk of it.
pub(crate) const CHUNK: usize = 1 << 15;

/// Does some work on each of many tensors: on those above [`SPREAD`] elements one after the other, since they
/// are spread over the threads by themselves, and on the others side by side.
pub(crate) fn on_each<T: Send, E: Send>(
    items: &mut [T],
    elements: impl Fn(&T) -> usize + Sync,
    work: impl Fn(&mut T) -> std::result::Result<(), E> + Sync,
) -> std::result::Result<(), E> {
    for item in items.iter_mut().filter(|item| elements(item) > SPREAD) {
        work(item)?;
    }
    items.par_iter_mut().filter(|item| elements(item) <= SPREAD).try_for_each(&work)
}
