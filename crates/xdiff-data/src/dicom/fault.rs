//! What can be wrong with a DICOM file or series.

/// Why a DICOM file or series cannot be used. It stands in [`Error::Dicom`](crate::Error::Dicom) beside
/// the file or folder. No text here repeats what a file says about its patient.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DicomFault {
    /// The file has no `DICM` mark, or what follows it is not DICOM.
    #[error(
        "not a readable DICOM file: {reason}; give a file with a preamble and meta group, or repair it with `dcmconv +F`"
    )]
    Malformed {
        /// What was found.
        reason: String,
    },
    /// The file ends before its data do.
    #[error(
        "{what} needs {needed} bytes, but {found} are there; the file was cut off: copy or download it again"
    )]
    Truncated {
        /// The element or part.
        what: String,
        /// How many bytes it needs.
        needed: u64,
        /// How many there are.
        found: u64,
    },
    /// The pixels are compressed in a way that is not decoded here.
    #[error("transfer syntax {name} ({uid}) {reason}; {hint}")]
    TransferSyntax {
        /// Its name in the standard.
        name: String,
        /// Its identifier.
        uid: String,
        /// What cannot be decoded.
        reason: &'static str,
        /// The command that makes it readable.
        hint: &'static str,
    },
    /// An attribute that is needed is absent or empty.
    #[error("{name} {tag} is missing, and {why}")]
    Missing {
        /// The attribute's name.
        name: &'static str,
        /// Its tag.
        tag: String,
        /// What it is needed for.
        why: &'static str,
    },
    /// An attribute has a value that cannot be used.
    #[error("{name} {tag} is {value}; {expected}")]
    Value {
        /// The attribute's name.
        name: &'static str,
        /// Its tag.
        tag: String,
        /// The value.
        value: String,
        /// What can be used.
        expected: &'static str,
    },
    /// A kind of pixel data that is valid DICOM, but not read here.
    #[error("{what} is not read; {hint}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// A compressed frame cannot be decoded, or is another image than the header says.
    #[error(
        "frame {frame}: {reason}; the file is damaged: copy it again or convert it with `gdcmconv --raw`"
    )]
    Codec {
        /// The frame, counted from 0.
        frame: usize,
        /// What is wrong.
        reason: String,
    },
    /// A frame that is not there was asked for.
    #[error("frame {frame} was asked for, but there are {frames}, counted from 0")]
    Frame {
        /// The frame.
        frame: usize,
        /// How many there are.
        frames: usize,
    },
    /// A single image was asked for, but the file holds several.
    #[error(
        "the file holds {frames} frames; read it with `dicom::Dicom::read` and take `image(frame, …)`, or as a series"
    )]
    ManyFrames {
        /// How many.
        frames: usize,
    },
    /// A segmentation object has no segment of a name.
    #[error("no segment is labelled `{kind}` (in small letters); there are {known}")]
    NoSegment {
        /// The kind of mask that was asked for.
        kind: String,
        /// The labels there are.
        known: String,
    },
    /// Slices of a series have no place in space.
    #[error(
        "{count} of {total} slices have no {what}; order them with `SortBy::InstanceNumber` if their geometry is not needed"
    )]
    NoGeometry {
        /// How many lack it.
        count: usize,
        /// Of how many.
        total: usize,
        /// What they lack.
        what: &'static str,
    },
    /// Two slices lie in the same place.
    #[error(
        "{first} and {second} lie at the same place, {at:.4} mm along the normal; remove one, or split the series by time or echo"
    )]
    SamePlace {
        /// One slice.
        first: String,
        /// The other.
        second: String,
        /// Where, in millimetres along the slice normal.
        at: f64,
    },
    /// The slices of a series are not evenly spaced on a line.
    #[error(
        "slices are {least:.4} to {greatest:.4} mm apart (median {median:.4}), the widest gap after {after}; a slice may be missing: add it, or allow it with `Spacing::Any`"
    )]
    Uneven {
        /// The least distance, in millimetres.
        least: f64,
        /// The greatest distance.
        greatest: f64,
        /// The median distance.
        median: f64,
        /// The slice before the widest gap.
        after: String,
    },
    /// The slices of a series do not lie on a line.
    #[error(
        "{file} lies {off:.4} mm off the line through the first and last slice; read the slices one by one, or allow it with `Spacing::Any`"
    )]
    Bent {
        /// The slice.
        file: String,
        /// How far it is off, in millimetres.
        off: f64,
    },
    /// Slices of one series that do not belong in one volume.
    #[error(
        "{file} has {what} {found}, but the series began with {expected}; such slices make no common volume"
    )]
    Mixed {
        /// The first slice that differs.
        file: String,
        /// What differs.
        what: &'static str,
        /// What it has.
        found: Box<str>,
        /// What the first slice has.
        expected: Box<str>,
    },
}

impl DicomFault {
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }
}

/// What this module's inner functions give; the path is added where the file is known.
pub(super) type Outcome<T> = std::result::Result<T, DicomFault>;
