use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use xdiff_nn::{Tap, TorchRng};

use super::*;
use crate::{
    Prediction,
    cancel::CancelToken,
    schedule::{NoiseSchedule, ScheduleConfig, per_sample, time_steps},
    scheduler::{
        AnyScheduler, ClipConfig, Ddim, DdimConfig, DdimInverse, DdimInverseConfig, Ddpm, DdpmConfig,
        SchedulerKind,
    },
};

/// The best network for data N(mean, sd²): E[ε | x_t] = √(1−ᾱ)·(x_t − √ᾱ·mean)/(ᾱ·sd² + 1 − ᾱ).
struct Gaussian {
    schedule: NoiseSchedule,
    mean: f64,
    sd: f64,
}

impl Gaussian {
    fn new() -> Self {
        Self { schedule: NoiseSchedule::new(&ScheduleConfig::default()).unwrap(), mean: 0.4, sd: 0.2 }
    }

    /// ᾱ at a time step that need not be whole.
    fn alpha_bar(&self, t: f64) -> f64 {
        let at = |t: f64| self.schedule.alphas_cumprod()[t as usize];
        at(t.floor()) + t.fract() * (at(t.ceil()) - at(t.floor()))
    }
}

impl Denoiser for Gaussian {
    fn predict(&self, x_t: &Tensor, t: &Tensor, _: &Cond, tap: &mut dyn Tap) -> Result<Tensor> {
        let weights = time_steps(t)?.into_iter().map(|t| {
            let a = self.alpha_bar(t);
            let w = (1. - a).sqrt() / (a * self.sd.powi(2) + 1. - a);
            (w, -w * a.sqrt() * self.mean)
        });
        let (scale, shift): (Vec<f64>, Vec<f64>) = weights.unzip();
        let out = x_t.broadcast_mul(&per_sample(&scale, x_t)?)?.broadcast_add(&per_sample(&shift, x_t)?)?;
        Ok(xdiff_nn::tap::visit(tap, "out", out)?)
    }
}

