//! What a file says of its image, its patient and its place in space.

use std::fmt;

use dicom_object::InMemDicomObject;

use super::access::{Attribute, attribute};
use super::fault::{DicomFault, Outcome};
use super::syntax::TransferSyntax;

/// An identifier of a patient. It can be compared, and taken by [`PatientId::as_str`], but never shows in
/// debug output, since hospitals put names into it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatientId(String);

impl PatientId {
    /// The identifier, for grouping. Do not print it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PatientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PatientId(withheld)")
    }
}

/// The side of a paired part of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Laterality {
    /// Left.
    Left,
    /// Right.
    Right,
    /// Both sides.
    Both,
    /// A part without sides, or in the middle.
    Unpaired,
}

/// What a file says of itself. Names, dates of birth and free text are not read at all.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Meta {
    /// How it is encoded.
    pub syntax: TransferSyntax,
    /// The kind of object, as an identifier.
    pub sop_class: Option<String>,
    /// The object's own identifier.
    pub sop_instance: Option<String>,
    /// The study.
    pub study: Option<String>,
    /// The series.
    pub series: Option<String>,
    /// The coordinate system that positions are in.
    pub frame_of_reference: Option<String>,
    /// `CT`, `MR`, `PT` and so on.
    pub modality: Option<String>,
    /// The patient.
    pub patient: Option<PatientId>,
    /// `M`, `F` or `O`.
    pub sex: Option<String>,
    /// The age in years.
    pub age: Option<f64>,
    /// The part of the body in the standard's words, such as `BREAST`.
    pub body_part: Option<String>,
    /// The side.
    pub laterality: Option<Laterality>,
    /// The number in the series.
    pub instance_number: Option<i64>,
    /// The stored unit of modality values, such as `HU` or `BQML`.
    pub unit: Option<String>,
}

impl Meta {
    pub(super) fn read(object: &InMemDicomObject, syntax: TransferSyntax) -> Self {
        let text = |a: Attribute| a.text(object);
        let laterality = text(attribute!("ImageLaterality", IMAGE_LATERALITY))
            .or_else(|| text(attribute!("Laterality", LATERALITY)));
        let number = attribute!("InstanceNumber", INSTANCE_NUMBER).number(object).ok().flatten();
        Self {
            syntax,
            sop_class: text(attribute!("SOPClassUID", SOP_CLASS_UID)),
            sop_instance: text(attribute!("SOPInstanceUID", SOP_INSTANCE_UID)),
            study: text(attribute!("StudyInstanceUID", STUDY_INSTANCE_UID)),
            series: text(attribute!("SeriesInstanceUID", SERIES_INSTANCE_UID)),
            frame_of_reference: text(attribute!("FrameOfReferenceUID", FRAME_OF_REFERENCE_UID)),
            modality: text(attribute!("Modality", MODALITY)),
            patient: text(attribute!("PatientID", PATIENT_ID)).map(PatientId),
            sex: text(attribute!("PatientSex", PATIENT_SEX)),
            age: text(attribute!("PatientAge", PATIENT_AGE)).and_then(|a| years(&a)),
            body_part: text(attribute!("BodyPartExamined", BODY_PART_EXAMINED)),
            laterality: laterality.and_then(|l| match l.as_str() {
                "L" => Some(Laterality::Left),
                "R" => Some(Laterality::Right),
                "B" => Some(Laterality::Both),
                "U" => Some(Laterality::Unpaired),
                _ => None,
            }),
            instance_number: number.map(|n| n as i64),
            unit: text(attribute!("RescaleType", RESCALE_TYPE)).or_else(|| text(attribute!("Units", UNITS))),
        }
    }
}

/// An age string: three digits and D, W, M or Y (PS3.5, section 6.2).
fn years(age: &str) -> Option<f64> {
    let unit = age.chars().last()?;
    let count: u32 = age.strip_suffix(unit)?.parse().ok()?;
    let days = match unit {
        'D' => 1.0,
        'W' => 7.0,
        'M' => 365.25 / 12.0,
        'Y' => 365.25,
        _ => return None,
    };
    Some(f64::from(count) * days / 365.25)
}

/// Where a frame lies in the patient, in millimetres. x grows to the patient's left, y to the back, z to
/// the head (PS3.3, section C.7.6.2).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plane {
    /// The centre of the first pixel.
    pub position: [f64; 3],
    /// The direction of growing columns, a unit vector.
    pub along_row: [f64; 3],
    /// The direction of growing rows, a unit vector.
    pub along_column: [f64; 3],
    /// Millimetres between rows and between columns.
    pub spacing: [f64; 2],
    /// The thickness of the slice, where it is given.
    pub thickness: Option<f64>,
}

impl Plane {
    /// The direction across the slice: row × column.
    pub fn normal(&self) -> [f64; 3] {
        cross(self.along_row, self.along_column)
    }

