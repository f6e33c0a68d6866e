//! Finding the manifest that lists a folder.

use std::path::{Path, PathBuf};

/// The nearest `MANIFEST.tsv` up to three folders above, and the folder's name in it.
pub fn manifest_above(dir: &Path) -> Option<(PathBuf, String)> {
    let dir = dir.canonicalize().ok()?;
    dir.ancestors().take(4).find_map(|root| {
        let file = root.join("MANIFEST.tsv");
        let prefix = dir.strip_prefix(root).ok()?.to_str()?.replace('\\', "/");
        file.is_file().then_some((file, prefix))
    })
}
