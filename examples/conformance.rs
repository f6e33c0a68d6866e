//! Checks xdiff's numbers against those of reference implementations.
//!
//!     cargo run --release --example conformance -- DIR...
//!     cargo run --release --example conformance -- --list

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use xdiff_examples::conformance::{check, find, ops};
use xdiff_examples::tune_process;

/// Compares each case under the given folders with what xdiff computes.
#[derive(Parser)]
struct Args {
    /// Prints the known ops, one a line.
    #[arg(long)]
    list: bool,
    /// Folders of cases, or single case files.
    #[arg(required_unless_present = "list")]
    paths: Vec<PathBuf>,
}

fn main() -> ExitCode {
    tune_process();
    let args = Args::parse();
    if args.list {
        ops().for_each(|op| println!("{op}"));
        return ExitCode::SUCCESS;
    }
    let files = match find(&args.paths) {
        Ok(files) => files,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let verdict = check(&file);
        println!("{verdict}");
        if verdict.passed() { passed += 1 } else { failed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
