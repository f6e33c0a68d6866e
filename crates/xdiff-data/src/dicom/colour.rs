//! From luma and differences to RGB, and from tables of colours (PS3.3, sections C.7.6.3.1.2 and C.7.9).

use dicom_object::InMemDicomObject;

use super::access::{Attribute, attribute};
use super::fault::{DicomFault, Outcome};
use super::transform::Table;

/// YBR_FULL of `bits` bits to RGB, pixel by pixel, rounded to the nearest.
pub(super) fn ybr_to_rgb(values: &mut [i32], bits: u16) {
    let (half, most) = (f64::from(1u32 << (bits - 1)), f64::from((1u32 << bits) - 1));
    for pixel in values.chunks_exact_mut(3) {
        let (y, b, r) = (f64::from(pixel[0]), f64::from(pixel[1]) - half, f64::from(pixel[2]) - half);
        let rgb = [y + 1.402 * r, y - 0.114 * 1.772 / 0.587 * b - 0.299 * 1.402 / 0.587 * r, y + 1.772 * b];
        for (value, colour) in pixel.iter_mut().zip(rgb) {
            *value = (colour + 0.5).floor().clamp(0.0, most) as i32;
        }
    }
}

/// Two pixels to each difference of colour, Y₁ Y₂ B R, to three samples a pixel.
pub(super) fn spread_422(values: &[i32]) -> Vec<i32> {
    values.chunks_exact(4).flat_map(|v| [v[0], v[2], v[3], v[1], v[2], v[3]]).collect()
}

/// The three tables of a palette.
pub(super) struct Palette([Table; 3]);

impl Palette {
    pub(super) fn read(object: &InMemDicomObject, signed: bool) -> Outcome<Self> {
        let segmented = attribute!(
            "SegmentedRedPaletteColorLookupTableData",
            SEGMENTED_RED_PALETTE_COLOR_LOOKUP_TABLE_DATA
        );
        if segmented.words(object).is_some() {
            return Err(DicomFault::Unsupported {
                what: "a segmented palette".into(),
                hint: "convert the file to RGB with `dcmquant` or `gdcmimg`",
            });
        }
        let table = |descriptor: Attribute, data: Attribute| Table::read(object, descriptor, data, signed);
        Ok(Self([
            table(
                attribute!("RedPaletteColorLookupTableDescriptor", RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR),
                attribute!("RedPaletteColorLookupTableData", RED_PALETTE_COLOR_LOOKUP_TABLE_DATA),
            )?,
            table(
                attribute!(
                    "GreenPaletteColorLookupTableDescriptor",
                    GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR
                ),
                attribute!("GreenPaletteColorLookupTableData", GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA),
            )?,
            table(
                attribute!(
                    "BluePaletteColorLookupTableDescriptor",
                    BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR
                ),
                attribute!("BluePaletteColorLookupTableData", BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA),
            )?,
        ]))
    }

    /// The colours of indices, plane by plane.
    pub(super) fn planes(&self, indices: &[i32]) -> Vec<i32> {
        let plane =
            |t: &Table| indices.iter().map(|i| i32::from(t.look_up(f64::from(*i)))).collect::<Vec<_>>();
        self.0.iter().flat_map(plane).collect()
    }

    /// Bits of a colour.
    pub(super) fn bits(&self) -> u16 {
        self.0[0].bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_stays_and_the_primaries_come_out() {
        let mut values = vec![77, 128, 128, 76, 85, 255, 150, 44, 21, 29, 255, 107];
        ybr_to_rgb(&mut values, 8);
        assert_eq!(values, [77, 77, 77, 254, 0, 0, 0, 255, 1, 0, 0, 254]);
        assert_eq!(spread_422(&[1, 2, 3, 4]), [1, 3, 4, 2, 3, 4]);
    }
}
