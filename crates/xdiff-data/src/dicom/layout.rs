//! How the pixels of a file are laid out (PS3.3, section C.7.6.3).

use dicom_object::InMemDicomObject;

use super::access::{Attribute, attribute};
use super::fault::{DicomFault, Outcome};
use crate::image::{Depth, Limits};

/// What the samples of a pixel mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Photometric {
    /// Grey, the least value is shown brightest. Values are not turned round when they are read;
    /// [`Window::apply`](crate::Window::apply) and [`Dicom::display`](super::Dicom::display) do.
    Monochrome1,
    /// Grey, the greatest value is shown brightest.
    Monochrome2,
    /// An index into a table of colours; read as RGB.
    Palette,
    /// Red, green and blue.
    Rgb,
    /// Luma and two differences of colour; read as RGB.
    YbrFull,
    /// The same, with two pixels to a difference.
    YbrFull422,
    /// What a JPEG 2000 codec makes of RGB and undoes itself.
    YbrCodec,
}

/// The size and sample format of every frame of a file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PixelLayout {
    /// Rows of a frame.
    pub rows: usize,
    /// Columns of a frame.
    pub columns: usize,
    /// How many frames there are.
    pub frames: usize,
    /// Samples of a pixel: 1 or 3.
    pub samples: usize,
    /// What they mean.
    pub photometric: Photometric,
    /// Bits that a sample takes up: 1, 8, 16, or 32 for floats.
    pub bits_allocated: u16,
    /// Bits of a sample that are its value.
    pub bits_stored: u16,
    /// The place of the value's highest bit; bits above and below the value are overlays and are dropped.
    pub high_bit: u16,
    /// Whether values are in two's complement.
    pub signed: bool,
    /// Whether colours lie plane by plane.
    pub planar: bool,
    /// The stored value that fills what was not imaged, or the two ends of a range of such values.
    pub padding: Option<(i32, i32)>,
}

const ROWS: Attribute = attribute!("Rows", ROWS);
const COLUMNS: Attribute = attribute!("Columns", COLUMNS);
const FRAMES: Attribute = attribute!("NumberOfFrames", NUMBER_OF_FRAMES);
const SAMPLES: Attribute = attribute!("SamplesPerPixel", SAMPLES_PER_PIXEL);
const PHOTOMETRIC: Attribute = attribute!("PhotometricInterpretation", PHOTOMETRIC_INTERPRETATION);
const ALLOCATED: Attribute = attribute!("BitsAllocated", BITS_ALLOCATED);
const STORED: Attribute = attribute!("BitsStored", BITS_STORED);
const HIGH_BIT: Attribute = attribute!("HighBit", HIGH_BIT);
const REPRESENTATION: Attribute = attribute!("PixelRepresentation", PIXEL_REPRESENTATION);
const PLANAR: Attribute = attribute!("PlanarConfiguration", PLANAR_CONFIGURATION);
const PADDING: Attribute = attribute!("PixelPaddingValue", PIXEL_PADDING_VALUE);
const PADDING_LIMIT: Attribute = attribute!("PixelPaddingRangeLimit", PIXEL_PADDING_RANGE_LIMIT);

