//! Reading NIfTI files, whole or a frame or slice at a time.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::broken;
use super::header::{MOST_BYTES, NiftiHeader};
use crate::image::{Depth, Image, Limits};
use crate::nifti::Datatype;
use crate::volume::{Axis, Volume};
use crate::{Error, Result};

/// A NIfTI file whose header was read and whose size is known to fit it. Voxels are read when asked for.
///
/// A file that is not compressed is read only where the voxels that are asked for lie, so that frames
/// and slices of a large one cost little.
///
/// ```
/// use xdiff_data::nifti::{NiftiFile, write_nifti};
/// use xdiff_data::{Affine, Axis, Grid, Limits, Volume};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("scan.nii");
/// let grid = Grid::new([4, 4, 100], Affine::scaling([1.0; 3])?)?;
/// write_nifti(&path, &Volume::new(grid, (0..1600).map(|v| v as f32).collect())?)?;
///
/// let file = NiftiFile::open(&path, &Limits::default())?;
/// assert_eq!(file.header().grid.dims(), [4, 4, 100]);
/// assert_eq!(file.slice(0, Axis::K, 99)?.data()[0], 1584.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct NiftiFile {
    /// The file that was named.
    path: PathBuf,
    /// The file of the voxels: the same, or the other of a pair.
    data: PathBuf,
    header: NiftiHeader,
    compressed: bool,
    limits: Limits,
}

/// The most that deflate can make of a byte.
const MOST_EXPANSION: u64 = 1032;

/// Voxels are decoded in blocks of about this many bytes.
const BLOCK: usize = 1 << 16;

/// What may follow the voxels: read to the end so that a checksum is checked, but no further.
const MOST_TRAILING: u64 = 1 << 20;

impl NiftiFile {
    /// Reads the header and checks that the file is long enough for its voxels. Of a pair, either file
    /// may be named.
    ///
    /// # Errors
    /// As [`read_nifti`](super::read_nifti); what only the voxels tell comes when they are read.
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let header_path = counterpart(path, "img", "hdr").unwrap_or_else(|| path.to_path_buf());
        check_file(&header_path, limits)?;
        let mut start = Vec::with_capacity(MOST_BYTES);
        let (source, mut compressed) = open(&header_path)?;
        read_some(source, MOST_BYTES as u64, &mut start).map_err(|e| unreadable(&header_path, &e))?;
        let header = NiftiHeader::parse(&header_path, &start, limits)?;
        let data = if header.is_pair { voxel_file(&header_path)? } else { header_path };
        if header.is_pair {
            compressed = open(&data)?.1;
        }
        let file = Self { path: path.to_path_buf(), data, header, compressed, limits: *limits };
        file.check_length()?;
        Ok(file)
    }

    /// What the file says of its voxels.
    pub fn header(&self) -> &NiftiHeader {
        &self.header
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check_length(&self) -> Result<()> {
        let length = check_file(&self.data, &self.limits)?;
        let needed = self.header.offset.saturating_add(self.header.data_bytes());
        let most = if self.compressed { length.saturating_mul(MOST_EXPANSION) } else { length };
        if needed > most {
            let reason = format!(
                "{:?} voxels in {} frames of {:?} take {needed} bytes, but the file has {length}{}",
                self.header.grid.dims(),
                self.header.frames,
                self.header.datatype,
                if self.compressed { " compressed ones, which cannot hold them" } else { "" },
            );
            return Err(broken(&self.data, reason));
        }
        Ok(())
    }

    /// The whole volume.
    ///
    /// # Errors
    /// When the file cannot be read, ends early or its checksum is wrong.
    pub fn volume(&self) -> Result<Volume> {
        let header = &self.header;
        let voxels = self.read(0, header.grid.voxels() * header.frames, true)?;
        let mut volume = Volume::with_frames(header.grid, header.frames, voxels)?;
        volume.frame_seconds = header.frame_seconds;
        self.describe(volume)
    }

    /// One frame as a volume of its own.
    ///
    /// # Errors
    /// When there is no such frame, or the file cannot be read or ends early.
    pub fn frame(&self, frame: usize) -> Result<Volume> {
        self.check_frame(frame)?;
        let n = self.header.grid.voxels();
        self.describe(Volume::new(self.header.grid, self.read(frame * n, n, false)?)?)
    }

    /// A slice of a frame, as [`Volume::slice`] gives it. Of a file that is not compressed, a slice along
    /// the third voxel axis is all that is read; otherwise its frame is.
    ///
    /// # Errors
    /// When there is no such frame or slice, the file cannot be read or ends early, or the slice holds
    /// NaN.
    pub fn slice(&self, frame: usize, axis: Axis, index: usize) -> Result<Image> {
        if self.compressed || axis != Axis::K || index >= self.header.grid.slices(axis) {
            return self.frame(frame)?.slice(axis, index);
        }
        self.check_frame(frame)?;
        let grid = self.header.grid;
        let (rows, columns) = grid.slice_size(axis);
        let start = frame * grid.voxels() + index * rows * columns;
        let plane = self.read(start, rows * columns, false)?;
        let single = grid.slab(index, 1)?;
        self.describe(Volume::new(single, plane)?)?.slice(axis, 0)
    }

    fn check_frame(&self, frame: usize) -> Result<()> {
        if frame < self.header.frames {
            return Ok(());
        }
        let reason = format!("{frame} was asked for, but {} has {}", self.path.display(), self.header.frames);
        Err(Error::argument("frame", reason))
    }

    fn describe(&self, mut volume: Volume) -> Result<Volume> {
        volume.origin.path = Some(self.path.clone());
        volume.origin.depth = match (self.header.scaling, self.header.datatype) {
            (None, Datatype::U8) => Depth::U8,
            (None, Datatype::U16) => Depth::U16,
            _ => Depth::F32,
        };
        Ok(volume)
    }

    /// `count` voxels from voxel `start` on, decoded block by block, so that a file which lies about its
    /// size costs no more memory than it has bytes to fill.
    fn read(&self, start: usize, count: usize, to_the_end: bool) -> Result<Vec<f32>> {
        let width = self.header.datatype.bytes();
        let skip = self.header.offset.saturating_add((start as u64).saturating_mul(width as u64));
        let mut source = self.source_at(skip)?;
        // The length of a file that is not compressed is known to fit.
        let mut voxels = Vec::with_capacity(if self.compressed { count.min(1 << 24) } else { count });
        let mut block = Vec::with_capacity(BLOCK);
        while voxels.len() < count {
            let wanted = (count - voxels.len()).min(BLOCK / width) * width;
            block.clear();
            read_some(&mut source, wanted as u64, &mut block).map_err(|e| unreadable(&self.data, &e))?;
            if block.len() < wanted {
                let have = voxels.len() + block.len() / width;
                return Err(broken(&self.data, format!("it ends after {have} of {count} voxels")));
            }
            self.decode(&block, &mut voxels);
        }
        if to_the_end && self.compressed {
            io::copy(&mut source.take(MOST_TRAILING), &mut io::sink())
                .map_err(|e| unreadable(&self.data, &e))?;
        }
        Ok(voxels)
    }

    fn decode(&self, block: &[u8], voxels: &mut Vec<f32>) {
        let NiftiHeader { datatype, order, scaling, .. } = self.header;
        match scaling {
            None => datatype.decode(order, block, |v| v, voxels),
            Some((slope, intercept)) => datatype.decode(order, block, |v| v * slope + intercept, voxels),
        }
    }

    /// The bytes of the voxels' file from `skip` on.
    fn source_at(&self, skip: u64) -> Result<Box<dyn Read>> {
        if !self.compressed {
            let mut file = File::open(&self.data).map_err(|e| Error::io(&self.data, e))?;
            file.seek(SeekFrom::Start(skip)).map_err(|e| Error::io(&self.data, e))?;
            return Ok(Box::new(BufReader::with_capacity(BLOCK, file)));
        }
        let (mut source, _) = open(&self.data)?;
        let skipped = io::copy(&mut (&mut source).take(skip), &mut io::sink())
            .map_err(|e| unreadable(&self.data, &e))?;
        if skipped < skip {
            return Err(broken(&self.data, format!("it ends after {skipped} bytes, before its voxels")));
        }
        Ok(source)
    }
}

