//! From references to tensors.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::value::{Pickle, StorageRef, TensorRef};
use crate::weights::elements::{Element, element_count};
use crate::weights::malformed::{Malformed, Parse, REFUSED, shown};

/// Where the elements of storages lie.
pub(super) trait Elements: Sync {
    /// Reads `count` elements of the storage called `key`, from element `start` on.
    ///
    /// # Errors
    /// When there are fewer.
    fn read(&self, key: &str, element: Element, start: usize, count: usize) -> Parse<Tensor>;
}

/// What one storage is read as: two tensors that agree in this share memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part<'a> {
    key: &'a str,
    element: Element,
    start: usize,
    count: usize,
}

/// Reads the chosen tensors. `file_length` bounds how much memory they may take together.
pub(super) fn load(
    pickle: &Pickle,
    chosen: &BTreeMap<String, u32>,
    from: &dyn Elements,
    file_length: usize,
) -> Parse<BTreeMap<String, Tensor>> {
    let mut budget = Budget { left: 8usize.saturating_mul(file_length).saturating_add(1 << 20) };
    let mut parts = BTreeMap::new();
    let mut wanted = Vec::with_capacity(chosen.len());
    for (name, index) in chosen {
        let tensor = &pickle.tensors[*index as usize];
        let storage = &pickle.storages[tensor.storage as usize];
        let fault = |m: Malformed| Malformed::new(format!("{}: {}", shown(name), m.reason), m.hint);
        let part = part(pickle, storage, tensor).map_err(fault)?;
        let plan = plan(tensor, part.count).map_err(fault)?;
        if parts.insert(part, None).is_none() {
            budget.spend(part.count, part.element).map_err(fault)?;
        }
        if let Plan::Gather { count } = plan {
            budget.spend(count, part.element).map_err(fault)?;
        }
        wanted.push((name, tensor, part, plan));
    }
    parts.par_iter_mut().try_for_each(|(p, tensor)| {
        from.read(p.key, p.element, p.start, p.count).map(|t| *tensor = Some(t))
    })?;

    let mut tensors = BTreeMap::new();
    for (name, tensor, part, plan) in wanted {
        let Some(storage) = parts.get(&part).and_then(Option::as_ref) else { continue };
        let made =
            plan.make(storage, tensor).map_err(|e| Malformed::damaged(format!("{}: {e}", shown(name))))?;
        tensors.insert(name.clone(), made);
    }
    Ok(tensors)
}

fn part<'a>(pickle: &'a Pickle, storage: &StorageRef, tensor: &TensorRef) -> Parse<Part<'a>> {
    let element = tensor.element;
    let count = match storage.element {
        Some(of_storage) if of_storage.size() != element.size() => {
            return Err(Malformed::damaged("its type is not that of its storage"));
        }
        Some(_) => storage.count,
        None => storage.count / element.size(),
    };
    let key = pickle.string(storage.key).unwrap_or_default();
    match storage.view {
        None => Ok(Part { key, element, start: 0, count }),
        Some((start, length)) if start.checked_add(length).is_some_and(|end| end <= count) => {
            Ok(Part { key, element, start, count: length })
        }
        Some(_) => Err(Malformed::damaged("its storage is a view beyond another one's end")),
    }
}

/// How a tensor comes of its storage.
enum Plan {
    Empty,
    /// The elements lie in order.
    Slice {
        count: usize,
    },
    /// They do not.
    Gather {
        count: usize,
    },
}

fn plan(tensor: &TensorRef, stored: usize) -> Parse<Plan> {
    let too_large =
        || Malformed::new(format!("its shape {:?} is larger than any memory", tensor.shape), REFUSED);
    let count = element_count(&tensor.shape).ok_or_else(too_large)?;
    if count == 0 {
        return Ok(Plan::Empty);
    }
    let mut last = tensor.offset;
    let mut in_order = true;
    let mut expected = 1;
    for (size, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        if *size > 1 {
            in_order &= *stride == expected;
            last = (size - 1).checked_mul(*stride).and_then(|d| last.checked_add(d)).unwrap_or(usize::MAX);
        }
        expected *= size;
    }
    if last >= stored {
        let reason = format!(
            "its shape {:?} with strides {:?} from {} on goes beyond the {stored} elements of its storage",
            tensor.shape, tensor.strides, tensor.offset
        );
        return Err(Malformed::damaged(reason));
    }
    Ok(if in_order { Plan::Slice { count } } else { Plan::Gather { count } })
}

impl Plan {
    fn make(&self, storage: &Tensor, tensor: &TensorRef) -> candle_core::Result<Tensor> {
        let shape = &*tensor.shape;
        match self {
            Plan::Empty => Tensor::zeros(shape, storage.dtype(), &Device::Cpu),
            Plan::Slice { count } => storage.narrow(0, tensor.offset, *count)?.reshape(shape),
            Plan::Gather { count } => {
                let mut at = Vec::with_capacity(*count);
                at.push(tensor.offset as i64);
                for (size, stride) in shape.iter().zip(&tensor.strides) {
                    let steps = (0..*size).map(|i| (i * stride) as i64);
                    at = at.iter().flat_map(|base| steps.clone().map(move |s| base + s)).collect();
                }
                let at = Tensor::from_vec(at, *count, &Device::Cpu)?;
                storage.index_select(&at, 0)?.reshape(shape)
            }
        }
    }
}

/// How much memory the tensors of a file may still take.
struct Budget {
    left: usize,
}

impl Budget {
    fn spend(&mut self, count: usize, element: Element) -> Parse<()> {
        let left = count.checked_mul(element.size()).and_then(|bytes| self.left.checked_sub(bytes));
        let Some(left) = left else {
            return Err(Malformed::new("the tensors are many times larger than the file", REFUSED));
        };
        self.left = left;
        Ok(())
    }
}
