//! Mask-conditioned diffusion for MRI, after Dey & Saikia 2025: train, sample, report.
//!
//!     cargo run --release --example faithful_mri -- report
//!     cargo run --release --example faithful_mri -- train --preset small --data DIR
//!     cargo run --release --example faithful_mri -- report --data DIR
//!
//! `report` alone does all of it, in minutes: it trains a quick model where there is none. Without
//! `--data` the images are breast phantoms with region masks, as in the paper. DIR holds `images/` and
//! `masks/` of the same names, or, with `--region`, images alone. Interrupt a training whenever you
//! like: the same command goes on from the last checkpoint, and ends with the same bits.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use image::GrayImage;
use xdiff::core::cancel::CancelToken;
use xdiff::core::train::Outcome;
use xdiff::data::MaskKind;
use xdiff_examples::mri::explain::settings::Settings;
use xdiff_examples::mri::model::{self, Model};
use xdiff_examples::mri::paper::{self, Work};
use xdiff_examples::mri::preset::Preset;
use xdiff_examples::mri::quality::Weights;
use xdiff_examples::mri::sampling::{self, Sampled};
use xdiff_examples::mri::source::{self, MriData};
use xdiff_examples::mri::store;
use xdiff_examples::{AnyError, exit_code, tune_process};

/// Mask-conditioned diffusion for MRI.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trains a model, or goes on with a training.
    Train {
        #[command(flatten)]
        source: SourceArgs,
        /// Size of model, images and training.
        #[arg(long, value_enum, default_value_t = PresetName::Small)]
        preset: PresetName,
        /// Optimiser steps, where the preset's number does not suit.
        #[arg(long)]
        steps: Option<usize>,
        /// Images in a batch, where the preset's number does not suit.
        #[arg(long)]
        batch: Option<usize>,
        /// Computes activations anew in the backward pass: less memory, more time. Going on with a
        /// training with another choice is fine, but the last bits then depend on it.
        #[arg(long)]
        checkpointing: bool,
    },
    /// Samples from held-out masks; writes PNG and the values.
    Sample {
        #[command(flatten)]
        source: SourceArgs,
        /// How many masks at most.
        #[arg(long, default_value_t = 24)]
        count: usize,
    },
    /// Scores and explains the samples, and writes report.html; trains the quick preset first where
    /// there is no model, and samples where that was not done.
    Report {
        #[command(flatten)]
        source: SourceArgs,
        /// How many masks at most.
        #[arg(long, default_value_t = 24)]
        count: usize,
        /// How large the model is that is trained where there is none, and how thorough the rest.
        #[arg(long, value_enum, default_value_t = Budget::Normal)]
        budget: Budget,
        #[command(flatten)]
        weights: WeightArgs,
        #[command(flatten)]
        explain: ExplainArgs,
    },
}

