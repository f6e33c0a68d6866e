//! Writing NIfTI-1 files: maps and labels for a viewer.

use std::io::{self, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use xdiff_nn::weights::write_atomically;

use super::datatype::Datatype;
use super::space::quaternion;
use crate::volume::{Grid, LabelVolume, Volume};
use crate::{Error, Result};

/// Writes a volume as floats of 32 bits, compressed when the name ends in `.nii.gz`. The file appears
/// whole or not at all, and the same volume gives the same bytes.
///
/// The place in the patient is written as sform, and as qform as well where there is no shear: viewers
/// differ in which of them they read. Both hold floats of 32 bits.
///
/// # Errors
/// When the name ends in neither `.nii` nor `.nii.gz`, a side or the number of frames is over 32,767, or
/// the file cannot be written.
pub fn write_nifti(path: impl AsRef<Path>, volume: &Volume) -> Result<()> {
    let header = Header {
        grid: volume.grid(),
        frames: volume.frames(),
        frame_seconds: volume.frame_seconds,
        datatype: Datatype::F32,
        intent: 0,
    };
    write(path.as_ref(), &header, volume.voxels().iter().map(|v| v.to_le_bytes()))
}

/// Writes labels, with 8, 16 or 32 bits each, whatever the largest needs, marked as labels (intent 1002).
///
/// # Errors
/// As [`write_nifti`].
pub fn write_nifti_labels(path: impl AsRef<Path>, labels: &LabelVolume) -> Result<()> {
    let path = path.as_ref();
    let largest = labels.labels().iter().max().copied().unwrap_or(0);
    let mut header =
        Header { grid: labels.grid(), frames: 1, frame_seconds: None, datatype: Datatype::U32, intent: 1002 };
    let labels = labels.labels().iter();
    if largest <= u32::from(u8::MAX) {
        header.datatype = Datatype::U8;
        write(path, &header, labels.map(|l| [*l as u8]))
    } else if largest <= u32::from(u16::MAX) {
        header.datatype = Datatype::U16;
        write(path, &header, labels.map(|l| (*l as u16).to_le_bytes()))
    } else {
        write(path, &header, labels.map(|l| l.to_le_bytes()))
    }
}

struct Header<'a> {
    grid: &'a Grid,
    frames: usize,
    frame_seconds: Option<f64>,
    datatype: Datatype,
    intent: i16,
}

/// Header and the four bytes that say that no extensions follow.
const OFFSET: usize = 352;

/// mm and seconds.
const UNITS: u8 = 2 | 8;

/// "Aligned": the coordinates are those of the image that a map was made for.
const ALIGNED: i16 = 2;

impl Header<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let side = |n: usize| {
            i16::try_from(n).map_err(|_| {
                let [i, j, k] = self.grid.dims();
                let reason = format!(
                    "{i}×{j}×{k} voxels in {} frames; NIfTI-1 holds sides of up to {}",
                    self.frames,
                    i16::MAX
                );
                Error::argument("volume", reason)
            })
        };
        let [i, j, k] = self.grid.dims();
        let rank = if self.frames > 1 { 4 } else { 3 };
        let dims = [rank, side(i)?, side(j)?, side(k)?, side(self.frames)?, 1, 1, 1];
        let turn = quaternion(self.grid.affine());
        let [x, y, z] = self.grid.spacing();
        let step = self.frame_seconds.unwrap_or(if self.frames > 1 { 1.0 } else { 0.0 });
        let qfac = turn.map_or(1.0, |t| t.0);
        let rows = self.grid.affine().rows();

        let mut bytes = vec![0; OFFSET];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        put(0, &348i32.to_le_bytes());
        put(38, b"r");
        dims.iter().enumerate().for_each(|(n, d)| put(40 + 2 * n, &d.to_le_bytes()));
        put(68, &self.intent.to_le_bytes());
        put(70, &self.datatype.code().to_le_bytes());
        put(72, &(8 * self.datatype.bytes() as i16).to_le_bytes());
        let mut floats = |at: usize, values: &[f64]| {
            let values = values.iter().enumerate();
            values.for_each(|(n, v)| put(at + 4 * n, &(*v as f32).to_le_bytes()));
        };
        floats(76, &[qfac, x, y, z, step]);
        floats(108, &[OFFSET as f64, 1.0, 0.0]);
        if let Some((_, bcd)) = turn {
            floats(256, &bcd);
            floats(268, &self.grid.affine().origin());
        }
        rows.iter().enumerate().for_each(|(n, row)| floats(280 + 16 * n, row));
        put(123, &[UNITS]);
        put(148, b"xdiff");
        put(252, &if turn.is_some() { ALIGNED } else { 0 }.to_le_bytes());
        put(254, &ALIGNED.to_le_bytes());
        put(344, b"n+1\0");
        Ok(bytes)
    }
}

fn write<const N: usize>(
    path: &Path,
    header: &Header<'_>,
    voxels: impl Iterator<Item = [u8; N]>,
) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let compress = name.ends_with(".nii.gz");
    if !compress && !name.ends_with(".nii") {
        let reason = format!("{} ends in neither .nii nor .nii.gz", path.display());
        return Err(Error::argument("path", reason));
    }
    let start = header.bytes()?;
    let fill = |out: &mut dyn Write| -> io::Result<()> {
        out.write_all(&start)?;
        for voxel in voxels {
            out.write_all(&voxel)?;
        }
        Ok(())
    };
    let written = write_atomically(path, |out| {
        if !compress {
            return fill(out);
        }
        let mut packed = io::BufWriter::with_capacity(1 << 16, GzEncoder::new(out, Compression::default()));
        fill(&mut packed)?;
        packed.into_inner().map_err(io::IntoInnerError::into_error)?.finish().map(|_| ())
    });
    written.map_err(|e| match e {
        xdiff_nn::Error::Io { path, source } => Error::io(path, source),
        other => Error::argument("path", other.to_string()),
    })
}
