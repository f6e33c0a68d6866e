//! What can go wrong with data, by who is at fault.

use std::path::PathBuf;

/// An error of `xdiff-data`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its words.
        source: std::io::Error,
    },
    /// A file is not an image, or a damaged one.
    #[error("{}: {reason}; {hint}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file or the image in it is larger than the limit.
    #[error("{}: {what} is over the limit of {limit}; raise the limit only for a file that is to be trusted", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is too large, with its size.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// An image has other channels than asked for.
    #[error("{}: {got}, but {expected} is asked for; {hint}", name)]
    Channels {
        /// The file or sample.
        name: String,
        /// What it has.
        got: String,
        /// What is asked for.
        expected: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// An image holds NaN or infinite values.
    #[error("{name}: {count} of {total} values are NaN or infinite; replace them before loading the image")]
    NonFinite {
        /// The file or sample.
        name: String,
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
    },
    /// A mask does not lie on its image.
    #[error(
        "mask {mask} is {mask_height}×{mask_width} (height × width), but its image {image} is \
         {height}×{width}; check the pair, or ask for the mask to be resized"
    )]
    MaskSize {
        /// The image.
        image: String,
        /// The image's height.
        height: usize,
        /// The image's width.
        width: usize,
        /// The mask.
        mask: String,
        /// The mask's height.
        mask_height: usize,
        /// The mask's width.
        mask_width: usize,
    },
    /// A file is sound, but holds a kind of data that is not read.
    #[error("{}: {what} is not supported; {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// Two volumes that should lie on one grid do not.
    #[error("{first} and {second} do not lie on one grid: {reason}; bring one to the other's grid first")]
    Grids {
        /// The one volume.
        first: String,
        /// The other.
        second: String,
        /// What differs.
        reason: String,
    },
    /// A row or the header of a manifest is wrong.
    #[error("{}, line {line}: {reason}; {hint}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// A folder does not have the layout asked for.
    #[error("{}: {reason}; {hint}", path.display())]
    Layout {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// An argument or a configuration value is out of its range.
    #[error("{what}: {reason}")]
    Argument {
        /// The argument or field.
        what: &'static str,
        /// Why the value cannot be used, and which values can.
        reason: String,
    },
    /// The data cannot be split as asked.
    #[error("cannot split {items} items in {groups} groups: {reason}")]
    Split {
        /// How many items there are.
        items: usize,
        /// How many groups they fall into.
        groups: usize,
        /// What stands in the way, and what would do.
        reason: String,
    },
    /// A sample that is not there was asked for.
    #[error("sample {index} was asked for, but the dataset has {len}")]
    Index {
        /// The index.
        index: usize,
        /// The dataset's length.
        len: usize,
    },
    /// Samples that cannot stand in one batch.
    #[error("batch {batch} of epoch {epoch}: {reason}")]
    Batch {
        /// The epoch.
        epoch: u64,
        /// The batch in the epoch.
        batch: usize,
        /// Which samples do not fit, and what to do.
        reason: String,
    },
    /// Loading a sample failed inside a loader.
    #[error("sample {index} (epoch {epoch}, batch {batch}): {source}")]
    Sample {
        /// The epoch.
        epoch: u64,
        /// The batch in the epoch.
        batch: usize,
        /// The sample's index in the dataset.
        index: usize,
        /// What went wrong.
        source: Box<Error>,
    },
    /// A dataset panicked while it made a sample.
    #[error("the dataset panicked: {message}; this is a bug in the dataset")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// A DICOM file or series cannot be used.
    #[cfg(feature = "dicom")]
    #[error("{}: {fault}", path.display())]
    Dicom {
        /// The file, or the folder of a series.
        path: PathBuf,
        /// What is wrong with it.
        fault: crate::dicom::DicomFault,
    },
    /// A file of a hub cannot be had.
    #[cfg(feature = "hub")]
    #[error("{file}: {fault}")]
    Hub {
        /// The file, with its repository and revision.
        file: String,
        /// What stands in the way.
        fault: crate::hub::HubFault,
    },
    /// The tensor engine refused an operation.
    #[error("tensor engine: {0}")]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] for a path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// An [`Error::Malformed`] for a path.
    pub fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>, hint: &'static str) -> Self {
        Error::Malformed { path: path.into(), reason: reason.into(), hint }
    }

    /// An [`Error::Unsupported`] for a path.
    pub fn unsupported(path: impl Into<PathBuf>, what: impl Into<String>, hint: &'static str) -> Self {
        Error::Unsupported { path: path.into(), what: what.into(), hint }
    }

    /// An [`Error::Layout`] for a folder.
    pub fn layout(path: impl Into<PathBuf>, reason: impl Into<String>, hint: &'static str) -> Self {
        Error::Layout { path: path.into(), reason: reason.into(), hint }
    }

    /// An [`Error::Argument`].
    pub fn argument(what: &'static str, reason: impl Into<String>) -> Self {
        Error::Argument { what, reason: reason.into() }
    }
}
