//! Sampling: from a prediction of the network to the next image.
//!
//! A [`Scheduler`] holds only its configuration and tables. What belongs to one run is in two
//! values: the [`Plan`], which lists the time steps and does not change, and the [`State`], in
//! which a multistep method keeps its past.

mod any;
mod clip;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod dpmpp;
mod euler;
mod heun;
mod plan;
mod pndm;
mod sigmas;
#[cfg(test)]
mod toy;
mod unipc;

use std::fmt::Debug;

use candle_core::Tensor;

pub use any::{AnyScheduler, SchedulerKind};
pub use clip::ClipConfig;
pub use ddim::{Ddim, DdimConfig};
pub use ddim_inverse::{DdimInverse, DdimInverseConfig};
pub use ddpm::{Ddpm, DdpmConfig, VarianceType};
pub use dpmpp::{DpmSolverType, Dpmpp2m, Dpmpp2mConfig};
pub use euler::{Euler, EulerConfig};
pub use heun::{Heun, HeunConfig};
pub use plan::Plan;
pub use pndm::{Pndm, PndmConfig, PndmStart};
pub use sigmas::{FinalSigma, SigmaSpacing};
pub use unipc::{UniPc, UniPcConfig, UniPcSolverType};

use crate::{
    Error, Prediction, Result,
    schedule::{NoiseSchedule, same_shape},
};

/// A method of sampling.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::scheduler::{Ddim, DdimConfig, Scheduler, State, StepInput};
///
/// let scheduler = Ddim::new(DdimConfig::default())?;
/// let plan = scheduler.plan(10)?;
/// let mut state = State::default();
/// let mut sample = Tensor::ones((1, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// for index in 0..plan.len() {
///     let input = scheduler.scale_input(&plan, index, &sample)?;
///     let prediction = input.zeros_like()?; // a network would stand here
///     let at = StepInput { plan: &plan, index, prediction: &prediction, sample: &sample };
///     sample = scheduler.step(&at, &mut (), &mut state)?.prev_sample;
/// }
/// assert_eq!(sample.dims(), [1, 1, 4, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Scheduler: Debug + Send + Sync {
    /// The forward process.
    fn schedule(&self) -> &NoiseSchedule;

    /// What the network predicts.
    fn prediction(&self) -> Prediction;

    /// The time steps of a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Config`] when `steps` or the spacing cannot be used.
    fn plan(&self, steps: usize) -> Result<Plan>;

    /// The plan of a run that starts after the first `skip` of `steps` steps, as image-to-image
    /// sampling does.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); also when no step would be left.
    fn plan_from(&self, steps: usize, skip: usize) -> Result<Plan> {
        self.plan(steps)?.skip(skip * self.order())
    }

    /// The time steps at which the network is called, in that order.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    fn timesteps(&self, steps: usize) -> Result<Vec<f64>> {
        Ok(self.plan(steps)?.timesteps().to_vec())
    }

    /// How many calls of the network make one step.
    fn order(&self) -> usize {
        1
    }

    /// The standard deviation of the noise that sampling starts from.
    fn init_noise_sigma(&self, _plan: &Plan) -> f64 {
        1.
    }

    /// What the network is given for a sample.
    ///
    /// # Errors
    /// [`Error::Input`] when the plan has no such call.
    fn scale_input(&self, _plan: &Plan, _index: usize, sample: &Tensor) -> Result<Tensor> {
        Ok(sample.clone())
    }

    /// Clean images noised to given training steps, in the scale that this scheduler samples in.
    ///
    /// # Shapes
    /// `x0` and `noise` (B, …); `t` (B).
    ///
    /// # Errors
    /// [`Error::Input`] when shapes differ or a step is out of range.
    fn add_noise(&self, x0: &Tensor, noise: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.schedule().add_noise(x0, noise, t)
    }

    /// Clean images noised to the first step of a plan: the start of image-to-image sampling.
    ///
    /// # Shapes
    /// `x0` and `noise` (B, …).
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise).
    fn noise_to_start(&self, plan: &Plan, x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let batch = x0.dims().first().copied().unwrap_or(1);
        let t = Tensor::full(plan.timestep(0)? as f32, batch, x0.device())?;
        self.add_noise(x0, noise, &t)
    }

    /// One step.
    ///
    /// # Errors
    /// [`Error::Input`] when shapes differ, the plan has no such call or is another scheduler's,
    /// or noise is needed and the source has none.
    fn step(&self, at: &StepInput<'_>, noise: &mut dyn NoiseSource, state: &mut State) -> Result<Step>;
}

/// What one step works on.
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// The run's time steps.
    pub plan: &'a Plan,
    /// The call's place in the plan.
    pub index: usize,
    /// What the network returned.
    pub prediction: &'a Tensor,
    /// The noisy image (B, C, H, W), not scaled.
    pub sample: &'a Tensor,
}

impl StepInput<'_> {
    fn check(&self) -> Result<()> {
        same_shape(("sample", self.sample), ("prediction", self.prediction))
    }
}

/// What one step gives.
#[derive(Clone, Debug)]
pub struct Step {
    /// The image at the next noise level.
    pub prev_sample: Tensor,
    /// The clean image that the prediction stands for, clipped if the configuration says so.
    pub pred_x0: Tensor,
}

/// What a multistep method remembers between the calls of one run. A new run begins with
/// `State::default()`.
#[derive(Clone, Debug, Default)]
pub struct State {
    calls: usize,
    history: Vec<Tensor>,
    kept: Option<Tensor>,
    sum: Option<Tensor>,
}

impl State {
    /// Appends to the history, of which the last `depth` entries stay.
    fn push(&mut self, x: &Tensor, depth: usize) {
        self.history.push(x.clone());
        let surplus = self.history.len().saturating_sub(depth);
        self.history.drain(..surplus);
    }

    /// The entry `back` before the last.
    fn past(&self, back: usize) -> Result<&Tensor> {
        let place = self.history.len().checked_sub(back + 1).and_then(|i| self.history.get(i));
        place.ok_or_else(no_history)
    }
}

fn no_history() -> Error {
    Error::input("state", "does not belong to this run; begin a run with `State::default()`")
}

/// Where the noise of a stochastic step comes from.
///
/// `()` is the source that has none, for schedulers that draw none.
pub trait NoiseSource {
    /// Standard normal noise of the shape, dtype and device of `like`, for the call at this place
    /// of the plan.
    ///
    /// # Errors
    /// When the source has no noise for the call.
    fn draw(&mut self, index: usize, like: &Tensor) -> Result<Tensor>;
}

impl NoiseSource for () {
    fn draw(&mut self, _: usize, _: &Tensor) -> Result<Tensor> {
        Err(Error::input("noise", "this step draws noise, but the run was given no source of it"))
    }
}

/// Noise that was drawn beforehand: one tensor for each call of a plan.
#[derive(Clone, Debug)]
pub struct GivenNoise {
    /// (calls, B, …)
    pub noise: Tensor,
}

impl NoiseSource for GivenNoise {
    fn draw(&mut self, index: usize, like: &Tensor) -> Result<Tensor> {
        match self.noise.dims() {
            [calls, rest @ ..] if index < *calls && rest == like.dims() => {
                Ok(self.noise.get(index)?.to_dtype(like.dtype())?.to_device(like.device())?)
            }
            got => {
                let reason = format!("has shape {got:?}; call {index} needs {:?} behind it", like.dims());
                Err(Error::input("noise", reason))
            }
        }
    }
}
