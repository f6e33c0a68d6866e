//! Files of the Hugging Face hub, such as weights, kept in the cache that other programs use too.
//!
//! The cache has the layout of the `huggingface_hub` library (`hf-hub` knows it), so that what Python has
//! fetched is found here and the other way round. Files are transferred by this crate itself, since
//! `hf-hub` sets no time limits.

mod cache;
mod transfer;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Error, Result};

/// What a repository holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepoKind {
    /// Weights.
    #[default]
    Model,
    /// Data.
    Dataset,
    /// A program.
    Space,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// The repository, `owner/name`.
    pub repo: String,
    /// What it holds.
    pub kind: RepoKind,
    /// A branch, a tag or a commit. Only a commit is the same for ever.
    pub revision: String,
    /// The file's path in the repository.
    pub file: String,
    /// The SHA-256 that the file must have, as 64 hexadecimal digits.
    pub sha256: Option<String>,
}

impl HubFile {
    /// A file of a model's main branch, whatever it holds.
    pub fn new(repo: impl Into<String>, file: impl Into<String>) -> Self {
        Self {
            repo: repo.into(),
            kind: RepoKind::Model,
            revision: "main".into(),
            file: file.into(),
            sha256: None,
        }
    }

    /// Checks the names, which become parts of an address and of a path.
    ///
    /// # Errors
    /// When a name is empty, leads out of its folder or holds other characters than letters, digits and
    /// `.`, `_`, `-` (and, in files, blanks and `+`), or the SHA-256 is none.
    pub fn validate(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let parts = |what: &'static str, text: &str, allowed: &dyn Fn(char) -> bool| {
            let good =
                |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed);
            if text.len() <= 512 && text.split('/').all(good) {
                return Ok(());
            }
            let reason =
                format!("`{text}` is no name of a hub: letters, digits, `.`, `_` and `-`, with `/` between");
            Err(Error::argument(what, reason))
        };
        parts("repo", &self.repo, &plain)?;
        if self.repo.split('/').count() > 2 {
            return Err(Error::argument(
                "repo",
                format!("`{}` has more than an owner and a name", self.repo),
            ));
        }
        parts("revision", &self.revision, &plain)?;
        parts("file", &self.file, &|c| plain(c) || c == ' ' || c == '+')?;
        match &self.sha256 {
            Some(sum) if sum.len() != 64 || !sum.chars().all(|c| c.is_ascii_hexdigit()) => {
                Err(Error::argument("sha256", format!("`{sum}` is not 64 hexadecimal digits")))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.repo, self.file, self.revision)
    }
}

/// What lets a user see private files.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Token {
    /// Nothing.
    #[default]
    None,
    /// The environment's `HF_TOKEN`.
    Environment,
    /// This one. It is never printed.
    Given(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Environment => "Environment",
            Self::Given(_) => "Given(…)",
        })
    }
}

/// How a file is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubOptions {
    /// The folder of the cache; `None` for `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else
    /// `.cache/huggingface/hub` at home.
    pub cache: Option<PathBuf>,
    /// Whether only the cache is looked at.
    pub offline: bool,
    /// What lets the user see private files. It is only sent to `endpoint`, and only over https.
    pub token: Token,
    /// Whether a bar on the terminal shows how far a transfer is.
    pub progress: bool,
    /// The hub.
    pub endpoint: String,
    /// The largest file that is fetched, in bytes.
    pub most_bytes: u64,
    /// How long a silent connection is waited for.
    pub patience: Duration,
}

impl Default for HubOptions {
    /// The public hub without a token, with a progress bar, files of up to 16 GiB, 30 seconds.
    fn default() -> Self {
        Self {
            cache: None,
            offline: false,
            token: Token::None,
            progress: true,
            endpoint: "https://huggingface.co".into(),
            most_bytes: 16 << 30,
            patience: Duration::from_secs(30),
        }
    }
}

/// Why a file of a hub cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubFault {
    /// It is not in the cache, and the network is not to be used.
    #[error(
        "it is not in the cache, and `offline` is set, with which only the cache is used; put the file at {}, or set `offline` to false",
        place.display()
    )]
    NotCached {
        /// Where it would be found.
        place: PathBuf,
    },
    /// The hub does not answer.
    #[error(
        "could not reach {endpoint} ({reason}); check the network and the proxy, or put the file at {}",
        place.display()
    )]
    Unreachable {
        /// The hub.
        endpoint: String,
        /// What was tried and failed.
        reason: String,
        /// Where the file would be found.
        place: PathBuf,
    },
    /// The hub answers, but does not give the file.
    #[error("the hub answered {status}: {reason}")]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// What that means.
        reason: &'static str,
    },
    /// The answer is not one of a hub, or ended early.
    #[error("{reason}; try again, and check the endpoint and the proxy")]
    Answer {
        /// What is wrong with it.
        reason: String,
    },
    /// The file is another than expected. One that was just transferred is not kept.
    #[error("{}: its SHA-256 is {got}, but {expected} is expected; {hint}", place.display())]
    Digest {
        /// The file.
        place: PathBuf,
        /// What was asked for, or what the hub promised.
        expected: Box<str>,
        /// What it has.
        got: Box<str>,
        /// What to do.
        hint: &'static str,
    },
}

/// Gives the path of a file of a hub, from the cache if it is there, else over the network.
///
/// A file in the cache is used without asking the hub whether its branch has moved on. A transfer is
/// written beside its place and appears there whole or not at all; where the hub names the file's
/// SHA-256, as it does for large files, it is checked.
///
/// ```
/// use xdiff_data::hub::{HubFault, HubFile, HubOptions, fetch};
/// use xdiff_data::Error;
///
/// let cache = tempfile::tempdir()?;
/// let options =
///     HubOptions { cache: Some(cache.path().into()), offline: true, ..HubOptions::default() };
/// let wanted = HubFile::new("owner/model", "model.safetensors");
/// let missing = fetch(&wanted, &options);
/// assert!(matches!(missing, Err(Error::Hub { fault: HubFault::NotCached { .. }, .. })));
///
/// // A file put there by hand is found.
/// let folder = cache.path().join("models--owner--model/snapshots/main");
/// std::fs::create_dir_all(&folder)?;
/// std::fs::write(folder.join("model.safetensors"), "weights")?;
/// assert_eq!(fetch(&wanted, &options)?, folder.join("model.safetensors"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Hub`] when the file cannot be had, [`Error::TooLarge`] when it is beyond the limit,
/// [`Error::Argument`] for names that are none, [`Error::Io`] when the cache cannot be written.
pub fn fetch(file: &HubFile, options: &HubOptions) -> Result<PathBuf> {
    file.validate()?;
    if options.patience.is_zero() {
        return Err(Error::argument("patience", "0 given; with that no answer can come"));
    }
    let place = cache::Place::new(file, options)?;
    if let Some(path) = place.find() {
        if let Some(expected) = &file.sha256 {
            cache::check_digest(&path, expected, file)?;
        }
        return Ok(path);
    }
    if options.offline {
        return Err(fault(file, HubFault::NotCached { place: place.by_hand() }));
    }
    transfer::transfer(file, options, &place)
}

fn fault(file: &HubFile, fault: HubFault) -> Error {
    Error::Hub { file: file.to_string(), fault }
}
