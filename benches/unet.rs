//! U-Nets end to end: forward pass, training step and sampling.
//!
//! `cargo bench -p xdiff-benches --bench unet -- [part of a name] [--seconds S] [--plain]`
//!
//! prints for each workload the median time, the arithmetic rate and its share of what a large
//! matrix product reaches on the same threads, and the largest memory. `docs/performance.md` has
//! results, and a driver that runs PyTorch in turn.

use clap::Parser;
use xdiff::nn::compute::Path;
use xdiff_benches::machine::{Machine, matmul_peak};
use xdiff_benches::serve::{Served, serve};
use xdiff_benches::workload::Workload;
use xdiff_examples::{AnyError, one_thread_pool};

/// Times U-Nets.
#[derive(Debug, Parser)]
struct Args {
    /// Only workloads whose name holds this.
    #[arg(default_value = "")]
    filter: String,
    /// About how long each workload is run, in seconds; at least three times.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Candle's own operations instead of the kernels.
    #[arg(long)]
    plain: bool,
    /// Prints the workloads as JSON.
    #[arg(long)]
    list: bool,
    /// Prints the rate of a large matrix product in GFLOP/s.
    #[arg(long)]
    peak: bool,
    /// Runs this workload as often as each line of the input says, and answers in JSON.
    #[arg(long, value_name = "NAME")]
    serve: Option<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn path(&self) -> Path {
        if self.plain { Path::Plain } else { Path::Kernels }
    }
}

fn main() -> Result<(), AnyError> {
    one_thread_pool();
    let args = Args::parse();
    if args.list {
        println!("{}", serde_json::to_string(&Workload::all())?);
    } else if args.peak {
        println!("{:.1}", matmul_peak());
    } else if let Some(name) = &args.serve {
        let found = Workload::all().into_iter().find(|w| w.name == *name);
        serve(&found.ok_or_else(|| format!("no workload `{name}`; see --list"))?, args.path())?;
    } else {
        table(&args)?;
    }
    Ok(())
}

fn table(args: &Args) -> Result<(), AnyError> {
    let (machine, peak) = (Machine::now(), matmul_peak());
    println!(
        "{} threads, {} vectors, {:?} path, matrix product {peak:.0} GFLOP/s",
        machine.threads,
        machine.vectors,
        args.path(),
    );
    println!(
        "{:22} {:>9} {:>6} {:>9} {:>9} {:>9} {:>8}",
        "", "GFLOP", "runs", "ms", "GFLOP/s", "of peak", "MiB"
    );
    for workload in Workload::all().iter().filter(|w| w.name.contains(&args.filter)) {
        let mut arguments = vec!["--serve", &workload.name];
        if args.plain {
            arguments.push("--plain");
        }
        let mut served = Served::start(&arguments)?;
        served.read()?;
        let one = served.run(1)?.ms.iter().sum::<f64>();
        let runs = (args.seconds * 1e3 / one) as usize;
        let report = served.run(runs.clamp(3, 1000))?;
        let ms = median(report.ms.clone());
        let rate = workload.flops as f64 / ms / 1e6;
        println!(
            "{:22} {:9.1} {:6} {ms:9.1} {rate:9.1} {:8.0}% {:>8}",
            workload.name,
            workload.flops as f64 / 1e9,
            report.ms.len(),
            100.0 * rate / peak,
            report.machine.peak_rss_mib.map_or_else(|| "?".to_owned(), |m| format!("{m:.0}")),
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