impl PixelLayout {
    /// The layout that a header describes. `float` says that the file has float pixel data.
    pub(super) fn read(object: &InMemDicomObject, float: bool) -> Outcome<Self> {
        let needed = |a: Attribute| a.count(object)?.ok_or(a.missing("an image cannot be read without it"));
        let (rows, columns) = (needed(ROWS)?, needed(COLUMNS)?);
        for (attribute, side) in [(ROWS, rows), (COLUMNS, columns)] {
            if side == 0 || side > u32::from(u16::MAX) {
                return Err(attribute.value(side, "1 to 65535 is expected"));
            }
        }
        let frames = FRAMES.count(object)?.unwrap_or(1);
        if frames == 0 {
            return Err(FRAMES.value(0, "at least 1 is expected"));
        }
        let samples = SAMPLES.count(object)?.unwrap_or(1);
        let allocated = if float { 32 } else { needed(ALLOCATED)? };
        match (allocated, float) {
            (1 | 8 | 16, false) | (32, true) => {}
            (32 | 64, false) => {
                return Err(ALLOCATED
                    .value(allocated, "integers of more than 16 bits are not exact as f32 and not read"));
            }
            _ => return Err(ALLOCATED.value(allocated, "1, 8 or 16 is expected")),
        }
        let stored = if float { 32 } else { STORED.count(object)?.unwrap_or(allocated) };
        if stored == 0 || stored > allocated {
            return Err(STORED.value(stored, "1 to BitsAllocated is expected"));
        }
        let high_bit = if float { 31 } else { HIGH_BIT.count(object)?.unwrap_or(stored - 1) };
        if high_bit >= allocated || high_bit + 1 < stored {
            return Err(HIGH_BIT.value(high_bit, "BitsStored − 1 to BitsAllocated − 1 is expected"));
        }
        let signed = match REPRESENTATION.count(object)?.unwrap_or(0) {
            0 => false,
            1 => true,
            other => return Err(REPRESENTATION.value(other, "0 (unsigned) or 1 (signed) is expected")),
        };
        let photometric = photometric(object, samples)?;
        let mut layout = Self {
            rows: rows as usize,
            columns: columns as usize,
            frames: frames as usize,
            samples: samples as usize,
            photometric,
            bits_allocated: allocated as u16,
            bits_stored: stored as u16,
            high_bit: high_bit as u16,
            signed,
            planar: samples > 1 && PLANAR.count(object)? == Some(1),
            padding: None,
        };
        layout.padding = layout.padding_of(object)?;
        Ok(layout)
    }

    /// Padding values may be stored as signed or unsigned numbers, whatever the pixels are.
    fn padding_of(&self, object: &InMemDicomObject) -> Outcome<Option<(i32, i32)>> {
        if self.bits_allocated > 16 {
            return Ok(None);
        }
        let Some(value) = PADDING.number(object)? else { return Ok(None) };
        let limit = PADDING_LIMIT.number(object)?.unwrap_or(value);
        let stored = |v: f64| {
            let raw = v as i64;
            let modulus = 1i64 << self.bits_allocated;
            let unsigned = raw.rem_euclid(modulus);
            let negative = self.signed && unsigned >= modulus / 2;
            (unsigned - if negative { modulus } else { 0 }) as i32
        };
        let (a, b) = (stored(value), stored(limit));
        Ok(Some((a.min(b), a.max(b))))
    }

    /// That a frame is no larger than the limits.
    pub(super) fn check(&self, limits: &Limits) -> Option<(String, String)> {
        let pixels = self.rows as u64 * self.columns as u64;
        let within = self.rows.max(self.columns) <= limits.side as usize && pixels <= limits.pixels;
        (!within).then(|| {
            let limit = format!("{} pixels with a side of {}", limits.pixels, limits.side);
            (format!("the frame of {}×{}", self.rows, self.columns), limit)
        })
    }

    /// Pixels of a frame.
    pub fn pixels(&self) -> usize {
        self.rows * self.columns
    }

    /// Samples of a frame as they are stored: 4:2:2 data have two for each pixel.
    pub(super) fn stored_samples(&self) -> usize {
        match self.photometric {
            Photometric::YbrFull422 => self.pixels() * 2,
            _ => self.pixels() * self.samples,
        }
    }

    /// Bits of an uncompressed frame.
    pub(super) fn frame_bits(&self) -> u64 {
        self.stored_samples() as u64 * u64::from(self.bits_allocated)
    }

