//! The loop.

use std::cell::Cell;

use super::*;
use crate::Error;

fn run(fit: &mut Fit<Classification>, data: &FitData<'_, Labelled>) -> Result<FitOutcome> {
    fit.run(data, None, &CancelToken::new(), &mut ())
}

#[test]
fn sixteen_pictures_are_learnt() {
    let all: Vec<usize> = (0..16).collect();
    let batches = || Feed::fixed(vec![vec![group(&all[..8], 8)], vec![group(&all[8..], 8)]]);
    let config = FitConfig {
        epochs: 40,
        adamw: AdamWConfig { lr: 0.03, ..Default::default() },
        monitor: Measure::Accuracy,
        ..Default::default()
    };
    let mut fit = tiny(config, 0.0).unwrap();
    let data = FitData::new(batches()).validated_on(batches());
    assert_eq!(run(&mut fit, &data).unwrap(), FitOutcome::Finished);
    let losses = &fit.history().losses;
    assert!(losses[79] < 0.6 * losses[0], "{losses:?}");
    let fitted = fit.into_best().unwrap();
    assert_eq!(fitted.best.map(|b| b.value), Some(1.0));
    // The weights that are left are those of the best epoch.
    let answers = predict(fitted.objective.network(), [Ok::<_, Error>(vec![group(&all, 8)])]).unwrap();
    assert_eq!(answers.measure(Measure::Accuracy), Some(1.0));
    assert_eq!((answers.len(), answers.ids()[3].as_str()), (16, "image 3"));
}

#[test]
fn one_seed_is_one_result_whatever_the_number_of_threads() {
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut fit = tiny(full(), 0.3).unwrap();
            run(&mut fit, &data()).unwrap();
            state(&fit)
        })
    };
    let one = train(1);
    assert_eq!(one, train(3));
    let mut other = tiny(FitConfig { seed: 6, ..full() }, 0.3).unwrap();
    run(&mut other, &data()).unwrap();
    assert_ne!(one, state(&other));
}

/// One weight that shrinks with every step, and measures as written down.
#[derive(Debug)]
struct Scripted {
    w: Tensor,
    values: Vec<f64>,
    next: Cell<usize>,
}

#[derive(Debug)]
struct Line(Option<f64>);

impl Findings for Line {
    fn count(&self) -> usize {
        1
    }
    fn measure(&self, which: Measure) -> Option<f64> {
        self.0.filter(|_| which == Measure::Accuracy)
    }
}

impl Objective for Scripted {
    type Group = ();
    type Findings = Line;

    fn loss(&self, _: &(), _: &mut Pass<'_>) -> Result<LossParts> {
        Ok(LossParts::mean(self.w.sqr()?.sum_all()?, 1.0))
    }
    fn findings(&self) -> Line {
        Line(None)
    }
    fn observe(&self, _: &(), line: &mut Line) -> Result<LossParts> {
        line.0 = self.values.get(self.next.replace(self.next.get() + 1)).copied();
        Ok(LossParts::mean(self.w.sqr()?.sum_all()?, 1.0))
    }
    fn measures(&self) -> &'static [Measure] {
        &[Measure::Loss, Measure::Accuracy]
    }
}

fn scripted(values: &[f64], config: FitConfig) -> Result<Fit<Scripted>> {
    let params = Params::fresh(0, &Device::Cpu);
    let w = params.weight("w", (2, 2), xdiff_nn::Init::Const(1.0))?;
    let objective = Scripted { w, values: values.to_vec(), next: Cell::new(0) };
    Fit::new(objective, params.finish()?, config, serde_json::Value::Null)
}

fn once() -> FitData<'static, ()> {
    FitData::new(Feed::fixed(vec![vec![()]])).validated_on(Feed::fixed(vec![vec![()]]))
}

