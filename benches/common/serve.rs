//! A workload in a process of its own, driven line by line.
//!
//! A process of its own, because the system tells the largest memory of a process, not of a piece
//! of work. Line by line, so that two programs can be timed in turn. The driver writes a number of
//! runs to the process's input and reads a line of JSON; the first line comes unasked, when the
//! workload has run once to warm up.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use xdiff::nn::compute::{Path, with_path};
use xdiff_examples::AnyError;

use crate::machine::Machine;
use crate::workload::Workload;

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Milliseconds of each run that was asked for.
    pub ms: Vec<f64>,
    /// Learnt numbers of the network.
    pub parameters: usize,
    /// Threads, vectors and memory.
    pub machine: Machine,
}

/// Serves a workload on `path` until the input ends.
///
/// # Errors
/// When the work fails, or the input is not a number of runs.
pub fn serve(workload: &Workload, path: Path) -> Result<(), AnyError> {
    with_path(path, || {
        let (mut run, parameters) = workload.prepare()?;
        let mut answer = |runs: usize| -> Result<Report, AnyError> {
            let mut ms = Vec::new();
            for _ in 0..runs {
                let start = Instant::now();
                run()?;
                ms.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok(Report { ms, parameters, machine: Machine::now() })
        };
        let mut out = std::io::stdout().lock();
        let mut tell = |report: &Report| -> Result<(), AnyError> {
            writeln!(out, "{}", serde_json::to_string(report)?)?;
            Ok(out.flush()?)
        };
        tell(&answer(1)?)?;
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let runs = line.trim().parse().map_err(|_| format!("`{line}` is not a number of runs"))?;
            tell(&answer(runs)?)?;
        }
        Ok(())
    })
}

/// The driver's end of [`serve`]; dropping it ends the process.
#[derive(Debug)]
pub struct Served {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Served {
    /// Starts this very program again with these arguments, which must make it call [`serve`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(arguments: &[&str]) -> Result<Self, AnyError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("the process has no output")?;
        Ok(Self { input: process.stdin.take(), output: BufReader::new(output), process })
    }

    /// The next answer.
    ///
    /// # Errors
    /// When the process ended.
    pub fn read(&mut self) -> Result<Report, AnyError> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the process that ran the workload ended early".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Runs the workload so many times.
    ///
    /// # Errors
    /// When the process ended.
    pub fn run(&mut self, runs: usize) -> Result<Report, AnyError> {
        let input = self.input.as_mut().ok_or("the process has no input")?;
        writeln!(input, "{runs}")?;
        self.read()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.input = None;
        // It ends with its input; an error here would leave nothing to be done.
        let _ = self.process.wait();
    }
}
