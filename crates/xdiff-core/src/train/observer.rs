//! Watching a training.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::Result;

/// What one optimiser step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: usize,
    /// Steps in all.
    pub total: usize,
    /// The loss, averaged over the accumulated batches.
    pub loss: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate.
    pub lr: f64,
}

/// Sees each step of a training.
pub trait TrainObserver {
    /// Called after each optimiser step.
    ///
    /// # Errors
    /// Whatever the observer finds wrong; the training ends with it.
    fn step(&mut self, report: &StepReport) -> Result<()>;
}

impl TrainObserver for () {
    fn step(&mut self, _: &StepReport) -> Result<()> {
        Ok(())
    }
}

/// A progress bar with smoothed loss and time left on a terminal; a line now and then elsewhere.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    smooth: Option<f64>,
    start: Option<(usize, Instant)>,
    printed: Option<Instant>,
}

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(20);

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A bar on standard error.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{bar:32} {pos}/{len} steps · {msg} · {elapsed} gone, {eta} left",
            );
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, smooth: None, start: None, printed: None }
    }

    /// Prints a line, above the bar where there is one.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

impl TrainObserver for Progress {
    fn step(&mut self, r: &StepReport) -> Result<()> {
        let smooth = self.smooth.map_or(r.loss, |s| 0.98 * s + 0.02 * r.loss);
        self.smooth = Some(smooth);
        if let Some(bar) = &self.bar {
            if bar.length() != Some(r.total as u64) {
                bar.set_length(r.total as u64);
                bar.reset_eta();
            }
            bar.set_position(r.step as u64);
            bar.set_message(format!("loss {smooth:.4}"));
            if r.step == r.total {
                bar.finish();
            }
            return Ok(());
        }
        let (first, began) = *self.start.get_or_insert((r.step, Instant::now()));
        if r.step == r.total || self.printed.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.printed = Some(Instant::now());
            let done = r.step - first;
            let left = began.elapsed().as_secs_f64() / done.max(1) as f64 * (r.total - r.step) as f64;
            let left = if done > 0 { format!("  {left:.0} s left") } else { String::new() };
            eprintln!("step {}/{}  loss {smooth:.4}{left}", r.step, r.total);
        }
        Ok(())
    }
}
