//! Things that are dear to load, the last used kept in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Result;

/// A place for each thing, filled when it is asked for and emptied when others need the room. While one
/// thread loads a thing, others that want the same wait for it.
#[derive(Debug)]
pub(super) struct Held<T> {
    slots: Vec<Mutex<Option<Arc<T>>>>,
    used: Mutex<Used>,
    most_bytes: usize,
}

/// What is held and how large it is, the least recently used first.
#[derive(Debug, Default)]
struct Used {
    order: VecDeque<(usize, usize)>,
    bytes: usize,
}

/// A panic elsewhere cannot leave what is behind the lock half changed, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Held<T> {
    pub(super) fn new(things: usize, most_bytes: usize) -> Self {
        Self { slots: (0..things).map(|_| Mutex::new(None)).collect(), used: Mutex::default(), most_bytes }
    }

    /// Thing `n`, which `load` gives if it is not held.
    pub(super) fn get(
        &self,
        n: usize,
        bytes: impl Fn(&T) -> usize,
        load: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let (thing, fresh) = {
            let mut slot = lock(&self.slots[n]);
            match &*slot {
                Some(thing) => (thing.clone(), None),
                None => {
                    let thing = Arc::new(load()?);
                    *slot = Some(thing.clone());
                    (thing.clone(), Some(bytes(&thing)))
                }
            }
        };
        // No two locks are ever held at once.
        for gone in self.note(n, fresh) {
            *lock(&self.slots[gone]) = None;
        }
        Ok(thing)
    }

    /// Notes a use, and says what must leave.
    fn note(&self, n: usize, fresh: Option<usize>) -> Vec<usize> {
        let mut used = lock(&self.used);
        let known = used.order.iter().position(|(thing, _)| *thing == n).and_then(|p| used.order.remove(p));
        let entry = match (known, fresh) {
            (Some(known), _) => Some(known),
            (None, Some(bytes)) => {
                used.bytes += bytes;
                Some((n, bytes))
            }
            // It has just been told to leave.
            (None, None) => None,
        };
        used.order.extend(entry);
        let mut gone = Vec::new();
        while used.bytes > self.most_bytes && used.order.len() > 1 {
            if let Some((thing, bytes)) = used.order.pop_front() {
                used.bytes -= bytes;
                gone.push(thing);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_leaves_first() {
        let held = Held::new(4, 20);
        let mut loads = Vec::new();
        let get = |n: usize, loads: &mut Vec<usize>| {
            let thing = held.get(
                n,
                |_| 10,
                || {
                    loads.push(n);
                    Ok(n)
                },
            );
            assert_eq!(*thing.unwrap(), n);
        };
        for n in [0, 1, 0, 2, 0, 1, 1] {
            get(n, &mut loads);
        }
        // 2 pushes out 1, not 0, which was used since.
        assert_eq!(loads, [0, 1, 2, 1]);
        assert_eq!(lock(&held.used).bytes, 20);
    }

    #[test]
    fn one_thing_is_held_however_large_and_a_failure_is_not() {
        let held: Held<usize> = Held::new(2, 5);
        assert!(held.get(0, |_| 10, || Err(crate::Error::argument("x", "y"))).is_err());
        for _ in 0..3 {
            assert_eq!(*held.get(0, |_| 10, || Ok(7)).unwrap(), 7);
        }
        held.get(1, |_| 10, || Ok(8)).unwrap();
        assert_eq!(lock(&held.used).order, [(1, 10)]);
        assert!(lock(&held.slots[0]).is_none());
    }
}
