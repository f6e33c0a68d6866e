//! Small DICOM files made here: values, colours, frames, and what is said of bad ones.

use std::path::Path;

use dicom_core::value::PixelFragmentSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR, dicom_value};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use proptest::prelude::*;
use xdiff_data::dicom::{Dicom, DicomFault, ModalityTransform, Photometric, PixelValues, Voi};
use xdiff_data::{Depth, Error, Image, Limits, Scale, Window};

pub(crate) const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const RLE: &str = "1.2.840.10008.1.2.5";
const JPEG: &str = "1.2.840.10008.1.2.4.50";
const JPEG_LS: &str = "1.2.840.10008.1.2.4.80";
const JPEG_2000: &str = "1.2.840.10008.1.2.4.90";
const RAW_FRAMES: &str = "1.2.840.10008.1.2.1.98";

/// An object of one element after the other.
pub(crate) struct Object(pub(crate) InMemDicomObject);

impl Object {
    /// An image of 2 rows and 3 columns of 16 bits.
    pub(crate) fn image() -> Self {
        Self(InMemDicomObject::new_empty())
            .text(tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.2")
            .text(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4")
            .text(tags::PATIENT_NAME, VR::PN, "SECRET^NAME")
            .text(tags::PATIENT_ID, VR::LO, "P7")
            .number(tags::ROWS, 2)
            .number(tags::COLUMNS, 3)
            .number(tags::SAMPLES_PER_PIXEL, 1)
            .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2")
            .bits(16, 16, 15, 0)
            .pixels(&[0, 1, 2, 300, 40_000, 65_535])
    }

    pub(crate) fn text(mut self, tag: Tag, vr: VR, value: &str) -> Self {
        self.0.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
        self
    }

    pub(crate) fn number(mut self, tag: Tag, value: u16) -> Self {
        self.0.put(DataElement::new(tag, VR::US, PrimitiveValue::from(value)));
        self
    }

    fn bits(self, allocated: u16, stored: u16, high: u16, signed: u16) -> Self {
        self.number(tags::BITS_ALLOCATED, allocated)
            .number(tags::BITS_STORED, stored)
            .number(tags::HIGH_BIT, high)
            .number(tags::PIXEL_REPRESENTATION, signed)
    }

    pub(crate) fn pixels(mut self, words: &[u16]) -> Self {
        self.0.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(words.into())));
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(bytes.to_vec())));
        self
    }

    fn fragments(mut self, offsets: &[u32], fragments: &[&[u8]]) -> Self {
        let fragments: Vec<Vec<u8>> = fragments.iter().map(|f| f.to_vec()).collect();
        let sequence = PixelFragmentSequence::new(offsets.to_vec(), fragments);
        self.0.put(DataElement::new(tags::PIXEL_DATA, VR::OB, sequence));
        self
    }

    pub(crate) fn items(mut self, tag: Tag, items: Vec<Object>) -> Self {
        let items: Vec<InMemDicomObject> = items.into_iter().map(|o| o.0).collect();
        self.0.put(DataElement::new(tag, VR::SQ, dicom_core::value::DataSetSequence::from(items)));
        self
    }

    pub(crate) fn empty() -> Self {
        Self(InMemDicomObject::new_empty())
    }

    fn without(mut self, tag: Tag) -> Self {
        self.0.remove_element(tag);
        self
    }

    /// Colour of 8 bits.
    fn colour(self, photometric: &str) -> Self {
        self.bits(8, 8, 7, 0)
            .number(tags::SAMPLES_PER_PIXEL, 3)
            .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric)
            .number(tags::PLANAR_CONFIGURATION, 0)
    }

    /// The bytes of a file.
    pub(crate) fn file(self, syntax: &str) -> Vec<u8> {
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(syntax)
            .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.2")
            .media_storage_sop_instance_uid("1.2.3.4");
        let deflated = syntax == DEFLATED;
        let written = if deflated { EXPLICIT } else { syntax };
        let mut bytes = Vec::new();
        let object = self.0.with_meta(meta.transfer_syntax(written)).unwrap();
        object.write_all(&mut bytes).unwrap();
        if deflated { deflate(bytes) } else { bytes }
    }

    fn open(self, syntax: &str) -> Result<Dicom, Error> {
        Dicom::from_bytes("made.dcm", self.file(syntax), &Limits::default())
    }
}

