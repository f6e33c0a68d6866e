//! Compressed frames: what the codecs are given is checked against the header first, so that neither
//! their memory nor their output can be other than the header says.

use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::jpeg_12;
use super::jpeg_ls;
use super::layout::{Photometric, PixelLayout};
use super::rle;
use super::syntax::TransferSyntax;
use crate::image::jpeg_is_complete;

/// What a codec made of a frame.
pub(super) enum Decoded {
    /// Raw samples as an uncompressed frame has them, pixel by pixel.
    Raw(Vec<u8>),
    /// Values without overlay bits, pixel by pixel.
    Values(Vec<i32>),
    /// The same of three samples, which the codec has already turned to RGB.
    Rgb(Vec<i32>),
}

/// Why a codec could not be used.
pub(super) enum Failure {
    /// The codec's features go beyond what is decoded here.
    Refused(&'static str),
    /// The frame is damaged or does not fit its header.
    Damaged(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Failure::Damaged(reason)
    }
}

/// Decodes one frame.
pub(super) fn decode(
    syntax: &TransferSyntax,
    frame: &[u8],
    layout: &PixelLayout,
) -> Result<Decoded, Failure> {
    if layout.bits_allocated == 1 {
        return Err(Failure::Refused("compresses samples of one bit"));
    }
    match syntax {
        TransferSyntax::EncapsulatedUncompressed => Ok(Decoded::Raw(frame.to_vec())),
        TransferSyntax::Rle => {
            let bytes = usize::from(layout.bits_allocated / 8);
            Ok(Decoded::Raw(rle::decode(frame, layout.pixels(), layout.samples, bytes)?))
        }
        TransferSyntax::JpegBaseline
        | TransferSyntax::JpegExtended
        | TransferSyntax::JpegLossless
        | TransferSyntax::JpegLosslessFirstOrder => jpeg(frame, layout),
        TransferSyntax::JpegLsLossless | TransferSyntax::JpegLsNearLossless => {
            let image = jpeg_ls::decode(frame, layout.rows, layout.columns, layout.samples)?;
            Ok(Decoded::Values(image.into_iter().map(i32::from).collect()))
        }
        TransferSyntax::Jpeg2000Lossless | TransferSyntax::Jpeg2000 => jpeg_2000(frame, layout),
        _ => Err(Failure::Refused("is not decoded")),
    }
}

/// The start-of-frame segment of a JPEG.
#[derive(Debug, PartialEq, Eq)]
struct FrameHeader {
    marker: u8,
    precision: u8,
    rows: usize,
    columns: usize,
    components: usize,
}

fn frame_header(bytes: &[u8]) -> Option<FrameHeader> {
    let mut at = 2;
    loop {
        // Any number of fill bytes may stand before a marker.
        while *bytes.get(at)? == 0xFF {
            at += 1;
        }
        let marker = *bytes.get(at)?;
        let length = usize::from(u16::from_be_bytes([*bytes.get(at + 1)?, *bytes.get(at + 2)?]));
        if matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) {
            let body = bytes.get(at + 3..at + 9)?;
            return Some(FrameHeader {
                marker,
                precision: body[0],
                rows: usize::from(u16::from_be_bytes([body[1], body[2]])),
                columns: usize::from(u16::from_be_bytes([body[3], body[4]])),
                components: usize::from(body[5]),
            });
        }
        if marker == 0xDA {
            return None;
        }
        at += 1 + length.max(2);
    }
}

