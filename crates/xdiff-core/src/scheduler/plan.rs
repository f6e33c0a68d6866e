//! The time steps of one run.

use crate::{Error, Result, schedule::NoiseSchedule, spacing::Grid, spacing::TimestepSpacing};

/// The calls of the network in one sampling run, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    timesteps: Vec<f64>,
    /// Where each step leads (or, for inversion, comes from); nothing beyond the clean end.
    ends: Vec<Option<usize>>,
    /// Noise levels, one more than calls, for schedulers that work with them.
    sigmas: Vec<f64>,
    stride: usize,
    skipped: usize,
}

impl Plan {
    /// Steps that lead to fixed neighbours.
    pub(super) fn with_ends(timesteps: Vec<f64>, ends: Vec<Option<usize>>) -> Self {
        Self { timesteps, ends, sigmas: Vec::new(), stride: 0, skipped: 0 }
    }

    /// Steps of one width.
    pub(super) fn with_stride(timesteps: Vec<f64>, stride: usize) -> Self {
        Self { timesteps, ends: Vec::new(), sigmas: Vec::new(), stride, skipped: 0 }
    }

    /// Steps between noise levels, of which there is one more.
    pub(super) fn with_sigmas(timesteps: Vec<f64>, sigmas: Vec<f64>) -> Self {
        Self { timesteps, ends: Vec::new(), sigmas, stride: 0, skipped: 0 }
    }

    /// The number of calls.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Whether there is no call.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// The time step of each call.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// The noise level σ of each call and that at the end; empty where the scheduler works with ᾱ.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// How many calls of the whole run were left out at its beginning.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The time step of a call.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no such call.
    pub fn timestep(&self, index: usize) -> Result<f64> {
        self.timesteps.get(index).copied().ok_or_else(|| self.no_call(index))
    }

    /// The plan without its first `calls` calls.
    ///
    /// # Errors
    /// [`Error::Input`] when no call would be left.
    pub fn skip(mut self, calls: usize) -> Result<Self> {
        if calls >= self.len() {
            let reason = format!("leaves out {calls} of {} calls; at least one must be left", self.len());
            return Err(Error::input("start", reason));
        }
        self.timesteps.drain(..calls);
        self.ends.drain(..calls.min(self.ends.len()));
        self.sigmas.drain(..calls.min(self.sigmas.len()));
        self.skipped += calls;
        Ok(self)
    }

    /// The step that a call starts from, as an index into the tables, and the one at its other end.
    pub(super) fn ends(&self, index: usize, schedule: &NoiseSchedule) -> Result<(usize, Option<usize>)> {
        let t = schedule.whole_step(self.timestep(index)?)?;
        let end = self.ends.get(index).copied().ok_or_else(foreign)?;
        Ok((t, end))
    }

    /// The noise level of a call, or that at the end.
    pub(super) fn sigma(&self, index: usize) -> Result<f64> {
        if self.sigmas.is_empty() {
            return Err(foreign());
        }
        self.sigmas.get(index).copied().ok_or_else(|| self.no_call(index))
    }

    /// The width of a step in training steps.
    pub(super) fn stride(&self) -> Result<usize> {
        if self.stride == 0 { Err(foreign()) } else { Ok(self.stride) }
    }

    fn no_call(&self, index: usize) -> Error {
        let reason = format!("{index} is not a call of this plan, which has {}", self.len());
        Error::input("index", reason)
    }
}

fn foreign() -> Error {
    Error::input("plan", "was made by another scheduler; use the one that makes the steps")
}

/// The steps that lead from each time step ⌊T/N⌋ further down, or to the next one of the list where
/// the spacing is uneven.
pub(super) fn strided_ends(list: &[f64], spacing: &TimestepSpacing, grid: &Grid) -> Vec<Option<usize>> {
    if spacing.is_uneven() {
        return listed_ends(list);
    }
    let stride = grid.train / grid.steps;
    list.iter().map(|t| (*t as usize).checked_sub(stride)).collect()
}

/// The next time step of the list for each, and none for the last.
pub(super) fn listed_ends(list: &[f64]) -> Vec<Option<usize>> {
    let next = list.iter().skip(1).map(|t| Some(*t as usize));
    next.chain(std::iter::once(None)).take(list.len()).collect()
}