#[test]
fn a_training_that_no_longer_improves_ends_with_its_best_weights() {
    let stopping = |patience, min_delta| Some(EarlyStopping { patience, min_delta });
    let config = |early_stopping, epochs| FitConfig {
        epochs,
        early_stopping,
        monitor: Measure::Accuracy,
        ..Default::default()
    };
    // Values, stopping, epochs done, the best epoch.
    let cases: [(&[f64], _, usize, usize); 6] = [
        (&[0.5, 0.6, 0.61, 0.605, 0.612, 0.9], stopping(3, 0.05), 5, 4),
        (&[0.5, 0.6, 0.61, 0.605, 0.612, 0.9], stopping(3, 0.0), 6, 5),
        (&[0.5, 0.4, 0.3, 0.9], stopping(2, 0.0), 3, 0),
        (&[0.5, 0.4, 0.6, 0.5, 0.7, 0.1], stopping(2, 0.0), 6, 4),
        (&[0.5, 0.5, 0.5, 0.5], stopping(1, 0.0), 2, 0),
        (&[0.5, 0.4, 0.3, 0.2], None, 4, 0),
    ];
    let mut wrong = Vec::new();
    for (values, early, done, best) in cases {
        let mut fit = scripted(values, config(early, values.len())).unwrap();
        let outcome = fit.run(&once(), None, &CancelToken::new(), &mut ()).unwrap();
        let expected = if done < values.len() { FitOutcome::StoppedEarly } else { FitOutcome::Finished };
        let epochs = fit.history().epochs.len();
        let fitted = fit.into_best().unwrap();
        // The weights of the best epoch are those that a training of just that length ends with.
        let mut short = scripted(values, config(None, best + 1)).unwrap();
        short.run(&once(), None, &CancelToken::new(), &mut ()).unwrap();
        let same = weights(&fitted.params) == weights(short.params());
        if (outcome, epochs, fitted.best.map(|b| b.epoch), same) != (expected, done, Some(best), true) {
            wrong.push(format!(
                "{values:?} {early:?}: {outcome:?} after {epochs}, best {:?}, {same}",
                fitted.best
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn less_loss_is_better() {
    let mut fit = scripted(&[0.1; 4], FitConfig { epochs: 4, ..Default::default() }).unwrap();
    fit.run(&once(), None, &CancelToken::new(), &mut ()).unwrap();
    assert_eq!(fit.best().map(|b| (b.epoch, b.measure)), Some((3, Measure::Loss)));
    let train: Vec<f64> = fit.history().epochs.iter().map(|e| e.train_loss).collect();
    assert!(train.windows(2).all(|w| w[1] < w[0]), "{train:?}");
}

#[test]
fn frozen_layers_stay_as_they_are() {
    // `stem.1` is the convolution, `stem.10` the batch norm.
    for (frozen, kept) in [
        ("stem.1", vec!["stem.1.weight"]),
        ("stem.10", vec!["stem.10.bias", "stem.10.running_mean", "stem.10.running_var", "stem.10.weight"]),
    ] {
        let mut fit = tiny(FitConfig { frozen: vec![frozen.to_owned()], ..full() }, 0.0).unwrap();
        let before = weights(fit.params());
        run(&mut fit, &data()).unwrap();
        let same: Vec<_> = before
            .iter()
            .zip(weights(fit.params()))
            .filter(|(a, b)| **a == *b)
            .map(|(a, _)| a.0.clone())
            .collect();
        assert_eq!(same, kept, "{frozen}");
    }
}

#[test]
fn decay_reaches_what_it_should() {
    // A weight of 0 has no gradient of the loss w², and Adam leaves it; decay moves all others.
    let shrink = |decay, name: &str| {
        let config = FitConfig {
            epochs: 1,
            decay,
            adamw: AdamWConfig { lr: 1e-12, weight_decay: 1e11, ..Default::default() },
            ..full()
        };
        let config = FitConfig { schedule: Schedule::Constant, ema: None, ..config };
        let mut fit = tiny(config, 0.0).unwrap();
        let value = |fit: &Fit<Classification>| {
            let t = fit.params().get(name).unwrap().abs().unwrap().sum_all().unwrap();
            t.to_scalar::<f32>().unwrap()
        };
        let before = value(&fit);
        run(&mut fit, &data()).unwrap();
        value(&fit) / before
    };
    // Two steps of 1 − lr·λ = 0.9.
    let cases = [
        (Decay::All, "fc.weight", 0.81),
        (Decay::All, "fc.bias", 0.81),
        (Decay::Matrices, "fc.weight", 0.81),
        (Decay::Matrices, "fc.bias", 1.0),
        (Decay::Matrices, "stem.10.weight", 1.0),
        (Decay::Matrices, "stem.1.weight", 0.81),
    ];
    for (decay, name, expected) in cases {
        let got = shrink(decay, name);
        assert!((got - expected).abs() < 1e-4, "{decay:?} {name}: {got}");
    }
}

#[test]
fn auxiliary_classifiers_count_by_their_weight() {
    let loss = |weight| {
        let params = Params::fresh(3, &Device::Cpu);
        let network = Tiny::new(&params, true, 0.0).unwrap();
        let objective =
            Classification::new(network, CrossEntropy::default()).unwrap().auxiliary(weight).unwrap();
        let batch = group(&[0, 1, 2, 3], 6);
        let loss = objective.loss(&batch, &mut Pass::train(&mut ())).unwrap();
        f64::from(loss.value().unwrap().to_scalar::<f32>().unwrap())
    };
    let (none, some, all) = (loss(0.0), loss(Classification::INCEPTION), loss(1.0));
    assert!((some - none - 0.4 * (all - none)).abs() < 1e-6 && all > none + 0.1, "{none} {some} {all}");
}

#[test]
fn groups_of_single_images_are_put_together_by_size() {
    let image = |side: usize| Tensor::zeros((1, side, side), DType::F32, &Device::Cpu).unwrap();
    let samples =
        [(4, 0), (6, 1), (4, 2)].map(|(side, label)| (image(side), label, format!("{side} {label}")));
    let groups = Labelled::by_size(samples).unwrap();
    assert_eq!(groups.iter().map(|g| g.labels().to_vec()).collect::<Vec<_>>(), [vec![0, 2], vec![1]]);
    assert_eq!(groups[0].images().dims(), [2, 1, 4, 4]);
}

#[test]
fn what_cannot_be_trained_is_named() {
    let feed = |batch: Vec<Labelled>| FitData::new(Feed::fixed(vec![batch]));
    let plain = FitConfig { epochs: 1, ..Default::default() };
    let trained = |data: &FitData<'_, Labelled>, config: &FitConfig| {
        run(&mut tiny(config.clone(), 0.0)?, data).map(|_| ())
    };
    let side = |side: usize, value: f32, label| {
        let images = Tensor::full(value, (2, 1, side, side), &Device::Cpu).unwrap();
        vec![Labelled::new(images, vec![0, label], vec!["a".into(), "b".into()]).unwrap()]
    };
    let good = || feed(side(6, 0.5, 1));
    let short = FitData::new(Feed::new(3, |_, _| [Ok::<_, Error>(side(6, 0.5, 1))].into_iter()));
    let broken = FitData::new(Feed::new(1, |_, _| [Err("the disk is gone")].into_iter()));
    let bad = |change: &dyn Fn(&mut FitConfig)| {
        let mut config = plain.clone();
        change(&mut config);
        trained(&good(), &config)
    };
    let cases = [
        ("no data", trained(&FitData::new(Feed::fixed(vec![])), &plain), "there is no batch"),
        ("an empty batch", trained(&feed(vec![]), &plain), "batch 0 of epoch 0 has no images"),
        ("too few batches", trained(&short, &plain), "epoch 0 ended after 1 of 3 batches"),
        ("a broken disk", trained(&broken, &plain), "the disk is gone"),
        ("a label out of range", trained(&feed(side(6, 0.5, 3)), &plain), "a label is 3"),
        ("NaN", trained(&feed(side(6, f32::NAN, 1)), &plain), "`a` holds NaN"),
        ("infinity", trained(&feed(side(6, f32::INFINITY, 1)), &plain), "`a` holds NaN or infinite"),
        ("huge values", trained(&feed(side(6, f32::MAX, 1)), &plain), "not finite"),
        ("small images", trained(&feed(side(2, 0.5, 1)), &plain), "sides of 3"),
        ("empty validation", trained(&good().validated_on(Feed::fixed(vec![])), &plain), "validation data"),
        ("no epochs", bad(&|c| c.epochs = 0), "epochs"),
        ("no batches a step", bad(&|c| c.accumulate = 0), "accumulate"),
        ("a norm of 0", bad(&|c| c.clip_norm = Some(0.0)), "clip_norm"),
        ("a negative rate", bad(&|c| c.adamw.lr = -1.0), "lr"),
        ("a long warm-up", bad(&|c| c.schedule = Schedule::WarmupCosine { warmup: 1.0 }), "warmup"),
        ("Dice of classes", bad(&|c| c.monitor = Measure::Dice), "monitor"),
        ("accuracy of nothing", bad(&|c| c.monitor = Measure::Accuracy), "needs validation data"),
        (
            "stopping by nothing",
            bad(&|c| c.early_stopping = Some(EarlyStopping::default())),
            "needs validation",
        ),
        (
            "no patience",
            bad(&|c| c.early_stopping = Some(EarlyStopping { patience: 0, min_delta: 0.0 })),
            "patience",
        ),
        ("a frozen typing error", bad(&|c| c.frozen = vec!["layer1".into()]), "`layer1` names no layer"),
        ("all frozen", bad(&|c| c.frozen = ["stem", "fc"].map(String::from).to_vec()), "none is trainable"),
    ];
    let mut wrong = Vec::new();
    for (name, outcome, part) in cases {
        match outcome {
            Err(e) if e.to_string().contains(part) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(matches!(trained(&broken, &plain), Err(Error::Data(_))));
    assert!(matches!(trained(&feed(side(6, f32::MAX, 1)), &plain), Err(Error::NonFinite { .. })));
}

#[test]
fn configurations_are_read_strictly_and_come_back() {
    let text = serde_json::to_string(&full()).unwrap();
    assert_eq!(serde_json::from_str::<FitConfig>(&text).unwrap(), full());
    assert!(serde_json::from_str::<FitConfig>(r#"{"epoch": 3}"#).is_err());
    let some: FitConfig = serde_json::from_str(
        r#"{"monitor": "balanced_accuracy", "schedule": {"kind": "warmup_cosine", "warmup": 2}, "decay": "all"}"#,
    )
    .unwrap();
    assert_eq!((some.monitor, some.decay), (Measure::BalancedAccuracy, Decay::All));
}
