//! An image in memory, and how it is read from a file.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use crate::window::Windowed;
use crate::{Error, Result};

/// What the numbers of an [`Image`] mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// As stored in the file: 0..=255, 0..=65535 or any float; of a DICOM file its modality values, such as
    /// Hounsfield units. A [`Window`](crate::Window) leads from here.
    Stored,
    /// 0 to 1.
    Unit,
    /// −1 to 1, what diffusion models take.
    Signed,
}

/// How a file stores one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// 8-bit unsigned.
    U8,
    /// 16-bit unsigned.
    U16,
    /// Any other whole number, of 1 to 16 bits.
    Integer {
        /// The bits.
        bits: u8,
        /// Whether it is in two's complement.
        signed: bool,
    },
    /// 32-bit float.
    F32,
}

impl Depth {
    /// The range of the stored type; a float has none.
    pub fn range(self) -> Option<(f32, f32)> {
        match self {
            Depth::U8 => Some((0.0, 255.0)),
            Depth::U16 => Some((0.0, 65535.0)),
            Depth::Integer { bits, signed } => {
                let steps = f32::from(bits).exp2();
                let least = if signed { -0.5 * steps } else { 0.0 };
                Some((least, least + steps - 1.0))
            }
            Depth::F32 => None,
        }
    }
}

/// Where an image came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The file, or `None` for an image made in memory.
    pub path: Option<PathBuf>,
    /// How the file stored a number.
    pub depth: Depth,
    /// How many channels the file had: 1 for grey, 3 for RGB.
    pub channels: usize,
    /// Whether the least value is meant to be seen brightest, as in DICOM's MONOCHROME1. A
    /// [`Window`](crate::Window) turns the values of such an image round.
    #[serde(default)]
    pub inverted: bool,
    /// The window that its values went through, once they did.
    pub windowed: Option<Windowed>,
}

/// The channels that a caller wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Whatever the file has.
    #[default]
    Keep,
    /// One channel; an RGB file is refused.
    Grey,
    /// Three channels; a grey file is refused.
    Rgb,
    /// One channel; RGB is turned to luma.
    ToGrey,
    /// Three channels; grey is repeated.
    ToRgb,
}

/// The largest image or volume that will be decoded. All are checked before any pixel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Pixels, width times height.
    pub pixels: u64,
    /// The longer side.
    pub side: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Voxels of a volume, over all its frames.
    pub voxels: u64,
}

impl Default for Limits {
    /// 64 Mi pixels, a side of 16,384, a file of 512 MiB, 256 Mi voxels (1 GiB in memory).
    fn default() -> Self {
        Self { pixels: 1 << 26, side: 1 << 14, file_bytes: 1 << 29, voxels: 1 << 28 }
    }
}

/// A grey (1 channel) or RGB (3 channels) image of f32 values, planar: channel, then row, then column.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<f32>,
    /// What the numbers mean.
    pub scale: Scale,
    /// Where the image came from.
    pub origin: Origin,
}

impl Image {
    /// An image made in memory.
    ///
    /// # Shapes
    /// `data` is (channels, height, width) in row-major order.
    ///
    /// # Errors
    /// When channels are not 1 or 3, a side is 0, the length does not fit, or a value is NaN or infinite.
    pub fn new(channels: usize, height: usize, width: usize, data: Vec<f32>, scale: Scale) -> Result<Self> {
        if channels != 1 && channels != 3 {
            return Err(Error::argument("channels", format!("{channels} given; an image has 1 or 3")));
        }
        let expected = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
        if height == 0 || width == 0 || expected != Some(data.len()) {
            return Err(Error::argument(
                "data",
                format!("{} values cannot be an image of {channels}×{height}×{width}", data.len()),
            ));
        }
        let origin = Origin { path: None, depth: Depth::F32, channels, inverted: false, windowed: None };
        let image = Self { channels, height, width, data, scale, origin };
        image.check_finite()?;
        Ok(image)
    }

