//! PNG encoding and atomic writing.

use std::io::{Cursor, Write};
use std::path::Path;

use image::{GrayImage, ImageFormat, RgbImage};

use crate::canvas;
use crate::{Error, Result};

/// The bytes of an 8-bit RGB PNG file.
///
/// # Errors
///
/// [`Error::Empty`] for a picture without pixels, [`Error::Encode`] if the encoder refuses.
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    canvas::require_pixels("image", image)?;
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// The bytes of an 8-bit grey PNG file.
///
/// # Errors
///
/// As [`encode_png`].
pub fn encode_grey_png(image: &GrayImage) -> Result<Vec<u8>> {
    if image.width() == 0 || image.height() == 0 {
        return Err(Error::Empty { what: "image".to_owned(), hint: "both sides must be at least 1" });
    }
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// Writes an 8-bit RGB PNG file, in one step: see [`write_atomic`].
///
/// # Errors
///
/// Those of [`encode_png`] and [`write_atomic`].
pub fn save_png(path: impl AsRef<Path>, image: &RgbImage) -> Result<()> {
    write_atomic(path, &encode_png(image)?)
}

/// Writes an 8-bit grey PNG file, in one step: see [`write_atomic`].
///
/// # Errors
///
/// Those of [`encode_grey_png`] and [`write_atomic`].
pub fn save_grey_png(path: impl AsRef<Path>, image: &GrayImage) -> Result<()> {
    write_atomic(path, &encode_grey_png(image)?)
}

/// Writes a file under a temporary name in the same folder and renames it, so that a reader sees
/// the old file or the new one and never a part. The folder must exist.
///
/// # Errors
///
/// [`Error::Io`] with the path.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    replace(path, bytes).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".xdiff-");
    // Temporary files are private; a finished one has the usual permissions.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Luma, Rgb};

    #[test]
    fn pictures_survive_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let rgb = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8 * 40, y as u8 * 80, 7]));
        let grey = GrayImage::from_fn(4, 2, |x, y| Luma([(x * 60 + y) as u8]));
        save_png(folder.path().join("rgb.png"), &rgb).unwrap();
        save_grey_png(folder.path().join("grey.png"), &grey).unwrap();
        let back = image::open(folder.path().join("rgb.png")).unwrap();
        assert_eq!(back.as_rgb8(), Some(&rgb));
        let back = image::open(folder.path().join("grey.png")).unwrap();
        assert_eq!(back.as_luma8(), Some(&grey));
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note.txt");
        write_atomic(&path, b"first, and longer").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn failures_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("picture.png");
        let error = save_png(&path, &RgbImage::new(1, 1)).unwrap_err();
        assert!(matches!(&error, Error::Io { path: p, .. } if *p == path), "{error}");
        assert!(matches!(encode_png(&RgbImage::new(0, 1)), Err(Error::Empty { .. })));
        assert!(matches!(encode_grey_png(&GrayImage::new(1, 0)), Err(Error::Empty { .. })));
    }
}
