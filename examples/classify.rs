//! What a network with given weights sees in images: the likeliest classes of each.
//!
//!     cargo run --release --example classify -- --network resnet18 --weights resnet18-f37072fd.pth cat.jpg
//!
//! Weights are torchvision's files, or any with its names; `--names` gives the classes' names, a line
//! each.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use clap::{Parser, ValueEnum};
use xdiff::core::Classifier;
use xdiff::data::{Colour, Geometry, Image, Limits, Window};
use xdiff::vision::{Adaptation, Architecture, ClassNames, Normalise, Pretrained, top_k};
use xdiff_examples::{AnyError, exit_code, tune_process};

/// The likeliest classes of images.
#[derive(Parser)]
struct Args {
    /// PNG, JPEG, TIFF or BMP files.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// One of torchvision's: resnet18, vgg16, densenet121, squeezenet1_0, …
    #[arg(long)]
    network: Architecture,
    /// Its weights for RGB images.
    #[arg(long)]
    weights: PathBuf,
    /// The names of the classes, a line each; numbers without.
    #[arg(long)]
    names: Option<PathBuf>,
    /// Classes that the weights tell apart.
    #[arg(long, default_value_t = 1000)]
    classes: usize,
    /// Images are cropped to a square at the centre and brought to this side.
    #[arg(long, default_value_t = 224)]
    side: usize,
    /// What the weights were trained on.
    #[arg(long, value_enum, default_value_t = Input::Imagenet)]
    input: Input,
    /// How many classes are printed.
    #[arg(long, default_value_t = 5)]
    top: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Input {
    /// Values less the mean, divided by the deviation, as torchvision.
    Imagenet,
    /// Values of 0 to 255 less 123, 117 and 104, as Caffe's networks.
    Bytes,
}

/// (1, 3, side, side), from 0 to 1.
fn read(path: &Path, side: usize) -> Result<Tensor, AnyError> {
    let image = Image::read(path, &Limits::default())?.with_colour(Colour::ToRgb)?;
    let image = Geometry::square(side).image(Window::Full.apply(image)?)?;
    Ok(Tensor::from_vec(image.into_data(), (1, 3, side, side), &Device::Cpu)?)
}

fn run(args: &Args) -> Result<(), AnyError> {
    let config = args.network.config(3, args.classes);
    let adapted = Pretrained::read(&args.weights)?.adapt(&*config, &Adaptation::default(), &Device::Cpu)?;
    if let Some(layer) = adapted.fresh.first() {
        let file = args.weights.display();
        return Err(format!("`{layer}` of {file} is not for {} classes; give --classes", args.classes).into());
    }
    let names = args.names.as_ref().map(ClassNames::read).transpose()?;
    let normalise = match args.input {
        Input::Imagenet => Normalise::imagenet(),
        Input::Bytes => Normalise::bytes_less([123.0, 117.0, 104.0]),
    };
    for path in &args.images {
        let (logits, _) = adapted.network.classify(&normalise.unit(&read(path, args.side)?)?, &mut ())?;
        println!("{}", path.display());
        for found in top_k(&logits, args.top)?.into_iter().flatten() {
            let name = names.as_ref().and_then(|names| names.get(found.class)).unwrap_or_default();
            println!("  {:6.2} %  {:4}  {name}", 100.0 * found.probability, found.class);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    tune_process();
    exit_code(run(&Args::parse()))
}
