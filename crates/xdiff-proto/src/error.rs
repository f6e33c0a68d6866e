//! What can go wrong in this crate, by who is at fault.

use std::path::PathBuf;

/// An error of `xdiff-proto`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration field holds a value that cannot be used.
    #[error("configuration field `{field}`: {reason}")]
    Config {
        /// The field.
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
    #[error("{what} of {of} is not finite: {hint}")]
    NonFinite {
        /// The number or tensor.
        what: &'static str,
        /// The image, prototype or step that it belongs to.
        of: String,
        /// What to do.
        hint: &'static str,
    },
    /// There are more prototypes than patches that could be their sources.
    #[error(
        "{prototypes} prototypes cannot be taken from {patches} patches: give more images, or ask for fewer \
         prototypes"
    )]
    TooFewPatches {
        /// How many prototypes there are.
        prototypes: usize,
        /// How many patches the images have.
        patches: usize,
    },
    /// A class has no image, or no prototype, where it needs one.
    #[error("class {class} has no {what}: {hint}")]
    EmptyClass {
        /// The class.
        class: usize,
        /// What it lacks.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A projection does not belong to the prototypes, the images or the feature extractor at hand.
    #[error("the projection is stale: {what} was {recorded}, but is {found}; project the prototypes again")]
    Stale {
        /// What has changed.
        what: &'static str,
        /// What it was when the prototypes were projected.
        recorded: String,
        /// What it is now.
        found: String,
    },
    /// A file of prototypes cannot be used.
    #[error("{}: {reason}; {hint}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The caller's source of images failed.
    #[error("images: {0}")]
    Data(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A model, a sampler or a training reported an error.
    #[error(transparent)]
    Core(#[from] xdiff_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<xdiff_nn::Error> for Error {
    fn from(e: xdiff_nn::Error) -> Self {
        Error::Core(e.into())
    }
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Error::Core(e.into())
    }
}

/// Lets what this crate makes stand where `xdiff-core` asks for a feature extractor, a classifier or an
/// observer.
impl From<Error> for xdiff_core::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Core(e) => e,
            Error::Config { field, reason } => xdiff_core::Error::Config { field, reason },
            Error::Input { what, reason } => xdiff_core::Error::Input { what, reason },
            e => xdiff_core::Error::input("prototypes", e.to_string()),
        }
    }
}

impl Error {
    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Error::Config { field, reason: reason.into() }
    }

    pub(crate) fn input(what: &'static str, reason: impl Into<String>) -> Self {
        Error::Input { what, reason: reason.into() }
    }
}
