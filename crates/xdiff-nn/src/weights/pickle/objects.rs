//! Calls in a pickle: dicts, storages and tensors are made, everything else is passed over.

use super::machine::{Machine, bad};
use super::value::{Global, Id, Rebuild, StorageRef, TensorRef, Value};
use crate::weights::elements::unsupported;
use crate::weights::malformed::{Parse, shown};

impl Machine<'_> {
    fn sequence(&self, id: Id) -> Parse<&[Id]> {
        match self.value(id) {
            Value::Seq(items) => Ok(items),
            _ => bad("arguments are not a tuple"),
        }
    }

    pub(super) fn call(&mut self, function: Id, arguments: Id) -> Parse<()> {
        let (function, arguments) = match self.value(function) {
            Value::Global(Global::FromType) => match *self.sequence(arguments)? {
                [inner, _, inner_arguments, ..]
                    if !matches!(self.value(inner), Value::Global(Global::FromType)) =>
                {
                    (inner, inner_arguments)
                }
                _ => return bad("_rebuild_from_type_v2 has wrong arguments"),
            },
            _ => (function, arguments),
        };
        match self.value(function) {
            Value::Global(Global::Rebuild(how)) => self.rebuild(*how, arguments),
            Value::Global(Global::First) => match self.sequence(arguments)?.first() {
                Some(first) => {
                    self.stack.push(*first);
                    Ok(())
                }
                None => bad("a parameter has no tensor"),
            },
            Value::Global(Global::Dict) => self.dict(arguments),
            Value::Opaque(source) => self.push(Value::Opaque(*source)),
            _ => self.push(Value::Opaque(function)),
        }
    }

    /// `OrderedDict()`, `OrderedDict([[key, value], …])` and their like.
    fn dict(&mut self, arguments: Id) -> Parse<()> {
        let content = self.sequence(arguments)?.first().copied();
        let mut entries = Vec::new();
        match content.map(|c| self.value(c)) {
            Some(Value::Seq(pairs)) => {
                for pair in pairs {
                    match *self.sequence(*pair)? {
                        [key, value] => entries.push((key, value)),
                        _ => return bad("an entry of a dict is not a pair"),
                    }
                    if entries.len() > self.allowance {
                        break;
                    }
                }
            }
            Some(Value::Dict(_)) => {
                self.stack.extend(content);
                return Ok(());
            }
            _ => {}
        }
        self.spend(entries.len())?;
        self.push(Value::Dict(entries))
    }

    pub(super) fn persistent(&mut self, id: Id) -> Parse<()> {
        let Value::Seq(parts) = self.value(id) else {
            return bad("a persistent id is not a tuple");
        };
        let is_storage = |first: Id| matches!(self.value(first), Value::Str(s) if **s == *"storage");
        let (class, key, count, view) = match *parts.as_slice() {
            [first, class, key, _location, count] if is_storage(first) => (class, key, count, None),
            [first, class, key, _location, count, view] if is_storage(first) => {
                (class, key, count, Some(view))
            }
            [first, ..] if !is_storage(first) => return self.push(Value::Opaque(id)),
            _ => return bad("a storage has the wrong number of parts"),
        };
        let element = match self.value(class) {
            Value::Global(Global::StorageClass(element)) => *element,
            Value::Global(Global::Other(name)) => {
                return Err(unsupported(&shown(name)));
            }
            _ => return bad("a storage has no type"),
        };
        if !matches!(self.value(key), Value::Str(_)) {
            return bad("the key of a storage is not a string");
        }
        let view = match view.map(|v| self.value(v)) {
            None | Some(Value::None) => None,
            Some(Value::Seq(parts)) => match *parts.as_slice() {
                [_key, offset, length] => Some((self.size(offset)?, self.size(length)?)),
                _ => return bad("a view of a storage has the wrong number of parts"),
            },
            Some(_) => return bad("a view of a storage is not a tuple"),
        };
        let storage = StorageRef { key, element, count: self.size(count)?, view };
        self.storages.push(storage);
        self.push(Value::Storage(self.storages.len() as u32 - 1))
    }

    fn rebuild(&mut self, how: Rebuild, arguments: Id) -> Parse<()> {
        let [storage, offset, shape, strides, ref rest @ ..] = *self.sequence(arguments)? else {
            return bad("a tensor has too few parts");
        };
        let Value::Storage(storage) = *self.value(storage) else {
            return bad("a tensor has no storage");
        };
        let dtype = match how {
            Rebuild::OfStorage => self.storages[storage as usize].element,
            Rebuild::WithDtype => match rest.get(2).map(|id| self.value(*id)) {
                Some(Value::Global(Global::Dtype(element))) => Some(*element),
                Some(Value::Global(Global::Other(name))) => {
                    return Err(unsupported(&shown(name)));
                }
                _ => None,
            },
        };
        let Some(element) = dtype else {
            return bad("a tensor has no element type");
        };
        let offset = self.size(offset)?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return bad(format!("a tensor has {} dimensions and {} strides", shape.len(), strides.len()));
        }
        self.spend(2 * shape.len())?;
        self.tensors.push(TensorRef { storage, element, offset, shape, strides });
        self.push(Value::Tensor(self.tensors.len() as u32 - 1))
    }

    fn size(&self, id: Id) -> Parse<usize> {
        match self.value(id) {
            Value::Int(n) => usize::try_from(*n).or_else(|_| bad(format!("{n} is not a size"))),
            Value::Long(_) => bad("a size has more than 64 bits"),
            _ => bad("a size is not an integer"),
        }
    }

    fn sizes(&self, id: Id) -> Parse<Box<[usize]>> {
        const MOST: usize = 64;
        let items = self.sequence(id)?;
        if items.len() > MOST {
            return bad(format!("a tensor has {} dimensions", items.len()));
        }
        items.iter().map(|i| self.size(*i)).collect()
    }
}