    /// How far the plane lies along its normal.
    pub fn depth(&self) -> f64 {
        dot(self.position, self.normal())
    }
}

pub(super) fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(super) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

const POSITION: Attribute = attribute!("ImagePositionPatient", IMAGE_POSITION_PATIENT);
const ORIENTATION: Attribute = attribute!("ImageOrientationPatient", IMAGE_ORIENTATION_PATIENT);
const SPACING: Attribute = attribute!("PixelSpacing", PIXEL_SPACING);
const THICKNESS: Attribute = attribute!("SliceThickness", SLICE_THICKNESS);
const SHARED: Attribute = attribute!("SharedFunctionalGroupsSequence", SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
const PER_FRAME: Attribute =
    attribute!("PerFrameFunctionalGroupsSequence", PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);

/// A kind of functional group (PS3.3, section C.7.6.16).
#[derive(Clone, Copy)]
pub(super) enum Group {
    Position,
    Orientation,
    Measures,
    Values,
    Voi,
    Segment,
    Derivation,
}

impl Group {
    fn attribute(self) -> Attribute {
        match self {
            Self::Position => attribute!("PlanePositionSequence", PLANE_POSITION_SEQUENCE),
            Self::Orientation => attribute!("PlaneOrientationSequence", PLANE_ORIENTATION_SEQUENCE),
            Self::Measures => attribute!("PixelMeasuresSequence", PIXEL_MEASURES_SEQUENCE),
            Self::Values => {
                attribute!("PixelValueTransformationSequence", PIXEL_VALUE_TRANSFORMATION_SEQUENCE)
            }
            Self::Voi => attribute!("FrameVOILUTSequence", FRAME_VOILUT_SEQUENCE),
            Self::Segment => attribute!("SegmentIdentificationSequence", SEGMENT_IDENTIFICATION_SEQUENCE),
            Self::Derivation => attribute!("DerivationImageSequence", DERIVATION_IMAGE_SEQUENCE),
        }
    }
}

/// The group of a frame: its own, else the one that all frames share.
pub(super) fn group(object: &InMemDicomObject, frame: usize, group: Group) -> Option<&InMemDicomObject> {
    let own = PER_FRAME.items(object).get(frame).and_then(|i| group.attribute().item(i));
    own.or_else(|| group.attribute().item(SHARED.item(object)?))
}

/// The same, or the object itself, where files of one frame keep the attributes.
pub(super) fn group_or_root(object: &InMemDicomObject, frame: usize, kind: Group) -> &InMemDicomObject {
    group(object, frame, kind).unwrap_or(object)
}

/// The position of a frame alone.
pub(super) fn position(object: &InMemDicomObject, frame: usize) -> Option<[f64; 3]> {
    POSITION.finite(group_or_root(object, frame, Group::Position))
}

/// The place of a frame, or what it lacks.
pub(super) fn plane(object: &InMemDicomObject, frame: usize) -> Outcome<Plane> {
    let why = "the frame has no place in the patient without it";
    let position = position(object, frame).ok_or(POSITION.missing(why))?;
    let cosines: [f64; 6] = ORIENTATION
        .finite(group_or_root(object, frame, Group::Orientation))
        .ok_or(ORIENTATION.missing(why))?;
    let unit = |v: [f64; 3]| -> Option<[f64; 3]> {
        let length = dot(v, v).sqrt();
        (0.99..=1.01).contains(&length).then(|| v.map(|x| x / length))
    };
    let [a, b, c, d, e, f] = cosines;
    let (row, column) = match (unit([a, b, c]), unit([d, e, f])) {
        (Some(row), Some(column)) if dot(row, column).abs() < 0.01 => (row, column),
        _ => return Err(bad(ORIENTATION, &cosines, "two unit vectors at a right angle are expected")),
    };
    let measures = group_or_root(object, frame, Group::Measures);
    let spacing: [f64; 2] = SPACING.finite(measures).ok_or(SPACING.missing(why))?;
    if spacing.iter().any(|s| *s <= 0.0) {
        return Err(bad(SPACING, &spacing, "two distances above 0 are expected"));
    }
    let thickness = THICKNESS.finite::<1>(measures).map(|[t]| t).filter(|t| *t > 0.0);
    Ok(Plane { position, along_row: row, along_column: column, spacing, thickness })
}

fn bad(attribute: Attribute, values: &[f64], expected: &'static str) -> DicomFault {
    attribute.value(format!("{values:?}"), expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_years() {
        let cases =
            [("060Y", Some(60.0)), ("012M", Some(1.0)), ("000D", Some(0.0)), ("Y", None), ("é", None)];
        for (age, want) in cases {
            assert_eq!(years(age), want, "{age}");
        }
    }

    #[test]
    fn the_patient_is_never_shown() {
        assert_eq!(format!("{:?}", PatientId("DOE^JOHN".into())), "PatientId(withheld)");
    }
}
