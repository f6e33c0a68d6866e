//! The header of a NIfTI file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::broken;
use super::datatype::{ByteOrder, Datatype};
use super::space::{Placement, Space};
use crate::image::Limits;
use crate::volume::Grid;
use crate::{Error, Result};

/// The two versions, which differ in the header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NiftiVersion {
    /// A header of 348 bytes, sides of up to 32,767.
    One,
    /// A header of 540 bytes with wider numbers.
    Two,
}

impl NiftiVersion {
    /// Bytes of the header.
    pub(super) fn header_bytes(self) -> usize {
        match self {
            Self::One => 348,
            Self::Two => 540,
        }
    }
}

/// What a NIfTI file says of its voxels.
#[derive(Clone, Debug, PartialEq)]
pub struct NiftiHeader {
    /// The version.
    pub version: NiftiVersion,
    /// The order of bytes.
    pub order: ByteOrder,
    /// How a voxel is stored.
    pub datatype: Datatype,
    /// The size and the place in the patient, in mm.
    pub grid: Grid,
    /// Where the place comes from.
    pub placement: Placement,
    /// How many frames there are.
    pub frames: usize,
    /// The seconds from one frame to the next; `None` when there is one frame, or no time is given.
    pub frame_seconds: Option<f64>,
    /// Slope and intercept, stored value × slope + intercept; `None` when values stand as they are.
    pub scaling: Option<(f64, f64)>,
    /// What the values mean, by NIfTI's codes: 0 for nothing said, 1002 for labels.
    pub intent: i32,
    /// A few words, as the file has them.
    pub description: String,
    /// Where the voxels begin in their file.
    pub(super) offset: u64,
    /// Whether header and voxels are in two files.
    pub(super) is_pair: bool,
}

/// The largest header, of version 2.
pub(super) const MOST_BYTES: usize = 540;

/// Version and byte order, by the header's own size in its first four bytes. `None` when it is neither.
pub(super) fn version(start: &[u8]) -> Option<(NiftiVersion, ByteOrder)> {
    let size: [u8; 4] = start.get(..4)?.try_into().ok()?;
    match (i32::from_le_bytes(size), i32::from_be_bytes(size)) {
        (348, _) => Some((NiftiVersion::One, ByteOrder::Little)),
        (_, 348) => Some((NiftiVersion::One, ByteOrder::Big)),
        (540, _) => Some((NiftiVersion::Two, ByteOrder::Little)),
        (_, 540) => Some((NiftiVersion::Two, ByteOrder::Big)),
        _ => None,
    }
}

/// The numbers of a header, whose whole length is known to be there.
struct Fields<'a> {
    bytes: &'a [u8],
    order: ByteOrder,
    version: NiftiVersion,
}

impl Fields<'_> {
    fn word<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut word = [0; N];
        if let Some(bytes) = self.bytes.get(at..at + N) {
            word.copy_from_slice(bytes);
        }
        if self.order == ByteOrder::Big {
            word.reverse();
        }
        word
    }

    fn i16(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.word(at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.word(at))
    }

    /// A whole number: 16 bits in version 1, 32 in version 2.
    fn code(&self, one: usize, two: usize) -> i32 {
        match self.version {
            NiftiVersion::One => self.i16(one).into(),
            NiftiVersion::Two => self.i32(two),
        }
    }

    /// The `n`th of a row of floats: of 32 bits in version 1, of 64 in version 2.
    fn float(&self, one: usize, two: usize, n: usize) -> f64 {
        match self.version {
            NiftiVersion::One => f32::from_le_bytes(self.word(one + 4 * n)).into(),
            NiftiVersion::Two => f64::from_le_bytes(self.word(two + 8 * n)),
        }
    }

    fn floats<const N: usize>(&self, one: usize, two: usize) -> [f64; N] {
        std::array::from_fn(|n| self.float(one, two, n))
    }

    /// The `n`th of `dim`.
    fn dim(&self, n: usize) -> i64 {
        match self.version {
            NiftiVersion::One => self.i16(40 + 2 * n).into(),
            NiftiVersion::Two => i64::from_le_bytes(self.word(16 + 8 * n)),
        }
    }

    fn text(&self, one: usize, two: usize, length: usize) -> String {
        let at = if self.version == NiftiVersion::One { one } else { two };
        let bytes = self.bytes.get(at..at + length).unwrap_or(&[]);
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim().to_string()
    }
}