fn jpeg(frame: &[u8], layout: &PixelLayout) -> Result<Decoded, Failure> {
    let header = frame_header(frame).filter(|_| frame.starts_with(&[0xFF, 0xD8]));
    let header = header.ok_or_else(|| "no JPEG frame header".to_string())?;
    fits(layout, header.rows, header.columns, header.components)?;
    let lossless = header.marker == 0xC3;
    if u16::from(header.precision) > layout.bits_allocated {
        return Err(format!(
            "samples of {} bits where {} are allocated",
            header.precision, layout.bits_allocated
        )
        .into());
    }
    if !jpeg_is_complete(frame) {
        return Err("the JPEG data stop before their end".to_string().into());
    }
    if !lossless && header.precision == 12 {
        if header.marker != 0xC1 || header.components != 1 {
            return Err(Failure::Refused(
                "with samples of 12 bits is decoded only where it is grey and sequential",
            ));
        }
        return Ok(Decoded::Values(jpeg_12::decode(frame, layout.rows, layout.columns)?));
    }
    let mut decoder = Decoder::new(frame);
    decoder.set_max_decoding_buffer_size(layout.pixels() * layout.samples * 2);
    let colour = layout.samples == 3;
    if colour {
        decoder.set_color_transform(transform(frame, layout.photometric));
    }
    let bytes = decoder.decode().map_err(|e| e.to_string())?;
    let info = decoder.info().ok_or_else(|| "no JPEG frame".to_string())?;
    let values: Vec<i32> = match info.pixel_format {
        PixelFormat::L16 => {
            bytes.chunks_exact(2).map(|b| i32::from(u16::from_ne_bytes([b[0], b[1]]))).collect()
        }
        PixelFormat::L8 | PixelFormat::RGB24 => bytes.into_iter().map(i32::from).collect(),
        PixelFormat::CMYK32 => return Err("four colours where three are said".to_string().into()),
    };
    if values.len() != layout.pixels() * layout.samples {
        return Err("samples of a depth that the codec does not give".to_string().into());
    }
    // Lossless frames are given as they were coded, without a change of colour.
    Ok(if colour && !lossless { Decoded::Rgb(values) } else { Decoded::Values(values) })
}

/// The change of colour that undoes what the encoder did. A marker in the frame is believed, since it
/// was written by the encoder; without one, the photometric interpretation is.
fn transform(frame: &[u8], photometric: Photometric) -> ColorTransform {
    let segment = |name: &[u8], at: usize| {
        let head = &frame[..frame.len().min(1 << 16)];
        head.windows(name.len()).position(|w| w == name).and_then(|p| head.get(p + at).copied())
    };
    match (segment(b"Adobe", 11), segment(b"JFIF\0", 0), photometric) {
        (Some(0), ..) => ColorTransform::RGB,
        (Some(_), ..) | (None, Some(_), _) => ColorTransform::YCbCr,
        (None, None, Photometric::Rgb) => ColorTransform::RGB,
        (None, None, _) => ColorTransform::YCbCr,
    }
}

fn jpeg_2000(frame: &[u8], layout: &PixelLayout) -> Result<Decoded, Failure> {
    // Some writers wrap the codestream in a JP2 file. What is checked is what is decoded.
    let start = frame.windows(4).position(|w| w == [0xFF, 0x4F, 0xFF, 0x51]);
    let stream = start.map(|s| &frame[s..]).ok_or_else(|| "no JPEG 2000 codestream".to_string())?;
    let word = |at: usize| -> Option<usize> {
        let b = stream.get(at..at + 4)?;
        Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let size = |from: usize| {
        Some((word(from + 4)?.checked_sub(word(from + 12)?)?, word(from)?.checked_sub(word(from + 8)?)?))
    };
    let cut = || "the JPEG 2000 header is cut off".to_string();
    let (rows, columns) = size(8).ok_or_else(cut)?;
    let components =
        stream.get(40..42).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))).ok_or_else(cut)?;
    fits(layout, rows, columns, components)?;
    for c in 0..components {
        let part = stream.get(42 + 3 * c..45 + 3 * c).ok_or_else(cut)?;
        let bits = u16::from(part[0] & 0x7F) + 1;
        if bits > layout.bits_allocated || part[1..] != [1, 1] {
            let reason = format!("component {c} has {bits} bits, subsampled {}×{}", part[1], part[2]);
            return Err(reason.into());
        }
    }
    let options = jpeg2k::DecodeParameters::new().strict(true);
    let image = jpeg2k::Image::from_bytes_with(stream, options).map_err(|e| e.to_string())?;
    let planes: Vec<&[i32]> = image.components().iter().map(|c| c.data()).collect();
    if planes.len() != layout.samples || planes.iter().any(|p| p.len() != layout.pixels()) {
        return Err("the codec gave another size than the header".to_string().into());
    }
    let values = (0..layout.pixels()).flat_map(|i| planes.iter().map(move |p| p[i])).collect();
    // The codec undoes its own change of colour; any other stays.
    let plain = matches!(layout.photometric, Photometric::YbrCodec);
    Ok(if plain { Decoded::Rgb(values) } else { Decoded::Values(values) })
}

fn fits(layout: &PixelLayout, rows: usize, columns: usize, components: usize) -> Result<(), Failure> {
    if (rows, columns, components) == (layout.rows, layout.columns, layout.samples) {
        return Ok(());
    }
    Err(Failure::Damaged(format!(
        "it is {rows}×{columns} with {components} components, but the header says {}×{} with {}",
        layout.rows, layout.columns, layout.samples
    )))
}