/// Deflates the data set of an explicit file and says so in its meta group.
fn deflate(bytes: Vec<u8>) -> Vec<u8> {
    use std::io::Write;
    let uid = bytes.windows(20).position(|w| &w[..19] == EXPLICIT.as_bytes() && w[19] == 0).unwrap();
    let length = u32::from_le_bytes(bytes[140..144].try_into().unwrap()) as usize;
    let (meta, data) = bytes.split_at(144 + length);
    let mut out = meta[..uid].to_vec();
    out.extend(DEFLATED.as_bytes());
    out.extend(&meta[uid + 20..]);
    let grown = (DEFLATED.len() - 20) as u32 + length as u32;
    out[140..144].copy_from_slice(&grown.to_le_bytes());
    out[uid - 2..uid].copy_from_slice(&(DEFLATED.len() as u16).to_le_bytes());
    let mut encoder = flate2::write::DeflateEncoder::new(out, flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn stored(file: &Dicom) -> Vec<i32> {
    file.stored(0).unwrap()
}

#[test]
fn stored_values_are_exact_in_every_encoding() {
    for syntax in [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED] {
        let file = Object::image().open(syntax).unwrap();
        assert_eq!(stored(&file), [0, 1, 2, 300, 40_000, 65_535], "{syntax}");
        assert_eq!(file.image(0, PixelValues::Stored).unwrap().origin.depth, Depth::U16);
    }
    let words = [0x0FFFu16, 0xF800, 0x1001, 0, 7, 0x0800];
    let cases = [
        ((16, 12, 11, 0), words, vec![4095, 2048, 1, 0, 7, 2048]),
        ((16, 12, 11, 1), words, vec![-1, -2048, 1, 0, 7, -2048]),
        ((16, 12, 15, 0), words, vec![0x0FF, 0xF80, 0x100, 0, 0, 0x080]),
        ((16, 16, 15, 1), words, vec![4095, -2048, 4097, 0, 7, 2048]),
    ];
    for ((allocated, bits, high, signed), words, want) in cases {
        let file = Object::image().bits(allocated, bits, high, signed).pixels(&words).open(EXPLICIT).unwrap();
        assert_eq!(stored(&file), want, "{bits} bits up to {high}, signed {signed}");
    }
    let bytes = Object::image().bits(8, 8, 7, 1).bytes(&[0, 1, 127, 128, 255, 9]).open(EXPLICIT).unwrap();
    assert_eq!(stored(&bytes), [0, 1, 127, -128, -1, 9]);
}

#[test]
fn big_endian_bytes_in_words_are_turned() {
    // 8-bit samples in OW: two to a word, the first in the low byte.
    let words = [0x0201u16, 0x0403, 0x0605];
    let file = Object::image().bits(8, 8, 7, 0).pixels(&words).open(BIG_ENDIAN).unwrap();
    assert_eq!(stored(&file), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn modality_values_follow_slope_and_intercept() {
    let ct = |slope: &str, intercept: &str| {
        Object::image()
            .bits(16, 12, 11, 0)
            .pixels(&[0, 1024, 2048, 4095, 1, 2])
            .text(tags::RESCALE_SLOPE, VR::DS, slope)
            .text(tags::RESCALE_INTERCEPT, VR::DS, intercept)
            .open(EXPLICIT)
            .unwrap()
    };
    let hounsfield = ct("1", "-1024").image(0, PixelValues::Modality).unwrap();
    assert_eq!(hounsfield.data(), [-1024.0, 0.0, 1024.0, 3071.0, -1023.0, -1022.0]);
    assert_eq!((hounsfield.scale, hounsfield.origin.depth), (Scale::Stored, Depth::F32));
    let third = ct("0.333333", "0.1").image(0, PixelValues::Modality).unwrap();
    assert_eq!(third.data()[1], (0.333_333f64 * 1024.0 + 0.1) as f32);
    for (slope, intercept) in [("0", "0"), ("NaN", "0"), ("1", "inf")] {
        let file = ct(slope, intercept);
        let refused = file.image(0, PixelValues::Modality).unwrap_err();
        assert!(matches!(&refused, Error::Dicom { fault: DicomFault::Value { .. }, .. }), "{refused}");
        let image = file.image(0, PixelValues::Stored).unwrap();
        assert_eq!(image.data()[3], 4095.0);
        assert_eq!(image.origin.depth.range(), Some((0.0, 4095.0)));
    }
    // A table: the first entry for all below 2.
    let table = Object::empty().text(tags::MODALITY_LUT_TYPE, VR::LO, "HU");
    let mut table = table.0;
    table.put(DataElement::new(tags::LUT_DESCRIPTOR, VR::US, dicom_value!(U16, [3, 2, 16])));
    table.put(DataElement::new(tags::LUT_DATA, VR::US, dicom_value!(U16, [10, 20, 30])));
    let file =
        Object::image().items(tags::MODALITY_LUT_SEQUENCE, vec![Object(table)]).open(EXPLICIT).unwrap();
    assert!(matches!(file.modality(0).unwrap(), ModalityTransform::Table(_)));
    assert_eq!(file.image(0, PixelValues::Modality).unwrap().data(), [10.0, 10.0, 10.0, 30.0, 30.0, 30.0]);
}

#[test]
fn what_is_shown_turns_monochrome1_round_once() {
    let file = |photometric: &str| {
        Object::image()
            .bits(16, 12, 11, 0)
            .pixels(&[0, 100, 200, 300, 400, 4095])
            .text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric)
            .text(tags::WINDOW_CENTER, VR::DS, "200\\50")
            .text(tags::WINDOW_WIDTH, VR::DS, "400\\10")
            .text(tags::VOILUT_FUNCTION, VR::CS, "LINEAR_EXACT")
            .open(EXPLICIT)
            .unwrap()
    };
    let (one, two) = (file("MONOCHROME1"), file("MONOCHROME2"));
    assert_eq!(one.layout().unwrap().photometric, Photometric::Monochrome1);
    assert_eq!(stored(&one), stored(&two));
    let image = one.image(0, PixelValues::Modality).unwrap();
    assert_eq!(image.data()[1], 100.0);
    let voi = &one.voi(0).unwrap()[0];
    assert_eq!(one.voi(0).unwrap().len(), 2);
    let windowed = voi.window().unwrap().apply(image).unwrap();
    assert_eq!(windowed.data(), [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]);
    let shown = one.display(0, voi).unwrap();
    assert_eq!(shown, windowed);
    assert_eq!(two.display(0, voi).unwrap().data(), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]);
    assert_eq!(shown.origin.windowed.unwrap().clipped, 1.0 / 6.0);
    let sigmoid =
        Voi::Window { centre: 200.0, width: 100.0, function: xdiff_data::dicom::WindowFunction::Sigmoid };
    assert_eq!(two.display(0, &sigmoid).unwrap().data()[2], 0.5);
    let empty = Voi::Window { centre: 0.0, width: 0.0, function: xdiff_data::dicom::WindowFunction::Linear };
    assert!(two.display(0, &empty).is_err());
}

#[test]
fn padding_is_found_however_its_number_is_written() {
    // −2000 as a signed and as an unsigned number.
    for padding in [dicom_value!(I16, [-2000]), dicom_value!(U16, [63_536])] {
        let mut object = Object::image().bits(16, 16, 15, 1).pixels(&[63_536, 0, 1, 2, 3, 63_536]);
        object.0.put(DataElement::new(tags::PIXEL_PADDING_VALUE, VR::SS, padding));
        let mask = object.open(EXPLICIT).unwrap().padding(0).unwrap().unwrap();
        assert_eq!(mask.data(), [1, 0, 0, 0, 0, 1]);
    }
    assert!(Object::image().open(EXPLICIT).unwrap().padding(0).unwrap().is_none());
}

#[test]
fn float_pixels_are_read_as_they_are_unless_they_are_no_numbers() {
    let floats = |values: [f32; 6]| {
        let mut object = Object::image().without(tags::PIXEL_DATA);
        object.0.put(DataElement::new(
            tags::FLOAT_PIXEL_DATA,
            VR::OF,
            PrimitiveValue::F32(values[..].into()),
        ));
        object
    };
    let values = [-1.5, 0.0, 2.25, 1e9, 3.0, 4.0];
    for syntax in [EXPLICIT, BIG_ENDIAN] {
        let file = floats(values).open(syntax).unwrap();
        assert_eq!(file.image(0, PixelValues::Modality).unwrap().data(), values);
        assert!(file.stored(0).is_err());
    }
    let file = floats([f32::NAN, 0.0, 0.0, f32::INFINITY, 0.0, 0.0]).open(EXPLICIT).unwrap();
    assert!(matches!(file.image(0, PixelValues::Stored), Err(Error::NonFinite { count: 2, total: 6, .. })));
}

#[test]
fn colours_come_out_as_planes_of_rgb() {
    let red_to_grey: Vec<u8> =
        (0..18).map(|i| [255, 0, 10][i % 3] - if i >= 9 && i % 3 == 0 { 55 } else { 0 }).collect();
    let planes = [255, 255, 255, 200, 200, 200, 0, 0, 0, 0, 0, 0, 10, 10, 10, 10, 10, 10];
    let bytes: Vec<u8> = planes.iter().map(|v| *v as u8).collect();
    let interleaved = Object::image().colour("RGB").bytes(&red_to_grey).open(EXPLICIT).unwrap();
    assert_eq!(stored(&interleaved), planes);
    let planar = Object::image().colour("RGB").number(tags::PLANAR_CONFIGURATION, 1).bytes(&bytes);
    assert_eq!(stored(&planar.open(EXPLICIT).unwrap()), planes);
    assert_eq!(interleaved.image(0, PixelValues::Modality).unwrap().channels(), 3);

    let grey = Object::image().colour("YBR_FULL").bytes(&[77u8, 128, 128].repeat(6)).open(EXPLICIT).unwrap();
    assert_eq!(stored(&grey), [77; 18]);
    // Two pixels share their differences of colour: 2×4 pixels in 16 bytes.
    let pairs =
        Object::image().colour("YBR_FULL_422").number(tags::COLUMNS, 4).bytes(&[9u8, 99, 128, 128].repeat(4));
    assert_eq!(stored(&pairs.open(EXPLICIT).unwrap())[..8], [9, 99, 9, 99, 9, 99, 9, 99]);

    let mut palette = Object::image().bits(8, 8, 7, 0).bytes(&[0, 1, 2, 2, 1, 200]);
    palette = palette.text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "PALETTE COLOR");
    for (shift, descriptor, data) in [
        (0, tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA),
        (1, tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA),
        (2, tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR, tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA),
    ] {
        palette.0.put(DataElement::new(descriptor, VR::US, dicom_value!(U16, [3, 0, 8])));
        palette.0.put(DataElement::new(
            data,
            VR::OW,
            dicom_value!(U16, [10 + shift, 20 + shift, 30 + shift]),
        ));
    }
    let file = palette.open(EXPLICIT).unwrap();
    assert_eq!(stored(&file)[..7], [10, 20, 30, 30, 20, 30, 11]);
    assert_eq!(file.image(0, PixelValues::Stored).unwrap().channels(), 3);
}

#[test]
fn frames_have_places_and_values_of_their_own() {
    let frame = |z: &str, slope: &str| {
        let place = Object::empty().text(tags::IMAGE_POSITION_PATIENT, VR::DS, &format!("0\\0\\{z}"));
        let values = Object::empty().text(tags::RESCALE_SLOPE, VR::DS, slope).text(
            tags::RESCALE_INTERCEPT,
            VR::DS,
            "0",
        );
        let window =
            Object::empty().text(tags::WINDOW_CENTER, VR::DS, z).text(tags::WINDOW_WIDTH, VR::DS, "9");
        Object::empty()
            .items(tags::PLANE_POSITION_SEQUENCE, vec![place])
            .items(tags::FRAME_VOILUT_SEQUENCE, vec![window])
            .items(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, vec![values])
    };
    let shared = Object::empty()
        .items(
            tags::PLANE_ORIENTATION_SEQUENCE,
            vec![Object::empty().text(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\1\\0")],
        )
        .items(
            tags::PIXEL_MEASURES_SEQUENCE,
            vec![Object::empty().text(tags::PIXEL_SPACING, VR::DS, "0.5\\0.25")],
        );
    let file = Object::image()
        .text(tags::NUMBER_OF_FRAMES, VR::IS, "2")
        .items(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![shared])
        .items(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, vec![frame("5", "2"), frame("8", "3")])
        .pixels(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
        .open(EXPLICIT)
        .unwrap();
    assert_eq!(file.image(1, PixelValues::Modality).unwrap().data(), [21.0, 24.0, 27.0, 30.0, 33.0, 36.0]);
    assert_eq!(file.stored(0).unwrap(), [1, 2, 3, 4, 5, 6]);
    let plane = file.plane(1).unwrap();
    assert_eq!(
        (plane.position, plane.spacing, plane.normal()),
        ([0.0, 0.0, 8.0], [0.5, 0.25], [0.0, 0.0, 1.0])
    );
    assert!(matches!(file.voi(1).unwrap()[..], [Voi::Window { centre: 8.0, .. }]));
    assert!(matches!(
        file.stored(2).unwrap_err(),
        Error::Dicom { fault: DicomFault::Frame { frame: 2, frames: 2 }, .. }
    ));
}

#[test]
fn fragments_are_decoded_frame_by_frame() {
    // RLE of three bytes a plane, two planes: the high bytes, then the low ones.
    let rle = |low: u8| {
        let mut frame: Vec<u8> = [2u32, 64, 66].iter().flat_map(|w| w.to_le_bytes()).collect();
        frame.resize(64, 0);
        frame.extend([0xFB, 1, 5, low, 1, 2, 3, 4, 5]);
        frame.push(0);
        frame
    };
    let object = || Object::image().text(tags::NUMBER_OF_FRAMES, VR::IS, "2");
    let file = object().fragments(&[], &[&rle(0), &rle(9)]).open(RLE).unwrap();
    assert_eq!(file.stored(0).unwrap(), [256, 257, 258, 259, 260, 261]);
    assert_eq!(file.stored(1).unwrap()[0], 265);
    // A frame in two fragments, joined by the offset table.
    let (a, b) = (rle(0), rle(9));
    let file = object().fragments(&[0, 90], &[&a[..66], &a[66..], &b]).open(RLE).unwrap();
    assert_eq!(file.stored(0).unwrap()[5], 261);
    assert_eq!(file.stored(1).unwrap()[0], 265);
    let raw =
        Object::image().bits(8, 8, 7, 0).fragments(&[], &[&[1, 2, 3, 4, 5, 6]]).open(RAW_FRAMES).unwrap();
    assert_eq!(stored(&raw), [1, 2, 3, 4, 5, 6]);
}

/// A JPEG of a colour, as the `image` crate encodes it.
fn jpeg(width: u32, height: u32, grey: bool) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(width, height, image::Rgb([200, 100, 50]));
    let image = image::DynamicImage::ImageRgb8(image);
    let image = if grey { image::DynamicImage::ImageLuma8(image.to_luma8()) } else { image };
    image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    let mut bytes = bytes.into_inner();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

#[test]
fn jpeg_frames_are_rgb_and_must_fit_the_header() {
    let file =
        Object::image().colour("YBR_FULL_422").fragments(&[], &[&jpeg(3, 2, false)]).open(JPEG).unwrap();
    let values = stored(&file);
    for (channel, want) in [200, 100, 50].into_iter().enumerate() {
        assert!(values[channel * 6..][..6].iter().all(|v| (v - want).abs() <= 3), "{values:?}");
    }
    let grey = || Object::image().bits(8, 8, 7, 0);
    assert_eq!(stored(&grey().fragments(&[], &[&jpeg(3, 2, true)]).open(JPEG).unwrap()).len(), 6);
    for (columns, rows, of_grey) in [(300, 200, true), (2, 3, true), (3, 2, false)] {
        let file = grey().fragments(&[], &[&jpeg(columns, rows, of_grey)]).open(JPEG).unwrap();
        let refused = file.stored(0).unwrap_err();
        assert!(
            matches!(refused, Error::Dicom { fault: DicomFault::Codec { frame: 0, .. }, .. }),
            "{refused}"
        );
    }
}

#[test]
fn bad_headers_are_named_with_the_remedy() {
    let image = Object::image;
    let cases: Vec<(Object, &str, &str)> = vec![
        (image().without(tags::ROWS), EXPLICIT, "Rows (0028,0010) is missing"),
        (image().without(tags::BITS_ALLOCATED), EXPLICIT, "BitsAllocated (0028,0100) is missing"),
        (image().without(tags::PHOTOMETRIC_INTERPRETATION), EXPLICIT, "PhotometricInterpretation"),
        (image().without(tags::PIXEL_DATA), EXPLICIT, "PixelData (7FE0,0010) is missing"),
        (image().number(tags::ROWS, 0), EXPLICIT, "Rows (0028,0010) is 0"),
        (image().number(tags::ROWS, 60_000), EXPLICIT, "needs 360000 bytes, but 12"),
        (image().text(tags::NUMBER_OF_FRAMES, VR::IS, "0"), EXPLICIT, "NumberOfFrames (0028,0008) is 0"),
        (image().text(tags::NUMBER_OF_FRAMES, VR::IS, "-3"), EXPLICIT, "NumberOfFrames (0028,0008) is -3"),
        (image().text(tags::NUMBER_OF_FRAMES, VR::IS, "2147483647"), EXPLICIT, "needs 25769803764 bytes"),
        (image().text(tags::NUMBER_OF_FRAMES, VR::IS, "4").fragments(&[], &[&[0, 0]]), RLE, "4 frames"),
        (image().bits(32, 32, 31, 0), EXPLICIT, "BitsAllocated (0028,0100) is 32"),
        (image().bits(12, 12, 11, 0), EXPLICIT, "BitsAllocated (0028,0100) is 12"),
        (image().bits(16, 17, 16, 0), EXPLICIT, "BitsStored (0028,0101) is 17"),
        (image().bits(16, 0, 0, 0), EXPLICIT, "BitsStored (0028,0101) is 0"),
        (image().bits(16, 12, 3, 0), EXPLICIT, "HighBit (0028,0102) is 3"),
        (image().bits(16, 16, 15, 7), EXPLICIT, "PixelRepresentation (0028,0103) is 7"),
        (image().number(tags::SAMPLES_PER_PIXEL, 4), EXPLICIT, "SamplesPerPixel (0028,0002) is 4"),
        (image().text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "CMYK"), EXPLICIT, "CMYK"),
        (image().fragments(&[], &[&[1, 2]]), RLE, "frame 0"),
        (image().fragments(&[], &[&[1, 2]]), JPEG, "no JPEG frame header"),
        (image().fragments(&[], &[&[1, 2]]), JPEG_LS, "no start of a JPEG-LS image"),
        (image().fragments(&[], &[&[1, 2]]), JPEG_2000, "no JPEG 2000 codestream"),
        (image().fragments(&[], &[&[1, 2]]), "1.2.840.10008.1.2.4.100", "MPEG-2"),
        (
            image().fragments(&[], &[&[1, 2]]),
            "1.2.840.10008.1.2.4.201",
            "HTJ2K Lossless (1.2.840.10008.1.2.4.201)",
        ),
    ];
    let mut failed = Vec::new();
    for (object, syntax, words) in cases {
        let file = object.open(syntax);
        let said = match file.and_then(|f| f.image(0, PixelValues::Modality)) {
            Ok(_) => "read".to_string(),
            Err(e) => format!("{e} {e:?}"),
        };
        if !said.contains(words) || said.contains("SECRET") {
            failed.push(format!("`{words}`: {said}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn limits_hold_before_memory_is_taken() {
    let bytes = Object::image().file(EXPLICIT);
    let small = Limits { pixels: 5, ..Default::default() };
    let file = Dicom::from_bytes("a.dcm", bytes, &small).unwrap();
    assert!(matches!(file.stored(0), Err(Error::TooLarge { .. })));
    // A deflated data set that grows a thousandfold.
    let blank =
        Object::image().number(tags::ROWS, 1000).number(tags::COLUMNS, 1000).pixels(&vec![0; 1_000_000]);
    let bomb = blank.file(DEFLATED);
    let tight = Limits { file_bytes: 100_000, ..Default::default() };
    assert!((bomb.len() as u64) < tight.file_bytes);
    assert!(matches!(Dicom::from_bytes("a.dcm", bomb, &tight), Err(Error::TooLarge { .. })));
}

#[test]
fn an_image_file_may_be_dicom_and_names_stay_hidden() {
    let dir = tempfile::TempDir::new().unwrap();
    let at = dir.path().join("without_an_ending");
    std::fs::write(&at, Object::image().text(tags::RESCALE_INTERCEPT, VR::DS, "-24").file(EXPLICIT)).unwrap();
    let image = Image::read(&at, &Limits::default()).unwrap();
    assert_eq!(image.data(), [-24.0, -23.0, -22.0, 276.0, 39_976.0, 65_511.0]);
    assert!(Window::Full.apply(image).is_err(), "modality values have no full range");
    let file = Dicom::read(&at, &Limits::default()).unwrap();
    assert_eq!(file.meta().patient.as_ref().unwrap().as_str(), "P7");
    let shown = format!("{file:?}");
    assert!(!shown.contains("SECRET") && !shown.contains("P7"), "{shown}");
    let many = Object::image().text(tags::NUMBER_OF_FRAMES, VR::IS, "2").pixels(&[0; 12]).file(EXPLICIT);
    std::fs::write(&at, many).unwrap();
    let refused = Image::read(&at, &Limits::default()).unwrap_err();
    assert!(matches!(refused, Error::Dicom { fault: DicomFault::ManyFrames { frames: 2 }, .. }), "{refused}");
}

/// Reads everything of a file; whether all of it could be.
pub(crate) fn read_all(bytes: &[u8]) -> Result<(), Error> {
    let limits = Limits { pixels: 1 << 20, side: 4096, file_bytes: 1 << 22, ..Default::default() };
    let file = Dicom::from_bytes(Path::new("cut.dcm"), bytes.to_vec(), &limits)?;
    for frame in 0..file.frames()?.min(16) {
        file.image(frame, PixelValues::Modality)?;
        file.voi(frame)?;
        file.padding(frame)?;
        file.plane(frame).ok();
    }
    Ok(())
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let sequence = || {
        let item = || Object::empty().text(tags::RESCALE_SLOPE, VR::DS, "2");
        Object::image().items(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, vec![item(), item()])
    };
    let mut rle: Vec<u8> = [2u32, 64, 66].iter().flat_map(|w| w.to_le_bytes()).collect();
    rle.resize(64, 0);
    rle.extend([0xFB, 1, 5, 0, 1, 2, 3, 4, 5, 0]);
    vec![
        ("explicit", sequence().file(EXPLICIT)),
        ("implicit", sequence().file(IMPLICIT)),
        ("big endian", sequence().file(BIG_ENDIAN)),
        ("deflated", sequence().file(DEFLATED)),
        ("rle", Object::image().fragments(&[], &[&rle]).file(RLE)),
        ("jpeg", Object::image().bits(8, 8, 7, 0).fragments(&[], &[&jpeg(3, 2, true)]).file(JPEG)),
    ]
}

#[test]
fn every_cut_is_an_error_that_says_so() {
    for (name, bytes) in samples() {
        read_all(&bytes).unwrap();
        // What follows the last fragment or byte of the pixels is a delimiter or padding of few bytes.
        let first_good = (0..bytes.len()).find(|n| read_all(&bytes[..*n]).is_ok());
        assert!(first_good.is_none_or(|n| n + 2 >= bytes.len()), "{name}: {first_good:?} of {}", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn bent_bytes_never_panic(which in 0usize..6, bends in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = samples().swap_remove(which).1;
        for (at, value) in bends {
            // Behind the preamble and its mark.
            let at = 132 + at.index(bytes.len() - 132);
            bytes[at] = value;
        }
        if let Err(e) = read_all(&bytes) {
            prop_assert!(!e.to_string().is_empty());
        }
    }
}
