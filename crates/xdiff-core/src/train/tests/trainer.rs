//! The loop: averaging, moving averages, conditions, interruption, and what ends it.

use std::collections::BTreeMap;

use candle_core::DType;
use xdiff_nn::optim::{AdamWConfig, EmaConfig, LrSchedule};

use super::*;
use crate::Error;
use crate::cancel::CancelToken;

/// A configuration in which everything that has state takes part.
fn full(steps: usize) -> TrainConfig {
    TrainConfig {
        steps,
        adamw: AdamWConfig { lr: 0.05, ..Default::default() },
        lr_schedule: LrSchedule::WarmupCosine { warmup: 3, total: 12, cycles: 0.5 },
        loss: LossConfig { weight: LossWeight::MinSnr { gamma: 5.0 }, offset_noise: 0.1 },
        accumulate: 2,
        ema: Some(EmaConfig { max_decay: 0.7 }),
        condition_dropout: Some(ConditionDropout { probability: 0.3, null_class: None }),
        checkpoint_every: 4,
        seed: 9,
        ..Default::default()
    }
}

fn run(trainer: &mut Trainer<Toy>, path: Option<&std::path::Path>) -> Result<Outcome> {
    let first = trainer.step() * 2;
    trainer.run(batches(first), path, &CancelToken::new(), &mut ())
}

/// Raises a token after some steps.
struct StopAfter(usize, CancelToken);

impl TrainObserver for StopAfter {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        if report.step == self.0 {
            self.1.cancel();
        }
        Ok(())
    }
}

#[test]
fn a_cancelled_training_goes_on_to_the_same_bits() {
    let whole = {
        let mut trainer = toy(Prediction::Velocity, full(12), about()).unwrap();
        assert_eq!(run(&mut trainer, None).unwrap(), Outcome::Finished);
        state(&trainer)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for stop in 1..12 {
        let token = CancelToken::new();
        let mut trainer = toy(Prediction::Velocity, full(12), about()).unwrap();
        let mut observer = StopAfter(stop, token.clone());
        let outcome = trainer.run(batches(0), Some(&path), &token, &mut observer).unwrap();
        assert_eq!((outcome, trainer.step()), (Outcome::Cancelled, stop));
        let checkpoint = Checkpoint::read(&path).unwrap();
        assert_eq!((checkpoint.step, checkpoint.history.len()), (stop, stop));

        let mut resumed = toy(Prediction::Velocity, full(12), about()).unwrap();
        resumed.resume(&checkpoint).unwrap();
        assert_eq!(state(&resumed), state(&trainer));
        assert_eq!(run(&mut resumed, Some(&path)).unwrap(), Outcome::Finished);
        assert_eq!(state(&resumed), whole, "after a stop at step {stop}");
        assert_eq!(Checkpoint::read(&path).unwrap().step, 12);
    }
}

#[test]
fn a_raised_token_stops_before_the_first_step_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let token = CancelToken::new();
    token.cancel();
    let mut trainer = toy(Prediction::Epsilon, full(3), about()).unwrap();
    let path = folder.path().join("model.safetensors");
    assert_eq!(trainer.run(batches(0), Some(&path), &token, &mut ()).unwrap(), Outcome::Cancelled);
    assert_eq!((trainer.step(), path.exists()), (0, false));
    assert!(Checkpoint::read_if_present(&path).unwrap().is_none());
}

