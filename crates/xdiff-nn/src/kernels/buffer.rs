//! Memory of kernels: outputs that are written once, and scratch that is kept per thread.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::simd::Unset;

/// An output under construction: memory for a number of values, none of them set yet.
///
/// Fresh memory is not cleared, since a kernel writes every value anyway.
#[derive(Debug)]
pub(crate) struct Output {
    values: Vec<f32>,
    len: usize,
}

impl Output {
    /// Memory for `len` values.
    ///
    /// # Errors
    /// When there is not as much.
    pub(crate) fn new(len: usize) -> candle_core::Result<Self> {
        let mut values = Vec::new();
        values
            .try_reserve_exact(len)
            .map_err(|e| candle_core::Error::Msg(format!("no memory for {len} values: {e}")))?;
        Ok(Self { values, len })
    }

    /// Access for tasks that each write their own part.
    pub(crate) fn writer(&mut self) -> Writer<'_> {
        Writer { start: self.values.as_mut_ptr(), len: self.len, life: PhantomData }
    }

    /// The finished values.
    ///
    /// # Safety
    /// Every value was written through a [`Writer`].
    pub(crate) unsafe fn finish(mut self) -> Vec<f32> {
        // SAFETY: the capacity is at least `len`, and the caller has written all of it.
        unsafe { self.values.set_len(self.len) };
        self.values
    }
}

/// Access to memory for tasks that run at once and each write their own part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    start: *mut f32,
    len: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Writer` gives out pointers only through functions whose contract forbids two tasks
// from touching one element at the same time.
unsafe impl Send for Writer<'_> {}
// SAFETY: as above.
unsafe impl Sync for Writer<'_> {}

impl<'a> Writer<'a> {
    /// Access to a slice.
    pub(crate) fn over(values: &'a mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), life: PhantomData }
    }

    /// The address of `len` values from `start` on, checked to lie inside.
    pub(crate) fn at(&self, start: usize, len: usize) -> *mut f32 {
        assert!(start <= self.len && len <= self.len - start, "write outside of a buffer");
        // SAFETY: `start` is inside the memory or at its end.
        unsafe { self.start.add(start) }
    }

    /// Sets `len` values from `start` on.
    ///
    /// # Safety
    /// No other task touches these values meanwhile.
    pub(crate) unsafe fn fill(&self, start: usize, len: usize, value: f32) {
        let first = self.at(start, len);
        for i in 0..len {
            // SAFETY: inside, by `at`.
            unsafe { first.add(i).write(value) };
        }
    }

    /// Sets the values from `start` on.
    ///
    /// # Safety
    /// No other task touches these values meanwhile, and `from` is other memory.
    pub(crate) unsafe fn copy(&self, start: usize, from: &[f32]) {
        let first = self.at(start, from.len());
        // SAFETY: inside, by `at`; apart, by the contract.
        unsafe { first.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    /// Sets the values from `start` on to those of `from` plus `term`.
    ///
    /// # Safety
    /// No other task touches these values meanwhile, and `from` is other memory.
    pub(crate) unsafe fn add(&self, start: usize, from: &[f32], term: f32) {
        let first = self.at(start, from.len());
        for (i, value) in from.iter().enumerate() {
            // SAFETY: inside, by `at`.
            unsafe { first.add(i).write(value + term) };
        }
    }

    /// `len` values from `start` on that need not be set.
    ///
    /// # Safety
    /// No other task touches them while the slice lives.
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [Unset] {
        // SAFETY: inside, by `at`; unshared, by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.at(start, len).cast(), len) }
    }

    /// `len` values from `start` on.
    ///
    /// # Safety
    /// They have been written before, and no other task touches them while the slice lives.
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: inside, by `at`; set and unshared, by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.at(start, len), len) }
    }
}

/// Alignment of scratch: a cache line, and a full AVX-512 vector.
const LINE: usize = 16;

#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line([f32; LINE]);

/// How much scratch a thread keeps for later: 64 MiB.
const KEPT_LINES: usize = 64 * 1024 * 1024 / size_of::<Line>();

thread_local! {
    static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Scratch values, aligned to 64 bytes; their content is left over from earlier work.
#[derive(Debug)]
pub(crate) struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

impl Scratch {
    /// Scratch for `len` values, from what this thread has kept when that is large enough.
    pub(crate) fn take(len: usize) -> Self {
        let need = len.div_ceil(LINE);
        let mut lines = KEPT
            .with_borrow_mut(|kept| {
                (0..kept.len())
                    .min_by_key(|i| {
                        let size = kept[*i].len();
                        if size >= need { (0, size - need) } else { (1, need - size) }
                    })
                    .map(|i| kept.swap_remove(i))
            })
            .unwrap_or_default();
        if lines.len() < need {
            lines = vec![Line([0.0; LINE]); need];
        }
        Self { lines, len }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is 16 floats without gaps, and `len` does not exceed them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that ends has no place to keep it: then it is freed here.
        let _ = KEPT.try_with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut() {
                let held: usize = kept.iter().map(Vec::len).sum();
                if held + lines.len() <= KEPT_LINES {
                    kept.push(lines);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_aligned_and_kept() {
        let first = Scratch::take(1000);
        let address = first.as_ptr();
        assert_eq!((address as usize % 64, first.len()), (0, 1000));
        drop(first);
        let second = Scratch::take(500);
        assert_eq!((second.as_ptr(), second.len()), (address, 500));
    }

    #[test]
    fn too_large_an_output_is_an_error() {
        assert!(Output::new(usize::MAX / 2).is_err());
    }

    #[test]
    #[should_panic(expected = "outside of a buffer")]
    fn a_write_outside_is_caught() {
        let mut values = [0.0; 4];
        Writer::over(&mut values).at(3, 2);
    }
}