    /// Reads PNG, JPEG, TIFF or BMP, 8 or 16 bits, grey or RGB (TIFF also RGB of 32-bit floats). The
    /// numbers stay as stored; nothing is scaled. The format is told by the content, not by the name.
    /// A wholly opaque alpha channel is dropped, since it says nothing; any other is refused. Orientation
    /// tags are not followed: rows and columns are those of the file.
    ///
    /// With the feature `dicom` it reads DICOM files of one frame too. Their numbers are modality values,
    /// which are Hounsfield units in CT; `dicom::Dicom` gives the stored ones.
    ///
    /// # Errors
    /// When the file is missing, empty, truncated, not an image, of a kind not listed above, larger
    /// than `limits` (found from the header, before decoding), or holds NaN.
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_file(path, limits)?;
        let mut image = decode(path, bytes, limits)?;
        image.origin.path = Some(path.to_path_buf());
        image.check_finite()?;
        Ok(image)
    }

    /// 1 for grey, 3 for RGB.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, (channels, height, width).
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, moved out.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// One channel's values, row by row; empty when there is no such channel.
    pub fn plane(&self, channel: usize) -> &[f32] {
        let n = self.height * self.width;
        self.data.get(channel * n..(channel + 1) * n).unwrap_or(&[])
    }

    /// The file's path, or "image" for one made in memory.
    pub fn name(&self) -> String {
        self.origin.path.as_ref().map_or_else(|| "image".to_string(), |p| p.display().to_string())
    }

    /// The least and the greatest value.
    pub fn extent(&self) -> (f32, f32) {
        self.data.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)))
    }

    /// The same image with the channels asked for.
    ///
    /// RGB becomes grey by the luma of ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B.
    ///
    /// # Errors
    /// When `colour` is [`Colour::Grey`] or [`Colour::Rgb`] and the image is the other.
    pub fn with_colour(self, colour: Colour) -> Result<Self> {
        match (colour, self.channels) {
            (Colour::Keep, _) | (Colour::Grey | Colour::ToGrey, 1) | (Colour::Rgb | Colour::ToRgb, 3) => {
                Ok(self)
            }
            (Colour::ToGrey, _) => {
                let data = (self.plane(0).iter().zip(self.plane(1)).zip(self.plane(2)))
                    .map(|((r, g), b)| 0.299 * r + 0.587 * g + 0.114 * b)
                    .collect();
                Ok(Self { channels: 1, data, ..self })
            }
            (Colour::ToRgb, _) => Ok(Self { channels: 3, data: self.data.repeat(3), ..self }),
            (Colour::Grey, _) => Err(Error::Channels {
                name: self.name(),
                got: format!("the image has {} channels", self.channels),
                expected: "grey",
                hint: "ask for `Colour::ToGrey` if its luma will do",
            }),
            (Colour::Rgb, _) => Err(Error::Channels {
                name: self.name(),
                got: "the image is grey".into(),
                expected: "RGB",
                hint: "ask for `Colour::ToRgb` to repeat the channel",
            }),
        }
    }

    /// Values from [0, 1] to [−1, 1], x ↦ 2x − 1: what diffusion models are trained on.
    ///
    /// # Errors
    /// When the image still has stored values. A signed image is returned as it is.
    pub fn to_signed(self) -> Result<Self> {
        match self.scale {
            Scale::Signed => Ok(self),
            Scale::Unit => Ok(self.map(Scale::Signed, |v| 2.0 * v - 1.0)),
            Scale::Stored => Err(self.unscaled()),
        }
    }

    /// Values from [−1, 1] to [0, 1], the inverse of [`Image::to_signed`].
    ///
    /// # Errors
    /// When the image still has stored values. A unit image is returned as it is.
    pub fn to_unit(self) -> Result<Self> {
        match self.scale {
            Scale::Unit => Ok(self),
            Scale::Signed => Ok(self.map(Scale::Unit, |v| 0.5 * v + 0.5)),
            Scale::Stored => Err(self.unscaled()),
        }
    }

    fn unscaled(&self) -> Error {
        Error::argument("image", format!("{} has stored values; apply a `Window` first", self.name()))
    }

    /// The same image with each value mapped.
    pub(crate) fn map(mut self, scale: Scale, f: impl Fn(f32) -> f32) -> Self {
        self.data.iter_mut().for_each(|v| *v = f(*v));
        self.scale = scale;
        self
    }

    /// The same image with each plane replaced by one of another size. `f` gives a plane of
    /// `height * width` values.
    pub(crate) fn map_planes(self, height: usize, width: usize, f: impl Fn(&[f32]) -> Vec<f32>) -> Self {
        let data = (0..self.channels).flat_map(|c| f(self.plane(c))).collect();
        Self { height, width, data, ..self }
    }

    pub(crate) fn check_finite(&self) -> Result<()> {
        let count = self.data.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(Error::NonFinite { name: self.name(), count, total: self.data.len() });
        }
        Ok(())
    }
}