/// Opens a file, through a decompressor when its content asks for one.
fn open(path: &Path) -> Result<(Box<dyn Read>, bool)> {
    let mut file = BufReader::with_capacity(BLOCK, File::open(path).map_err(|e| Error::io(path, e))?);
    let mut magic = Vec::with_capacity(2);
    read_some(&mut file, 2, &mut magic).map_err(|e| Error::io(path, e))?;
    file.rewind().map_err(|e| Error::io(path, e))?;
    if magic == [0x1F, 0x8B] {
        return Ok((Box::new(MultiGzDecoder::new(file)), true));
    }
    Ok((Box::new(file), false))
}

/// Reads up to `most` bytes; fewer only at the end.
fn read_some(source: impl Read, most: u64, out: &mut Vec<u8>) -> io::Result<()> {
    source.take(most).read_to_end(out).map(|_| ())
}

/// What a decompressor says, and what the operating system says.
fn unreadable(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => broken(path, "the compressed data stop before their end"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            broken(path, format!("the compressed data are damaged ({error})"))
        }
        kind => Error::io(path, io::Error::new(kind, error.to_string())),
    }
}

/// The file's length, once it is known to be a file within the limits.
fn check_file(path: &Path, limits: &Limits) -> Result<u64> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::malformed(path, "not a file", "give the path of a NIfTI file"));
    }
    if meta.len() == 0 {
        return Err(broken(path, "the file is empty"));
    }
    if meta.len() > limits.file_bytes {
        return Err(Error::TooLarge {
            path: path.into(),
            what: format!("the file of {} bytes", meta.len()),
            limit: format!("{} bytes", limits.file_bytes),
        });
    }
    Ok(meta.len())
}

/// A file's name with the ending `from` (also before `.gz`) replaced by `to`; `None` when it has another.
fn counterpart(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (stem, gz) = match name.len().checked_sub(3).filter(|n| name.is_char_boundary(*n)) {
        Some(n) if name[n..].eq_ignore_ascii_case(".gz") => name.split_at(n),
        _ => (name, ""),
    };
    let (base, ending) = stem.rsplit_once('.')?;
    ending.eq_ignore_ascii_case(from).then(|| path.with_file_name(format!("{base}.{to}{gz}")))
}

/// The file of the voxels beside the header of a pair: compressed or not.
fn voxel_file(header_path: &Path) -> Result<PathBuf> {
    let missing = || {
        Error::malformed(
            header_path,
            "the header says that the voxels are in a file of their own, with the ending .img, but there is none",
            "put the .img file beside the .hdr file, under the same name",
        )
    };
    let beside = counterpart(header_path, "hdr", "img").ok_or_else(missing)?;
    let other = match beside.extension() {
        Some(e) if e.eq_ignore_ascii_case("gz") => beside.with_extension(""),
        _ => PathBuf::from(format!("{}.gz", beside.display())),
    };
    [beside, other].into_iter().find(|p| p.is_file()).ok_or_else(missing)
}