    /// The stored value in a raw sample: bits above and below are dropped, the sign is extended.
    pub(super) fn value(&self, raw: u16) -> i32 {
        let shift = self.high_bit + 1 - self.bits_stored;
        let bits = u32::from(self.bits_stored);
        let value = (i32::from(raw) >> shift) & ((1i32 << bits) - 1);
        let negative = self.signed && value >> (bits - 1) == 1;
        if negative { value - (1 << bits) } else { value }
    }

    /// The same for a compressed frame, whose codec gives the value itself.
    pub(super) fn sign(&self, value: i32) -> i32 {
        let bits = u32::from(self.bits_stored);
        let low = value & ((1i32 << bits) - 1);
        if self.signed && low >> (bits - 1) == 1 { low - (1 << bits) } else { low }
    }

    /// How a stored value is kept, as an [`Image`](crate::Image) says it.
    pub(super) fn depth(&self) -> Depth {
        match (self.bits_stored, self.signed) {
            (8, false) => Depth::U8,
            (16, false) => Depth::U16,
            (bits @ 1..=16, signed) => Depth::Integer { bits: bits as u8, signed },
            _ => Depth::F32,
        }
    }

    /// The channels of an image that is read from a frame.
    pub fn channels(&self) -> usize {
        match self.photometric {
            Photometric::Palette => 3,
            _ => self.samples,
        }
    }
}

fn photometric(object: &InMemDicomObject, samples: u32) -> Outcome<Photometric> {
    let name =
        PHOTOMETRIC.text(object).ok_or(PHOTOMETRIC.missing("the meaning of the samples is unknown"))?;
    let (photometric, expected) = match name.as_str() {
        "MONOCHROME1" => (Photometric::Monochrome1, 1),
        "MONOCHROME2" => (Photometric::Monochrome2, 1),
        "PALETTE COLOR" => (Photometric::Palette, 1),
        "RGB" => (Photometric::Rgb, 3),
        "YBR_FULL" => (Photometric::YbrFull, 3),
        "YBR_FULL_422" => (Photometric::YbrFull422, 3),
        "YBR_ICT" | "YBR_RCT" => (Photometric::YbrCodec, 3),
        _ => {
            return Err(DicomFault::Unsupported {
                what: format!("PhotometricInterpretation {name}"),
                hint: "convert the file to MONOCHROME2 or RGB, for instance with `dcmconv` or `gdcmconv`",
            });
        }
    };
    if samples != expected {
        return Err(SAMPLES.value(samples, "1 for grey and palette, 3 for colour is expected"));
    }
    Ok(photometric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(allocated: u16, stored: u16, high_bit: u16, signed: bool) -> PixelLayout {
        PixelLayout {
            rows: 1,
            columns: 1,
            frames: 1,
            samples: 1,
            photometric: Photometric::Monochrome2,
            bits_allocated: allocated,
            bits_stored: stored,
            high_bit,
            signed,
            planar: false,
            padding: None,
        }
    }

    #[test]
    fn values_are_cut_out_of_their_bits() {
        let cases = [
            (layout(16, 12, 11, false), 0xF123, 0x123),
            (layout(16, 12, 15, false), 0x123F, 0x123),
            (layout(16, 12, 11, true), 0x0800, -2048),
            (layout(16, 12, 11, true), 0xF7FF, 2047),
            (layout(16, 16, 15, true), 0x8000, -32768),
            (layout(16, 16, 15, false), 0xFFFF, 65535),
            (layout(8, 8, 7, true), 0xFF, -1),
            (layout(8, 7, 6, false), 0xFF, 127),
            (layout(8, 1, 0, true), 1, -1),
        ];
        let wrong: Vec<_> = cases.iter().filter(|(l, raw, want)| l.value(*raw) != *want).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn depths_have_the_range_of_their_bits() {
        assert_eq!(layout(16, 12, 11, false).depth().range(), Some((0.0, 4095.0)));
        assert_eq!(layout(16, 16, 15, true).depth().range(), Some((-32768.0, 32767.0)));
        assert_eq!(layout(16, 16, 15, false).depth(), Depth::U16);
    }
}
