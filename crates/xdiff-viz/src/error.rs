//! What can go wrong in this crate, by who is at fault.

use std::path::PathBuf;

/// An error of `xdiff-viz`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two things that must have fitting sizes do not.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// The argument.
        what: String,
        /// The size it should have.
        expected: String,
        /// The size it has.
        got: String,
    },
    /// An argument or an option is out of its range.
    #[error("{what}: {reason}")]
    Argument {
        /// The argument or field.
        what: &'static str,
        /// Why the value cannot be used, and which values can.
        reason: String,
    },
    /// There is nothing to draw.
    #[error("{what} is empty: {hint}")]
    Empty {
        /// The argument.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// A value that must be finite is NaN or infinite.
    #[error("{what}: value {index} is {value}; remove it, or find out where it comes from")]
    NonFinite {
        /// The series or argument.
        what: String,
        /// The place of the first such value.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A picture would be larger than [`crate::MAX_PIXELS`].
    #[error("{what} would have {width}×{height} pixels, and at most {limit} are drawn; make it smaller")]
    TooLarge {
        /// The picture.
        what: &'static str,
        /// Its width in pixels.
        width: u64,
        /// Its height in pixels.
        height: u64,
        /// The largest number of pixels.
        limit: u64,
    },
    /// The operating system refused to write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its words.
        source: std::io::Error,
    },
    /// A picture could not be encoded.
    #[error("PNG encoder: {0}")]
    Encode(#[from] image::ImageError),
    /// The drawing library refused an operation.
    #[error("drawing: {0}")]
    Draw(String),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Argument`].
    pub(crate) fn argument(what: &'static str, reason: impl Into<String>) -> Self {
        Error::Argument { what, reason: reason.into() }
    }

    /// An [`Error::Shape`].
    pub(crate) fn shape(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Error::Shape { what: what.into(), expected: expected.into(), got: got.into() }
    }
}

/// Refuses the first value that is NaN or infinite.
pub(crate) fn require_finite(what: &str, values: impl IntoIterator<Item = f64>) -> Result<()> {
    match values.into_iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((index, value)) => Err(Error::NonFinite { what: what.to_owned(), index, value }),
        None => Ok(()),
    }
}