pub(crate) fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let meta = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::malformed(path, "not a file", "give the path of an image file"));
    }
    if meta.len() == 0 {
        return Err(Error::malformed(path, "the file is empty", "copy or download it again"));
    }
    if meta.len() > limits.file_bytes {
        return Err(Error::TooLarge {
            path: path.into(),
            what: format!("the file of {} bytes", meta.len()),
            limit: format!("{} bytes", limits.file_bytes),
        });
    }
    fs::read(path).map_err(|e| Error::io(path, e))
}

#[cfg(feature = "dicom")]
fn decode_dicom(path: &Path, bytes: Vec<u8>, limits: &Limits) -> Result<Image> {
    crate::dicom::read_image(path, bytes, limits)
}

#[cfg(not(feature = "dicom"))]
fn decode_dicom(path: &Path, _: Vec<u8>, _: &Limits) -> Result<Image> {
    Err(Error::malformed(path, "it is a DICOM file", "build `xdiff-data` with the feature `dicom`"))
}

fn decode(path: &Path, bytes: Vec<u8>, limits: &Limits) -> Result<Image> {
    if bytes.get(128..132) == Some(b"DICM") {
        return decode_dicom(path, bytes, limits);
    }
    let format = image::guess_format(&bytes)
        .map_err(|_| Error::malformed(path, "not an image", "give a PNG, JPEG, TIFF or BMP file"))?;
    if format == ImageFormat::Jpeg && !jpeg_is_complete(&bytes) {
        return Err(Error::malformed(path, "the JPEG data stops before their end", TRUNCATED));
    }
    let grey_palette = format == ImageFormat::Bmp && bmp_palette_is_grey(&bytes);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut guard = image::Limits::default();
    guard.max_image_width = Some(limits.side);
    guard.max_image_height = Some(limits.side);
    guard.max_alloc = Some(limits.pixels.saturating_mul(16).saturating_add(1 << 20));
    reader.limits(guard);
    let decoder = reader.into_decoder().map_err(|e| decoding_error(path, limits, e))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::malformed(path, format!("the image is {height}×{width}"), "remove the file"));
    }
    if width.max(height) > limits.side || u64::from(width) * u64::from(height) > limits.pixels {
        return Err(Error::TooLarge {
            path: path.into(),
            what: format!("the image of {height}×{width}"),
            limit: format!("{} pixels with a side of {}", limits.pixels, limits.side),
        });
    }
    let colour = decoder.color_type();
    let pixels = DynamicImage::from_decoder(decoder).map_err(|e| decoding_error(path, limits, e))?;
    let image = planar(path, pixels, colour, height as usize, width as usize)?;
    if !grey_palette || image.channels != 3 {
        return Ok(image);
    }
    let origin = Origin { channels: 1, ..image.origin.clone() };
    Ok(Image { channels: 1, data: image.plane(0).to_vec(), origin, ..image })
}