#[test]
fn accumulated_batches_are_averaged() {
    // The prediction x0 = w does not depend on the noise, so that a batch of six images is the
    // average of two batches of three.
    let config = |accumulate| TrainConfig { steps: 1, accumulate, clip_norm: None, ..Default::default() };
    let train = |accumulate, batches: &mut dyn Iterator<Item = Result<TrainBatch>>| {
        let mut trainer = toy(Prediction::Sample, config(accumulate), about()).unwrap();
        let gain = BTreeMap::from([
            ("gain".to_owned(), Tensor::zeros((1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap()),
            ("w".to_owned(), trainer.params().tensors().unwrap()["w"].clone()),
        ]);
        trainer.params().load(&gain).unwrap();
        trainer.run(batches, None, &CancelToken::new(), &mut ()).unwrap();
        // Only the gradient of the gain depends on the noise.
        (values(&trainer.checkpoint().unwrap().optimizer["exp_avg.w"])[0], trainer.history()[0])
    };
    let joined = Tensor::cat(&[images(0, 3), images(1, 3)], 0).unwrap();
    let joined = Ok(TrainBatch { images: joined, cond: Cond::default() });
    let (w_parts, loss_parts) = train(2, &mut batches(0));
    let (w_joined, loss_joined) = train(1, &mut std::iter::once(joined));
    assert!((loss_parts - loss_joined).abs() < 1e-6, "{loss_parts} {loss_joined}");
    assert!((w_parts - w_joined).abs() < 1e-6, "{w_parts} {w_joined}");
}

#[derive(Default)]
struct Norms(Vec<StepReport>);

impl TrainObserver for Norms {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.0.push(*report);
        Ok(())
    }
}

#[test]
fn reports_say_what_the_step_did() {
    let mut trainer = toy(Prediction::Epsilon, full(5), about()).unwrap();
    let mut reports = Norms::default();
    trainer.run(batches(0), None, &CancelToken::new(), &mut reports).unwrap();
    for (i, r) in reports.0.iter().enumerate() {
        assert_eq!((r.step, r.total), (i + 1, 5));
        assert_eq!(r.loss as f32, trainer.history()[i]);
        assert_eq!(r.lr, full(5).lr_schedule.lr(0.05, i as u64));
        assert!(r.grad_norm > 0.0 && r.grad_norm.is_finite());
    }
    assert_eq!(reports.0.len(), 5);
}

#[test]
fn samples_are_drawn_from_the_moving_average() {
    let mut trainer = toy(Prediction::Epsilon, full(1), about()).unwrap();
    let mut shadow = 0.5f64;
    for step in 0..5u64 {
        let mut next = toy(Prediction::Epsilon, full(step as usize + 1), about()).unwrap();
        next.resume(&trainer.checkpoint().unwrap()).unwrap();
        trainer = next;
        run(&mut trainer, None).unwrap();
        let w = f64::from(values(trainer.params().get("w").unwrap())[0]);
        let decay = ((1.0 + step as f64) / (10.0 + step as f64)).min(0.7);
        shadow -= (1.0 - decay) * (shadow - w);
    }
    let checkpoint = trainer.checkpoint().unwrap();
    let inference = checkpoint.inference_weights();
    assert_eq!(inference.keys().collect::<Vec<_>>(), ["gain", "w"]);
    assert!((f64::from(values(&inference["w"])[0]) - shadow).abs() < 1e-6);
    assert_ne!(values(&inference["w"]), values(&checkpoint.weights["w"]));

    let config = TrainConfig { ema: None, ..full(2) };
    let mut plain = toy(Prediction::Epsilon, config, about()).unwrap();
    run(&mut plain, None).unwrap();
    let checkpoint = plain.checkpoint().unwrap();
    assert!(checkpoint.ema.is_none());
    assert_eq!(values(&checkpoint.inference_weights()["w"]), values(&checkpoint.weights["w"]));
}

fn conditioned(count: usize) -> Cond {
    Cond {
        image: Some(Tensor::ones((count, 1, 4, 4), DType::F32, &Device::Cpu).unwrap()),
        class: Some(Tensor::from_vec(vec![1u32; count], count, &Device::Cpu).unwrap()),
        text: Some(Tensor::ones((count, 2, 3), DType::F32, &Device::Cpu).unwrap()),
    }
}

/// The condition that the network saw in one step over 400 samples.
fn dropped(dropout: Option<ConditionDropout>) -> Result<Cond> {
    let config = TrainConfig { steps: 1, condition_dropout: dropout, ..Default::default() };
    let mut trainer = toy(Prediction::Epsilon, config, about())?;
    let batch: Result<_> = Ok(TrainBatch { images: images(1, 400), cond: conditioned(400) });
    trainer.run([batch].into_iter(), None, &CancelToken::new(), &mut ())?;
    let cond = trainer.model().seen.borrow()[0].cond.clone();
    Ok(cond)
}

#[test]
fn conditions_are_dropped_whole_and_as_often_as_asked() {
    for (probability, share) in
        [(None, 1.0..=1.0), (Some(0.0), 1.0..=1.0), (Some(1.0), 0.0..=0.0), (Some(0.3), 0.62..=0.78)]
    {
        let dropout = probability.map(|p| ConditionDropout { probability: p, null_class: Some(7) });
        let cond = dropped(dropout).unwrap();
        let image = values(&cond.image.unwrap());
        let text = values(&cond.text.unwrap());
        let class: Vec<u32> = cond.class.unwrap().to_vec1().unwrap();
        for (i, c) in class.iter().enumerate() {
            let kept = if *c == 1 { 1.0 } else { 0.0 };
            assert!(matches!(*c, 1 | 7), "{c}");
            assert!(image[16 * i..16 * (i + 1)].iter().chain(&text[6 * i..6 * (i + 1)]).all(|v| *v == kept));
        }
        let kept = class.iter().filter(|c| **c == 1).count() as f64 / 400.0;
        assert!(share.contains(&kept), "{probability:?}: {kept}");
    }
    let without = Some(ConditionDropout { probability: 0.5, null_class: None });
    assert!(matches!(dropped(without), Err(Error::Config { field: "condition_dropout", .. })));
}

#[test]
fn nothing_that_does_not_fit_is_resumed_and_nothing_changes() {
    let mut made = toy(Prediction::Epsilon, full(4), about()).unwrap();
    run(&mut made, None).unwrap();
    let good = made.checkpoint().unwrap();
    let with = |change: &dyn Fn(&mut Checkpoint)| {
        let mut c = good.clone();
        change(&mut c);
        c
    };
    let misshapen = || Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap();
    let cases = [
        ("learning rate", with(&|c| c.config.adamw.lr = 0.1), "training configuration"),
        ("seed", with(&|c| c.config.seed = 1), "training configuration"),
        ("loss", with(&|c| c.config.loss.offset_noise = 0.2), "training configuration"),
        ("accumulate", with(&|c| c.config.accumulate = 1), "training configuration"),
        ("description", with(&|c| c.description = json!({ "data": "other" })), "description"),
        ("no moving average", with(&|c| c.ema = None), "moving average"),
        ("missing weight", with(&|c| drop(c.weights.remove("w"))), "missing: w"),
        ("another weight", with(&|c| drop(c.weights.insert("v".into(), misshapen()))), "unexpected: v"),
        ("shape of a weight", with(&|c| drop(c.weights.insert("w".into(), misshapen()))), "[5]"),
        ("a moment", with(&|c| drop(c.optimizer.insert("exp_avg.w".into(), misshapen()))), "[5]"),
        ("no moment", with(&|c| drop(c.optimizer.remove("exp_avg_sq.w"))), "exp_avg_sq.w"),
        (
            "negative count",
            with(&|c| {
                c.optimizer.insert("step.w".into(), Tensor::new(-3i64, &Device::Cpu).unwrap());
            }),
            "-3",
        ),
        ("no shadow", with(&|c| drop(c.ema.as_mut().unwrap().remove("shadow.w"))), "shadow.w"),
    ];
    let mut trainer = toy(Prediction::Epsilon, full(9), about()).unwrap();
    trainer.run(batches(50), None, &CancelToken::new(), &mut ()).unwrap();
    let before = state(&trainer);
    let mut wrong = Vec::new();
    for (name, checkpoint, part) in &cases {
        match trainer.resume(checkpoint) {
            Ok(()) => wrong.push(format!("{name} is resumed")),
            Err(e) if !e.to_string().contains(part) => wrong.push(format!("{name}: {e}")),
            Err(_) => {}
        }
        if state(&trainer) != before {
            wrong.push(format!("{name}: the training has changed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Another number of steps, and of checkpoints, is no other training.
    let mut longer = full(40);
    longer.checkpoint_every = 1;
    let mut trainer = toy(Prediction::Epsilon, longer, about()).unwrap();
    trainer.resume(&good).unwrap();
    assert_eq!(state(&trainer), state(&made));
}

#[test]
fn what_ends_a_training_is_named_and_the_last_checkpoint_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let nan = || {
        let images = Tensor::full(f32::NAN, (3, 1, 4, 4), &Device::Cpu)?;
        Ok(TrainBatch { images, cond: Cond::default() })
    };
    let shaped = |dims: &[usize]| {
        let images = Tensor::zeros(dims, DType::F32, &Device::Cpu)?;
        Ok(TrainBatch { images, cond: Cond::default() })
    };
    type Last = Vec<Result<TrainBatch>>;
    type Is = fn(&Error) -> bool;
    let cases: Vec<(&str, Last, Is)> = vec![
        ("NaN", vec![nan(), nan()], |e| matches!(e, Error::NonFinite { what: "the loss", step: 5, .. })),
        (
            "the end",
            vec![],
            |e| matches!(e, Error::Input { what: "batches", reason } if reason.contains("step 5")),
        ),
        (
            "a failed read",
            vec![Err(Error::input("file", "is gone"))],
            |e| matches!(e, Error::Data(source) if source.to_string().contains("is gone")),
        ),
        ("three dimensions", vec![shaped(&[3, 4, 4])], |e| e.to_string().contains("[3, 4, 4]")),
        ("no images", vec![shaped(&[0, 1, 4, 4])], |e| matches!(e, Error::Input { .. })),
    ];
    for (name, last, is) in cases {
        let mut trainer = toy(Prediction::Epsilon, full(12), about()).unwrap();
        let outcome = trainer.run(batches(0).take(10).chain(last), Some(&path), &CancelToken::new(), &mut ());
        let error = outcome.unwrap_err();
        assert!(is(&error), "{name}: {error}");
        assert_eq!(Checkpoint::read(&path).unwrap().step, 4, "{name}");
        let mut resumed = toy(Prediction::Epsilon, full(12), about()).unwrap();
        resumed.resume(&Checkpoint::read(&path).unwrap()).unwrap();
        assert_eq!(run(&mut resumed, None).unwrap(), Outcome::Finished, "{name}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = toy(Prediction::Epsilon, full(2), about()).unwrap();
    let outcome = run(&mut trainer, Some(&folder.path().join("no/such/model.safetensors")));
    assert!(matches!(outcome, Err(Error::Nn(xdiff_nn::Error::Io { .. }))), "{outcome:?}");
}

#[test]
fn a_frozen_model_is_not_trained() {
    let scope = Params::fresh(0, &Device::Cpu).freeze(|_| true);
    let w = scope.weight("w", (1, 1, 1, 1), Init::Const(0.5)).unwrap();
    let model = Toy { gain: w.clone(), w, prediction: Prediction::Epsilon, seen: Rc::default() };
    let outcome = Trainer::new(model, scope.finish().unwrap(), schedule(), full(1), about());
    assert!(matches!(outcome, Err(Error::Input { what: "parameters", .. })));
}
