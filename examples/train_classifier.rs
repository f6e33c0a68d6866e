//! Trains a classifier on labelled images, judges it on held-out ones, and writes a report.
//!
//!     cargo run --release --example train_classifier                       # brain phantoms
//!     cargo run --release --example train_classifier -- --data DIR         # one folder a class
//!     cargo run --release --example train_classifier -- --data DIR --network resnet18 --size 128
//!
//! A `MANIFEST.tsv` beside or above DIR gives classes, patients and the split. Interrupt it whenever
//! you like: the same command goes on, and ends with the same bits.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use xdiff::core::cancel::CancelToken;
use xdiff::data::phantom::PhantomKind;
use xdiff::vision::Architecture;
use xdiff_examples::classify::judging::{answers, judge, majority};
use xdiff_examples::classify::report::{self, Run, Setting};
use xdiff_examples::classify::source::{self, ClassData, FolderOptions};
use xdiff_examples::classify::training::{Plan, train};
use xdiff_examples::{AnyError, exit_code, tune_process};

/// Trains a classifier, judges it and writes a report.
#[derive(Parser)]
struct Args {
    /// A folder with one folder a class, or one that a manifest lists, instead of phantoms.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The phantoms to draw where there is no --data.
    #[arg(long, value_enum, default_value_t = Kind::Brain)]
    phantoms: Kind,
    /// Only rows of the manifest whose column has this value, as `subclass=nih`; may be repeated.
    #[arg(long, value_name = "COLUMN=VALUE")]
    only: Vec<String>,
    /// Without a manifest: the patient is the file's name up to this character.
    #[arg(long)]
    patient_before: Option<char>,
    /// `small_cnn`, or one of torchvision's: resnet18, vgg16, densenet121, mobilenet_v2, …
    #[arg(long, default_value = "small_cnn")]
    network: Architecture,
    /// Side of the square images.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Passes through the training images, at most.
    #[arg(long, default_value_t = 60)]
    epochs: usize,
    /// Images in a batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// The peak of the learning rate.
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// One training for each.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    seeds: Vec<u64>,
    /// Where everything is written.
    #[arg(long, default_value = "out/train_classifier")]
    out: PathBuf,
    /// How long to train.
    #[arg(long, value_enum, default_value_t = Budget::Normal)]
    budget: Budget,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Budget {
    /// Seconds: shows that everything runs, not what it can do.
    Tiny,
    /// Minutes on two cores.
    Normal,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Brain MRI.
    Brain,
    /// Chest X-ray.
    Chest,
    /// Lung CT.
    Lung,
    /// Blood smears.
    Blood,
    /// Breast MRI.
    Breast,
}

impl Args {
    fn read(&self, patients: usize) -> Result<ClassData, AnyError> {
        let Some(dir) = &self.data else {
            let kind = match self.phantoms {
                Kind::Brain => PhantomKind::BrainMri,
                Kind::Chest => PhantomKind::ChestXray,
                Kind::Lung => PhantomKind::LungCt,
                Kind::Blood => PhantomKind::BloodCells,
                Kind::Breast => PhantomKind::BreastMri,
            };
            return source::phantoms(kind, patients, self.size, SPLIT_SEED);
        };
        let pair = |text: &String| {
            let (column, value) =
                text.split_once('=').ok_or_else(|| format!("--only {text}: write COLUMN=VALUE"))?;
            Ok((column.to_owned(), value.to_owned()))
        };
        let options = FolderOptions {
            size: self.size,
            only: self.only.iter().map(pair).collect::<Result<_, AnyError>>()?,
            patient_before: self.patient_before,
            seed: SPLIT_SEED,
        };
        source::folder(dir, &options)
    }
}

/// All seeds of a training see the same split.
const SPLIT_SEED: u64 = 0;

fn run(args: &Args) -> Result<(), AnyError> {
    let began = Instant::now();
    let tiny = args.budget == Budget::Tiny;
    let data = args.read(if tiny { 60 } else { 600 })?;
    let plan = Plan {
        network: args.network,
        epochs: if tiny { 2 } else { args.epochs },
        batch: args.batch,
        lr: args.lr,
        augment: Plan::augmentation(),
    };
    let cancel = CancelToken::new();
    cancel.on_ctrl_c()?;
    let (mut runs, mut parameters) = (Vec::new(), 0);
    for seed in &args.seeds {
        let folder = args.out.join(format!("seed-{seed}"));
        let Some(trained) = train(&plan, &data, *seed, &folder, &cancel)? else {
            println!("stopped; the same command goes on from {}", folder.display());
            return Ok(());
        };
        let fitted = trained.fitted;
        parameters = fitted.params.count();
        let answers = answers(fitted.objective.network(), &data, args.batch)?;
        runs.push(Run {
            seed: *seed,
            best_epoch: fitted.best.map(|best| best.epoch),
            history: fitted.history,
            stopped_early: trained.stopped_early,
            judged: judge(answers, &data, *seed)?,
        });
    }
    let setting = Setting {
        network: args.network.to_string(),
        parameters,
        batch: args.batch,
        fit: plan.fit(args.seeds.first().copied().unwrap_or(0)),
        majority: majority(&data)?,
    };
    report::write(&args.out, &data, &setting, &runs)?;
    println!("{}", std::fs::read_to_string(args.out.join("scores.md"))?);
    println!("{} after {:.0} s", args.out.join("report.html").display(), began.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    tune_process();
    exit_code(run(&Args::parse()))
}