fn planar(
    path: &Path,
    pixels: DynamicImage,
    colour: ColorType,
    height: usize,
    width: usize,
) -> Result<Image> {
    let layout = Layout { stored: usize::from(colour.channel_count()), alpha: colour.has_alpha() };
    let (data, depth) = match &pixels {
        DynamicImage::ImageLuma8(p) => (layout.planes(p, u8::MAX), Depth::U8),
        DynamicImage::ImageLumaA8(p) => (layout.planes(p, u8::MAX), Depth::U8),
        DynamicImage::ImageRgb8(p) => (layout.planes(p, u8::MAX), Depth::U8),
        DynamicImage::ImageRgba8(p) => (layout.planes(p, u8::MAX), Depth::U8),
        DynamicImage::ImageLuma16(p) => (layout.planes(p, u16::MAX), Depth::U16),
        DynamicImage::ImageLumaA16(p) => (layout.planes(p, u16::MAX), Depth::U16),
        DynamicImage::ImageRgb16(p) => (layout.planes(p, u16::MAX), Depth::U16),
        DynamicImage::ImageRgba16(p) => (layout.planes(p, u16::MAX), Depth::U16),
        DynamicImage::ImageRgb32F(p) => (layout.planes(p, 1.0), Depth::F32),
        DynamicImage::ImageRgba32F(p) => (layout.planes(p, 1.0), Depth::F32),
        _ => {
            return Err(Error::malformed(
                path,
                format!("pixels of type {colour:?} are not supported"),
                "convert the image to 8 or 16 bits, grey or RGB",
            ));
        }
    };
    let Some(data) = data else {
        return Err(Error::Channels {
            name: path.display().to_string(),
            got: "the image has a transparent alpha channel".into(),
            expected: "grey or RGB",
            hint: "flatten it onto a background first",
        });
    };
    let channels = layout.colours();
    let origin = Origin { path: None, depth, channels, inverted: false, windowed: None };
    Ok(Image { channels, height, width, data, scale: Scale::Stored, origin })
}

/// Interleaved channels, of which the last may be alpha.
struct Layout {
    stored: usize,
    alpha: bool,
}

impl Layout {
    fn colours(&self) -> usize {
        self.stored - usize::from(self.alpha)
    }

    /// The planes without alpha; `None` when alpha is anything but opaque.
    fn planes<T: Copy + PartialEq + Into<f32>>(&self, raw: &[T], opaque: T) -> Option<Vec<f32>> {
        let channel = |c: usize| raw.iter().skip(c).step_by(self.stored).copied();
        if self.alpha && channel(self.colours()).any(|a| a != opaque) {
            return None;
        }
        Some((0..self.colours()).flat_map(|c| channel(c).map(Into::into)).collect())
    }
}

const TRUNCATED: &str = "the file is damaged or was cut off: copy or download it again";

fn decoding_error(path: &Path, limits: &Limits, error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => Error::TooLarge {
            path: path.into(),
            what: "the image".into(),
            limit: format!("{} pixels with a side of {}", limits.pixels, limits.side),
        },
        ImageError::Unsupported(e) => Error::malformed(
            path,
            e.to_string(),
            "convert it to PNG, JPEG, TIFF or BMP of 8 or 16 bits, grey or RGB",
        ),
        other => Error::malformed(path, other.to_string(), TRUNCATED),
    }
}

/// Whether an end-of-image marker follows the last start-of-scan marker. The decoder itself fills what
/// is missing with grey. Inside a scan 0xFF is always escaped, so both markers are real where found.
pub(crate) fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let find = |marker: u8, from: usize| bytes[from..].windows(2).rposition(|w| w == [0xFF, marker]);
    match find(0xDA, 0) {
        Some(scan) => find(0xD9, scan).is_some(),
        None => false,
    }
}

/// Whether a BMP has a palette of greys alone: BMP's only way to store grey, which the decoder gives as RGB.
fn bmp_palette_is_grey(bytes: &[u8]) -> bool {
    let number = |at: usize, n: usize| {
        let field = bytes.get(at..at + n)?;
        Some(field.iter().rev().fold(0usize, |v, b| v << 8 | usize::from(*b)))
    };
    // The file header has 14 bytes; sizes, depth and palette length stand in the header after it.
    let (Some(header), Some(bits), Some(used)) = (number(14, 4), number(28, 2), number(46, 4)) else {
        return false;
    };
    if header < 40 || !(1..=8).contains(&bits) {
        return false;
    }
    let entries = if used == 0 { 1 << bits } else { used.min(256) };
    let palette =
        (14usize.checked_add(header)).and_then(|start| bytes.get(start..start.checked_add(4 * entries)?));
    palette.is_some_and(|p| p.chunks_exact(4).all(|c| c[0] == c[1] && c[1] == c[2]))
}
