//! Checkpoints as files, and configurations.

use std::collections::BTreeMap;
use std::fs;

use xdiff_nn::optim::{AdamWConfig, EmaConfig, LrSchedule};
use xdiff_nn::weights::write_safetensors;

use super::*;
use crate::Error;
use crate::cancel::CancelToken;

fn trained() -> Trainer<Toy> {
    let config = TrainConfig { steps: 3, ..Default::default() };
    let mut trainer = toy(Prediction::Epsilon, config, about()).unwrap();
    trainer.run(batches(0), None, &CancelToken::new(), &mut ()).unwrap();
    trainer
}

#[test]
fn a_checkpoint_comes_back_as_it_was_and_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    let trainer = trained();
    trainer.checkpoint().unwrap().write(&a).unwrap();
    let read = Checkpoint::read(&a).unwrap();
    assert_eq!((read.step, &read.description), (3, &about()));
    let mut resumed = toy(Prediction::Epsilon, read.config.clone(), about()).unwrap();
    resumed.resume(&read).unwrap();
    assert_eq!(state(&resumed), state(&trainer));
    read.write(&b).unwrap();
    assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
}

#[test]
fn a_checkpoint_is_a_copy() {
    let mut trainer = trained();
    let before = trainer.checkpoint().unwrap();
    let w = values(&before.weights["w"]);
    let mut longer =
        toy(Prediction::Epsilon, TrainConfig { steps: 6, ..before.config.clone() }, about()).unwrap();
    longer.resume(&before).unwrap();
    longer.run(batches(3), None, &CancelToken::new(), &mut ()).unwrap();
    trainer.resume(&before).unwrap();
    assert_eq!(values(&before.weights["w"]), w);
    assert_ne!(values(longer.params().get("w").unwrap()), w);
}

#[test]
fn files_that_no_training_wrote_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let good = trained().checkpoint().unwrap();
    good.write(&path).unwrap();
    let metadata = xdiff_nn::weights::read_safetensors_metadata(&path).unwrap();
    let tensors = xdiff_nn::weights::read_safetensors(&path).unwrap();
    type Parts = (BTreeMap<String, Tensor>, BTreeMap<String, String>);
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = (tensors.clone(), metadata.clone());
        change(&mut parts);
        write_safetensors(&path, &parts.0, &parts.1).unwrap();
        Checkpoint::read(&path).map(|_| ())
    };
    let training = metadata["training"].clone();
    let edit = |from: &str, to: &str| training.replace(from, to);
    let cases = [
        ("nothing known", changed(&|p| p.1.clear()), "format"),
        ("another format", changed(&|p| drop(p.1.insert("format".into(), "pt".into()))), "\"pt\""),
        ("no training", changed(&|p| drop(p.1.remove("training"))), "training"),
        ("broken JSON", changed(&|p| drop(p.1.insert("training".into(), "{".into()))), "EOF"),
        (
            "unknown field",
            changed(&|p| drop(p.1.insert("training".into(), edit("\"seed\"", "\"sead\"")))),
            "sead",
        ),
        (
            "more steps than losses",
            changed(&|p| drop(p.1.insert("training".into(), edit("\"step\":3", "\"step\":4")))),
            "3 losses for 4 steps",
        ),
        (
            "a negative number of steps",
            changed(&|p| drop(p.1.insert("training".into(), edit("\"step\":3", "\"step\":-4")))),
            "-4",
        ),
        ("no losses", changed(&|p| drop(p.0.remove("history"))), "0 losses"),
        (
            "losses of another type",
            changed(&|p| {
                drop(p.0.insert("history".into(), Tensor::new(&[1u8, 2, 3], &Device::Cpu).unwrap()))
            }),
            "history",
        ),
        (
            "losses of another shape",
            changed(&|p| {
                drop(p.0.insert("history".into(), Tensor::new(&[[1f32, 2., 3.]], &Device::Cpu).unwrap()))
            }),
            "history",
        ),
        (
            "a stranger",
            changed(&|p| drop(p.0.insert("model.weight".into(), Tensor::new(1f32, &Device::Cpu).unwrap()))),
            "model.weight",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, outcome, part) in cases {
        match outcome {
            Err(Error::Checkpoint { path: at, reason, .. }) if at == path && reason.contains(part) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(matches!(Checkpoint::read(folder.path()), Err(Error::Nn(_))));
    assert!(matches!(
        Checkpoint::read(&folder.path().join("none")),
        Err(Error::Nn(xdiff_nn::Error::Io { .. }))
    ));
    assert!(Checkpoint::read_if_present(folder.path()).is_err());
}

#[test]
fn bad_values_name_their_field() {
    let ok = TrainConfig::default();
    ok.validate().unwrap();
    let loss = |weight, offset_noise| TrainConfig { loss: LossConfig { weight, offset_noise }, ..ok.clone() };
    let adamw = |change: &dyn Fn(&mut AdamWConfig)| {
        let mut c = ok.clone();
        change(&mut c.adamw);
        c
    };
    let dropout = |probability| TrainConfig {
        condition_dropout: Some(ConditionDropout { probability, null_class: None }),
        ..ok.clone()
    };
    let warmup = LrSchedule::WarmupCosine { warmup: 5, total: 10, cycles: f64::NAN };
    let cases = [
        (TrainConfig { steps: 0, ..ok.clone() }, "steps"),
        (TrainConfig { accumulate: 0, ..ok.clone() }, "accumulate"),
        (TrainConfig { checkpoint_every: 0, ..ok.clone() }, "checkpoint_every"),
        (TrainConfig { clip_norm: Some(0.0), ..ok.clone() }, "clip_norm"),
        (TrainConfig { clip_norm: Some(f64::NAN), ..ok.clone() }, "clip_norm"),
        (TrainConfig { clip_norm: Some(f64::INFINITY), ..ok.clone() }, "clip_norm"),
        (TrainConfig { ema: Some(EmaConfig { max_decay: 1.0 }), ..ok.clone() }, "max_decay"),
        (TrainConfig { lr_schedule: warmup, ..ok.clone() }, "cycles"),
        (adamw(&|a| a.lr = f64::NAN), "lr"),
        (adamw(&|a| a.betas.1 = 1.0), "betas.1"),
        (loss(LossWeight::MinSnr { gamma: 0.0 }, 0.0), "gamma"),
        (loss(LossWeight::Simple, -0.1), "offset_noise"),
        (loss(LossWeight::Simple, f64::INFINITY), "offset_noise"),
        (dropout(1.5), "probability"),
        (dropout(f64::NAN), "probability"),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .filter(|(config, field)| {
            !config.validate().is_err_and(|e| e.to_string().contains(field))
                || toy(Prediction::Epsilon, config.clone(), about()).is_ok()
        })
        .map(|(_, field)| field)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn configurations_are_read_strictly_and_come_back() {
    let config = TrainConfig {
        loss: LossConfig { weight: LossWeight::MinSnr { gamma: 3.5 }, offset_noise: 0.1 },
        condition_dropout: Some(ConditionDropout { probability: 0.1, null_class: Some(3) }),
        lr_schedule: LrSchedule::WarmupCosine { warmup: 5, total: 10, cycles: 0.5 },
        clip_norm: None,
        ..Default::default()
    };
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
    assert_eq!(serde_json::from_str::<TrainConfig>("{}").unwrap(), TrainConfig::default());
    for wrong in [r#"{"step": 1}"#, r#"{"loss": {"weigth": "simple"}}"#, r#"{"adamw": {"rate": 1}}"#] {
        assert!(serde_json::from_str::<TrainConfig>(wrong).is_err(), "{wrong}");
    }
}