#[derive(Args)]
struct SourceArgs {
    /// A folder with images/ and masks/ instead of phantoms.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The folder holds images without masks: the region of the body is found by a threshold.
    #[arg(long, requires = "data", conflicts_with = "mask")]
    region: bool,
    /// What the masks of --data mark: lesion, body, breast, brain, …
    #[arg(long, default_value = "lesion")]
    mask: String,
    /// Patients to draw where there is no --data.
    #[arg(long, default_value_t = 1000)]
    phantoms: usize,
    /// Where everything is written and read.
    #[arg(long, default_value = "out/faithful_mri")]
    out: PathBuf,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Published networks, for the scores that bear their names.
#[derive(Args)]
struct WeightArgs {
    /// torchvision's AlexNet with ImageNet weights, for LPIPS.
    #[arg(long, requires = "lpips")]
    alexnet: Option<PathBuf>,
    /// The LPIPS heads for AlexNet.
    #[arg(long, requires = "alexnet")]
    lpips: Option<PathBuf>,
    /// The Inception network of the FID.
    #[arg(long)]
    inception: Option<PathBuf>,
}

/// How samples are explained, where the budget's numbers do not suit.
#[derive(Args)]
struct ExplainArgs {
    /// Prototypes of each method.
    #[arg(long)]
    prototypes: Option<usize>,
    /// Seeds that every method is trained with.
    #[arg(long)]
    seeds: Option<u64>,
    /// The activation of the network that serves as features.
    #[arg(long)]
    site: Option<String>,
    /// The time step at which the network sees the images.
    #[arg(long)]
    timestep: Option<usize>,
}

impl ExplainArgs {
    fn settings(&self, budget: Budget, seed: u64) -> Settings {
        let usual = match budget {
            Budget::Tiny => Settings::tiny(),
            Budget::Normal => Settings::default(),
        };
        Settings {
            prototypes: self.prototypes.unwrap_or(usual.prototypes),
            seeds: self.seeds.unwrap_or(usual.seeds),
            site: self.site.clone().unwrap_or(usual.site),
            timestep: self.timestep.unwrap_or(usual.timestep),
            seed,
            ..usual
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Budget {
    /// Seconds: shows that everything runs, not what it can do.
    Tiny,
    /// Minutes.
    Normal,
}

impl WeightArgs {
    fn files(&self) -> Weights {
        let WeightArgs { alexnet, lpips, inception } = self;
        Weights { alexnet: alexnet.clone(), lpips: lpips.clone(), inception: inception.clone() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PresetName {
    /// 32², seconds: shows that everything runs.
    Tiny,
    /// 64², about two minutes.
    Quick,
    /// 64², hours on two cores.
    Small,
    /// 256², as published; for a GPU or a long weekend.
    Paper,
}

impl SourceArgs {
    fn read(&self, size: usize) -> Result<MriData, AnyError> {
        match &self.data {
            None => source::phantoms(self.phantoms, size, self.seed),
            Some(dir) if self.region => source::regions(dir, size, self.seed),
            Some(dir) => source::folder(dir, MaskKind::from_name(&self.mask), size, self.seed),
        }
    }
}

/// What a preset leaves to the user.
struct Choices {
    steps: Option<usize>,
    batch: Option<usize>,
    checkpointing: bool,
}

/// Returns whether the training came to its end.
fn train(
    source: &SourceArgs,
    name: PresetName,
    choices: &Choices,
    cancel: &CancelToken,
) -> Result<bool, AnyError> {
    let of = |images| match name {
        PresetName::Tiny => Preset::quickstart().tiny(),
        PresetName::Quick => Preset::quickstart(),
        PresetName::Small => Preset::small(),
        PresetName::Paper => Preset::paper(images),
    };
    let data = source.read(of(1).size)?;
    let mut preset = of(data.train.len());
    preset.train.seed = source.seed;
    if let Some(steps) = choices.steps {
        preset = preset.with_steps(steps);
    }
    preset.batch = choices.batch.unwrap_or(preset.batch);
    preset.checkpointing = choices.checkpointing;
    std::fs::create_dir_all(&source.out).map_err(|e| format!("{}: {e}", source.out.display()))?;
    let checkpoint = model::checkpoint_path(&source.out);
    let finished = model::train(&preset, &data, &checkpoint, cancel)? == Outcome::Finished;
    match finished {
        true => println!("trained: {}", checkpoint.display()),
        false => println!("stopped; the same command goes on from {}", checkpoint.display()),
    }
    Ok(finished)
}

fn load(source: &SourceArgs) -> Result<(Model, MriData), AnyError> {
    let model = model::load(&model::checkpoint_path(&source.out))
        .map_err(|e| format!("{e}\ntrain a model first, with the same --out"))?;
    let data = source.read(model.preset.size)?;
    if data.about != model.data {
        return Err(format!(
            "the model was trained on: {}\nbut the data given are: {}",
            model.data, data.about
        )
        .into());
    }
    Ok((model, data))
}

/// The model of the folder, trained to its end first where it is not there or was interrupted; `None`
/// when it is again.
fn trained(
    source: &SourceArgs,
    budget: Budget,
    cancel: &CancelToken,
) -> Result<Option<(Model, MriData)>, AnyError> {
    let checkpoint = model::checkpoint_path(&source.out);
    if !checkpoint.exists() {
        let preset = if budget == Budget::Tiny { PresetName::Tiny } else { PresetName::Quick };
        let choices = Choices { steps: None, batch: None, checkpointing: false };
        return if train(source, preset, &choices, cancel)? { load(source).map(Some) } else { Ok(None) };
    }
    let (model, data) = load(source)?;
    if model.steps >= model.preset.train.steps {
        return Ok(Some((model, data)));
    }
    match model::train(&model.preset, &data, &checkpoint, cancel)? {
        Outcome::Finished => load(source).map(Some),
        Outcome::Cancelled => Ok(None),
    }
}

fn sample(
    source: &SourceArgs,
    (model, data): (&Model, &MriData),
    count: usize,
    cancel: &CancelToken,
) -> Result<Sampled, AnyError> {
    let sampled = sampling::sample(model, &*data.held_out, count, source.seed, cancel)?;
    let folder = source.out.join("samples");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for case in &sampled.cases {
        write_png(&folder, &case.id, &case.sample, sampled.size)?;
    }
    store::save(&source.out.join("samples.safetensors"), &sampled, model.steps)?;
    println!("{} samples in {}", sampled.cases.len(), folder.display());
    Ok(sampled)
}

fn write_png(folder: &Path, id: &str, values: &[f32], side: usize) -> Result<(), AnyError> {
    let name: String = id.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let bytes = values.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    let image = GrayImage::from_raw(side as u32, side as u32, bytes).ok_or("a sample has the wrong size")?;
    Ok(xdiff::viz::save_grey_png(folder.join(format!("{name}.png")), &image)?)
}

fn run(command: Command) -> Result<(), AnyError> {
    let cancel = CancelToken::new();
    cancel.on_ctrl_c()?;
    match command {
        Command::Train { source, preset, steps, batch, checkpointing } => {
            train(&source, preset, &Choices { steps, batch, checkpointing }, &cancel).map(drop)
        }
        Command::Sample { source, count } => {
            let (model, data) = load(&source)?;
            sample(&source, (&model, &data), count, &cancel).map(drop)
        }
        Command::Report { source, count, budget, weights, explain } => {
            let Some((model, data)) = trained(&source, budget, &cancel)? else { return Ok(()) };
            let sampled = match store::load(&source.out.join("samples.safetensors"), model.steps)? {
                Some(sampled) => sampled,
                None => sample(&source, (&model, &data), count, &cancel)?,
            };
            let work = Work { model: &model, data: &data, sampled: &sampled, out: &source.out };
            let settings = explain.settings(budget, source.seed);
            let Some(tables) = paper::report(&work, &weights.files(), &settings, &cancel)? else {
                println!("stopped; the same command goes on");
                return Ok(());
            };
            println!("{tables}\n{}", source.out.join("report.html").display());
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    tune_process();
    exit_code(run(Cli::parse().command))
}
