//! What the examples share.

use std::process::ExitCode;

pub mod classify;
pub mod conformance;
pub mod manifest;
pub mod mri;
pub mod pictures;
pub mod prototypes;
pub mod segment;

/// Every result is fresh memory. The system's allocator hands large blocks back when they are
/// freed, and the system clears each of their pages when they return, at more cost than much of the
/// arithmetic; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An error of any of the crates, or a plain sentence.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What `main` returns: an error is printed, and the process says that it failed.
pub fn exit_code(result: Result<(), AnyError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Sets the process up for speed; the first call of `main`.
///
/// The tensor engine keeps a pool of its own beside rayon's, whose threads spin while they wait and
/// take the cores from our kernels: up to half of the speed on two cores. An environment variable,
/// read once, turns it off. Whoever set it already has the last word.
///
/// Freed memory stays with the process for some seconds, so that the next step of a training finds
/// it again.
pub fn tune_process() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: called before any other thread is started, so nobody reads the environment.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
    /// `mi_option_purge_delay` of mimalloc's header, in milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: the allocator's options may be set at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 10_000) };
}
