//! What can go wrong in this crate, by who is at fault.

use std::path::PathBuf;

/// An error of `xdiff-core`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration field holds a value that cannot be used.
    #[error("configuration field `{field}`: {reason}")]
    Config {
        /// The field, by its name in the configuration file.
        field: &'static str,
        /// Why the value cannot be used, and which values can.
        reason: String,
    },
    /// An input has a shape, range or length that cannot be used.
    #[error("{what}: {reason}")]
    Input {
        /// The argument.
        what: &'static str,
        /// Why it cannot be used, and what can.
        reason: String,
    },
    /// A number that must be finite is NaN or infinite.
    #[error("{what} is not finite at step {step}: {hint}")]
    NonFinite {
        /// The number or tensor.
        what: &'static str,
        /// The training or sampling step.
        step: usize,
        /// What to do.
        hint: &'static str,
    },
    /// The caller or an observer stopped the work.
    #[error("cancelled at step {step}")]
    Cancelled {
        /// The step that would have come next.
        step: usize,
    },
    /// A checkpoint cannot be used.
    #[error("checkpoint {}: {reason}; {hint}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The caller's data source failed.
    #[error("training data: {0}")]
    Data(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A layer, weight file or generator reported an error.
    #[error(transparent)]
    Nn(#[from] xdiff_nn::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Error::Nn(e.into())
    }
}

impl Error {
    /// An [`Error::Config`].
    pub fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Error::Config { field, reason: reason.into() }
    }

    /// An [`Error::Input`].
    pub fn input(what: &'static str, reason: impl Into<String>) -> Self {
        Error::Input { what, reason: reason.into() }
    }
}
