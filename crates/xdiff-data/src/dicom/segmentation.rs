//! Segmentation objects: masks of many segments, each frame drawn on a slice of another file (PS3.3,
//! sections A.51 and C.8.20).

use std::path::Path;

use super::access::{Attribute, attribute};
use super::fault::{DicomFault, Outcome};
use super::file::Dicom;
use super::listing::is_dicom;
use super::meta::{self, Group, Plane};
use crate::image::{Image, Limits};
use crate::mask::{Mask, MaskKind};
use crate::{Error, Result};

const TYPE: Attribute = attribute!("SegmentationType", SEGMENTATION_TYPE);
const SEGMENTS: Attribute = attribute!("SegmentSequence", SEGMENT_SEQUENCE);
const NUMBER: Attribute = attribute!("SegmentNumber", SEGMENT_NUMBER);
const LABEL: Attribute = attribute!("SegmentLabel", SEGMENT_LABEL);
const CATEGORY: Attribute =
    attribute!("SegmentedPropertyCategoryCodeSequence", SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE);
const PROPERTY: Attribute =
    attribute!("SegmentedPropertyTypeCodeSequence", SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE);
const MEANING: Attribute = attribute!("CodeMeaning", CODE_MEANING);
const REFERENCED: Attribute = attribute!("ReferencedSegmentNumber", REFERENCED_SEGMENT_NUMBER);
const SOURCES: Attribute = attribute!("SourceImageSequence", SOURCE_IMAGE_SEQUENCE);
const INSTANCE: Attribute = attribute!("ReferencedSOPInstanceUID", REFERENCED_SOP_INSTANCE_UID);

/// What a segment marks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// Its number, from 1.
    pub number: u16,
    /// Its name, as its author gave it.
    pub label: String,
    /// The kind of thing in coded words, such as `Tissue`.
    pub category: Option<String>,
    /// The thing in coded words, such as `Liver`.
    pub property: Option<String>,
}

impl Segment {
    /// The kind of mask of that name, in small letters.
    pub fn kind(&self) -> MaskKind {
        MaskKind::from_name(&self.label.to_lowercase())
    }
}

/// Which segment a frame belongs to, and on what it was drawn.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SegmentFrame {
    /// The segment's number.
    pub segment: u16,
    /// The instances that it was drawn on; usually one.
    pub sources: Vec<String>,
    /// The centre of its first pixel, in millimetres as in [`Plane`].
    pub position: Option<[f64; 3]>,
}

/// A segmentation object of binary masks.
///
/// ```
/// # use xdiff_data::dicom::{Dicom, Segmentation};
/// # use xdiff_data::Limits;
/// # fn join(seg: &std::path::Path, slice: &std::path::Path) -> xdiff_data::Result<()> {
/// let limits = Limits::default();
/// let drawn = Segmentation::read(seg, &limits)?;
/// let ct = Dicom::read(slice, &limits)?;
/// for (segment, mask) in drawn.masks_of(&ct)? {
///     println!("{}: {} pixels", segment.label, mask.area());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Segmentation {
    file: Dicom,
    segments: Vec<Segment>,
    frames: Vec<SegmentFrame>,
}

/// How far, as a share of a pixel, a frame may lie from the slice that it is joined with by position.
const PLACE_TOLERANCE: f64 = 0.1;

impl Segmentation {
    /// Reads a segmentation object.
    ///
    /// # Errors
    /// As for [`Dicom::read`]; when the file is no segmentation object, is fractional or a label map, or a
    /// frame names no segment that is described.
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        Self::new(Dicom::read(path, limits)?)
    }

    /// The segmentation in a file that was read.
    ///
    /// # Errors
    /// As for [`Segmentation::read`].
    pub fn new(file: Dicom) -> Result<Self> {
        let count = file.frames()?;
        let described = describe(&file, count);
        let (segments, frames) =
            described.map_err(|fault| Error::Dicom { path: file.path().to_path_buf(), fault })?;
        Ok(Self { file, segments, frames })
    }

    /// The file.
    pub fn file(&self) -> &Dicom {
        &self.file
    }

    /// All segments, in the order of the file.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What is known of each frame.
    pub fn frames(&self) -> &[SegmentFrame] {
        &self.frames
    }

    /// The mask of a frame: 1 inside, 0 outside.
    ///
    /// # Errors
    /// When there is no such frame, or it is larger than the limits the file was read with.
    pub fn mask(&self, frame: usize) -> Result<Mask> {
        let layout = self.file.layout()?;
        let labels = self.file.stored(frame)?.into_iter().map(|v| u8::from(v != 0)).collect();
        Mask::new(layout.rows, layout.columns, labels)
    }

    /// The masks that were drawn on an image of one frame, one for each segment that has any.
    ///
    /// A frame belongs to the image when it names that one instance as its source; a frame that names no
    /// single source belongs to it when both lie in the same place and coordinate system.
    ///
    /// # Errors
    /// [`Error::MaskSize`] when a frame that belongs to the image has another size.
    pub fn masks_of(&self, image: &Dicom) -> Result<Vec<(&Segment, Mask)>> {
        let plane = image.plane(0).ok();
        let mut found: Vec<(&Segment, Mask)> = Vec::new();
        for segment in &self.segments {
            let own = self.frames.iter().enumerate().filter(|(_, f)| f.segment == segment.number);
            let here = own.filter(|(_, f)| self.belongs(f, image, plane.as_ref()));
            let masks = here.map(|(index, _)| self.mask(index)).collect::<Result<Vec<_>>>()?;
            if let Some(mask) = union(masks)? {
                found.push((segment, mask));
            }
        }
        let layout = image.layout()?;
        if let Some((_, mask)) =
            found.iter().find(|(_, m)| (m.height(), m.width()) != (layout.rows, layout.columns))
        {
            return Err(Error::MaskSize {
                image: image.path().display().to_string(),
                height: layout.rows,
                width: layout.columns,
                mask: self.file.path().display().to_string(),
                mask_height: mask.height(),
                mask_width: mask.width(),
            });
        }
        Ok(found)
    }

    fn belongs(&self, frame: &SegmentFrame, image: &Dicom, plane: Option<&Plane>) -> bool {
        if let [source] = &frame.sources[..] {
            return image.meta().sop_instance.as_ref() == Some(source);
        }
        let same_space = self.file.meta().frame_of_reference.is_some()
            && self.file.meta().frame_of_reference == image.meta().frame_of_reference;
        match (frame.position, plane) {
            (Some(position), Some(plane)) if same_space => {
                let reach = PLACE_TOLERANCE * plane.spacing[0].min(plane.spacing[1]);
                position.iter().zip(plane.position).all(|(a, b)| (a - b).abs() <= reach)
            }
            _ => false,
        }
    }
}

