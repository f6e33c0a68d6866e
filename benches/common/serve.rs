//! Workloads driven line by line, so that two programs can be timed in turn.
//!
//! Each line of the input is either the name of a workload, which is built, run once to warm up and
//! takes the place of the one before, or a number of runs. Each is answered by a line of JSON: a
//! [`Report`], or `{"error": …}`.

use std::io::{BufRead, Write};

use serde::Serialize;
use xdiff::nn::compute::{Path, with_path};
use xdiff_examples::AnyError;

use crate::catalogue;
use crate::machine::Machine;
use crate::workload::{Prepared, Workload};

/// One answer.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Milliseconds of each run that was asked for.
    pub ms: Vec<f64>,
    /// Learnt numbers of the workload.
    pub parameters: usize,
    /// Threads, vectors and memory.
    pub machine: Machine,
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

/// Answers every line of `input` on `path`, until there are no more.
///
/// # Errors
/// When input or output fail; work that fails is answered.
pub fn serve(input: impl BufRead, mut output: impl Write, path: Path) -> Result<(), AnyError> {
    let mut server = Server { workloads: catalogue::all(), present: None };
    for line in input.lines() {
        let answer = match with_path(path, || server.answer(line?.trim())) {
            Ok(report) => serde_json::to_string(&report)?,
            Err(error) => serde_json::to_string(&Failure { error: error.to_string() })?,
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

struct Server {
    workloads: Vec<Workload>,
    present: Option<Prepared>,
}

impl Server {
    fn answer(&mut self, line: &str) -> Result<Report, AnyError> {
        if let Ok(runs) = line.parse() {
            return self.run(runs);
        }
        self.present = None;
        let found = self.workloads.iter().find(|w| w.name == line);
        let workload = found.ok_or_else(|| format!("no workload is called `{line}`; see --list"))?;
        self.present = Some(workload.prepare()?);
        self.run(1)
    }

    fn run(&mut self, runs: usize) -> Result<Report, AnyError> {
        let work = self.present.as_mut().ok_or("no workload was named yet")?;
        let mut ms = Vec::new();
        for _ in 0..runs {
            ms.push((work.run)()?.as_secs_f64() * 1e3);
        }
        Ok(Report { ms, parameters: work.parameters, machine: Machine::now() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn lines_are_answered_in_turn() {
        let input = "2\nlinear/8x1x512-1000/forward\n3\nnothing\n1\n";
        let mut output = Vec::new();
        serve(input.as_bytes(), &mut output, Path::Kernels).unwrap();
        let answers: Vec<Value> = String::from_utf8(output)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let runs: Vec<Option<usize>> = answers.iter().map(|a| Some(a.get("ms")?.as_array()?.len())).collect();
        assert_eq!(runs, [None, Some(1), Some(3), None, None], "{answers:?}");
        assert_eq!(answers[1]["parameters"], 513_000);
        assert!(answers[3]["error"].as_str().unwrap().contains("nothing"));
    }
}
