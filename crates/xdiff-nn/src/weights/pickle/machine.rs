//! A pickle machine that executes nothing.
//!
//! It follows the opcodes of protocols 0 to 5 (Python's `pickletools` lists them) on an arena of
//! plain values. Names are only compared with the few that make tensors; calling any other name
//! gives an opaque value.
//!
//! Bounds: each byte of input makes at most a constant number of values; work that could be repeated
//! on one value (reading a long list again and again) is paid from an allowance of the input's
//! length; lists inside themselves are possible and harmless, as nothing here recurses.

use std::collections::HashMap;

use super::value::{Global, Id, Pickle, StorageRef, TensorRef, Value};
use crate::weights::elements::Element;
use crate::weights::malformed::{Malformed, Parse, REFUSED, shown};

/// More values than any file of weights has, and few enough for any machine.
const MOST_VALUES: usize = 1 << 23;

/// Runs one pickle from the start of `input`.
pub(super) fn run(input: &[u8]) -> Parse<Pickle> {
    let mut machine = Machine {
        input,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: Vec::new(),
        tensors: Vec::new(),
        allowance: input.len(),
    };
    let root = machine.run().map_err(|m| {
        Malformed::new(format!("its pickle is wrong at byte {}: {}", machine.at, m.reason), m.hint)
    })?;
    let Machine { values, storages, tensors, at, .. } = machine;
    Ok(Pickle { values, storages, tensors, root, length: at })
}

/// The state of a run. What calls mean is in the module of objects.
pub(super) struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    values: Vec<Value>,
    pub(super) stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    pub(super) storages: Vec<StorageRef>,
    pub(super) tensors: Vec<TensorRef>,
    pub(super) allowance: usize,
}

