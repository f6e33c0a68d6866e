//! The skeleton of a file, walked before any element is built: where the pixels are, and whether every
//! length stays inside what holds it.
//!
//! The parser behind [`Dicom`](super::Dicom) allocates what a length field says and recurses into
//! sequences. So lengths, nesting and the number of elements are checked here first, on the bytes alone.

use std::ops::Range;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use super::fault::{DicomFault, Outcome};
use super::syntax::TransferSyntax;

/// More nested sequences and items than any object definition has.
const MOST_LEVELS: usize = 64;
/// More elements than an object of a hundred thousand frames has.
const MOST_ELEMENTS: usize = 1 << 22;
const UNDEFINED: u32 = u32::MAX;

pub(super) const PIXEL_DATA: Tag = Tag(0x7FE0, 0x0010);
const FLOAT_PIXELS: Tag = Tag(0x7FE0, 0x0008);
const DOUBLE_PIXELS: Tag = Tag(0x7FE0, 0x0009);
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// Where the pixels of a file lie, as ranges of its data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    /// No pixel data.
    None,
    /// Values side by side.
    Native {
        range: Range<usize>,
        /// Whether the element's representation is OW, whose bytes are swapped in big endian.
        words: bool,
    },
    /// 32-bit floats.
    Float(Range<usize>),
    /// 64-bit floats.
    Double,
    /// Compressed frames.
    Fragments { offsets: Range<usize>, fragments: Vec<Range<usize>> },
}

/// The file's meta group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Preface {
    pub(super) syntax: TransferSyntax,
    /// Where the data set begins.
    pub(super) dataset: usize,
}

/// The data set without its pixels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Skeleton {
    /// Where the elements ahead of the pixels end.
    pub(super) header: usize,
    pub(super) pixels: Pixels,
}

/// Reads the preamble and the meta group (PS3.10, section 7), which is explicit little endian always.
pub(super) fn preface(bytes: &[u8]) -> Outcome<Preface> {
    if !has_mark(bytes) {
        return Err(DicomFault::malformed("no `DICM` after 128 bytes"));
    }
    let mut cursor = Cursor { data: bytes, at: 132, implicit: false, big: false };
    let mut uid = None;
    while bytes.get(cursor.at..cursor.at + 2) == Some(&[2, 0]) {
        let element = cursor.element()?;
        let value = cursor.defined(&element, bytes.len())?;
        if element.tag == Tag(0x0002, 0x0010) {
            let text = String::from_utf8_lossy(&bytes[value.clone()]);
            uid = Some(text.trim_matches(['\0', ' ']).to_string());
        }
        cursor.at = value.end;
    }
    let uid = uid.filter(|u| !u.is_empty()).ok_or(DicomFault::Missing {
        name: "TransferSyntaxUID",
        tag: "(0002,0010)".into(),
        why: "without it the encoding of the file is unknown",
    })?;
    Ok(Preface { syntax: TransferSyntax::from_uid(&uid), dataset: cursor.at })
}

/// Whether a file says that it is DICOM.
pub(super) fn has_mark(bytes: &[u8]) -> bool {
    bytes.get(128..132) == Some(b"DICM")
}

/// What the walk is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequence,
    Item,
}

struct Level {
    kind: Kind,
    /// Where it ends; `None` when a delimiter says so.
    end: Option<usize>,
    /// How elements were encoded outside of it.
    outer_implicit: bool,
}

