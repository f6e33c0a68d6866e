//! The stream that torch.save wrote before PyTorch 1.6: pickles of a magic number, a version, facts
//! about the machine, the object and a list of storage keys; then for each key a count and elements.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;

use super::load::Elements;
use super::machine;
use super::value::{Pickle, Value};
use crate::weights::elements::Element;
use crate::weights::malformed::{Malformed, Parse, shown};

/// 0x1950a86a20f9469cfc6c, as the pickle has it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// The storages of a stream, by key.
pub(super) struct Stream<'a> {
    storages: HashMap<String, &'a [u8]>,
}

impl<'a> Stream<'a> {
    /// Reads the pickles and finds the storages.
    pub(super) fn open(bytes: &'a [u8]) -> Parse<(Self, Pickle)> {
        let mut at = 0;
        let mut next = || -> Parse<Pickle> {
            let pickle = machine::run(&bytes[at..])?;
            at += pickle.length;
            Ok(pickle)
        };
        if !matches!(next()?.root(), Value::Long(number) if **number == MAGIC) {
            return Err(Malformed::new(
                "it is a pickle that torch.save did not write",
                "give a file of weights",
            ));
        }
        if !matches!(next()?.root(), Value::Int(VERSION)) {
            return Err(Malformed::damaged("it has an unknown version"));
        }
        let system = next()?;
        if let Value::Dict(facts) = system.root()
            && let Some(Value::Bool(false)) = system.entry(facts, "little_endian")
        {
            return Err(Malformed::new(
                "its numbers are big-endian",
                "save it again on a little-endian machine",
            ));
        }
        let object = next()?;
        let keys = next()?;
        let Value::Seq(list) = keys.root() else {
            return Err(Malformed::damaged("its list of storages is not a list"));
        };

        let elements: HashMap<&str, Option<Element>> =
            object.storages.iter().filter_map(|s| Some((object.string(s.key)?, s.element))).collect();
        let mut storages = HashMap::new();
        for id in list {
            let known = keys.string(*id).and_then(|key| Some((key, elements.get(key)?)));
            let Some((key, element)) = known else {
                return Err(Malformed::damaged("it lists a storage that no tensor has"));
            };
            let range = storage(bytes, at, element.map_or(1, Element::size)).ok_or_else(|| {
                Malformed::damaged(format!("storage {} goes beyond the end of the file", shown(key)))
            })?;
            at = range.end;
            storages.insert(key.to_owned(), &bytes[range]);
        }
        Ok((Self { storages }, object))
    }
}

/// Where the elements of the storage lie whose count is at `at`.
fn storage(bytes: &[u8], at: usize, size: usize) -> Option<Range<usize>> {
    let count = usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()?;
    let start = at.checked_add(8)?;
    let end = start.checked_add(count.checked_mul(size)?)?;
    (end <= bytes.len()).then_some(start..end)
}

impl Elements for Stream<'_> {
    fn read(&self, key: &str, element: Element, start: usize, count: usize) -> Parse<Tensor> {
        let Some(stored) = self.storages.get(key) else {
            return Err(Malformed::damaged(format!("storage {} is missing", shown(key))));
        };
        let from = start.checked_mul(element.size());
        let length = count.checked_mul(element.size());
        match from.zip(length).and_then(|(from, length)| stored.get(from..)?.get(..length)) {
            Some(mut part) => element.read(count, &mut part),
            None => Err(Malformed::damaged(format!(
                "storage {} has {} bytes, its tensors take more",
                shown(key),
                stored.len()
            ))),
        }
    }
}
