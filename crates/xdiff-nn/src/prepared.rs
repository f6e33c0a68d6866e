//! Weights in the form that a kernel multiplies by, kept between calls.
//!
//! A layer whose weights are frozen keeps what was formed of them. Candle can change a tensor's
//! numbers in place and nothing tells of it, so every call compares a fingerprint of the numbers:
//! what was formed of other weights is never used. Only what is asked for a second time is kept, and
//! only within [a budget](crate::compute::set_weight_budget).

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

/// Numbers that are hashed at a time.
const CHUNK: usize = 1 << 16;

/// Bytes that may be kept in all, and that are.
static BUDGET: AtomicUsize = AtomicUsize::new(384 << 20);
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Sets how many bytes all layers together may keep.
pub(crate) fn set_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// How many bytes all layers together may keep.
pub(crate) fn budget() -> usize {
    BUDGET.load(Ordering::Relaxed)
}

/// How many bytes they keep.
pub(crate) fn kept() -> usize {
    KEPT.load(Ordering::Relaxed)
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
struct Reserved(usize);

impl Reserved {
    fn new(bytes: usize) -> Option<Self> {
        let fits = |kept: usize| kept.checked_add(bytes).filter(|sum| *sum <= budget());
        let reserved = KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        reserved.ok().map(|_| Self(bytes))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// What was formed of weights with this fingerprint; nothing yet when they were seen once.
struct Entry<T> {
    fingerprint: u64,
    formed: Option<(Arc<T>, Reserved)>,
}

/// What one layer keeps of its weights. Clones share it.
pub(crate) struct Prepared<T>(Arc<Mutex<Option<Entry<T>>>>);

impl<T> Prepared<T> {
    /// What `form` yields for these weights, of `bytes` bytes, when they are asked for again and the
    /// budget allows.
    pub(crate) fn get(&self, weights: &[f32], bytes: usize, form: impl FnOnce() -> T) -> Option<Arc<T>> {
        let fingerprint = fingerprint(weights);
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_mut().filter(|entry| entry.fingerprint == fingerprint) {
            None => {
                *slot = Some(Entry { fingerprint, formed: None });
                None
            }
            Some(entry) => {
                if entry.formed.is_none()
                    && let Some(reserved) = Reserved::new(bytes)
                {
                    entry.formed = Some((Arc::new(form()), reserved));
                }
                entry.formed.as_ref().map(|(formed, _)| Arc::clone(formed))
            }
        }
    }
}

impl<T> Default for Prepared<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Prepared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Prepared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

/// A number that differs for different weights, but for one case in 2⁶⁴.
fn fingerprint(weights: &[f32]) -> u64 {
    let hash = |part: &[f32]| xxh3_64(bytemuck::cast_slice(part));
    let parts: Vec<u64> = weights.par_chunks(CHUNK).map(hash).collect();
    xxh3_64(bytemuck::cast_slice(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_from_the_second_call_until_they_change() {
        let prepared = Prepared::default();
        let mut weights = vec![0.5f32; 3 * CHUNK / 2];
        let get = |w: &[f32], value: i32| prepared.get(w, 8, || value).map(|v| *v);
        assert_eq!([get(&weights, 1), get(&weights, 2), get(&weights, 3)], [None, Some(2), Some(2)]);
        for i in [0, CHUNK, weights.len() - 1] {
            weights[i] = -0.0;
            assert_eq!([get(&weights, 4), get(&weights, 5)], [None, Some(5)], "{i}");
            weights[i] = 0.0;
            assert_eq!([get(&weights, 6), get(&weights, 7)], [None, Some(7)], "{i}");
        }
        assert!(kept() >= 8);
    }

    #[test]
    fn what_the_budget_does_not_allow_is_not_kept() {
        let prepared = Prepared::default();
        for _ in 0..3 {
            assert!(prepared.get(&[1.0], usize::MAX, || ()).is_none());
        }
        assert!(prepared.get(&[1.0], 1, || ()).is_some());
    }
}