/// Walks a data set up to the end of its pixel data.
pub(super) fn skeleton(data: &[u8], syntax: &TransferSyntax) -> Outcome<Skeleton> {
    let mut cursor = Cursor { data, at: 0, implicit: syntax.is_implicit(), big: syntax.is_big_endian() };
    let mut levels: Vec<Level> = Vec::new();
    let mut elements = 0usize;
    loop {
        while let Some(level) = levels.last().filter(|l| l.end == Some(cursor.at)) {
            cursor.implicit = level.outer_implicit;
            levels.pop();
        }
        if cursor.at >= data.len() && levels.is_empty() {
            return Ok(Skeleton { header: data.len(), pixels: Pixels::None });
        }
        let start = cursor.at;
        let element = cursor.element()?;
        elements += 1;
        if elements > MOST_ELEMENTS {
            return Err(DicomFault::malformed(format!("more than {MOST_ELEMENTS} elements")));
        }
        let end = levels.iter().rev().find_map(|l| l.end).unwrap_or(data.len());
        let inside = levels.last().map(|l| l.kind);
        let opened = match (inside, element.tag) {
            (Some(Kind::Sequence), ITEM) => {
                let end = (element.length != UNDEFINED).then(|| cursor.defined(&element, end)).transpose()?;
                Some((Kind::Item, end.map(|r| r.end), cursor.implicit))
            }
            (Some(Kind::Sequence), SEQUENCE_END) | (Some(Kind::Item), ITEM_END) => {
                if let Some(level) = levels.pop().filter(|l| l.end.is_none()) {
                    cursor.implicit = level.outer_implicit;
                    continue;
                }
                return Err(DicomFault::malformed(format!("a delimiter at byte {start} ends nothing")));
            }
            (Some(Kind::Sequence), tag) | (_, tag @ (ITEM | ITEM_END | SEQUENCE_END)) => {
                return Err(DicomFault::malformed(format!("{tag} at byte {start} does not belong there")));
            }
            (None, PIXEL_DATA) if element.length == UNDEFINED => {
                return Ok(Skeleton { header: start, pixels: cursor.fragments()? });
            }
            (None, PIXEL_DATA | FLOAT_PIXELS | DOUBLE_PIXELS) => {
                let range = cursor.defined(&element, end)?;
                let pixels = match element.tag {
                    PIXEL_DATA => Pixels::Native { range, words: element.vr == Some(VR::OW) },
                    FLOAT_PIXELS => Pixels::Float(range),
                    _ => Pixels::Double,
                };
                return Ok(Skeleton { header: start, pixels });
            }
            (_, PIXEL_DATA) if element.length == UNDEFINED => {
                // An icon inside a sequence.
                cursor.fragments()?;
                None
            }
            (_, _) if element.length == UNDEFINED => match element.vr {
                Some(VR::UN) => Some((Kind::Sequence, None, true)),
                Some(VR::SQ) | None => Some((Kind::Sequence, None, cursor.implicit)),
                Some(vr) => {
                    return Err(DicomFault::malformed(format!("{} of type {vr} has no length", element.tag)));
                }
            },
            (_, _) => {
                let range = cursor.defined(&element, end)?;
                let sequence = element.vr == Some(VR::SQ) || element.vr.is_none() && is_sequence(element.tag);
                if !sequence {
                    cursor.at = range.end;
                }
                sequence.then_some((Kind::Sequence, Some(range.end), cursor.implicit))
            }
        };
        if let Some((kind, end, implicit)) = opened {
            if levels.len() == MOST_LEVELS {
                return Err(DicomFault::malformed(format!(
                    "sequences are nested more than {MOST_LEVELS} deep"
                )));
            }
            levels.push(Level { kind, end, outer_implicit: cursor.implicit });
            cursor.implicit = implicit;
        }
    }
}

fn is_sequence(tag: Tag) -> bool {
    StandardDataDictionary.by_tag(tag).is_some_and(|e| e.vr().exact() == Some(VR::SQ))
}

/// The head of an element. Items and delimiters have no representation, nor do implicit elements.
struct Element {
    tag: Tag,
    vr: Option<VR>,
    length: u32,
}

struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
    implicit: bool,
    big: bool,
}

