//! One DICOM file.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use dicom_object::file::ReadPreamble;
use dicom_object::{InMemDicomObject, OpenFileOptions};

use super::codec::{self, Decoded, Failure};
use super::colour::{self, Palette};
use super::fault::{DicomFault, Outcome};
use super::frames;
use super::layout::{Photometric, PixelLayout};
use super::meta::{self, Group, Meta, Plane, group_or_root};
use super::structure::{self, Pixels};
use super::syntax::TransferSyntax;
use super::transform::{ModalityTransform, PixelValues, Voi};
use crate::image::{Depth, Image, Limits, Scale, read_file};
use crate::mask::Mask;
use crate::window::Windowed;
use crate::{Error, Result};

/// A DICOM file in memory. Frames are decoded when they are asked for, one at a time.
///
/// ```
/// use xdiff_data::dicom::{Dicom, PixelValues};
/// use xdiff_data::{Limits, Window};
///
/// # // A CT of one row and three columns, written by hand.
/// # let mut bytes = vec![0; 128];
/// # bytes.extend(b"DICM");
/// # let mut put = |group: u16, element: u16, vr: &str, value: &[u8]| {
/// #     bytes.extend([group.to_le_bytes(), element.to_le_bytes()].concat());
/// #     bytes.extend(vr.as_bytes());
/// #     if vr == "OW" {
/// #         bytes.extend([0, 0]);
/// #         bytes.extend((value.len() as u32).to_le_bytes());
/// #     } else {
/// #         bytes.extend((value.len() as u16).to_le_bytes());
/// #     }
/// #     bytes.extend(value);
/// # };
/// # put(2, 0x10, "UI", b"1.2.840.10008.1.2.1\0");
/// # put(0x28, 0x02, "US", &[1, 0]);
/// # put(0x28, 0x04, "CS", b"MONOCHROME2 ");
/// # put(0x28, 0x10, "US", &[1, 0]);
/// # put(0x28, 0x11, "US", &[3, 0]);
/// # put(0x28, 0x100, "US", &[16, 0]);
/// # put(0x28, 0x101, "US", &[16, 0]);
/// # put(0x28, 0x102, "US", &[15, 0]);
/// # put(0x28, 0x103, "US", &[0, 0]);
/// # put(0x28, 0x1050, "DS", b"-600");
/// # put(0x28, 0x1051, "DS", b"1501");
/// # put(0x28, 0x1052, "DS", b"-1024 ");
/// # put(0x28, 0x1053, "DS", b"1 ");
/// # put(0x7FE0, 0x10, "OW", &[0, 0, 168, 1, 0, 8]);
/// // Or `Dicom::read("slice.dcm", &limits)?`.
/// let ct = Dicom::from_bytes("slice.dcm", bytes, &Limits::default())?;
/// assert_eq!(ct.stored(0)?, [0, 424, 2048]);
/// let hounsfield = ct.image(0, PixelValues::Modality)?;
/// assert_eq!(hounsfield.data(), [-1024.0, -600.0, 1024.0]);
/// let lung = Window::centred(-600.0, 1500.0).apply(hounsfield)?;
/// assert_eq!(lung.data(), [326.0 / 1500.0, 0.5, 1.0]);
/// // Or as the file itself suggests, by the standard's own definition of a window.
/// let shown = ct.display(0, &ct.voi(0)?[0])?;
/// assert_eq!(shown.data()[2], 1.0);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
pub struct Dicom {
    path: PathBuf,
    meta: Meta,
    object: InMemDicomObject,
    layout: Outcome<PixelLayout>,
    /// The data set: the file without its meta group, inflated where it was deflated.
    data: Vec<u8>,
    pixels: Pixels,
    limits: Limits,
}

impl fmt::Debug for Dicom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The object holds names; it is not shown.
        f.debug_struct("Dicom")
            .field("path", &self.path)
            .field("meta", &self.meta)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

/// The values of a frame, plane by plane.
enum Samples {
    Whole(Vec<i32>),
    Real(Vec<f32>),
}

