//! Stopping long work between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A flag that any thread may raise and that long work looks at between steps.
///
/// ```
/// use xdiff_core::cancel::CancelToken;
///
/// let token = CancelToken::new();
/// let other = token.clone();
/// other.cancel();
/// assert!(token.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Raises the flag on Ctrl-C, SIGTERM or SIGHUP. A second signal ends the process at once.
    ///
    /// # Errors
    /// [`Error::Input`] when the process already has such a handler.
    pub fn on_ctrl_c(&self) -> Result<()> {
        let token = self.clone();
        ctrlc::set_handler(move || {
            if token.is_cancelled() {
                std::process::exit(130);
            }
            token.cancel();
        })
        .map_err(|e| Error::input("signal handler", e.to_string()))
    }
}
