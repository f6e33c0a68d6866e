//! Trains a classifier, gives its features prototypes, and shows which training images decide.
//!
//!     cargo run --release --example prototype_classifier                       # brain phantoms
//!     cargo run --release --example prototype_classifier -- --data DIR         # one folder a class
//!
//! A `MANIFEST.tsv` beside or above DIR gives classes, patients and the split. Interrupt it whenever
//! you like: the same command goes on, and ends with the same bits.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use xdiff::core::cancel::CancelToken;
use xdiff::data::phantom::PhantomKind;
use xdiff::proto::stage::Schedule;
use xdiff::vision::Architecture;
use xdiff_examples::classify::judging::{self, judge};
use xdiff_examples::classify::report::Run;
use xdiff_examples::classify::source::{self, ClassData, FolderOptions};
use xdiff_examples::classify::training::{Plan, train};
use xdiff_examples::prototypes::report::{self, Pair};
use xdiff_examples::prototypes::training::ProtoPlan;
use xdiff_examples::{AnyError, exit_code, prototypes, tune_process};

/// Trains a classifier with prototypes beside one without, judges both and writes a report.
#[derive(Parser)]
struct Args {
    /// A folder with one folder a class, or one that a manifest lists, instead of phantoms.
    #[arg(long)]
    data: Option<PathBuf>,
    /// `small_cnn`, or one of torchvision's: resnet18, vgg16, densenet121, …
    #[arg(long, default_value = "small_cnn")]
    network: Architecture,
    /// Side of the square images.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Passes of the plain network through the training images, at most.
    #[arg(long, default_value_t = 40)]
    epochs: usize,
    /// Images in a batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// The peak of the plain network's learning rate.
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// Prototypes of each class.
    #[arg(long, default_value_t = 10)]
    each: usize,
    /// Numbers of a prototype.
    #[arg(long, default_value_t = 64)]
    width: usize,
    /// ε of the similarity ln((d + 1)/(d + ε)): the greater, the less an exact likeness counts above a
    /// near one.
    #[arg(long, default_value_t = 0.1)]
    epsilon: f64,
    /// Most positions a side at which patches are looked at; finer features are averaged.
    #[arg(long, default_value_t = 4)]
    grid: usize,
    /// A JSON file with the stages, instead of those for little data.
    #[arg(long)]
    schedule: Option<PathBuf>,
    /// Where all chance comes from, but for the split.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where everything is written.
    #[arg(long, default_value = "out/prototype_classifier")]
    out: PathBuf,
    /// Seconds instead of minutes: shows that everything runs, not what it can do.
    #[arg(long)]
    tiny: bool,
}

/// All seeds see the same split.
const SPLIT_SEED: u64 = 0;

impl Args {
    fn read(&self) -> Result<ClassData, AnyError> {
        match &self.data {
            Some(dir) => source::folder(
                dir,
                &FolderOptions { size: self.size, seed: SPLIT_SEED, ..Default::default() },
            ),
            None => {
                let patients = if self.tiny { 60 } else { 400 };
                source::phantoms(PhantomKind::BrainMri, patients, self.size, SPLIT_SEED)
            }
        }
    }

    fn plan(&self) -> Result<ProtoPlan, AnyError> {
        let mut schedule = match &self.schedule {
            Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)
                .map_err(|e| format!("{}: {e}", path.display()))?,
            None => Schedule::small_data(),
        };
        if self.tiny {
            schedule.stages.iter_mut().for_each(|stage| stage.epochs = 1);
        }
        let plain = Plan {
            network: self.network,
            epochs: if self.tiny { 2 } else { self.epochs },
            batch: self.batch,
            lr: self.lr,
            augment: Plan::augmentation(),
        };
        Ok(ProtoPlan {
            plain,
            each: self.each,
            width: self.width,
            side: self.size,
            epsilon: self.epsilon,
            grid: self.grid,
            schedule,
        })
    }
}

fn run(args: &Args) -> Result<(), AnyError> {
    let began = Instant::now();
    let (data, plan) = (args.read()?, args.plan()?);
    let cancel = CancelToken::new();
    cancel.on_ctrl_c()?;
    let stopped = || println!("stopped; the same command goes on from {}", args.out.display());
    let folder = |name: &str| args.out.join(format!("{name}-{}", args.seed));
    let Some(plain) = train(&plan.plain, &data, args.seed, &folder("plain"), &cancel)? else {
        stopped();
        return Ok(());
    };
    let weights = &plain.fitted.params;
    let at = (args.seed, &*folder("prototypes"));
    let Some(trained) = prototypes::training::train(&plan, &data, weights, at, &cancel)? else {
        stopped();
        return Ok(());
    };
    let answers = judging::answers(plain.fitted.objective.network(), &data, args.batch)?;
    let run = Run {
        seed: args.seed,
        best_epoch: plain.fitted.best.map(|best| best.epoch),
        history: plain.fitted.history,
        stopped_early: plain.stopped_early,
        judged: judge(answers, &data, args.seed)?,
    };
    let answers = prototypes::judging::answers(&trained.network, &data, args.batch)?;
    let pair = Pair {
        plain: &run,
        plain_parameters: plain.fitted.params.count(),
        trained: &trained,
        judged: &judge(answers, &data, args.seed)?,
        seconds: began.elapsed().as_secs_f64(),
    };
    report::write(&args.out, &data, &plan, &pair)?;
    println!("{}", std::fs::read_to_string(args.out.join("scores.md"))?);
    println!("{} after {:.0} s", args.out.join("report.html").display(), began.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    tune_process();
    exit_code(run(&Args::parse()))
}