impl Dicom {
    /// Reads a file. Its structure is checked throughout; its pixels are not decoded yet.
    ///
    /// # Errors
    /// When the file is missing, larger than `limits` (also after inflating), cut off, or not DICOM.
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(path, read_file(path, limits)?, limits)
    }

    /// The same of the bytes of a file; `path` names it in errors.
    ///
    /// # Errors
    /// As for [`Dicom::read`].
    pub fn from_bytes(path: impl Into<PathBuf>, mut bytes: Vec<u8>, limits: &Limits) -> Result<Self> {
        let path = path.into();
        let fault = |fault: DicomFault| Error::Dicom { path: path.clone(), fault };
        let preface = structure::preface(&bytes).map_err(fault)?;
        let syntax = preface.syntax;
        let data = if syntax == TransferSyntax::Deflated {
            inflate(&path, &bytes[preface.dataset..], limits)?
        } else {
            bytes.split_off(preface.dataset)
        };
        let skeleton = structure::skeleton(&data, &syntax).map_err(fault)?;
        let object = parse(&data[..skeleton.header], &syntax).map_err(fault)?;
        let pixels = skeleton.pixels;
        let float = matches!(pixels, Pixels::Float(_));
        let layout = PixelLayout::read(&object, float);
        let layout = layout.and_then(|l| frames::check(&l, &pixels).map(|()| l));
        let meta = Meta::read(&object, syntax);
        Ok(Self { path, meta, object, layout, data, pixels, limits: *limits })
    }

    fn fault(&self, fault: DicomFault) -> Error {
        Error::Dicom { path: self.path.clone(), fault }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says of itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// How the pixels are laid out.
    ///
    /// # Errors
    /// When the file has no pixels, fewer than it says, or a layout that is not read.
    pub fn layout(&self) -> Result<&PixelLayout> {
        self.layout.as_ref().map_err(|f| self.fault(f.clone()))
    }

    /// Whether there are pixel data at all. Reports, plans and folders of a disc have none.
    pub fn has_pixels(&self) -> bool {
        self.pixels != Pixels::None
    }

    /// Whether it is a segmentation object, to be read with [`Segmentation`](super::Segmentation).
    pub fn is_segmentation(&self) -> bool {
        self.meta.sop_class.as_deref() == Some("1.2.840.10008.5.1.4.1.1.66.4")
    }

    /// How many frames there are.
    ///
    /// # Errors
    /// As for [`Dicom::layout`].
    pub fn frames(&self) -> Result<usize> {
        Ok(self.layout()?.frames)
    }

    /// Where a frame lies in the patient.
    ///
    /// # Errors
    /// When the frame's position, orientation or pixel spacing is missing or no such thing.
    pub fn plane(&self, frame: usize) -> Result<Plane> {
        self.frame_layout(frame)?;
        meta::plane(&self.object, frame).map_err(|f| self.fault(f))
    }

    /// How the stored values of a frame become modality values. Colours have no such transform.
    ///
    /// # Errors
    /// When the slope or intercept is not finite, the slope is 0, or a table is damaged.
    pub fn modality(&self, frame: usize) -> Result<ModalityTransform> {
        let layout = self.frame_layout(frame)?;
        if layout.channels() != 1 {
            return Ok(ModalityTransform::Identity);
        }
        let own = ModalityTransform::read(group_or_root(&self.object, frame, Group::Values), layout.signed);
        Ok(own.map_err(|f| self.fault(f))?.unwrap_or(ModalityTransform::Identity))
    }

    /// The ways of showing a frame that the file suggests, possibly none.
    ///
    /// # Errors
    /// When centres and widths differ in number, or a table is damaged.
    pub fn voi(&self, frame: usize) -> Result<Vec<Voi>> {
        let signed = self.frame_layout(frame)?.signed;
        Voi::read(group_or_root(&self.object, frame, Group::Voi), signed).map_err(|f| self.fault(f))
    }

    /// The stored values of a frame, exactly.
    ///
    /// # Shapes
    /// (channels, rows, columns) in row-major order. Palette indices and YBR are turned to RGB.
    ///
    /// # Errors
    /// When there is no such frame, it is larger than the limits, its transfer syntax is not decoded, its
    /// data are damaged, or they are floats.
    pub fn stored(&self, frame: usize) -> Result<Vec<i32>> {
        match self.samples(frame)?.0 {
            Samples::Whole(values) => Ok(values),
            Samples::Real(_) => Err(self.fault(DicomFault::Unsupported {
                what: "float pixel data as whole numbers".into(),
                hint: "read it with `image`",
            })),
        }
    }

    /// A frame as an image with [`Scale::Stored`], to which a [`Window`](crate::Window) is still to be
    /// applied. Modality values are computed in f64 and rounded once. MONOCHROME1 is not turned round
    /// here, but marked in the image's origin, and the window turns it.
    ///
    /// # Errors
    /// As for [`Dicom::stored`] and [`Dicom::modality`]; when a float is NaN or infinite.
    pub fn image(&self, frame: usize, values: PixelValues) -> Result<Image> {
        let layout = self.frame_layout(frame)?;
        let transform = match values {
            PixelValues::Stored => ModalityTransform::Identity,
            PixelValues::Modality => self.modality(frame)?,
        };
        let (samples, depth) = self.samples(frame)?;
        let identity = transform == ModalityTransform::Identity;
        let measure = |v: f64| if identity { v as f32 } else { transform.apply(v) as f32 };
        let data: Vec<f32> = match samples {
            Samples::Whole(values) => values.into_iter().map(|v| measure(f64::from(v))).collect(),
            Samples::Real(values) => values.into_iter().map(|v| measure(f64::from(v))).collect(),
        };
        let total = data.len();
        let count = data.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(Error::NonFinite { name: self.path.display().to_string(), count, total });
        }
        let mut image = Image::new(layout.channels(), layout.rows, layout.columns, data, Scale::Stored)?;
        image.origin.path = Some(self.path.clone());
        image.origin.depth = if identity { depth } else { Depth::F32 };
        image.origin.inverted = layout.photometric == Photometric::Monochrome1;
        Ok(image)
    }

    /// A frame as the file would have it shown: modality values through a VOI transform, and turned
    /// round for MONOCHROME1. Values are 0 (black) to 1 (white), computed in f64.
    ///
    /// # Errors
    /// As for [`Dicom::image`]; when the image has colours, to which a VOI does not apply, or the
    /// transform is an empty window.
    pub fn display(&self, frame: usize, voi: &Voi) -> Result<Image> {
        voi.check().map_err(|f| self.fault(f))?;
        let image = self.image(frame, PixelValues::Modality)?;
        if image.channels() != 1 {
            return Err(Error::Channels {
                name: image.name(),
                got: "the image has colours".into(),
                expected: "grey",
                hint: "apply `Window::Full`",
            });
        }
        let inverted = image.origin.inverted;
        let (lo, hi) = voi.bounds();
        let outside = image.data().iter().filter(|v| f64::from(**v) < lo || f64::from(**v) > hi).count();
        let clipped = outside as f64 / image.data().len() as f64;
        let mut shown = image.map(Scale::Unit, |v| {
            let shown = voi.apply(f64::from(v));
            (if inverted { 1.0 - shown } else { shown }) as f32
        });
        shown.origin.windowed = Some(Windowed { lo: lo as f32, hi: hi as f32, clipped });
        Ok(shown)
    }

    /// Where a frame holds the padding value that stands for "not imaged"; `None` when the file names no
    /// such value. Padding is left in the values as it is: in CT it lies below air, so that windows take
    /// it to 0.
    ///
    /// # Errors
    /// As for [`Dicom::stored`].
    pub fn padding(&self, frame: usize) -> Result<Option<Mask>> {
        let layout = self.frame_layout(frame)?;
        let Some((lo, hi)) = layout.padding.filter(|_| layout.channels() == 1) else { return Ok(None) };
        let labels = self.stored(frame)?.into_iter().map(|v| u8::from((lo..=hi).contains(&v))).collect();
        Mask::new(layout.rows, layout.columns, labels).map(Some)
    }

    /// The layout, if there is such a frame and it is within the limits.
    fn frame_layout(&self, frame: usize) -> Result<&PixelLayout> {
        let layout = self.layout()?;
        if frame >= layout.frames {
            return Err(self.fault(DicomFault::Frame { frame, frames: layout.frames }));
        }
        if let Some((what, limit)) = layout.check(&self.limits) {
            return Err(Error::TooLarge { path: self.path.clone(), what, limit });
        }
        Ok(layout)
    }

    /// The object, for the parts of this module.
    pub(super) fn object(&self) -> &InMemDicomObject {
        &self.object
    }

    /// Bit `index` of one-bit pixel data, counted over all frames; the lowest bit of a byte comes first.
    pub(super) fn bit(&self, index: usize) -> Option<u8> {
        match &self.pixels {
            Pixels::Native { range, .. } => {
                self.data[range.clone()].get(index / 8).map(|byte| byte >> (index % 8) & 1)
            }
            _ => None,
        }
    }

    /// The values of a frame, plane by plane, and how they are kept.
    fn samples(&self, frame: usize) -> Result<(Samples, Depth)> {
        let layout = self.frame_layout(frame)?;
        if let Pixels::Float(range) = &self.pixels {
            let frame = &self.data[range.clone()][frame * layout.pixels() * 4..];
            let big = self.meta.syntax.is_big_endian();
            let value = |b: &[u8]| {
                let bytes = [b[0], b[1], b[2], b[3]];
                if big { f32::from_be_bytes(bytes) } else { f32::from_le_bytes(bytes) }
            };
            let values = frame.chunks_exact(4).take(layout.pixels()).map(value).collect();
            return Ok((Samples::Real(values), Depth::F32));
        }
        let (mut values, mut rgb) = self.interleaved(frame, layout)?;
        if layout.photometric == Photometric::YbrFull422 && !rgb && values.len() == layout.pixels() * 2 {
            values = colour::spread_422(&values);
        }
        if layout.photometric == Photometric::Palette {
            let palette = Palette::read(&self.object, layout.signed).map_err(|f| self.fault(f))?;
            let depth = if palette.bits() == 8 { Depth::U8 } else { Depth::U16 };
            return Ok((Samples::Whole(palette.planes(&values)), depth));
        }
        rgb |= matches!(layout.photometric, Photometric::Rgb | Photometric::YbrCodec) || layout.samples == 1;
        if !rgb {
            colour::ybr_to_rgb(&mut values, layout.bits_stored);
        }
        if layout.samples > 1 {
            let plane = |c: usize| values.iter().skip(c).step_by(layout.samples).copied();
            values = (0..layout.samples).flat_map(plane).collect();
        }
        Ok((Samples::Whole(values), layout.depth()))
    }

    /// The values of a frame, pixel by pixel, and whether a codec has turned them to RGB.
    fn interleaved(&self, frame: usize, layout: &PixelLayout) -> Result<(Vec<i32>, bool)> {
        match &self.pixels {
            Pixels::Fragments { offsets, fragments } => {
                let bytes = frames::encapsulated(&self.data, offsets, fragments, frame, layout.frames);
                let bytes = bytes.map_err(|f| self.fault(f))?;
                let decoded = codec::decode(&self.meta.syntax, &bytes, layout).map_err(|failure| {
                    self.fault(match failure {
                        Failure::Refused(reason) => self.meta.syntax.refused(reason),
                        Failure::Damaged(reason) => DicomFault::Codec { frame, reason },
                    })
                })?;
                match decoded {
                    Decoded::Raw(raw) => {
                        let reason = format!("{} bytes are too few", raw.len());
                        let planar =
                            self.meta.syntax == TransferSyntax::EncapsulatedUncompressed && layout.planar;
                        let values = whole(&raw, layout, planar, false);
                        let values = values.ok_or_else(|| self.fault(DicomFault::Codec { frame, reason }))?;
                        Ok((values, false))
                    }
                    Decoded::Values(v) => Ok((v.into_iter().map(|v| layout.sign(v)).collect(), false)),
                    Decoded::Rgb(v) => Ok((v, true)),
                }
            }
            Pixels::Native { .. } if layout.bits_allocated == 1 => {
                let n = layout.stored_samples();
                let bits = (frame * n..(frame + 1) * n).filter_map(|i| self.bit(i)).map(i32::from);
                Ok((bits.collect(), false))
            }
            Pixels::Native { range, words } => {
                let bytes = (layout.frame_bits() / 8) as usize;
                let data = &self.data[range.clone()];
                let big = self.meta.syntax.is_big_endian();
                let swapped;
                let (mut from, mut all) = (frame * bytes, data);
                if big && *words && layout.bits_allocated == 8 {
                    // Bytes in words: each pair is turned.
                    from -= from % 2;
                    let end = (frame * bytes + bytes).next_multiple_of(2).min(data.len());
                    swapped =
                        data[from..end].chunks(2).flat_map(|w| w.iter().rev().copied()).collect::<Vec<u8>>();
                    (all, from) = (&swapped, frame * bytes - from);
                }
                let frame_bytes = all.get(from..from + bytes);
                let values = frame_bytes.and_then(|raw| whole(raw, layout, layout.planar, big));
                let reason = format!("{bytes} bytes are not there");
                Ok((values.ok_or_else(|| self.fault(DicomFault::Codec { frame, reason }))?, false))
            }
            Pixels::None | Pixels::Float(_) | Pixels::Double => {
                Err(self.fault(DicomFault::malformed("the pixel data are no integers")))
            }
        }
    }
}