fn options(samples: usize, steps: usize) -> SampleOptions {
    SampleOptions { samples, shape: (1, 16, 16), steps, seed: 11, ..Default::default() }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn moments(x: &Tensor) -> (f64, f64) {
    let v = values(x);
    let n = v.len() as f64;
    let mean = v.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = v.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / (n - 1.);
    (mean, variance.sqrt())
}

fn scheduler(kind: SchedulerKind) -> AnyScheduler {
    let json = serde_json::json!({
        "clip_sample": false,
        "skip_prk_steps": true,
        "set_alpha_to_one": true,
        "beta_start": 1e-4,
        "beta_end": 0.02,
    });
    AnyScheduler::from_config(kind, &json).unwrap()
}

fn forward_kinds() -> impl Iterator<Item = SchedulerKind> {
    SchedulerKind::ALL.into_iter().map(|(kind, _)| kind).filter(|kind| *kind != SchedulerKind::DdimInverse)
}

#[test]
fn samples_of_every_scheduler_have_the_mean_and_deviation_of_the_data() {
    let network = Gaussian::new();
    for kind in forward_kinds() {
        let scheduler = scheduler(kind);
        let x = Sampler::new(&network, &*scheduler).run(&Cond::default(), &options(8, 500)).unwrap();
        let (mean, sd) = moments(&x);
        assert!((mean - 0.4).abs() < 0.02, "{kind:?}: mean {mean}");
        assert!((sd - 0.2).abs() < 0.02, "{kind:?}: deviation {sd}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A network that knows the image leads every scheduler to it, in any number of steps.
    #[test]
    fn a_network_that_knows_the_image_leads_to_it(steps in 1usize..40, seed in any::<u64>(), mean in -1f64..1.) {
        let network = Gaussian { mean, sd: 0., ..Gaussian::new() };
        for kind in forward_kinds() {
            let options = SampleOptions { seed, shape: (1, 2, 3), ..options(2, steps) };
            let scheduler = scheduler(kind);
            let x = Sampler::new(&network, &*scheduler).run(&Cond::default(), &options).unwrap();
            for v in values(&x) {
                prop_assert!((f64::from(v) - mean).abs() < 2e-3, "{kind:?} in {steps}: {v} for {mean}");
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let network = Gaussian::new();
    for kind in forward_kinds() {
        for noise in [NoiseKind::Native, NoiseKind::Torch] {
            let scheduler = scheduler(kind);
            let run = |options: SampleOptions| {
                let options = SampleOptions { noise, ..options };
                values(&Sampler::new(&network, &*scheduler).run(&Cond::default(), &options).unwrap())
            };
            let whole = run(SampleOptions { batch_size: 5, ..options(5, 6) });
            let parts = run(SampleOptions { batch_size: 2, ..options(5, 6) });
            let third = run(SampleOptions { first_index: 3, ..options(1, 6) });
            assert_eq!(whole, parts, "{kind:?} {noise:?}");
            assert_eq!(whole[3 * 256..4 * 256], third, "{kind:?} {noise:?}");
            assert_ne!(whole[..256], whole[256..512], "{kind:?} {noise:?}");
        }
    }
}

#[test]
fn torch_noise_is_that_of_the_seeded_generator() {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let mut first = Trajectory::new(Keep::Steps(vec![0]));
    let options = SampleOptions { noise: NoiseKind::Torch, ..options(2, 2) };
    Sampler::new(&Gaussian::new(), &scheduler).observe(&mut first).run(&Cond::default(), &options).unwrap();
    let want = |seed| values(&TorchRng::new(seed).randn((1, 16, 16), &Device::Cpu).unwrap());
    let got = values(&first.x_t(0).unwrap());
    assert_eq!(got[..256], want(11));
    assert_eq!(got[256..], want(12));
}

#[test]
fn inversion_and_sampling_come_back_to_the_image() {
    let network = Gaussian::new();
    let clip = ClipConfig::off();
    let backward = DdimInverse::new(DdimInverseConfig { clip: clip.clone(), ..Default::default() }).unwrap();
    let forward = Ddim::new(DdimConfig { clip, ..Default::default() }).unwrap();
    let noise = xdiff_nn::Rng::new(5).randn((2, 1, 16, 16), &Device::Cpu).unwrap();
    let image = noise.affine(0.2, 0.4).unwrap();
    let from = |latent: Tensor, steps| SampleOptions {
        start: Start::Latent { latent, skip: 0 },
        ..options(2, steps)
    };
    let mut errors = Vec::new();
    for steps in [50, 250] {
        let cond = Cond::default();
        let code = Sampler::new(&network, &backward).run(&cond, &from(image.clone(), steps)).unwrap();
        let back = Sampler::new(&network, &forward).run(&cond, &from(code, steps)).unwrap();
        let error = (back - &image).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        errors.push(error);
    }
    // The error of the discretisation falls with the first power of the step.
    assert!(errors[1] < 0.03 && errors[0] > 4. * errors[1], "{errors:?}");
}

#[test]
fn a_run_continues_bit_for_bit_from_a_kept_state() {
    let network = Gaussian::new();
    let scheduler = Ddpm::new(DdpmConfig::default()).unwrap();
    let mut kept = Trajectory::new(Keep::Steps(vec![4]));
    let whole =
        Sampler::new(&network, &scheduler).observe(&mut kept).run(&Cond::default(), &options(3, 10)).unwrap();
    let start = Start::Latent { latent: kept.x_prev(4).unwrap(), skip: 5 };
    let rest = Sampler::new(&network, &scheduler)
        .run(&Cond::default(), &SampleOptions { start, ..options(3, 10) })
        .unwrap();
    assert_eq!(values(&whole), values(&rest));
    assert!(kept.x_t(3).is_err());
}

#[test]
fn image_to_image_keeps_more_of_the_image_at_less_strength() {
    let network = Gaussian::new();
    let x0 = Tensor::full(2f32, (1, 1, 16, 16), &Device::Cpu).unwrap();
    for kind in forward_kinds() {
        let scheduler = scheduler(kind);
        let mean = |strength| {
            let start = Start::Image { x0: x0.clone(), strength };
            let options = SampleOptions { start, ..options(1, 50) };
            moments(&Sampler::new(&network, &*scheduler).run(&Cond::default(), &options).unwrap()).0
        };
        let (weak, strong) = (mean(0.1), mean(1.));
        assert!(weak > strong + 0.1, "{kind:?}: {weak} {strong}");
        assert!((strong - 0.4).abs() < 0.1, "{kind:?}: {strong}");
    }
}

#[test]
fn strength_leaves_the_last_steps() {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let start = |strength| Start::Image {
        x0: Tensor::zeros((1, 1, 16, 16), DType::F32, &Device::Cpu).unwrap(),
        strength,
    };
    for (strength, want) in [(1., 10), (0.75, 7), (0.1, 1)] {
        let options = SampleOptions { start: start(strength), ..options(1, 10) };
        assert_eq!(options.plan(&scheduler).unwrap().len(), want, "{strength}");
    }
    let options = SampleOptions { start: start(0.05), ..options(1, 10) };
    assert!(options.plan(&scheduler).is_err());
}

/// Stops after a number of steps, cancels a token, and listens to the network.
struct Stopper {
    after: usize,
    flow: Flow,
    token: CancelToken,
    seen: usize,
    tap: xdiff_nn::tap::Recorder,
}

impl Stopper {
    fn new(after: usize, flow: Flow) -> Self {
        let tap = xdiff_nn::tap::Recorder::new(xdiff_nn::tap::Sites::All);
        Self { after, flow, token: CancelToken::default(), seen: 0, tap }
    }
}

impl Observer for Stopper {
    fn observe(&mut self, view: &StepView<'_>) -> Result<Flow> {
        self.seen += 1;
        assert_eq!(values(&self.tap.seen()["out"]), values(view.prediction));
        if view.step + 1 < self.after {
            return Ok(Flow::Continue);
        }
        if self.flow == Flow::Continue {
            self.token.cancel();
        }
        Ok(self.flow)
    }

    fn tap(&mut self, _: usize) -> Option<&mut dyn Tap> {
        Some(&mut self.tap)
    }
}

#[test]
fn observers_and_tokens_stop_a_run() {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    for flow in [Flow::Stop, Flow::Continue] {
        let mut stopper = Stopper::new(3, flow);
        let mut trajectory = Trajectory::default();
        let mut progress = Progress::with_bar(indicatif::ProgressBar::hidden());
        let token = stopper.token.clone();
        let result = Sampler::new(&Gaussian::new(), &scheduler)
            .observe(&mut stopper)
            .observe(&mut trajectory)
            .observe(&mut progress)
            .cancel_with(token)
            .run(&Cond::default(), &options(2, 10));
        assert!(matches!(result, Err(Error::Cancelled { step: 3 })), "{flow:?}: {result:?}");
        assert_eq!(stopper.seen, 3);
        assert_eq!(trajectory.steps().map(|(_, t)| t).collect::<Vec<_>>(), [900., 800., 700.]);
    }
}

#[test]
fn a_trajectory_holds_all_samples_of_all_batches() {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let mut trajectory = Trajectory::new(Keep::Every(4));
    let options = SampleOptions { batch_size: 2, ..options(5, 10) };
    let x = Sampler::new(&Gaussian::new(), &scheduler)
        .observe(&mut trajectory)
        .run(&Cond::default(), &options)
        .unwrap();
    assert_eq!(trajectory.steps().map(|(step, _)| step).collect::<Vec<_>>(), [0, 4, 8, 9]);
    assert_eq!(values(&trajectory.x_prev(9).unwrap()), values(&x));
    assert_eq!(trajectory.pred_x0(4).unwrap().dims(), [5, 1, 16, 16]);
    let mut never = Trajectory::new(Keep::Every(0));
    let result =
        Sampler::new(&Gaussian::new(), &scheduler).observe(&mut never).run(&Cond::default(), &options);
    assert!(matches!(result, Err(Error::Config { field: "keep", .. })));
}

/// Returns a constant, and claims a kind of prediction.
struct Constant(f32, Prediction);

impl Denoiser for Constant {
    fn predict(&self, x_t: &Tensor, _: &Tensor, _: &Cond, _: &mut dyn Tap) -> Result<Tensor> {
        Ok(Tensor::full(self.0, x_t.shape(), x_t.device())?)
    }

    fn prediction(&self) -> Prediction {
        self.1
    }
}

#[test]
fn numbers_that_are_none_are_found_at_their_step() {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let network = Constant(bad, Prediction::Epsilon);
        let result = Sampler::new(&network, &scheduler).run(&Cond::default(), &options(1, 5));
        assert!(matches!(result, Err(Error::NonFinite { step: 0, .. })), "{bad}: {result:?}");
    }
}

#[test]
fn options_that_cannot_be_used_are_named() {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let image = |shape: (usize, usize, usize, usize), strength| Start::Image {
        x0: Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap(),
        strength,
    };
    let good = || options(1, 5);
    let cases = [
        (SampleOptions { samples: 0, ..good() }, "samples"),
        (SampleOptions { batch_size: 0, ..good() }, "batch_size"),
        (SampleOptions { steps: 0, ..good() }, "steps"),
        (SampleOptions { first_index: u64::MAX, ..good() }, "first_index"),
        (SampleOptions { steps: 1001, ..good() }, "num_inference_steps"),
        (SampleOptions { shape: (1, 0, 16), ..good() }, "shape"),
        (SampleOptions { start: image((1, 1, 16, 16), 0.), ..good() }, "strength"),
        (SampleOptions { start: image((1, 1, 16, 16), f64::NAN), ..good() }, "strength"),
        (SampleOptions { start: image((1, 1, 8, 16), 1.), ..good() }, "x0"),
    ];
    for (options, want) in cases {
        let result = Sampler::new(&Gaussian::new(), &scheduler).run(&Cond::default(), &options);
        let got = match result {
            Err(Error::Config { field, .. }) => field,
            Err(Error::Input { what, .. }) => what,
            other => panic!("{want}: {other:?}"),
        };
        assert_eq!(got, want);
    }
    let latent = Tensor::zeros((1, 1, 16, 16), DType::F32, &Device::Cpu).unwrap();
    let start = Start::Latent { latent, skip: 5 };
    let result =
        Sampler::new(&Gaussian::new(), &scheduler).run(&Cond::default(), &SampleOptions { start, ..good() });
    assert!(matches!(result, Err(Error::Input { what: "start", .. })));
}

#[test]
fn the_network_and_the_scheduler_must_agree() {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let network = Constant(0., Prediction::Velocity);
    let result = Sampler::new(&network, &scheduler).run(&Cond::default(), &options(1, 5));
    assert!(matches!(result, Err(Error::Config { field: "prediction_type", .. })));
    let cond = Cond { class: Some(Tensor::new(&[1u32, 2], &Device::Cpu).unwrap()), ..Default::default() };
    let network = Constant(0., Prediction::Epsilon);
    let result = Sampler::new(&network, &scheduler).run(&cond, &options(1, 5));
    assert!(matches!(result, Err(Error::Input { what: "cond.class", .. })));
}
