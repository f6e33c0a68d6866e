//! Schedules, schedulers, spacing and guidance.

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;
use xdiff::core::guidance::Guidance;
use xdiff::core::schedule::{NoiseSchedule, ScheduleConfig};
use xdiff::core::scheduler::{AnyScheduler, GivenNoise, NoiseSource, SchedulerKind, State, StepInput};
use xdiff::core::spacing::ExponentialSpacing;

use super::{Case, Outputs};
use crate::AnyError;

fn vector(name: &str, values: &[f64]) -> Result<(String, Tensor), AnyError> {
    Ok((name.to_owned(), Tensor::from_slice(values, values.len(), &Device::Cpu)?))
}

/// A configuration of ours from those of the case's keys that it has.
fn only<T: DeserializeOwned>(case: &Case, keys: &[&str]) -> Result<T, AnyError> {
    let own = |key: &&str| Some(((*key).to_owned(), case.config.get(*key).filter(|v| !v.is_null())?.clone()));
    Ok(serde_json::from_value(Value::Object(keys.iter().filter_map(own).collect()))?)
}

pub(super) fn betas(case: &Case) -> Result<Outputs, AnyError> {
    let keys = ["beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "rescale_betas_zero_snr"];
    let schedule = NoiseSchedule::new(&only::<ScheduleConfig>(case, &keys)?)?;
    Ok(vec![vector("betas", schedule.betas())?, vector("alphas_cumprod", schedule.alphas_cumprod())?])
}

fn scheduler(case: &Case) -> Result<AnyScheduler, AnyError> {
    let kind: SchedulerKind = case.need("kind")?;
    Ok(AnyScheduler::from_config(kind, &case.config)?)
}

pub(super) fn timesteps(case: &Case) -> Result<Outputs, AnyError> {
    let steps = scheduler(case)?.timesteps(case.need("num_inference_steps")?)?;
    Ok(vec![vector("timesteps", &steps)?])
}

pub(super) fn rollout(case: &Case) -> Result<Outputs, AnyError> {
    let scheduler = scheduler(case)?;
    let plan = scheduler.plan_from(case.need("num_inference_steps")?, case.get("t_start")?.unwrap_or(0))?;
    let mut noise: Box<dyn NoiseSource> = match case.optional_f32("noise")? {
        Some(noise) => Box::new(GivenNoise { noise }),
        None => Box::new(()),
    };
    let mut sample = case.input_f32("sample")?;
    let mut state = State::default();
    for (index, t) in plan.timesteps().iter().enumerate() {
        let input = scheduler.scale_input(&plan, index, &sample)?;
        // The reference's stand-in for a network: sample·t/(t+1), in f32.
        let prediction = ((input * *t)? / (t + 1.0))?;
        let at = StepInput { plan: &plan, index, prediction: &prediction, sample: &sample };
        sample = scheduler.step(&at, &mut *noise, &mut state)?.prev_sample;
    }
    Ok(vec![("sample".to_owned(), sample)])
}

pub(super) fn add_noise(case: &Case) -> Result<Outputs, AnyError> {
    let scheduler = scheduler(case)?;
    let t = case.input("timesteps")?.to_dtype(DType::F32)?;
    // These two of diffusers, until a run is set up, look a step up in a table that lies the other
    // way round, so that t = 0 is pure noise; the cases record that. Ours means the step it names.
    let t = match scheduler.kind() {
        SchedulerKind::Dpmpp2m | SchedulerKind::UniPc => ((scheduler.schedule().steps() as f64 - 1.0) - t)?,
        _ => t,
    };
    let x = scheduler.add_noise(&case.input_f32("x0")?, &case.input_f32("noise")?, &t)?;
    Ok(vec![("x".to_owned(), x)])
}

pub(super) fn exponential(case: &Case) -> Result<Outputs, AnyError> {
    let spacing: ExponentialSpacing = only(case, &["gamma", "stage", "preset"])?;
    let steps = spacing.timesteps(case.need("T")?, case.need("steps")?)?;
    Ok(vec![vector("timesteps", &steps)?])
}

pub(super) fn guidance(case: &Case) -> Result<Outputs, AnyError> {
    let (uncond, cond) = (case.input_f32("uncond")?, case.input_f32("cond")?);
    let guidance = Guidance { scale: case.need("scale")?, rescale: case.get("rescale")?.unwrap_or(0.0) };
    let x = guidance.combine(&uncond, &cond)?;
    Ok(vec![("x".to_owned(), x)])
}