/// The only frame of a file as modality values: what [`Image::read`] gives.
pub(crate) fn read_image(path: &Path, bytes: Vec<u8>, limits: &Limits) -> Result<Image> {
    let file = Dicom::from_bytes(path, bytes, limits)?;
    match file.frames()? {
        1 => file.image(0, PixelValues::Modality),
        frames => Err(file.fault(DicomFault::ManyFrames { frames })),
    }
}

/// Whole values, pixel by pixel, of an uncompressed frame; `None` when it is too short.
fn whole(raw: &[u8], layout: &PixelLayout, planar: bool, big: bool) -> Option<Vec<i32>> {
    let n = layout.stored_samples();
    let values: Vec<i32> = if layout.bits_allocated == 8 {
        raw.get(..n)?.iter().map(|b| layout.value(u16::from(*b))).collect()
    } else {
        let word =
            |b: &[u8]| if big { u16::from_be_bytes([b[0], b[1]]) } else { u16::from_le_bytes([b[0], b[1]]) };
        raw.get(..2 * n)?.chunks_exact(2).map(|b| layout.value(word(b))).collect()
    };
    if !planar || layout.photometric == Photometric::YbrFull422 {
        return Some(values);
    }
    let pixels = layout.pixels();
    Some(
        (0..pixels)
            .flat_map(|i| (0..layout.samples).map(move |c| c * pixels + i))
            .map(|i| values[i])
            .collect(),
    )
}

