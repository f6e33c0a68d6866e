//! Watching a run of sampling.

use std::collections::BTreeMap;

use candle_core::Tensor;
use indicatif::{ProgressBar, ProgressStyle};
use xdiff_nn::Tap;

use crate::{Error, Result};

/// One step as an observer sees it. Tensors are (b, C, H, W), b being the samples of this batch.
#[derive(Clone, Copy, Debug)]
pub struct StepView<'a> {
    /// The call's place in the run, from 0.
    pub step: usize,
    /// How many calls the run has.
    pub steps: usize,
    /// The time step.
    pub t: f64,
    /// The first sample of this batch among all of the run.
    pub first_sample: usize,
    /// How many samples the run makes.
    pub samples: usize,
    /// The noisy image before the step.
    pub x_t: &'a Tensor,
    /// What the network returned.
    pub prediction: &'a Tensor,
    /// The clean image that the prediction stands for.
    pub pred_x0: &'a Tensor,
    /// The image after the step.
    pub x_prev: &'a Tensor,
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It ends with [`Error::Cancelled`].
    Stop,
}

/// Sees every step of a run.
///
/// A run is made in batches of bounded size, one after the other: an observer sees all steps of
/// the first batch, then all of the second.
pub trait Observer {
    /// Called after each step.
    ///
    /// # Errors
    /// Whatever the observer finds wrong; the run ends with it.
    fn observe(&mut self, view: &StepView<'_>) -> Result<Flow>;

    /// A tap through which this observer looks into the network at a step. What the tap saw can be
    /// collected in [`observe`](Self::observe), which follows.
    fn tap(&mut self, _step: usize) -> Option<&mut dyn Tap> {
        None
    }
}

/// The taps of several observers as one: each sees what those before it returned.
pub(super) struct Taps<'a>(pub(super) Vec<&'a mut dyn Tap>);

impl Tap for Taps<'_> {
    fn wants(&self, site: &str) -> bool {
        self.0.iter().any(|tap| tap.wants(site))
    }

    fn activation(&mut self, site: &str, x: Tensor) -> xdiff_nn::Result<Tensor> {
        self.0.iter_mut().filter(|tap| tap.wants(site)).try_fold(x, |x, tap| tap.activation(site, x))
    }

    fn wants_attention(&self, site: &str) -> bool {
        self.0.iter().any(|tap| tap.wants_attention(site))
    }

    fn attention(&mut self, site: &str, probabilities: Tensor) -> xdiff_nn::Result<Tensor> {
        let wanting = self.0.iter_mut().filter(|tap| tap.wants_attention(site));
        wanting.into_iter().try_fold(probabilities, |p, tap| tap.attention(site, p))
    }
}

/// Which steps are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// All.
    #[default]
    All,
    /// Every n-th from the first, and the last.
    Every(usize),
    /// These.
    Steps(Vec<usize>),
}

impl Keep {
    /// Whether the step with this place in a run of `steps` is kept.
    ///
    /// # Errors
    /// [`Error::Config`] for every 0th step.
    pub fn keeps(&self, step: usize, steps: usize) -> Result<bool> {
        match self {
            Keep::All => Ok(true),
            Keep::Every(0) => Err(Error::config("keep", "asks for every 0th step; give 1 or more")),
            Keep::Every(n) => Ok(step.is_multiple_of(*n) || step + 1 == steps),
            Keep::Steps(list) => Ok(list.contains(&step)),
        }
    }
}

/// Keeps the images of chosen steps.
#[derive(Debug, Default)]
pub struct Trajectory {
    keep: Keep,
    frames: BTreeMap<usize, Frame>,
}

/// One kept step, one tensor for each batch of the run.
#[derive(Debug, Default)]
struct Frame {
    t: f64,
    x_t: Vec<Tensor>,
    pred_x0: Vec<Tensor>,
    x_prev: Vec<Tensor>,
}

impl Trajectory {
    /// An observer that keeps these steps.
    pub fn new(keep: Keep) -> Self {
        Self { keep, frames: BTreeMap::new() }
    }

    /// The kept steps and their time steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.frames.iter().map(|(step, frame)| (*step, frame.t))
    }

    /// The noisy images before a step, of all samples.
    ///
    /// # Errors
    /// [`Error::Input`] when the step was not kept.
    pub fn x_t(&self, step: usize) -> Result<Tensor> {
        Ok(Tensor::cat(&self.frame(step)?.x_t, 0)?)
    }

    /// The clean images predicted at a step, of all samples.
    ///
    /// # Errors
    /// [`Error::Input`] when the step was not kept.
    pub fn pred_x0(&self, step: usize) -> Result<Tensor> {
        Ok(Tensor::cat(&self.frame(step)?.pred_x0, 0)?)
    }

    /// The images after a step, of all samples.
    ///
    /// # Errors
    /// [`Error::Input`] when the step was not kept.
    pub fn x_prev(&self, step: usize) -> Result<Tensor> {
        Ok(Tensor::cat(&self.frame(step)?.x_prev, 0)?)
    }

    fn frame(&self, step: usize) -> Result<&Frame> {
        self.frames.get(&step).ok_or_else(|| {
            let kept: Vec<usize> = self.frames.keys().copied().collect();
            Error::input("step", format!("{step} was not kept; there are {kept:?}"))
        })
    }
}

impl Observer for Trajectory {
    fn observe(&mut self, view: &StepView<'_>) -> Result<Flow> {
        if self.keep.keeps(view.step, view.steps)? {
            let frame = self.frames.entry(view.step).or_default();
            frame.t = view.t;
            frame.x_t.push(view.x_t.clone());
            frame.pred_x0.push(view.pred_x0.clone());
            frame.x_prev.push(view.x_prev.clone());
        }
        Ok(Flow::Continue)
    }
}

/// Shows a bar on the terminal, and nothing where there is none.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    done: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self::with_bar(ProgressBar::new(0))
    }
}

impl Progress {
    /// Drives a bar of the caller's.
    pub fn with_bar(bar: ProgressBar) -> Self {
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} steps {msg} [{eta}]") {
            bar.set_style(style);
        }
        Self { bar, done: 0 }
    }
}

impl Observer for Progress {
    fn observe(&mut self, view: &StepView<'_>) -> Result<Flow> {
        self.done += view.x_t.dims().first().copied().unwrap_or(1) as u64;
        let length = (view.steps * view.samples) as u64;
        self.bar.set_length(length);
        self.bar.set_message(format!("t = {}", view.t));
        self.bar.set_position(self.done);
        if self.done == length {
            self.bar.finish_and_clear();
        }
        Ok(Flow::Continue)
    }
}
