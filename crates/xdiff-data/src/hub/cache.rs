//! Where files of a hub lie on this machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use sha2::{Digest, Sha256};

use super::{HubFault, HubFile, HubOptions, RepoKind, fault};
use crate::{Error, Result};

/// The places of one file in the cache.
#[derive(Debug)]
pub(super) struct Place {
    repo: CacheRepo,
    revision: String,
    file: String,
}

impl Place {
    pub(super) fn new(file: &HubFile, options: &HubOptions) -> Result<Self> {
        let kind = match file.kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
            RepoKind::Space => RepoType::Space,
        };
        let repo = Repo::with_revision(file.repo.clone(), kind, file.revision.clone());
        let repo = Cache::new(folder(options)?).repo(repo);
        Ok(Self { repo, revision: file.revision.clone(), file: file.file.clone() })
    }

    /// The file, if it is here: by what the branch was when it was fetched, or else under the revision's
    /// own name, as commits are and files put there by hand.
    pub(super) fn find(&self) -> Option<PathBuf> {
        self.repo.get(&self.file).or_else(|| Some(self.by_hand())).filter(|path| path.is_file())
    }

    /// Where a user may put the file.
    pub(super) fn by_hand(&self) -> PathBuf {
        self.pointer(&self.revision)
    }

    /// The content, by the hub's name for it.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.repo.blob_path(etag)
    }

    fn pointer(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit).join(&self.file)
    }

    /// Makes the content known as the file of a commit, and the commit as what the revision is.
    pub(super) fn link(&self, etag: &str, commit: &str) -> Result<PathBuf> {
        let (blob, pointer) = (self.blob(etag), self.pointer(commit));
        let folder = pointer.parent().unwrap_or(&pointer);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        if !pointer.is_file() {
            // A link to content that is gone.
            fs::remove_file(&pointer).ok();
            let made = point(&blob, &pointer, self.file.split('/').count());
            // Another process may have been faster.
            made.or_else(|e| if pointer.is_file() { Ok(()) } else { Err(e) })
                .map_err(|e| Error::io(&pointer, e))?;
        }
        if commit != self.revision {
            self.repo.create_ref(commit).map_err(|e| Error::io(self.repo.pointer_path(commit), e))?;
        }
        Ok(pointer)
    }
}

/// A link that still holds when the whole cache is moved.
#[cfg(unix)]
fn point(blob: &Path, pointer: &Path, depth: usize) -> std::io::Result<()> {
    // From the file's folder, in its snapshot, to the repository's own.
    let up = "../".repeat(depth + 1);
    let name = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(name), pointer)
}

/// Links may need rights that users lack.
#[cfg(not(unix))]
fn point(blob: &Path, pointer: &Path, _: usize) -> std::io::Result<()> {
    fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(|_| ()))
}

fn folder(options: &HubOptions) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let found = options
        .cache
        .clone()
        .or_else(|| set("HF_HUB_CACHE"))
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface/hub")));
    found.ok_or_else(|| Error::argument("cache", "none given, and there is no home folder; give a folder"))
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Checks the content of a file that was in the cache. It is not removed: it may have been put there by
/// hand.
pub(super) fn check_digest(path: &Path, expected: &str, file: &HubFile) -> Result<()> {
    let mut source = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match source.read(&mut block).map_err(|e| Error::io(path, e))? {
            0 => break,
            n => hash.update(&block[..n]),
        }
    }
    let got = hex(&hash.finalize());
    if got.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    let place = path.to_path_buf();
    let hint = "remove it to have it fetched anew, or correct the expected sum";
    Err(fault(file, HubFault::Digest { place, expected: expected.into(), got: got.into(), hint }))
}
