//! The sampling loop.

mod noise;
mod observer;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Tensor};

use noise::SampleNoise;
use observer::Taps;

pub use noise::NoiseKind;
pub use observer::{Flow, Keep, Observer, Progress, StepView, Trajectory};

use crate::{
    Cond, Denoiser, Error, Result,
    cancel::CancelToken,
    scheduler::{Plan, Scheduler, State, Step, StepInput},
};

/// What a run of sampling starts from.
#[derive(Clone, Debug, Default)]
pub enum Start {
    /// Pure noise.
    #[default]
    Noise,
    /// A clean image (samples, C, H, W), noised to the first step that is left: image-to-image
    /// sampling, SDEdit. Of N steps the last ⌊N·strength⌋ are taken; strength in (0, 1].
    Image {
        /// The clean images.
        x0: Tensor,
        /// How much of the process is run.
        strength: f64,
    },
    /// A noisy image (samples, C, H, W) at the noise level of the first step that is left: the end
    /// of a DDIM inversion, or a state of an earlier run that is to be continued. A multistep
    /// scheduler begins its history anew.
    Latent {
        /// The noisy images.
        latent: Tensor,
        /// How many of the N steps are left out.
        skip: usize,
    },
}

/// Options of [`Sampler::run`].
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// How many samples are made.
    pub samples: usize,
    /// (C, H, W) of each.
    pub shape: (usize, usize, usize),
    /// The number of steps N.
    pub steps: usize,
    /// The seed.
    pub seed: u64,
    /// The index of the first sample, so that many runs can share the samples of one seed.
    pub first_index: u64,
    /// Which generator makes the noise.
    pub noise: NoiseKind,
    /// What sampling starts from.
    pub start: Start,
    /// How many samples go through the network together; at least 1.
    pub batch_size: usize,
    /// The number type of the samples.
    pub dtype: DType,
    /// The device of the network.
    pub device: Device,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self {
            samples: 1,
            shape: (1, 64, 64),
            steps: 50,
            seed: 0,
            first_index: 0,
            noise: NoiseKind::Native,
            start: Start::Noise,
            batch_size: 8,
            dtype: DType::F32,
            device: Device::Cpu,
        }
    }
}

impl SampleOptions {
    /// Checks every field that does not depend on the scheduler.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Input`] that names the field.
    pub fn validate(&self) -> Result<()> {
        let (c, h, w) = self.shape;
        for (field, value) in [
            ("samples", self.samples),
            ("batch_size", self.batch_size),
            ("steps", self.steps),
            ("shape", c.min(h).min(w)),
        ] {
            if value == 0 {
                return Err(Error::config(field, "is 0 or has a 0; give at least 1"));
            }
        }
        if self.first_index.checked_add(self.samples as u64).is_none() {
            let reason =
                format!("is {}, beyond which there are no {} indices", self.first_index, self.samples);
            return Err(Error::config("first_index", reason));
        }
        let (what, given) = match &self.start {
            Start::Noise => return Ok(()),
            Start::Image { x0, strength } => {
                if !(*strength > 0. && *strength <= 1.) {
                    let reason = format!("is {strength}; it must lie above 0 and not above 1");
                    return Err(Error::config("strength", reason));
                }
                ("x0", x0)
            }
            Start::Latent { latent, .. } => ("latent", latent),
        };
        let want = [self.samples, c, h, w];
        if given.dims() != want {
            return Err(Error::input(
                what,
                format!("has shape {:?}; the options say {want:?}", given.dims()),
            ));
        }
        Ok(())
    }

    fn plan(&self, scheduler: &dyn Scheduler) -> Result<Plan> {
        let skip = match &self.start {
            Start::Noise => 0,
            Start::Latent { skip, .. } => *skip,
            Start::Image { strength, .. } => {
                let taken = (self.steps as f64 * strength) as usize;
                if taken == 0 {
                    let reason = format!("is {strength}, which leaves none of {} steps", self.steps);
                    return Err(Error::config("strength", reason));
                }
                self.steps.saturating_sub(taken)
            }
        };
        scheduler.plan_from(self.steps, skip)
    }
}

/// Makes images with a network and a scheduler.
///
/// Each sample has its own generator (see [`NoiseKind`]), so that it is the same whatever the
/// batch size, its place in the batch or the number of threads. Every tensor is cut from the graph
/// after each step, so that memory does not grow.
///
/// ```
/// use candle_core::Tensor;
/// use xdiff_core::sample::{Keep, SampleOptions, Sampler, Trajectory};
/// use xdiff_core::scheduler::{Ddim, DdimConfig};
/// use xdiff_core::{Cond, Denoiser, Result};
/// use xdiff_nn::Tap;
///
/// /// A network that always sees noise only.
/// struct AllNoise;
/// impl Denoiser for AllNoise {
///     fn predict(&self, x_t: &Tensor, _: &Tensor, _: &Cond, _: &mut dyn Tap) -> Result<Tensor> {
///         Ok(x_t.clone())
///     }
/// }
///
/// let scheduler = Ddim::new(DdimConfig::default())?;
/// let mut trajectory = Trajectory::new(Keep::Every(5));
/// let options = SampleOptions { samples: 3, shape: (1, 8, 8), steps: 10, ..Default::default() };
/// let images = Sampler::new(&AllNoise, &scheduler)
///     .observe(&mut trajectory)
///     .run(&Cond::default(), &options)?;
/// assert_eq!(images.dims(), [3, 1, 8, 8]);
/// assert_eq!(trajectory.steps().map(|(step, _)| step).collect::<Vec<_>>(), [0, 5, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sampler<'a> {
    denoiser: &'a dyn Denoiser,
    scheduler: &'a dyn Scheduler,
    observers: Vec<&'a mut dyn Observer>,
    cancel: CancelToken,
}

