//! Mapping files into memory, and writing them whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use memmap2::Mmap;

use super::malformed::{DAMAGED, Malformed};
use crate::{Error, Result};

/// Maps a file that is not empty.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let about = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !about.is_file() {
        return Err(Malformed::new("is not a file", "give the path of a file of weights").at(path));
    }
    if about.len() == 0 {
        return Err(Malformed::new("the file is empty", DAMAGED).at(path));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    // SAFETY: the map is only read, and copied from before this crate returns. As with every map,
    // another process that shortens the file meanwhile can end this one; writers that rename, as
    // `write_atomically` does, cannot.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))
}

const PARTIAL: &str = ".partial";

/// The folder of a file, and how the names of its temporary files begin.
fn place(path: &Path) -> (&Path, String) {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A long name has no room for more.
    (folder, format!(".{}.", name.chars().take(40).collect::<String>()))
}

/// Writes a file so that `path` holds either what it held before or all that `write` wrote: to a
/// temporary file in the same folder, which is flushed to the disk and then renamed.
///
/// A process that is killed meanwhile leaves the temporary file; see [`remove_leftovers`].
///
/// # Errors
/// [`Error::Io`] naming `path`; the temporary file is gone then.
pub fn write_atomically(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let attempt = || -> io::Result<()> {
        let (folder, prefix) = place(path);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(PARTIAL);
        #[cfg(unix)]
        {
            // As any new file; the umask still applies.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder)?;
        // Tells `remove_leftovers` of other processes that the file is in use. Where the file system
        // has no locks, that function removes nothing.
        file.as_file().try_lock().ok();
        let mut out = BufWriter::with_capacity(1 << 17, file.as_file_mut());
        write(&mut out)?;
        out.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(|e| Error::io(path, e))
}

/// Removes the temporary files of writers of `path` that were killed. A file that is being written is
/// left alone: its writer holds a lock, which ends with the process.
///
/// Nothing depends on the removal, so what cannot be removed simply stays.
pub fn remove_leftovers(path: impl AsRef<Path>) {
    let (folder, prefix) = place(path.as_ref());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(&prefix) && name.ends_with(PARTIAL);
        let abandoned = |file: File| file.try_lock().is_ok();
        if ours
            && entry.file_type().is_ok_and(|t| t.is_file())
            && File::open(entry.path()).is_ok_and(abandoned)
        {
            fs::remove_file(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomically(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write_atomically(&path, |out| {
            out.write_all(b"new")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(matches!(failed, Err(Error::Io { path: p, .. }) if p == path));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write_atomically(&path, |out| out.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn only_abandoned_temporary_files_of_that_name_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let dead = folder.path().join(".a.txt.Xy12ab.partial");
        let others = [".b.txt.Xy12ab.partial", "a.txt.partial", ".a.txt.bak"];
        others.iter().for_each(|name| fs::write(folder.path().join(name), b"kept").unwrap());
        fs::write(&dead, b"half").unwrap();
        let left = || fs::read_dir(folder.path()).unwrap().count();
        write_atomically(&path, |out| {
            out.write_all(b"new")?;
            remove_leftovers(&path);
            assert!(!dead.exists());
            assert_eq!(left(), others.len() + 1, "the file that is being written stays");
            Ok(())
        })
        .unwrap();
        remove_leftovers(&path);
        assert_eq!(left(), others.len() + 1);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        remove_leftovers(folder.path().join("no/such"));
        let long = folder.path().join("x".repeat(250));
        write_atomically(&long, |out| out.write_all(b"long")).unwrap();
        assert_eq!(fs::read(&long).unwrap(), b"long");
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        fs::write(&empty, b"").unwrap();
        assert!(matches!(map(&empty), Err(Error::Malformed { .. })));
        assert!(matches!(map(folder.path()), Err(Error::Malformed { .. })));
        assert!(matches!(map(&folder.path().join("none")), Err(Error::Io { .. })));
        assert!(matches!(write_atomically(folder.path().join("no/such"), |_| Ok(())), Err(Error::Io { .. })));
    }
}
