//! From nothing to a report in a few minutes: a small diffusion model learns to draw breast MRI
//! phantoms from region masks, samples from masks it never saw, and is scored.
//!
//!     cargo run --release --example quickstart
//!     cargo run --release --example quickstart -- --data DIR   # DIR has images/ and masks/

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use xdiff::core::cancel::CancelToken;
use xdiff::core::train::Outcome;
use xdiff::data::MaskKind;
use xdiff_examples::mri::preset::Preset;
use xdiff_examples::mri::{model, report, sampling, source};
use xdiff_examples::{AnyError, exit_code, tune_process};

/// Trains a small mask-conditioned diffusion model, samples from it and writes a report.
#[derive(Parser)]
struct Args {
    /// A folder with images/ and masks/ instead of phantoms.
    #[arg(long)]
    data: Option<PathBuf>,
    /// What the masks mark, for the report.
    #[arg(long, default_value = "lesion")]
    mask: String,
    /// Where everything is written.
    #[arg(long, default_value = "out/quickstart")]
    out: PathBuf,
    /// How long to train.
    #[arg(long, value_enum, default_value_t = Budget::Normal)]
    budget: Budget,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Budget {
    /// Seconds: shows that everything runs, not what it can do.
    Tiny,
    /// About three minutes on two cores.
    Normal,
}

fn run(args: &Args) -> Result<(), AnyError> {
    let began = Instant::now();
    let mut preset = Preset::quickstart();
    preset.train.seed = args.seed;
    let (mut patients, mut samples) = (600, 16);
    if args.budget == Budget::Tiny {
        preset = preset.tiny();
        (patients, samples) = (40, 4);
    }
    let data = match &args.data {
        None => source::phantoms(patients, preset.size, args.seed)?,
        Some(dir) => source::folder(dir, MaskKind::from_name(&args.mask), preset.size, args.seed)?,
    };
    let cancel = CancelToken::new();
    cancel.on_ctrl_c()?;
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let checkpoint = model::checkpoint_path(&args.out);
    if model::is_finished(&checkpoint, &preset, &data)? {
        eprintln!("using the trained model in {}", checkpoint.display());
    } else if model::train(&preset, &data, &checkpoint, &cancel)? == Outcome::Cancelled {
        eprintln!("stopped; run the same command again to go on from {}", checkpoint.display());
        return Ok(());
    }
    let model = model::load(&checkpoint)?;
    let sampled = sampling::sample(&model, &*data.held_out, samples, args.seed, &cancel)?;
    report::write(&args.out, "xdiff quickstart: images drawn from masks", &model, &data, &sampled)?;
    println!("{}", std::fs::read_to_string(args.out.join("scores.md"))?);
    println!("{} after {:.0} s", args.out.join("report.html").display(), began.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    tune_process();
    exit_code(run(&Args::parse()))
}
