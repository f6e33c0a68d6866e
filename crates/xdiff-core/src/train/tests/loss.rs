//! The loss against numbers worked out by hand, and the noise that it is computed on.

use candle_core::DType;

use super::*;
use crate::Error;
use crate::cancel::CancelToken;

fn pixels(values: &[f32], samples: usize) -> Tensor {
    Tensor::from_slice(values, (samples, 1, 1, values.len() / samples), &Device::Cpu).unwrap()
}

const MIN_SNR: LossWeight = LossWeight::MinSnr { gamma: 5.0 };

/// ᾱ is 0.9, 0.72 and 0.36, the signal-to-noise ratio 9, 18/7 and 0.5625.
fn three_steps() -> NoiseSchedule {
    NoiseSchedule::from_betas(vec![0.1, 0.2, 0.5]).unwrap()
}

#[test]
fn losses_are_those_computed_by_hand() {
    let (x0, noise) = (pixels(&[1., 0., 0.5, -1.], 2), pixels(&[0., 1., 1., 1.], 2));
    let t = Tensor::new(&[0f32, 2.], &Device::Cpu).unwrap();
    let sample = NoisySample { x0: &x0, noise: &noise, t: &t };
    let zeros = x0.zeros_like().unwrap();
    // The velocity is (−√0.1, √0.9) at the first step and (0.2, 1.4) at the last.
    let v = pixels(&[-(0.1f32.sqrt()), 0.9f32.sqrt(), 0.2, 1.4], 2);
    let cases = [
        (Prediction::Epsilon, LossWeight::Simple, &zeros, (0.5 + 1.0) / 2.0),
        (Prediction::Sample, LossWeight::Simple, &zeros, (0.5 + 0.625) / 2.0),
        (Prediction::Velocity, LossWeight::Simple, &zeros, (0.5 + 1.0) / 2.0),
        (Prediction::Epsilon, MIN_SNR, &zeros, (0.5 * 5.0 / 9.0 + 1.0 * 1.0) / 2.0),
        (Prediction::Sample, MIN_SNR, &zeros, (0.5 * 5.0 + 0.625 * 0.5625) / 2.0),
        (Prediction::Velocity, MIN_SNR, &zeros, (0.5 * 0.5 + 1.0 * 0.36) / 2.0),
        (Prediction::Epsilon, MIN_SNR, &noise, 0.0),
        (Prediction::Sample, MIN_SNR, &x0, 0.0),
        (Prediction::Velocity, MIN_SNR, &v, 0.0),
        // One sample is right, the other off by (1, 1) and (0.5, −1).
        (Prediction::Epsilon, LossWeight::Simple, &x0, (1.0 + (0.25 + 4.0) / 2.0) / 2.0),
    ];
    let mut wrong = Vec::new();
    for (prediction, weight, predicted, expected) in cases {
        let config = LossConfig { weight, offset_noise: 0.0 };
        let loss = diffusion_loss(&config, &three_steps(), prediction, predicted, &sample).unwrap();
        let loss = f64::from(loss.to_scalar::<f32>().unwrap());
        if (loss - expected).abs() > 1e-6 {
            wrong.push(format!("{prediction:?}, {weight:?}: {loss}, by hand {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_terminal_step_without_signal_has_finite_weights() {
    let schedule = NoiseSchedule::from_betas(vec![0.5, 1.0]).unwrap();
    let config = LossConfig { weight: MIN_SNR, offset_noise: 0.0 };
    let weight = |prediction| config.weight_at(&schedule, 1, prediction).unwrap();
    assert_eq!(weight(Prediction::Epsilon), 1.0);
    assert_eq!((weight(Prediction::Velocity), weight(Prediction::Sample)), (0.0, 0.0));
    assert!(matches!(config.weight_at(&schedule, 2, Prediction::Epsilon), Err(Error::Input { .. })));
}

#[test]
fn what_does_not_fit_is_refused() {
    let (x0, t) = (pixels(&[1., 0.], 1), Tensor::new(&[3f32], &Device::Cpu).unwrap());
    let late = NoisySample { x0: &x0, noise: &x0, t: &t };
    let t = Tensor::new(&[1f32], &Device::Cpu).unwrap();
    let fits = NoisySample { x0: &x0, noise: &x0, t: &t };
    let config = LossConfig { weight: MIN_SNR, offset_noise: 0.0 };
    let loss = |predicted: &Tensor, sample: &NoisySample<'_>| {
        let outcome = diffusion_loss(&config, &three_steps(), Prediction::Epsilon, predicted, sample);
        outcome.map(|_| ()).unwrap_err().to_string()
    };
    let text = loss(&pixels(&[1., 0., 0.], 1), &fits);
    assert!(text.contains("[1, 1, 1, 3]") && text.contains("[1, 1, 1, 2]"), "{text}");
    assert!(loss(&x0, &late).contains("time step 3"));
}

/// The noise of one step over `count` black images of two channels, and their time steps.
fn noise(offset_noise: f64, seed: u64, count: usize) -> (Vec<Vec<f32>>, Vec<f32>) {
    let loss = LossConfig { offset_noise, ..Default::default() };
    let config = TrainConfig { steps: 1, seed, loss, ema: None, ..Default::default() };
    let mut trainer = toy(Prediction::Epsilon, config, about()).unwrap();
    let images = Tensor::zeros((count, 2, 8, 8), DType::F32, &Device::Cpu).unwrap();
    let batch: Result<_> = Ok(TrainBatch { images, cond: Cond::default() });
    trainer.run([batch].into_iter(), None, &CancelToken::new(), &mut ()).unwrap();
    let seen = trainer.model().seen.borrow()[0].clone();
    let t = values(&seen.t);
    // Of a black image only the noise is left: x_t = √(1 − ᾱ)·ε.
    let channels = values(&seen.x_t);
    let scale = |i: usize| (1.0 - schedule().alpha_bar(t[i / 2] as usize).unwrap()).sqrt() as f32;
    let noise = channels.chunks(64).enumerate().map(|(i, c)| c.iter().map(|v| v / scale(i)).collect());
    (noise.collect(), t)
}

fn variance(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64
}

#[test]
fn noise_and_time_steps_have_their_distributions() {
    for offset in [0.0, 0.5] {
        let (noise, t) = noise(offset, 1, 400);
        let wide = |c: &Vec<f32>| c.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let means: Vec<f64> = noise.iter().map(|c| wide(c).iter().sum::<f64>() / 64.0).collect();
        let within = noise.iter().map(|c| variance(&wide(c))).sum::<f64>() / noise.len() as f64;
        let expected = 1.0 / 64.0 + offset * offset;
        // 800 channels: a standard error of 5 % for the variance between, 0.6 % for that within.
        let between = variance(&means);
        assert!((between / expected - 1.0).abs() < 0.2, "offset {offset}: {between}, not {expected}");
        assert!((within / (63.0 / 64.0) - 1.0).abs() < 0.03, "offset {offset}: {within}");
        let mean = t.iter().sum::<f32>() / 400.0;
        assert!((mean - 499.5).abs() < 60.0, "{mean}");
        assert!(t.iter().all(|t| (0.0..1000.0).contains(t) && t.fract() == 0.0));
    }
}

#[test]
fn the_noise_of_a_sample_does_not_depend_on_its_batch() {
    let (few, t_few) = noise(0.1, 5, 3);
    let (many, t_many) = noise(0.1, 5, 9);
    assert_eq!((few.as_slice(), t_few.as_slice()), (&many[..6], &t_many[..3]));
    assert_ne!(many[0], many[1]);
    assert_ne!(noise(0.1, 6, 3).0, few);
}
