//! Losses, class weights and measures against PyTorch and scikit-learn.

use candle_core::{Device, Tensor};
use xdiff_nn::gradcheck::{Options, check};

use super::super::*;
use crate::Error;

fn logits() -> Tensor {
    let values =
        (0..28).map(|i| (3.0 * (1.7 * f64::from(i / 4) + 2.3 * f64::from(i % 4) + 0.4).sin()) as f32);
    Tensor::from_vec(values.collect::<Vec<f32>>(), (7, 4), &Device::Cpu).unwrap()
}

fn labels() -> Vec<u32> {
    (0..7).map(|i| (i * 3 + 1) % 4).collect()
}

/// `torch.nn.functional.cross_entropy` of PyTorch 2.15 in f64.
#[test]
fn cross_entropy_is_torchs() {
    let (some, zero) = (Some(vec![0.5, 1.0, 2.0, 0.25]), Some(vec![1.0, 0.0, 3.0, 1.0]));
    let cases = [
        (None, 0.0, 3.198_429_745_720_76),
        (None, 0.1, 3.160_071_079_877_665),
        (None, 0.35, 3.064_174_415_269_927),
        (some.clone(), 0.0, 3.393_146_712_119_157),
        (some.clone(), 0.1, 3.388_630_200_476_211),
        (some, 0.35, 3.377_338_921_368_845),
        (zero.clone(), 0.0, 3.833_447_255_382_734),
        (zero.clone(), 0.1, 3.792_049_806_930_025),
        (zero, 0.35, 3.688_556_185_798_25),
    ];
    let mut wrong = Vec::new();
    for (class_weights, label_smoothing, expected) in cases {
        let loss = CrossEntropy { class_weights, label_smoothing };
        let value = loss.parts(&logits(), &labels()).unwrap().value().unwrap().to_scalar::<f32>().unwrap();
        if (f64::from(value) - expected).abs() > 1e-6 * expected {
            wrong.push(format!("{loss:?}: {value}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn groups_of_a_batch_give_the_loss_of_the_whole() {
    let loss = CrossEntropy { class_weights: Some(vec![0.5, 1.0, 2.0, 0.25]), label_smoothing: 0.1 };
    let part = |from: usize, n: usize| {
        loss.parts(&logits().narrow(0, from, n).unwrap(), &labels()[from..from + n]).unwrap()
    };
    let joined = part(0, 3).join(part(3, 4)).unwrap().value().unwrap().to_scalar::<f32>().unwrap();
    assert!((joined - 3.388_630_2).abs() < 1e-5, "{joined}");
    let two =
        LossParts::default().join(part(0, 3)).unwrap().and(Tensor::new(1f32, &Device::Cpu).unwrap(), 1.0);
    assert!(matches!(two.join(part(3, 4)), Err(Error::Input { what: "loss", .. })));
}

#[test]
fn gradients_are_those_of_differences() {
    let loss = CrossEntropy { class_weights: Some(vec![0.5, 1.0, 2.0, 0.25]), label_smoothing: 0.1 };
    let f = |x: &[Tensor]| {
        let value = loss.parts(&x[0], &labels()).and_then(|parts| parts.value());
        value.map_err(|e| xdiff_nn::Error::argument("loss", e.to_string()))
    };
    check(f, &[logits()], Options::default()).unwrap();
}

#[test]
fn what_no_loss_can_be_made_of_is_refused() {
    let plain = CrossEntropy::default();
    let with = |weights: &[f64]| CrossEntropy { class_weights: Some(weights.to_vec()), ..Default::default() };
    let smooth = |e| CrossEntropy { label_smoothing: e, ..Default::default() };
    let value = |loss: &CrossEntropy, labels: &[u32]| {
        let logits = logits().narrow(0, 0, 2).unwrap();
        loss.parts(&logits, labels).and_then(|parts| parts.value()).map(|_| ())
    };
    let cases = [
        ("a label too many", value(&plain, &[0, 1, 2]), "3 labels"),
        ("a label out of range", value(&plain, &[0, 4]), "a label is 4"),
        ("too few weights", value(&with(&[1.0]), &[0, 1]), "1 weights for 4 classes"),
        ("a negative weight", value(&with(&[1.0, -1.0, 1.0, 1.0]), &[0, 1]), "class_weights"),
        ("a weight of NaN", value(&with(&[1.0, f64::NAN, 1.0, 1.0]), &[0, 1]), "class_weights"),
        ("no weight at all", value(&with(&[0.0; 4]), &[0, 1]), "not all 0"),
        ("no weight in the batch", value(&with(&[0.0, 0.0, 1.0, 1.0]), &[0, 1]), "of weight 0"),
        ("smoothing of 1", value(&smooth(1.0), &[0, 1]), "label_smoothing"),
        ("smoothing below 0", value(&smooth(-0.1), &[0, 1]), "label_smoothing"),
        ("smoothing of NaN", value(&smooth(f64::NAN), &[0, 1]), "label_smoothing"),
    ];
    let mut wrong = Vec::new();
    for (name, outcome, part) in cases {
        match outcome {
            Err(e @ (Error::Input { .. } | Error::Config { .. })) if e.to_string().contains(part) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `sklearn.utils.class_weight.compute_class_weight("balanced", …)` of scikit-learn.
#[test]
fn balanced_weights_are_scikit_learns() {
    let weights = balanced_weights(&[0, 0, 0, 1, 2, 2, 0, 0], 3).unwrap();
    for (got, expected) in weights.iter().zip([0.533_333_33, 2.666_666_67, 1.333_333_33]) {
        assert!((got - expected).abs() < 1e-8, "{weights:?}");
    }
    for (labels, classes, part) in [
        (vec![0, 0], 2, "class 1 has no sample"),
        (vec![0, 2], 2, "a label is 2"),
        (vec![], 1, "class 0"),
        (vec![0], 0, "no classes"),
    ] {
        let error = balanced_weights(&labels, classes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// Accuracy, `balanced_accuracy_score` and macro `f1_score` of scikit-learn.
#[test]
fn measures_are_scikit_learns() {
    let (truth, answers) = ([0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 1, 1, 1, 2, 2, 2, 0, 2]);
    // A fourth class that occurs nowhere has no part in the means.
    let rows: Vec<f32> =
        answers.iter().flat_map(|a| (0..4).map(move |c| if c == *a { 1.0 } else { -1.0 })).collect();
    let logits = Tensor::from_vec(rows, (9, 4), &Device::Cpu).unwrap();
    let mut predictions = Predictions::new(4);
    assert_eq!(predictions.measure(Measure::Accuracy), None);
    predictions.push(&logits, &truth, &[]).unwrap();
    let close = |which, expected: f64| {
        let got = predictions.measure(which).unwrap();
        assert!((got - expected).abs() < 1e-12, "{which}: {got}, not {expected}");
    };
    close(Measure::Accuracy, 5.0 / 9.0);
    close(Measure::BalancedAccuracy, (1.0 / 3.0 + 0.5 + 0.75) / 3.0);
    close(Measure::MacroF1, (0.4 + 0.4 + 0.75) / 3.0);
    assert_eq!(predictions.measure(Measure::Dice), None);
    assert_eq!(predictions.predicted(), answers.map(|a| a as u32));
    assert_eq!(predictions.ids()[8], "8");
    let p = predictions.probabilities();
    assert!((p[0].iter().sum::<f64>() - 1.0).abs() < 1e-12 && p[0][0] > 0.7);
    assert!(predictions.push(&logits, &truth[1..], &[]).is_err());
    assert!(predictions.extend(Predictions::new(3)).is_err());
    assert_eq!(predictions.len(), 9);
}