/// What any of some masks of one size covers.
fn union(masks: Vec<Mask>) -> Result<Option<Mask>> {
    let mut masks = masks.into_iter();
    let Some(first) = masks.next() else { return Ok(None) };
    let (height, width) = (first.height(), first.width());
    let mut labels = first.data().to_vec();
    for mask in masks {
        labels.iter_mut().zip(mask.data()).for_each(|(l, m)| *l |= m);
    }
    Mask::new(height, width, labels).map(Some)
}

/// The mask of a kind on an image that was read from a DICOM file; `None` when `path` is no segmentation
/// object. A segment without a frame on the image gives an empty mask.
pub(crate) fn drawn_mask(
    kind: &MaskKind,
    path: &Path,
    image: &Image,
    limits: &Limits,
) -> Result<Option<Mask>> {
    if !is_dicom(path)? {
        return Ok(None);
    }
    let file = Dicom::read(path, limits)?;
    if !file.is_segmentation() {
        return Ok(None);
    }
    let drawn = Segmentation::new(file)?;
    if !drawn.segments.iter().any(|s| s.kind() == *kind) {
        let known = drawn.segments.iter().map(|s| s.label.as_str()).collect::<Vec<_>>().join(", ");
        let fault = DicomFault::NoSegment { kind: kind.to_string(), known };
        return Err(Error::Dicom { path: path.to_path_buf(), fault });
    }
    let source = image.origin.path.clone().unwrap_or_default();
    let masks = drawn.masks_of(&Dicom::read(&source, limits)?)?;
    let of_kind = masks.into_iter().filter(|(s, _)| s.kind() == *kind).map(|(_, m)| m).collect();
    match union(of_kind)? {
        Some(mask) => Ok(Some(mask)),
        None => Mask::empty(image.height(), image.width()).map(Some),
    }
}

fn describe(file: &Dicom, frames: usize) -> Outcome<(Vec<Segment>, Vec<SegmentFrame>)> {
    let object = file.object();
    match TYPE.text(object).as_deref() {
        Some("BINARY") => {}
        Some(other) => {
            return Err(DicomFault::Unsupported {
                what: format!("a segmentation of type {other}"),
                hint: "store it as BINARY, for instance with highdicom or dcmqi",
            });
        }
        None => return Err(TYPE.missing("the file is no segmentation object; read it with `Dicom`")),
    }
    let segment = |item| -> Outcome<Segment> {
        let number = NUMBER.count(item)?.ok_or(NUMBER.missing("frames name their segment by it"))?;
        Ok(Segment {
            number: u16::try_from(number).map_err(|_| NUMBER.value(number, "1 to 65535 is expected"))?,
            label: LABEL.text(item).unwrap_or_else(|| format!("segment {number}")),
            category: CATEGORY.item(item).and_then(|c| MEANING.text(c)),
            property: PROPERTY.item(item).and_then(|c| MEANING.text(c)),
        })
    };
    let segments = SEGMENTS.items(object).iter().map(segment).collect::<Outcome<Vec<_>>>()?;
    if segments.is_empty() {
        return Err(SEGMENTS.missing("its frames mean nothing"));
    }
    let frame = |index| -> Outcome<SegmentFrame> {
        let named =
            meta::group(object, index, Group::Segment).map(|g| REFERENCED.count(g)).transpose()?.flatten();
        let named = named.ok_or(REFERENCED.missing("a frame does not say which segment it is of"))?;
        let known = segments.iter().find(|s| u32::from(s.number) == named);
        let known =
            known.ok_or_else(|| REFERENCED.value(named, "a number in the SegmentSequence is expected"))?;
        let derived = meta::group(object, index, Group::Derivation);
        let sources = derived.map(|d| SOURCES.items(d)).unwrap_or(&[]);
        Ok(SegmentFrame {
            segment: known.number,
            sources: sources.iter().filter_map(|s| INSTANCE.text(s)).collect(),
            position: meta::group(object, index, Group::Position).and_then(|_| meta::position(object, index)),
        })
    };
    let frames = (0..frames).map(frame).collect::<Outcome<Vec<_>>>()?;
    Ok((segments, frames))
}