/// Inflates a data set, up to the limit on files.
fn inflate(path: &Path, deflated: &[u8], limits: &Limits) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let most = limits.file_bytes.saturating_add(1);
    let read = flate2::read::DeflateDecoder::new(deflated).take(most).read_to_end(&mut data);
    if data.len() as u64 > limits.file_bytes {
        return Err(Error::TooLarge {
            path: path.into(),
            what: "the inflated data set".into(),
            limit: format!("{} bytes", limits.file_bytes),
        });
    }
    read.map_err(|e| {
        let reason = format!("the deflated data set is damaged or cut off ({e})");
        Error::Dicom { path: path.into(), fault: DicomFault::malformed(reason) }
    })?;
    Ok(data)
}

/// Builds the elements ahead of the pixels. Their structure was checked before.
fn parse(header: &[u8], syntax: &TransferSyntax) -> Outcome<InMemDicomObject> {
    let uid = match syntax {
        s if s.is_implicit() || s.is_big_endian() => s.uid(),
        _ => TransferSyntax::ExplicitLittleEndian.uid(),
    };
    let group = meta_group(uid);
    let reader = OpenFileOptions::new().read_preamble(ReadPreamble::Never);
    let object = reader.from_reader(group.as_slice().chain(header));
    Ok(object.map_err(|e| DicomFault::malformed(words(&e)))?.into_inner())
}

/// A meta group that says how the elements are encoded, and nothing else.
fn meta_group(uid: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for (element, value) in [(0x02u8, "1.2"), (0x03, "1.2"), (0x10, uid), (0x12, "1.2")] {
        let mut value = value.as_bytes().to_vec();
        if value.len() % 2 == 1 {
            value.push(0);
        }
        body.extend([2, 0, element, 0, b'U', b'I', value.len() as u8, 0]);
        body.extend(value);
    }
    let mut group = b"DICM\x02\0\0\0UL\x04\0".to_vec();
    group.extend((body.len() as u32).to_le_bytes());
    group.extend(body);
    group
}

/// An error's words with those of its causes.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
