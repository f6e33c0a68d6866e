//! What the schedulers' tests share.

use candle_core::{Device, Tensor};

use super::{DdimConfig, GivenNoise, NoiseSource, Scheduler, State, StepInput};

/// The configuration of diffusers' own DDIM tests: the defaults.
pub(super) fn golden_config() -> DdimConfig {
    DdimConfig::default()
}

/// The sample of diffusers' own tests: arange/n shaped (3, 8, 8, 4), the last axis moved first.
pub(super) fn golden_sample() -> Tensor {
    let n = 4 * 3 * 8 * 8;
    let values: Vec<f32> = (0..n).map(|i| i as f32 / n as f32).collect();
    Tensor::from_vec(values, (3, 8, 8, 4), &Device::Cpu)
        .and_then(|x| x.permute((3, 0, 1, 2))?.contiguous())
        .unwrap()
}

/// Runs a plan with the network x·t/(t+1).
pub(super) fn rollout(
    scheduler: &dyn Scheduler,
    plan: &super::Plan,
    mut sample: Tensor,
    noise: &mut dyn NoiseSource,
) -> Tensor {
    let mut state = State::default();
    for index in 0..plan.len() {
        let t = plan.timestep(index).unwrap();
        let input = scheduler.scale_input(plan, index, &sample).unwrap();
        let prediction = (input * (t / (t + 1.))).unwrap();
        let at = StepInput { plan, index, prediction: &prediction, sample: &sample };
        sample = scheduler.step(&at, noise, &mut state).unwrap().prev_sample;
    }
    sample
}

/// Σ|x| after a run of diffusers' own tests.
pub(super) fn golden(scheduler: &dyn Scheduler, steps: usize) -> f64 {
    let plan = scheduler.plan(steps).unwrap();
    let sample = (golden_sample() * scheduler.init_noise_sigma(&plan)).unwrap();
    let noise = sample.unsqueeze(0).unwrap().zeros_like().unwrap().repeat((plan.len(), 1, 1, 1, 1)).unwrap();
    let last = rollout(scheduler, &plan, sample, &mut GivenNoise { noise });
    f64::from(last.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap())
}
