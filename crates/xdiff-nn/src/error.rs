//! What can go wrong in this crate, by who is at fault.

use std::path::PathBuf;

use crate::weights::KeyReport;

/// An error of `xdiff-nn`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has a shape that the operation cannot take.
    #[error("{op}: expected {expected}, got {got:?}")]
    Shape {
        /// The layer or operation.
        op: &'static str,
        /// What it takes, in words or as a shape.
        expected: String,
        /// The shape it was given.
        got: Vec<usize>,
    },
    /// An argument or a configuration value is out of its range.
    #[error("{what}: {reason}")]
    Argument {
        /// The argument or field.
        what: &'static str,
        /// Why the value cannot be used, and which values can.
        reason: String,
    },
    /// A backward pass did not reach a parameter that should be trained.
    #[error(
        "no gradient reached `{name}`: the loss does not depend on it, or an operation on the way \
         has no backward pass; freeze the parameter or use the layers of xdiff-nn"
    )]
    MissingGradient {
        /// The parameter or site.
        name: String,
    },
    /// A number that must be finite is NaN or infinite.
    #[error("{what} is not finite: {hint}")]
    NonFinite {
        /// The number or tensor.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// Weights do not fit the model.
    #[error(transparent)]
    Keys(#[from] Box<KeyReport>),
    /// A file is not what its name or header says.
    #[error("{}: {reason}; {hint}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its words.
        source: std::io::Error,
    },
    /// The tensor engine refused an operation.
    #[error("tensor engine: {0}")]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Shape`] for a tensor.
    pub fn shape(op: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Error::Shape { op, expected: expected.into(), got: got.to_vec() }
    }

    /// An [`Error::Argument`].
    pub fn argument(what: &'static str, reason: impl Into<String>) -> Self {
        Error::Argument { what, reason: reason.into() }
    }

    /// An [`Error::Io`] for a path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}
