//! A training as the examples do it, small enough to be killed and resumed many times:
//!
//!     tiny-training FOLDER STEPS
//!
//! It goes on from the checkpoint in FOLDER and writes one after every step. On Ctrl-C it saves and
//! ends with code 3.

use std::path::Path;
use std::process::ExitCode;

use xdiff::core::cancel::CancelToken;
use xdiff::core::train::Outcome;
use xdiff_examples::mri::preset::Preset;
use xdiff_examples::mri::{model, source};
use xdiff_examples::{AnyError, tune_process};

fn run(folder: &Path, steps: usize) -> Result<Outcome, AnyError> {
    let cancel = CancelToken::new();
    cancel.on_ctrl_c()?;
    let mut preset = Preset::quickstart().tiny();
    preset.train.steps = steps;
    preset.train.checkpoint_every = 1;
    preset.train.accumulate = 2;
    preset.batch = 3;
    preset.augment = true;
    let data = source::phantoms(10, preset.size, 0)?;
    model::train(&preset, &data, &model::checkpoint_path(folder), &cancel)
}

fn main() -> ExitCode {
    tune_process();
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(Ok(steps))) = (args.next(), args.next().map(|s| s.parse())) else {
        eprintln!("usage: tiny-training FOLDER STEPS");
        return ExitCode::from(2);
    };
    match run(Path::new(&folder), steps) {
        Ok(Outcome::Finished) => ExitCode::SUCCESS,
        Ok(Outcome::Cancelled) => ExitCode::from(3),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
