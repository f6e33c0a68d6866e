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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_raised_on_one_thread_is_seen_on_another() {
        let token = CancelToken::new();
        let (other, apart) = (token.clone(), CancelToken::new());
        std::thread::spawn(move || other.cancel()).join().unwrap();
        assert!(token.is_cancelled() && !apart.is_cancelled());
    }

    /// Signals end whole processes, so what a handler does is tested with one of its own
    /// (`tests/interruption.rs` of the workspace).
    #[test]
    fn a_process_has_one_handler() {
        let token = CancelToken::new();
        token.on_ctrl_c().unwrap();
        assert!(matches!(CancelToken::new().on_ctrl_c(), Err(Error::Input { what: "signal handler", .. })));
        assert!(!token.is_cancelled());
    }
}
