//! What is wrong with some bytes, before the file that they came from is named.

use std::path::Path;

use crate::Error;

/// A fault in the content of a file.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) reason: String,
    pub(super) hint: &'static str,
}

/// The result of reading bytes.
pub(super) type Parse<T> = Result<T, Malformed>;

/// For files that are cut off or have flipped bits.
pub(super) const DAMAGED: &str = "the file is damaged or incomplete, fetch it again";
/// For files that nobody writes by accident.
pub(super) const REFUSED: &str = "no program writes such a file, do not trust its source";

impl Malformed {
    pub(super) fn new(reason: impl Into<String>, hint: &'static str) -> Self {
        Self { reason: reason.into(), hint }
    }

    pub(super) fn damaged(reason: impl Into<String>) -> Self {
        Self::new(reason, DAMAGED)
    }

    /// The error of this crate, for the file at `path`.
    pub(super) fn at(self, path: &Path) -> Error {
        Error::Malformed { path: path.to_owned(), reason: self.reason, hint: self.hint }
    }
}

/// A name out of a file for a message, cut to a length that can be read.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    if name.chars().count() <= LONGEST {
        return format!("`{}`", name.escape_debug());
    }
    let start: String = name.chars().take(LONGEST).collect();
    format!("`{}…`", start.escape_debug())
}