const NOT_NIFTI: &str = "give a .nii or .nii.gz file, or the .hdr file of a pair";

impl NiftiHeader {
    /// The header in the first bytes of a file.
    pub(super) fn parse(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Self> {
        let Some((version, order)) = version(bytes) else {
            return Err(Error::malformed(path, "not a NIfTI file", NOT_NIFTI));
        };
        if bytes.len() < version.header_bytes() {
            return Err(broken(
                path,
                format!("the header of {} bytes ends after {}", version.header_bytes(), bytes.len()),
            ));
        }
        let fields = Fields { bytes, order, version };
        let is_pair = is_pair(path, bytes, version)?;
        let (dims, frames) = dims(path, &fields, limits)?;
        let datatype = fields.i16(if version == NiftiVersion::One { 70 } else { 12 });
        let datatype = Datatype::from_code(datatype).map_err(|what| {
            Error::unsupported(
                path,
                what,
                "write the file anew with whole numbers or floats, a channel a file",
            )
        })?;
        let units = fields.word::<1>(if version == NiftiVersion::One { 123 } else { 500 });
        // In version 2 the unit is a number of 32 bits.
        let units = if version == NiftiVersion::Two { fields.i32(500) as u8 } else { units[0] };
        let pixdim: [f64; 8] = fields.floats(76, 104);
        let space = Space {
            sform_code: fields.code(254, 348),
            sform: [fields.floats(280, 400), fields.floats(296, 432), fields.floats(312, 464)],
            qform_code: fields.code(252, 344),
            quaternion: fields.floats(256, 352),
            offset: fields.floats(268, 376),
            qfac: pixdim[0],
            voxel: [pixdim[1], pixdim[2], pixdim[3]],
            rounding: 3.0 * if version == NiftiVersion::One { f64::from(f32::EPSILON) } else { f64::EPSILON },
        };
        let (affine, placement) = space.affine(dims, millimetres(units)).map_err(|reason| {
            Error::malformed(path, reason, "correct the sform or qform, or set both codes to 0")
        })?;
        Ok(Self {
            version,
            order,
            datatype,
            grid: Grid::new(dims, affine)?,
            placement,
            frames,
            frame_seconds: if frames > 1 { frame_seconds(pixdim[4], units) } else { None },
            scaling: scaling(path, fields.float(112, 176, 0), fields.float(116, 184, 0))?,
            intent: fields.code(68, 504),
            description: fields.text(148, 240, 80),
            offset: offset(path, &fields, is_pair, limits)?,
            is_pair,
        })
    }

    /// Bytes of all voxels. Both factors were checked against the limits.
    pub(super) fn data_bytes(&self) -> u64 {
        (self.grid.voxels() as u64)
            .saturating_mul(self.frames as u64)
            .saturating_mul(self.datatype.bytes() as u64)
    }
}

/// Whether the magic is that of a pair.
fn is_pair(path: &Path, bytes: &[u8], version: NiftiVersion) -> Result<bool> {
    let (magic, single, pair): (&[u8], &[u8], &[u8]) = match version {
        NiftiVersion::One => (&bytes[344..348], b"n+1\0", b"ni1\0"),
        NiftiVersion::Two => (&bytes[4..12], b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"),
    };
    if magic == single || magic == pair {
        return Ok(magic == pair);
    }
    if version == NiftiVersion::One && magic.iter().all(|b| *b == 0) {
        return Err(Error::unsupported(
            path,
            "an Analyze 7.5 file, which does not say which side is left,",
            "convert it to NIfTI with a program that knows where it came from",
        ));
    }
    if version == NiftiVersion::Two && (magic.starts_with(b"n+2") || magic.starts_with(b"ni2")) {
        return Err(broken(path, "line ends were changed in the header, as by a transfer of text"));
    }
    let words = String::from_utf8_lossy(magic).into_owned();
    Err(Error::malformed(path, format!("the magic {words:?} is not NIfTI's"), NOT_NIFTI))
}

/// The sides and the number of frames, within the limits.
fn dims(path: &Path, fields: &Fields<'_>, limits: &Limits) -> Result<([usize; 3], usize)> {
    let rank = fields.dim(0);
    if !(1..=7).contains(&rank) {
        return Err(broken(path, format!("{rank} dimensions; a NIfTI file has 1 to 7")));
    }
    let all: Vec<i64> = (1..=7).map(|n| if n <= rank { fields.dim(n as usize) } else { 1 }).collect();
    if all.iter().any(|d| *d < 1) {
        return Err(broken(path, format!("sides of {all:?} voxels; each must be at least 1")));
    }
    let voxels = all.iter().try_fold(1u64, |n, d| n.checked_mul(d.unsigned_abs()));
    if voxels.is_none_or(|n| n > limits.voxels || usize::try_from(n).is_err()) {
        return Err(Error::TooLarge {
            path: path.into(),
            what: format!("the volume of {all:?} voxels"),
            limit: format!("{} voxels", limits.voxels),
        });
    }
    if all[4..].iter().any(|d| *d > 1) {
        return Err(Error::unsupported(
            path,
            format!("a volume of {rank} dimensions {all:?}"),
            "write one file a component: three dimensions, or four of which the last is time",
        ));
    }
    let side =
        |n: usize| usize::try_from(all[n]).map_err(|_| broken(path, format!("sides of {all:?} voxels")));
    Ok(([side(0)?, side(1)?, side(2)?], side(3)?))
}

fn scaling(path: &Path, slope: f64, intercept: f64) -> Result<Option<(f64, f64)>> {
    if slope == 0.0 || !slope.is_finite() {
        return Ok(None);
    }
    if !intercept.is_finite() {
        return Err(broken(path, format!("the slope is {slope}, but the intercept {intercept}")));
    }
    Ok(((slope, intercept) != (1.0, 0.0)).then_some((slope, intercept)))
}

/// Where the voxels begin.
fn offset(path: &Path, fields: &Fields<'_>, is_pair: bool, limits: &Limits) -> Result<u64> {
    let offset = match fields.version {
        NiftiVersion::One => {
            let offset = f32::from_le_bytes(fields.word(108));
            if !(offset.is_finite() && offset.fract() == 0.0 && offset.abs() < 1e15) {
                return Err(broken(path, format!("voxels begin at byte {offset}")));
            }
            offset as i64
        }
        NiftiVersion::Two => i64::from_le_bytes(fields.word(168)),
    };
    // After the header, four bytes say whether extensions follow.
    let least = if is_pair { 0 } else { fields.version.header_bytes() as u64 + 4 };
    match u64::try_from(offset) {
        Ok(offset) if offset > limits.file_bytes => Err(Error::TooLarge {
            path: path.into(),
            what: format!("the {offset} bytes before the voxels"),
            limit: format!("{} bytes", limits.file_bytes),
        }),
        Ok(offset) if offset >= least => Ok(offset),
        _ => Err(broken(path, format!("voxels begin at byte {offset}, inside the header of {least} bytes"))),
    }
}

/// The mm in a unit of space; what is unknown counts as mm.
fn millimetres(units: u8) -> f64 {
    match units & 0x07 {
        1 => 1000.0,
        3 => 0.001,
        _ => 1.0,
    }
}

/// The seconds of a step in time; `None` for other units (Hz, ppm) or none at all.
fn frame_seconds(step: f64, units: u8) -> Option<f64> {
    let unit = match units & 0x38 {
        8 => 1.0,
        16 => 1e-3,
        24 => 1e-6,
        _ => return None,
    };
    (step.is_finite() && step > 0.0).then_some(step * unit)
}