impl std::fmt::Debug for Sampler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("scheduler", &self.scheduler)
            .field("observers", &self.observers.len())
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}

impl<'a> Sampler<'a> {
    /// A sampler without observers.
    pub fn new(denoiser: &'a dyn Denoiser, scheduler: &'a dyn Scheduler) -> Self {
        Self { denoiser, scheduler, observers: Vec::new(), cancel: CancelToken::default() }
    }

    /// Adds an observer; they are called in the order in which they were added.
    pub fn observe(mut self, observer: &'a mut dyn Observer) -> Self {
        self.observers.push(observer);
        self
    }

    /// Stops before the next step once the token says so.
    pub fn cancel_with(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// Makes the samples.
    ///
    /// # Shapes
    /// Every field of `cond` has one entry for each sample; the result is (samples, C, H, W), on
    /// the device and of the number type of the options.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Input`] for options that cannot be used, and when the network
    /// predicts something else than the scheduler expects; [`Error::Cancelled`] when the token or
    /// an observer stopped the run; [`Error::NonFinite`] when a sample ceases to be a number;
    /// whatever the network or an observer reports.
    pub fn run(&mut self, cond: &Cond, options: &SampleOptions) -> Result<Tensor> {
        options.validate()?;
        cond.check_batch(options.samples)?;
        let (said, expected) = (self.denoiser.prediction(), self.scheduler.prediction());
        if said != expected {
            let reason = format!("is {expected:?} in the scheduler, but the network predicts {said:?}");
            return Err(Error::config("prediction_type", reason));
        }
        let plan = options.plan(self.scheduler)?;
        let mut done = Vec::new();
        for first in (0..options.samples).step_by(options.batch_size) {
            let len = options.batch_size.min(options.samples - first);
            done.push(self.batch(&plan, &cond.narrow(first, len)?, options, first..first + len)?);
        }
        Ok(Tensor::cat(&done, 0)?)
    }

    /// Runs one batch through the whole plan.
    fn batch(
        &mut self,
        plan: &Plan,
        cond: &Cond,
        options: &SampleOptions,
        samples: std::ops::Range<usize>,
    ) -> Result<Tensor> {
        let ids = options.first_index + samples.start as u64..options.first_index + samples.end as u64;
        let mut noise = SampleNoise::new(options.noise, options.seed, ids, plan.skipped());
        let mut sample = self.start(plan, options, &samples, &mut noise)?;
        let mut state = State::default();
        for (step, t) in plan.timesteps().iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled { step });
            }
            let input = self.scheduler.scale_input(plan, step, &sample)?;
            let prediction = self.predict(step, &input, *t, cond)?;
            let at = StepInput { plan, index: step, prediction: &prediction, sample: &sample };
            let Step { prev_sample, pred_x0 } = self.scheduler.step(&at, &mut noise, &mut state)?;
            let (x_prev, pred_x0) = (prev_sample.detach(), pred_x0.detach());
            check_finite(&x_prev, step)?;
            let view = StepView {
                step,
                steps: plan.len(),
                t: *t,
                first_sample: samples.start,
                samples: options.samples,
                x_t: &sample,
                prediction: &prediction,
                pred_x0: &pred_x0,
                x_prev: &x_prev,
            };
            let mut flow = Flow::Continue;
            for observer in &mut self.observers {
                if observer.observe(&view)? == Flow::Stop {
                    flow = Flow::Stop;
                }
            }
            if flow == Flow::Stop {
                return Err(Error::Cancelled { step: step + 1 });
            }
            sample = x_prev;
        }
        Ok(sample)
    }

    fn predict(&mut self, step: usize, input: &Tensor, t: f64, cond: &Cond) -> Result<Tensor> {
        let t = Tensor::full(t as f32, input.dim(0)?, input.device())?;
        let mut taps = Taps(self.observers.iter_mut().filter_map(|o| o.tap(step)).collect());
        Ok(self.denoiser.predict(input, &t, cond, &mut taps)?.detach())
    }

    fn start(
        &self,
        plan: &Plan,
        options: &SampleOptions,
        samples: &std::ops::Range<usize>,
        noise: &mut SampleNoise,
    ) -> Result<Tensor> {
        let own = |x: &Tensor| -> Result<Tensor> {
            let x = x.narrow(0, samples.start, samples.len())?;
            Ok(x.to_dtype(options.dtype)?.to_device(&options.device)?.detach())
        };
        match &options.start {
            Start::Latent { latent, .. } => own(latent),
            Start::Image { x0, .. } => {
                let x0 = own(x0)?;
                self.scheduler.noise_to_start(plan, &x0, &noise.initial(&x0)?)
            }
            Start::Noise => {
                let (c, h, w) = options.shape;
                let like = Tensor::zeros((samples.len(), c, h, w), options.dtype, &options.device)?;
                let sigma = self.scheduler.init_noise_sigma(plan);
                Ok((noise.initial(&like)? * sigma)?)
            }
        }
    }
}

fn check_finite(x: &Tensor, step: usize) -> Result<()> {
    let sum = x.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?;
    if sum.is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite {
        what: "sample",
        step,
        hint: "check that the weights fit the model and that the scheduler is the one it was trained with",
    })
}
