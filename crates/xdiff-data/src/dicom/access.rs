//! Typed reading of attributes. An attribute that is absent or empty is `None`; one that cannot be read
//! as asked is a fault that names it.

use std::borrow::Cow;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::value::PrimitiveValue;
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;

use super::fault::{DicomFault, Outcome};

/// An attribute by its name and tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    pub(super) tag: Tag,
}

/// An attribute by its name in the dictionary's constants.
macro_rules! attribute {
    ($name:literal, $constant:ident) => {
        crate::dicom::access::Attribute { name: $name, tag: dicom_dictionary_std::tags::$constant }
    };
}
pub(super) use attribute;

impl Attribute {
    pub(super) fn missing(self, why: &'static str) -> DicomFault {
        DicomFault::Missing { name: self.name, tag: self.tag.to_string(), why }
    }

    pub(super) fn value(self, value: impl ToString, expected: &'static str) -> DicomFault {
        DicomFault::Value { name: self.name, tag: self.tag.to_string(), value: value.to_string(), expected }
    }

    fn element(self, object: &InMemDicomObject) -> Option<&InMemElement> {
        object.get(self.tag).filter(|e| !matches!(e.value().primitive(), Some(PrimitiveValue::Empty)))
    }

    /// The text, trimmed; several values are joined by `\`.
    pub(super) fn text(self, object: &InMemDicomObject) -> Option<String> {
        let element = self.element(object)?;
        let text = match unknown_bytes(element) {
            Some(bytes) => Cow::from(String::from_utf8_lossy(bytes).into_owned()),
            None => element.value().to_str().ok()?,
        };
        let text = text.trim_matches(['\0', ' ']);
        (!text.is_empty()).then(|| text.to_string())
    }

    /// Numbers of any representation.
    pub(super) fn numbers(self, object: &InMemDicomObject) -> Outcome<Option<Vec<f64>>> {
        let Some(element) = self.element(object) else { return Ok(None) };
        let numbers = match unknown_bytes(element) {
            Some(bytes) => self.without_representation(bytes),
            None => element.value().to_multi_float64().ok(),
        };
        match numbers {
            Some(numbers) if numbers.is_empty() => Ok(None),
            Some(numbers) => Ok(Some(numbers)),
            None if self.text(object).is_none() => Ok(None),
            None => Err(self.value("not a number", "numbers are expected")),
        }
    }

    /// The first number.
    pub(super) fn number(self, object: &InMemDicomObject) -> Outcome<Option<f64>> {
        Ok(self.numbers(object)?.and_then(|n| n.first().copied()))
    }

    /// A whole number in the range of an unsigned 32-bit integer.
    pub(super) fn count(self, object: &InMemDicomObject) -> Outcome<Option<u32>> {
        let Some(n) = self.number(object)? else { return Ok(None) };
        if n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&n) {
            return Ok(Some(n as u32));
        }
        Err(self.value(n, "a whole number of at least 0 is expected"))
    }

    /// Exactly `N` finite numbers; anything else counts as absent.
    pub(super) fn finite<const N: usize>(self, object: &InMemDicomObject) -> Option<[f64; N]> {
        let numbers: [f64; N] = self.numbers(object).ok()??.try_into().ok()?;
        numbers.iter().all(|n| n.is_finite()).then_some(numbers)
    }

    /// The bytes of a value, little endian where they are words.
    pub(super) fn words(self, object: &InMemDicomObject) -> Option<Vec<u16>> {
        match self.element(object)?.value().primitive()? {
            PrimitiveValue::U16(words) => Some(words.to_vec()),
            PrimitiveValue::I16(words) => Some(words.iter().map(|w| *w as u16).collect()),
            PrimitiveValue::U8(bytes) => {
                Some(bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
            }
            _ => None,
        }
    }

    /// The items of a sequence.
    pub(super) fn items(self, object: &InMemDicomObject) -> &[InMemDicomObject] {
        object.get(self.tag).and_then(|e| e.items()).unwrap_or(&[])
    }

    /// The first item of a sequence.
    pub(super) fn item(self, object: &InMemDicomObject) -> Option<&InMemDicomObject> {
        self.items(object).first()
    }

    /// Numbers that were stored without their representation: the dictionary tells it, and bytes are
    /// little endian (PS3.5, section 6.2.2).
    fn without_representation(self, bytes: &[u8]) -> Option<Vec<f64>> {
        let vr = StandardDataDictionary.by_tag(self.tag).map(|e| e.vr().relaxed())?;
        let chunks = |n: usize| bytes.chunks_exact(n);
        Some(match vr {
            VR::US => chunks(2).map(|b| f64::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
            VR::SS => chunks(2).map(|b| f64::from(i16::from_le_bytes([b[0], b[1]]))).collect(),
            VR::UL => chunks(4).map(|b| f64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
            VR::FD => chunks(8).filter_map(|b| Some(f64::from_le_bytes(b.try_into().ok()?))).collect(),
            VR::DS | VR::IS => {
                let text = std::str::from_utf8(bytes).ok()?;
                let numbers = text.split('\\').map(|t| t.trim_matches(['\0', ' ']).parse());
                numbers.collect::<Result<_, _>>().ok()?
            }
            _ => return None,
        })
    }
}

/// The bytes of a value whose representation is unknown.
fn unknown_bytes(element: &InMemElement) -> Option<&[u8]> {
    match element.value().primitive()? {
        PrimitiveValue::U8(bytes) if element.vr() == VR::UN => Some(bytes),
        _ => None,
    }
}
