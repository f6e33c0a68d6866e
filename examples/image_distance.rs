//! How far a set of images is from another, by the features of a network: Fréchet and kernel distance,
//! precision, recall, density, coverage.
//!
//!     cargo run --release --example image_distance -- REAL MADE --weights pt_inception-2015-12-05-6726825d.pth
//!
//! The score is called FID only with these weights. Without --weights the network is random: distances
//! then still tell sets apart, but compare with nothing else. Images stream; memory does not grow with
//! their number unless --neighbours asks for what needs all features at once.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use xdiff::core::{FeatureExtractor, Metric, PixelRange};
use xdiff::data::{
    Colour, DataLoader, FileDataset, Fit, Geometry, LoaderConfig, ReadOptions, Values, Window, folder,
};
use xdiff::metrics::{
    FeatureBatch, Features, FrechetDistance, KernelDistance, Neighbours, PrecisionRecall, Subsets,
};
use xdiff::vision::{FidInception, FidInput, FidResize};
use xdiff::viz::write_atomic;
use xdiff_examples::{AnyError, exit_code, tune_process};

/// Length of the network's feature vectors.
const DIM: usize = 2048;

/// How far a set of images is from another.
#[derive(Parser)]
struct Args {
    /// The folder of the images that are compared with.
    real: PathBuf,
    /// The folder of the images that are judged.
    made: PathBuf,
    /// pytorch-fid's weights, or others of the same network.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Whose resizing is followed.
    #[arg(long, value_enum, default_value_t = Resizing::PytorchFid)]
    resize: Resizing,
    /// First brings all images to squares of this side, cropped at the centre: needed where they differ.
    #[arg(long)]
    side: Option<usize>,
    /// Also kernel distance over subsets, precision, recall, density and coverage.
    #[arg(long)]
    neighbours: bool,
    /// Images at once.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Also writes the scores as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The seed of the subsets, and of the weights where none are given.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Resizing {
    PytorchFid,
    CleanFid,
    TorchFidelity,
    Torchmetrics,
}

impl Resizing {
    fn preset(self) -> FidResize {
        match self {
            Self::PytorchFid => FidResize::PytorchFid,
            Self::CleanFid => FidResize::CleanFid,
            Self::TorchFidelity => FidResize::TorchFidelity,
            Self::Torchmetrics => FidResize::Torchmetrics,
        }
    }
}

/// What the features of both sets are gathered in.
struct Scores {
    frechet: FrechetDistance,
    /// Those that keep every feature.
    whole: Option<(KernelDistance, PrecisionRecall)>,
}

impl Scores {
    fn update(&mut self, batch: FeatureBatch<'_>) -> Result<(), AnyError> {
        self.frechet.update(batch)?;
        if let Some((kernel, neighbours)) = &mut self.whole {
            kernel.update(batch)?;
            neighbours.update(batch)?;
        }
        Ok(())
    }
}

fn stream(
    dir: &Path,
    args: &Args,
    network: &FidInception,
    mut each: impl FnMut(&Features) -> Result<(), AnyError>,
) -> Result<usize, AnyError> {
    let mut read = ReadOptions::new(Window::Full);
    read.colour = Colour::ToRgb;
    read.geometry = args.side.map(|side| Geometry { fit: Fit::Crop, ..Geometry::square(side) });
    let images = FileDataset::new(folder::flat(dir)?, read)?;
    let config =
        LoaderConfig { batch_size: args.batch, shuffle: false, values: Values::Unit, ..Default::default() };
    let loader = DataLoader::new(std::sync::Arc::new(images), config)?;
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")?;
    let bar = ProgressBar::new(loader.dataset().len() as u64).with_style(style);
    bar.set_message(dir.display().to_string());
    for batch in loader.epoch(0) {
        let batch = batch.map_err(|e| format!("{e}\nwhere sizes differ, give --side"))?;
        each(&Features::extract(network, &batch.images)?)?;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(loader.dataset().len())
}

fn run(args: &Args) -> Result<(), AnyError> {
    let input = FidInput::resized_as(PixelRange::Unit, args.resize.preset());
    let network = match &args.weights {
        Some(path) => FidInception::read(path, input, &Device::Cpu)?,
        None => FidInception::random(args.seed, input, &Device::Cpu)?,
    };
    let identity = network.identity();
    let whole = || -> Result<_, AnyError> {
        let subsets = Subsets { seed: args.seed, ..Default::default() };
        let kernel = KernelDistance::new(DIM, identity.clone(), Some(subsets))?;
        Ok((kernel, PrecisionRecall::new(DIM, identity.clone(), Neighbours::default())?))
    };
    let mut scores = Scores {
        frechet: FrechetDistance::new(DIM, identity.clone())?,
        whole: args.neighbours.then(whole).transpose()?,
    };
    stream(&args.real, args, &network, |features| scores.update(FeatureBatch::Reference(features)))?;
    stream(&args.made, args, &network, |features| scores.update(FeatureBatch::Generated(features)))?;
    let frechet = scores.frechet.compute()?;
    println!("{frechet}");
    let mut json = serde_json::json!({ "frechet": frechet });
    if let Some((kernel, neighbours)) = &scores.whole {
        let (kernel, neighbours) = (kernel.compute()?, neighbours.compute()?);
        println!("{kernel}\n{neighbours}");
        json["kernel"] = serde_json::to_value(kernel)?;
        json["precision_recall"] = serde_json::to_value(neighbours)?;
    }
    if let Some(path) = &args.json {
        write_atomic(path, serde_json::to_string_pretty(&json)?.as_bytes())?;
    }
    Ok(())
}

fn main() -> ExitCode {
    tune_process();
    exit_code(run(&Args::parse()))
}