impl Cursor<'_> {
    fn bytes<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let found = self.data.get(self.at..self.at.saturating_add(N)).and_then(|b| b.try_into().ok());
        let found: [u8; N] = found.ok_or_else(|| DicomFault::Truncated {
            what: format!("the element at byte {}", self.at),
            needed: N as u64,
            found: (self.data.len().saturating_sub(self.at)) as u64,
        })?;
        self.at += N;
        Ok(found)
    }

    fn u16(&mut self) -> Outcome<u16> {
        let bytes = self.bytes()?;
        Ok(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> Outcome<u32> {
        let bytes = self.bytes()?;
        Ok(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The head of the next element (PS3.5, section 7.1).
    fn element(&mut self) -> Outcome<Element> {
        let tag = Tag(self.u16()?, self.u16()?);
        if self.implicit || tag.group() == 0xFFFE {
            return Ok(Element { tag, vr: None, length: self.u32()? });
        }
        let start = self.at;
        let code: [u8; 2] = self.bytes()?;
        let vr = VR::from_binary(code).ok_or_else(|| {
            DicomFault::malformed(format!("no value representation at byte {start}, in element {tag}"))
        })?;
        let long = matches!(
            vr,
            VR::OB
                | VR::OD
                | VR::OF
                | VR::OL
                | VR::OV
                | VR::OW
                | VR::SQ
                | VR::SV
                | VR::UC
                | VR::UN
                | VR::UR
                | VR::UT
                | VR::UV
        );
        let length = if long {
            self.u16()?;
            self.u32()?
        } else {
            u32::from(self.u16()?)
        };
        Ok(Element { tag, vr: Some(vr), length })
    }

    /// The range of a value of known length, which must end by `end`.
    fn defined(&self, element: &Element, end: usize) -> Outcome<Range<usize>> {
        let room = end.saturating_sub(self.at);
        if element.length == UNDEFINED || element.length as usize > room {
            return Err(DicomFault::Truncated {
                what: format!("element {}", element.tag),
                needed: u64::from(element.length),
                found: room as u64,
            });
        }
        Ok(self.at..self.at + element.length as usize)
    }

    /// The items of encapsulated pixel data (PS3.5, annex A.4), up to and with the delimiter.
    fn fragments(&mut self) -> Outcome<Pixels> {
        let mut ranges = Vec::new();
        loop {
            let element = self.element()?;
            match element.tag {
                ITEM => {
                    let range = self.defined(&element, self.data.len())?;
                    self.at = range.end;
                    ranges.push(range);
                }
                SEQUENCE_END => break,
                tag => {
                    return Err(DicomFault::malformed(format!(
                        "{tag} stands among the fragments of the pixel data"
                    )));
                }
            }
            if ranges.len() > MOST_ELEMENTS {
                return Err(DicomFault::malformed(format!("more than {MOST_ELEMENTS} fragments")));
            }
        }
        if ranges.is_empty() {
            return Err(DicomFault::malformed("encapsulated pixel data without an offset table"));
        }
        let offsets = ranges.remove(0);
        Ok(Pixels::Fragments { offsets, fragments: ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: (u16, u16), vr: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes = [tag.0.to_le_bytes(), tag.1.to_le_bytes()].concat();
        bytes.extend(vr.bytes());
        if ["OB", "OW", "SQ", "UN"].contains(&vr) {
            bytes.extend([0, 0]);
            bytes.extend((value.len() as u32).to_le_bytes());
        } else {
            bytes.extend((value.len() as u16).to_le_bytes());
        }
        bytes.extend(value);
        bytes
    }

    fn walk(data: &[u8]) -> Outcome<Skeleton> {
        skeleton(data, &TransferSyntax::ExplicitLittleEndian)
    }

    #[test]
    fn pixels_are_found_behind_sequences() {
        let inner = element((0x0008, 0x0100), "SH", b"AB");
        let mut item = [0xFE, 0xFF, 0x00, 0xE0].to_vec();
        item.extend((inner.len() as u32).to_le_bytes());
        item.extend(inner);
        let mut data = element((0x0008, 0x1140), "SQ", &item);
        let header = data.len();
        data.extend(element((0x7FE0, 0x0010), "OW", &[1, 2, 3, 4]));
        let found = walk(&data).unwrap();
        assert_eq!(found.header, header);
        assert_eq!(found.pixels, Pixels::Native { range: header + 12..header + 16, words: true });
    }

    #[test]
    fn lengths_that_lie_are_refused_before_anything_is_built() {
        let mut huge = element((0x7FE0, 0x0010), "OW", &[0; 4]);
        huge[8..12].copy_from_slice(&0xFFFF_FFF0u32.to_le_bytes());
        assert!(matches!(walk(&huge), Err(DicomFault::Truncated { needed: 0xFFFF_FFF0, found: 4, .. })));
        // An item that ends after the sequence it stands in.
        let item = [0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0, 0, 0];
        let mut data = element((0x0008, 0x1140), "SQ", &item);
        data.extend([0; 400]);
        assert!(matches!(walk(&data), Err(DicomFault::Truncated { .. })));
        assert!(matches!(walk(b"\x08\0\x05\0??\x02\0AB"), Err(DicomFault::Malformed { .. })));
    }

    #[test]
    fn nesting_is_bounded() {
        let mut data = Vec::new();
        for _ in 0..100_000 {
            data.extend([0x08, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
            data.extend([0xFE, 0xFF, 0x00, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]);
        }
        assert!(matches!(walk(&data), Err(DicomFault::Malformed { reason }) if reason.contains("nested")));
    }
}
