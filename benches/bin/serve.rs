//! The workloads of the benches for a driver: what there is, what the machine can do, and runs on
//! demand. `compare/compare.py` uses it; by hand it shows a workload to a profiler:
//!
//! `echo reference/forward 100 | tr ' ' '\n' | cargo run --release -p xdiff-benches --bin serve -- --serve`

use clap::Parser;
use xdiff::nn::compute::Path;
use xdiff_benches::machine::Peak;
use xdiff_benches::{catalogue, serve};
use xdiff_examples::{AnyError, tune_process};

/// Workloads for a driver.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    what: What,
    /// Candle's own operations instead of the kernels.
    #[arg(long)]
    plain: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Prints the workloads as JSON.
    #[arg(long)]
    list: bool,
    /// Prints the rates of a large matrix product and a large copy as JSON.
    #[arg(long)]
    peak: bool,
    /// Takes names of workloads and numbers of runs, a line each, and answers in JSON.
    #[arg(long)]
    serve: bool,
}

fn main() -> Result<(), AnyError> {
    tune_process();
    let args = Args::parse();
    if args.what.list {
        println!("{}", serde_json::to_string(&catalogue::all())?);
    } else if args.what.peak {
        println!("{}", serde_json::to_string(&Peak::measure())?);
    } else {
        let path = if args.plain { Path::Plain } else { Path::Kernels };
        serve::serve(std::io::stdin().lock(), std::io::stdout().lock(), path)?;
    }
    Ok(())
}