/// The fault of a pickle that is cut off or changed.
pub(super) fn bad<T>(reason: impl Into<String>) -> Parse<T> {
    Err(Malformed::damaged(reason))
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Parse<Id> {
        loop {
            let [opcode] = self.array()?;
            match opcode {
                b'.' => return self.pop(),
                0x80 => self.skip(1)?,
                0x95 => self.skip(8)?,

                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => self.stack.push(self.top()?),

                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'I' | b'L' => self.text_integer()?,
                b'J' => self.read(|b| Value::Int(i32::from_le_bytes(b).into()))?,
                b'K' => self.read(|b| Value::Int(u8::from_le_bytes(b).into()))?,
                b'M' => self.read(|b| Value::Int(u16::from_le_bytes(b).into()))?,
                0x8a => self.long_integer(1)?,
                0x8b => self.long_integer(4)?,
                b'F' => {
                    self.line()?;
                    self.push(Value::Float)?;
                }
                b'G' => self.read(|_: [u8; 8]| Value::Float)?,

                b'S' => self.quoted()?,
                b'V' => self.raw_unicode()?,
                b'T' => self.byte_string(4)?,
                b'U' => self.byte_string(1)?,
                b'X' => self.unicode(4)?,
                0x8c => self.unicode(1)?,
                0x8d => self.unicode(8)?,
                b'B' => self.bytes_value(4)?,
                b'C' => self.bytes_value(1)?,
                0x8e | 0x96 => self.bytes_value(8)?,

                b']' | b')' | 0x8f => self.push(Value::Seq(Vec::new()))?,
                b't' | b'l' | 0x91 => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Seq(items))?;
                }
                0x85..=0x87 => {
                    let mut items = vec![0; usize::from(opcode - 0x84)];
                    for item in items.iter_mut().rev() {
                        *item = self.pop()?;
                    }
                    self.push(Value::Seq(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Dict(Vec::new()))?;
                    self.set_items(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }

                b'c' => {
                    let global = self.global_lines()?;
                    self.push(Value::Global(global))?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Str(module), Value::Str(name)) = (self.value(module), self.value(name))
                    else {
                        return bad("a name is not a string");
                    };
                    let global = Global::named(module, name);
                    self.spend(name_cost(&global))?;
                    self.push(Value::Global(global))?;
                }
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(function, arguments)?;
                }
                0x92 => {
                    let (_keywords, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                    self.call(function, arguments)?;
                }
                b'i' => {
                    let global = self.global_lines()?;
                    let arguments = self.pop_to_mark()?;
                    let function = self.add(Value::Global(global))?;
                    let arguments = self.add(Value::Seq(arguments))?;
                    self.call(function, arguments)?;
                }
                b'o' => {
                    let mut items = self.pop_to_mark()?;
                    if items.is_empty() {
                        return bad("an object has no class");
                    }
                    let function = items.remove(0);
                    let arguments = self.add(Value::Seq(items))?;
                    self.call(function, arguments)?;
                }
                // The state of an object, such as the `_metadata` of a state dict.
                b'b' => drop(self.pop()?),

                b'p' => {
                    let index = self.text_index()?;
                    self.memo.insert(index, self.top()?);
                }
                b'q' => {
                    let [index] = self.array()?;
                    self.memo.insert(index.into(), self.top()?);
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.memo.insert(index, self.top()?);
                }
                0x94 => {
                    let index = self.memo.len() as u32;
                    self.memo.insert(index, self.top()?);
                }
                b'g' => {
                    let index = self.text_index()?;
                    self.recall(index)?;
                }
                b'h' => {
                    let [index] = self.array()?;
                    self.recall(index.into())?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.recall(index)?;
                }

                b'Q' => {
                    let id = self.pop()?;
                    self.persistent(id)?;
                }
                other => return bad(format!("opcode {other:#04x} has no place in a file of weights")),
            }
        }
    }

    // Input.

    fn take(&mut self, n: usize) -> Parse<&'a [u8]> {
        let Some(bytes) = self.input[self.at..].get(..n) else {
            return bad(format!("it ends within something that has {n} bytes"));
        };
        self.at += n;
        Ok(bytes)
    }

    fn skip(&mut self, n: usize) -> Parse<()> {
        self.take(n).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Parse<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// The bytes that follow a length of `width` bytes.
    fn counted(&mut self, width: usize) -> Parse<&'a [u8]> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.take(width)?);
        self.take(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Parse<&'a str> {
        let Some(length) = self.input[self.at..].iter().position(|b| *b == b'\n') else {
            return bad("a line does not end");
        };
        let line = self.take(length)?;
        self.skip(1)?;
        text(line)
    }

    fn read<const N: usize>(&mut self, value: impl Fn([u8; N]) -> Value) -> Parse<()> {
        let bytes = self.array()?;
        self.push(value(bytes))
    }

    fn text_index(&mut self) -> Parse<u32> {
        let line = self.line()?;
        line.parse().or_else(|_| bad(format!("{} is not an index", shown(line))))
    }

    fn text_integer(&mut self) -> Parse<()> {
        let value = match self.line()? {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            line => match line.trim_end_matches('L').parse() {
                Ok(n) => Value::Int(n),
                Err(_) => return bad(format!("{} is not an integer", shown(line))),
            },
        };
        self.push(value)
    }

    fn long_integer(&mut self, width: usize) -> Parse<()> {
        let bytes = self.counted(width)?;
        let value = if bytes.len() <= 8 {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        } else {
            Value::Long(bytes.into())
        };
        self.push(value)
    }

    fn quoted(&mut self) -> Parse<()> {
        let line = self.line()?;
        let inside = ["'", "\""].iter().find_map(|q| line.strip_prefix(q)?.strip_suffix(q));
        match inside {
            Some(s) if !s.contains('\\') => self.push(Value::Str(s.into())),
            Some(_) => self.push(Value::Bytes),
            None => bad("a string has no quotes"),
        }
    }

    fn raw_unicode(&mut self) -> Parse<()> {
        let line = self.line()?;
        self.push(if line.contains('\\') { Value::Bytes } else { Value::Str(line.into()) })
    }

    fn unicode(&mut self, width: usize) -> Parse<()> {
        let s = text(self.counted(width)?)?;
        self.push(Value::Str(s.into()))
    }

    /// A string of Python 2, which may be text or bytes.
    fn byte_string(&mut self, width: usize) -> Parse<()> {
        let value = match std::str::from_utf8(self.counted(width)?) {
            Ok(s) => Value::Str(s.into()),
            Err(_) => Value::Bytes,
        };
        self.push(value)
    }

    fn bytes_value(&mut self, width: usize) -> Parse<()> {
        self.counted(width)?;
        self.push(Value::Bytes)
    }

    fn global_lines(&mut self) -> Parse<Global> {
        let module = self.line()?;
        let name = self.line()?;
        Ok(Global::named(module, name))
    }

    // Stack, memo and arena.

    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    fn add(&mut self, value: Value) -> Parse<Id> {
        if self.values.len() >= MOST_VALUES {
            return Err(Malformed::new(format!("it has more than {MOST_VALUES} values"), REFUSED));
        }
        self.values.push(value);
        Ok(self.values.len() as Id - 1)
    }

    pub(super) fn push(&mut self, value: Value) -> Parse<()> {
        let id = self.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    /// Where the part of the stack above the last mark begins.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Parse<Id> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.floor() => Ok(*id),
            _ => bad("the stack is empty"),
        }
    }

    fn pop(&mut self) -> Parse<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Parse<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => bad("a mark is missing"),
        }
    }

    fn recall(&mut self, index: u32) -> Parse<()> {
        match self.memo.get(&index) {
            Some(id) => {
                self.stack.push(*id);
                Ok(())
            }
            None => bad(format!("value {index} is used before it is made")),
        }
    }

    /// Pays for work that the same few bytes of input could ask for again and again.
    pub(super) fn spend(&mut self, work: usize) -> Parse<()> {
        match self.allowance.checked_sub(work) {
            Some(left) => {
                self.allowance = left;
                Ok(())
            }
            None => Err(Malformed::new("it makes one long value into many", REFUSED)),
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Parse<()> {
        let target = self.top()?;
        match &mut self.values[target as usize] {
            Value::Seq(list) => list.extend(items),
            Value::Opaque(_) => {}
            _ => return bad("it appends to what is not a list"),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Parse<()> {
        let target = self.top()?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return bad("a key has no value");
        };
        match &mut self.values[target as usize] {
            Value::Dict(entries) => entries.extend(pairs.iter().map(|[k, v]| (*k, *v))),
            Value::Opaque(_) => {}
            _ => return bad("it sets an item of what is not a dict"),
        }
        Ok(())
    }
}

/// What keeping this name costs: its strings may be used many times by two bytes each.
fn name_cost(global: &Global) -> usize {
    match global {
        Global::Other(name) => name.len(),
        _ => 0,
    }
}

fn text(bytes: &[u8]) -> Parse<&str> {
    std::str::from_utf8(bytes).or_else(|_| bad("a string is not UTF-8"))
}

/// Compile-time check that the arena's cost per byte of input stays small.
const _: () = assert!(size_of::<Value>() <= 48 && size_of::<Option<Element>>() <= 32);
