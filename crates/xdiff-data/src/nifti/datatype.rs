//! How a NIfTI file stores one voxel.

use serde::{Deserialize, Serialize};

/// The order of the bytes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteOrder {
    /// The lowest first.
    Little,
    /// The highest first.
    Big,
}

/// The kinds of voxels that are read, by their codes in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datatype {
    /// 2: 8 bits, unsigned.
    U8,
    /// 256: 8 bits, signed.
    I8,
    /// 512: 16 bits, unsigned.
    U16,
    /// 4: 16 bits, signed.
    I16,
    /// 768: 32 bits, unsigned.
    U32,
    /// 8: 32 bits, signed.
    I32,
    /// 1280: 64 bits, unsigned.
    U64,
    /// 1024: 64 bits, signed.
    I64,
    /// 16: float of 32 bits.
    F32,
    /// 64: float of 64 bits.
    F64,
}

impl Datatype {
    /// The kind of a code, or the words for what that code means.
    pub(super) fn from_code(code: i16) -> Result<Self, String> {
        let refused = match code {
            2 => return Ok(Self::U8),
            256 => return Ok(Self::I8),
            512 => return Ok(Self::U16),
            4 => return Ok(Self::I16),
            768 => return Ok(Self::U32),
            8 => return Ok(Self::I32),
            1280 => return Ok(Self::U64),
            1024 => return Ok(Self::I64),
            16 => return Ok(Self::F32),
            64 => return Ok(Self::F64),
            1 => "one bit a voxel",
            32 => "complex numbers of 64 bits",
            128 => "RGB colours",
            1536 => "floats of 128 bits",
            1792 => "complex numbers of 128 bits",
            2048 => "complex numbers of 256 bits",
            2304 => "RGBA colours",
            _ => return Err(format!("the unknown datatype {code}")),
        };
        Err(format!("{refused} (datatype {code})"))
    }

    /// The code in the header.
    pub(super) fn code(self) -> i16 {
        match self {
            Self::U8 => 2,
            Self::I8 => 256,
            Self::U16 => 512,
            Self::I16 => 4,
            Self::U32 => 768,
            Self::I32 => 8,
            Self::U64 => 1280,
            Self::I64 => 1024,
            Self::F32 => 16,
            Self::F64 => 64,
        }
    }

    /// Bytes a voxel.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Appends the voxels in `bytes`, through `map` in f64. A rest shorter than a voxel is not looked at.
    pub(super) fn decode(self, order: ByteOrder, bytes: &[u8], map: impl Fn(f64) -> f64, out: &mut Vec<f32>) {
        match self {
            Self::U8 => out.extend(bytes.iter().map(|b| map(f64::from(*b)) as f32)),
            Self::I8 => out.extend(bytes.iter().map(|b| map(f64::from(b.cast_signed())) as f32)),
            Self::U16 => words(bytes, order, out, |b| map(u16::from_le_bytes(b).into())),
            Self::I16 => words(bytes, order, out, |b| map(i16::from_le_bytes(b).into())),
            Self::U32 => words(bytes, order, out, |b| map(u32::from_le_bytes(b).into())),
            Self::I32 => words(bytes, order, out, |b| map(i32::from_le_bytes(b).into())),
            Self::U64 => words(bytes, order, out, |b| map(u64::from_le_bytes(b) as f64)),
            Self::I64 => words(bytes, order, out, |b| map(i64::from_le_bytes(b) as f64)),
            Self::F32 => words(bytes, order, out, |b| map(f32::from_le_bytes(b).into())),
            Self::F64 => words(bytes, order, out, |b| map(f64::from_le_bytes(b))),
        }
    }
}

/// Appends what `read` makes of each `N` bytes, given in little-endian order.
fn words<const N: usize>(bytes: &[u8], order: ByteOrder, out: &mut Vec<f32>, read: impl Fn([u8; N]) -> f64) {
    let (words, _) = bytes.as_chunks::<N>();
    out.extend(words.iter().map(|word| {
        let mut word = *word;
        if order == ByteOrder::Big {
            word.reverse();
        }
        read(word) as f32
    }));
}
