//! Types of tensor elements in files, and reading them.

use std::io::{self, Read};

use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};

use super::malformed::{Malformed, Parse};

/// The type of a tensor's elements in a file; all are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    /// Widened to i16.
    I8,
    U32,
    U8,
    /// Becomes u8: 0 or 1.
    Bool,
    /// Has a size, but no counterpart in the tensor engine.
    Other {
        name: &'static str,
        size: usize,
    },
}

impl Element {
    /// Bytes of one element.
    pub(super) fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 | Element::U32 => 4,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
            Element::Other { size, .. } => size,
        }
    }

    /// Reads `count` elements into a tensor of one dimension. The caller has made sure that so many
    /// can reasonably be there.
    pub(super) fn read(self, count: usize, from: &mut impl Read) -> Parse<Tensor> {
        match self {
            Element::F64 => tensor(count, from, f64::from_le_bytes),
            Element::F32 => tensor(count, from, f32::from_le_bytes),
            Element::F16 => tensor(count, from, f16::from_le_bytes),
            Element::Bf16 => tensor(count, from, bf16::from_le_bytes),
            Element::I64 => tensor(count, from, i64::from_le_bytes),
            Element::I32 => tensor(count, from, i32::from_le_bytes),
            Element::I16 => tensor(count, from, i16::from_le_bytes),
            Element::I8 => tensor(count, from, |b| i16::from(i8::from_le_bytes(b))),
            Element::U32 => tensor(count, from, u32::from_le_bytes),
            Element::U8 => tensor(count, from, u8::from_le_bytes),
            Element::Bool => tensor(count, from, |[b]: [u8; 1]| u8::from(b != 0)),
            Element::Other { name, .. } => Err(unsupported(name)),
        }
    }
}

/// The fault of an element type that the tensor engine lacks.
pub(super) fn unsupported(name: &str) -> Malformed {
    Malformed::new(format!("a tensor has elements of type {name}"), "convert it to float32 first")
}

fn tensor<T: WithDType, const N: usize>(
    count: usize,
    from: &mut impl Read,
    decode: impl Fn([u8; N]) -> T,
) -> Parse<Tensor> {
    let values = values(count, from, decode)
        .map_err(|e| Malformed::damaged(format!("a tensor cannot be read: {e}")))?;
    Tensor::from_vec(values, count, &Device::Cpu).map_err(|e| Malformed::damaged(e.to_string()))
}

fn values<T, const N: usize>(
    count: usize,
    from: &mut impl Read,
    decode: impl Fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    const ELEMENTS: usize = 1 << 13;
    let mut out = Vec::with_capacity(count);
    let mut buffer = vec![[0u8; N]; ELEMENTS.min(count)];
    while out.len() < count {
        let part = ELEMENTS.min(count - out.len());
        from.read_exact(buffer[..part].as_flattened_mut())?;
        out.extend(buffer[..part].iter().map(|bytes| decode(*bytes)));
    }
    Ok(out)
}

/// The number of elements of a shape; `None` when the shape is larger than any memory, also when
/// another dimension is 0.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    let bound = shape.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1)))?;
    if bound > isize::MAX as usize / 8 {
        return None;
    }
    Some(shape.iter().product())
}
