//! A U-Net learns to find a structure in medical images, and is judged on patients that it never saw.
//!
//!     cargo run --release --example segment
//!     cargo run --release --example segment -- --phantoms chest --mask lungs
//!     cargo run --release --example segment -- --data DIR
//!
//! Without `--data` the images are phantoms. DIR holds `images/` and `masks/` of the same names; a
//! `MANIFEST.tsv` beside or above it that lists these files gives split and patients. Interrupt it
//! whenever you like: the same command goes on from the last checkpoint, and ends with the same bits.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use xdiff::core::cancel::CancelToken;
use xdiff::data::MaskKind;
use xdiff::data::phantom::{PhantomConfig, PhantomKind};
use xdiff_examples::mri::source::{self, MriData};
use xdiff_examples::segment::settings::Settings;
use xdiff_examples::segment::{model, report};
use xdiff_examples::{AnyError, exit_code, tune_process};

/// Trains a network for segmentation, tests it and writes a report.
#[derive(Parser)]
struct Args {
    /// A folder with images/ and masks/ instead of phantoms.
    #[arg(long)]
    data: Option<PathBuf>,
    /// What phantoms to draw where there is no --data.
    #[arg(long, value_enum, default_value_t = Phantoms::Brain)]
    phantoms: Phantoms,
    /// What the masks mark: lesion, brain, breast, lungs, heart, …
    #[arg(long, default_value = "lesion")]
    mask: String,
    /// Where everything is written.
    #[arg(long, default_value = "out/segment")]
    out: PathBuf,
    /// How long to train.
    #[arg(long, value_enum, default_value_t = Budget::Normal)]
    budget: Budget,
    /// Passes through the training images, where the budget's number does not suit.
    #[arg(long)]
    epochs: Option<usize>,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Phantoms {
    /// Brain MRI: head, brain, lesion.
    Brain,
    /// Breast MRI: body, breast, gland, lesion.
    Breast,
    /// Chest radiographs: body, lungs, heart, lesion.
    Chest,
    /// Lung CT: body, lungs, lesion.
    Lung,
}

impl Phantoms {
    fn kind(self) -> (&'static str, PhantomKind) {
        match self {
            Self::Brain => ("brain", PhantomKind::BrainMri),
            Self::Breast => ("breast", PhantomKind::BreastMri),
            Self::Chest => ("chest", PhantomKind::ChestXray),
            Self::Lung => ("lung", PhantomKind::LungCt),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Budget {
    /// Seconds: shows that everything runs, not what it can do.
    Tiny,
    /// A few minutes on two cores.
    Normal,
}

impl Args {
    fn read(&self, size: usize) -> Result<MriData, AnyError> {
        let mask = MaskKind::from_name(&self.mask);
        if let Some(dir) = &self.data {
            return source::folder(dir, mask, size, self.seed);
        }
        let (name, kind) = self.phantoms.kind();
        let patients = if self.budget == Budget::Tiny { 40 } else { 500 };
        let config = PhantomConfig { kind, patients, size, seed: self.seed, ..Default::default() };
        source::phantoms_of(name, config, mask)
    }

    fn settings(&self, images: usize) -> Settings {
        let mut settings = match self.budget {
            Budget::Tiny => Settings::tiny(self.seed),
            Budget::Normal => Settings::normal(images, self.seed),
        };
        settings.fit.epochs = self.epochs.unwrap_or(settings.fit.epochs);
        settings
    }
}

fn run(args: &Args) -> Result<(), AnyError> {
    let cancel = CancelToken::new();
    cancel.on_ctrl_c()?;
    let data = args.read(args.settings(0).size)?;
    let settings = args.settings(data.train.len());
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let stopped = || println!("stopped; the same command goes on from {}", args.out.display());
    let Some(trained) = model::train(&settings, &data, &args.out, &cancel)? else {
        stopped();
        return Ok(());
    };
    let Some(cases) = model::test(&trained, &settings, &data, &cancel)? else {
        stopped();
        return Ok(());
    };
    report::write(&args.out, &settings, &data, &trained, &cases)?;
    println!("{}", std::fs::read_to_string(args.out.join("scores.md"))?);
    println!("{}", args.out.join("report.html").display());
    Ok(())
}

fn main() -> ExitCode {
    tune_process();
    exit_code(run(&Args::parse()))
}
