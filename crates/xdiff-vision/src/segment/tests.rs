//! Losses against PyTorch, gradients against differences, and a network that learns.

use candle_core::{DType, Device, Tensor};
use xdiff_core::cancel::CancelToken;
use xdiff_nn::gradcheck::{Options, check};
use xdiff_nn::optim::AdamWConfig;
use xdiff_nn::tap::{Recorder, Sites};
use xdiff_nn::{Params, Rng};

use super::*;
use crate::Error;
use crate::train::{CrossEntropy, Feed, Findings, Fit, FitConfig, FitData, Measure, Objective};

fn logits(classes: usize) -> Tensor {
    let values: Vec<f32> =
        (0..2 * classes * 15).map(|i| (2.0 * (0.7 * i as f64 + 0.3).sin()) as f32).collect();
    Tensor::from_vec(values, (2, classes, 3, 5), &Device::Cpu).unwrap()
}

fn labels(classes: usize, ignore: Option<u32>) -> Vec<u32> {
    let label = |i: u32| match ignore {
        Some(ignored) if i.is_multiple_of(4) => ignored,
        _ => (i * 5 + i / 7) % classes.max(2) as u32,
    };
    (0..30).map(label).collect()
}

/// MONAI's formulas over `torch.nn.functional.cross_entropy` and `binary_cross_entropy_with_logits`
/// of PyTorch 2.15, in f64.
#[test]
fn losses_are_those_of_torch_and_monai() {
    type Change = fn(&mut SegmentationLoss);
    let weigh: Change = |l| l.entropy.class_weights = Some(vec![0.2, 1.0, 2.0]);
    let cases: [(&str, usize, Change, f64); 14] = [
        ("Dice", 1, |l| l.cross_entropy = 0.0, 0.518_016_214),
        ("binary cross-entropy", 1, |l| l.dice = 0.0, 0.912_707_429),
        ("both", 1, |_| (), 1.430_723_643),
        ("two weights", 1, |l| l.entropy.class_weights = Some(vec![1.0, 3.0]), 1.392_736_079),
        ("squares", 1, |l| (l.cross_entropy, l.squared) = (0.0, true), 0.417_185_009),
        ("ignored pixels", 1, |l| l.ignore = Some(255), 1.287_263_376),
        ("both", 2, |_| (), 1.966_467_317),
        ("both", 3, |_| (), 2.722_790_948),
        ("squares", 3, |l| l.squared = true, 2.664_308_576),
        ("foreground", 3, |l| l.include_background = false, 2.736_924_953),
        ("weights", 3, weigh, 2.752_708_223),
        (
            "weights and smoothing",
            3,
            |l| {
                let class_weights = Some(vec![0.2, 1.0, 2.0]);
                l.entropy = CrossEntropy { class_weights, label_smoothing: 0.1 };
            },
            2.779_509_208,
        ),
        (
            "weights and ignored pixels",
            3,
            |l| {
                l.entropy.class_weights = Some(vec![0.2, 1.0, 2.0]);
                l.ignore = Some(9);
            },
            2.770_984_673,
        ),
        ("other shares", 3, |l| (l.dice, l.cross_entropy) = (0.5, 2.0), 4.400_079_498),
    ];
    let mut wrong = Vec::new();
    for (name, classes, change, expected) in cases {
        let mut loss = SegmentationLoss::default();
        change(&mut loss);
        let labels = labels(classes, loss.ignore);
        let f = |x: &Tensor| loss.parts(x, &labels).and_then(|parts| parts.value());
        let value = f64::from(f(&logits(classes)).unwrap().to_scalar::<f32>().unwrap());
        if (value - expected).abs() > 2e-6 * expected {
            wrong.push(format!("{name}, {classes} classes: {value}, not {expected}"));
        }
        let gradient = |x: &[Tensor]| f(&x[0]).map_err(|e| xdiff_nn::Error::argument("loss", e.to_string()));
        let options = Options { tolerance: 2e-2, ..Default::default() };
        if let Err(e) = check(gradient, &[logits(classes)], options) {
            wrong.push(format!("{name}, {classes} classes: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn empty_masks_have_a_finite_loss_and_gradient() {
    let x =
        candle_core::Var::from_tensor(&Tensor::full(-200f32, (1, 1, 2, 2), &Device::Cpu).unwrap()).unwrap();
    let loss = SegmentationLoss::default().parts(&x, &[0; 4]).unwrap().value().unwrap();
    // Nothing is found where nothing is: s/s.
    assert!(loss.to_scalar::<f32>().unwrap().abs() < 1e-6);
    let grads = loss.backward().unwrap();
    let grad = grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
}

fn network(config: SegUNetConfig) -> (SegUNet, xdiff_nn::ParamSet) {
    let params = Params::fresh(4, &Device::Cpu);
    let network = SegUNet::new(config, &params).unwrap();
    (network, params.finish().unwrap())
}

#[test]
fn any_side_from_the_least_on_comes_back() {
    let group = SegNorm::Group { groups: 2 };
    let (net, _) = network(SegUNetConfig {
        in_channels: 2,
        classes: 3,
        widths: vec![4, 6, 8],
        norm: group,
        ..Default::default()
    });
    let mut wrong = Vec::new();
    for (h, w) in [(4, 4), (5, 7), (9, 4), (16, 11)] {
        let x = Rng::new(1).randn((2, 2, h, w), &Device::Cpu).unwrap();
        let y = net.logits(&x, &mut Pass::eval(&mut ())).unwrap();
        if y.dims() != [2, 3, h, w] {
            wrong.push(format!("{h}×{w}: {:?}", y.dims()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for dims in [vec![1, 2, 3, 8], vec![1, 1, 8, 8], vec![0, 2, 8, 8], vec![2, 8, 8]] {
        let x = Tensor::zeros(dims.clone(), DType::F32, &Device::Cpu).unwrap();
        let error = net.logits(&x, &mut Pass::eval(&mut ())).unwrap_err().to_string();
        assert!(error.contains("sides of 4 or more"), "{dims:?}: {error}");
    }
}

#[test]
fn every_block_has_a_site_of_its_weights_name() {
    let (net, params) = network(SegUNetConfig { widths: vec![4, 4, 4], ..Default::default() });
    let mut tap = Recorder::new(Sites::All);
    let x = Rng::new(1).randn((1, 1, 8, 8), &Device::Cpu).unwrap();
    net.logits(&x, &mut Pass::eval(&mut tap)).unwrap();
    let sites: Vec<&str> = tap.seen().keys().map(String::as_str).collect();
    assert_eq!(sites, ["decoder.0", "decoder.1", "encoder.0", "encoder.1", "encoder.2", "head"]);
    for site in sites {
        assert!(params.names().any(|n| n.starts_with(&format!("{site}."))), "{site}");
    }
}

#[test]
fn gradients_of_the_network_are_those_of_differences() {
    for norm in [SegNorm::Batch, SegNorm::Group { groups: 2 }] {
        let (net, _) = network(SegUNetConfig { widths: vec![2, 4], norm, ..Default::default() });
        let f = |x: &[Tensor]| {
            // A smooth function of many logits, so that single corners of ReLU weigh little.
            let y = net.logits(&x[0], &mut Pass::train(&mut ())).and_then(|y| Ok(y.sqr()?.sum_all()?));
            y.map_err(|e| xdiff_nn::Error::argument("network", e.to_string()))
        };
        let x = Rng::new(8).randn((2, 1, 5, 4), &Device::Cpu).unwrap();
        let options = Options { step: 1e-3, tolerance: 3e-2, ..Default::default() };
        check(f, &[x], options).unwrap_or_else(|e| panic!("{norm:?}: {e}"));
    }
}

/// Noise with a bright disc, which is the mask.
fn disc(index: usize, side: usize) -> (Vec<f32>, Vec<f32>) {
    let mut rng = Rng::new(11).sample(index as u64);
    let radius = rng.range(0.15, 0.35) * side as f64;
    let centre = [0, 1].map(|_| rng.range(0.35, 0.65) * side as f64);
    let inside = |i: usize| {
        let at = [i / side, i % side].map(|v| v as f64 + 0.5);
        (at[0] - centre[0]).hypot(at[1] - centre[1]) < radius
    };
    let mask: Vec<f32> = (0..side * side).map(|i| f32::from(u8::from(inside(i)))).collect();
    (mask.iter().map(|m| 0.6 * m + 0.15 * rng.normal() as f32).collect(), mask)
}

fn discs(indices: std::ops::Range<usize>, side: usize) -> Masked {
    let (images, masks): (Vec<_>, Vec<_>) = indices.clone().map(|i| disc(i, side)).unzip();
    let tensor =
        |v: Vec<Vec<f32>>| Tensor::from_vec(v.concat(), (indices.len(), 1, side, side), &Device::Cpu);
    Masked::new(tensor(images).unwrap(), &tensor(masks).unwrap(), vec![]).unwrap()
}

#[test]
fn sixteen_discs_are_learnt() {
    let feed = || Feed::fixed(vec![vec![discs(0..5, 15), discs(5..8, 12)], vec![discs(8..16, 15)]]);
    let (net, params) = network(SegUNetConfig { widths: vec![8, 16], dropout: 0.1, ..Default::default() });
    let objective = Segmentation::new(net, SegmentationLoss::default()).unwrap();
    let config = FitConfig {
        epochs: 30,
        adamw: AdamWConfig { lr: 0.01, ..Default::default() },
        monitor: Measure::Dice,
        ..Default::default()
    };
    let mut fit = Fit::new(objective, params, config, serde_json::Value::Null).unwrap();
    let data = FitData::new(feed()).validated_on(feed());
    fit.run(&data, None, &CancelToken::new(), &mut ()).unwrap();
    let fitted = fit.into_best().unwrap();
    let best = fitted.best.unwrap();
    assert!(best.value > 0.95, "{best:?}");
    // The masks are those that were scored.
    let net = fitted.objective.network();
    let batch = discs(0..5, 15);
    let masks = predict(net, batch.images(), Decision::MostProbable).unwrap();
    assert_eq!((masks.dims(), masks.dtype()), ([5, 15, 15].as_slice(), DType::U8));
    let mut overlaps = fitted.objective.findings();
    fitted.objective.observe(&batch, &mut overlaps).unwrap();
    let answer = masks.get(3).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let truth = &batch.labels()[3 * 225..4 * 225];
    let both = answer.iter().zip(truth).filter(|(a, t)| **a == 1 && **t == 1).count() as f64;
    let size = answer.iter().filter(|a| **a == 1).count() + truth.iter().filter(|t| **t == 1).count();
    assert_eq!(overlaps.dice()[3], [2.0 * both / size as f64]);
    // A higher threshold finds less, and 0 finds everything.
    let area = |threshold| {
        let masks = predict(net, batch.images(), Decision::Foreground(threshold)).unwrap();
        masks.to_dtype(DType::U32).unwrap().sum_all().unwrap().to_scalar::<u32>().unwrap()
    };
    assert!(area(0.0) == 5 * 225 && area(0.9) <= area(0.5) && area(0.5) <= area(0.1));
    let p = probabilities(net, batch.images()).unwrap();
    assert_eq!(p.dims(), [5, 2, 15, 15]);
}

/// A network that answers with the images themselves.
#[derive(Debug)]
struct Echo;

impl Segmenter for Echo {
    fn classes(&self) -> usize {
        3
    }
    fn logits(&self, images: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        Ok(images.clone())
    }
}

#[test]
fn overlaps_are_counted_by_image_and_class() {
    let one = |labels: &[usize]| {
        let rows = (0..3).flat_map(|c| labels.iter().map(move |l| f32::from(u8::from(*l == c)) * 9.0));
        rows.collect::<Vec<f32>>()
    };
    let values = [one(&[0, 1, 1, 2]), one(&[0, 0, 0, 1])].concat();
    let images = Tensor::from_vec(values, (2, 3, 2, 2), &Device::Cpu).unwrap();
    let masks = Tensor::new(&[[[0u8, 1], [2, 2]], [[0, 0], [7, 1]]], &Device::Cpu).unwrap();
    let batch = Masked::new(images, &masks, vec!["a".into(), "b".into()]).unwrap();
    let loss = SegmentationLoss { ignore: Some(7), ..Default::default() };
    let objective = Segmentation::new(Echo, loss).unwrap();
    let mut overlaps = objective.findings();
    objective.observe(&batch, &mut overlaps).unwrap();
    // The second image has no class 2, in truth or answer.
    assert_eq!(overlaps.dice(), [vec![2.0 / 3.0, 2.0 / 3.0], vec![1.0, 1.0]]);
    assert_eq!(overlaps.measure(Measure::Dice), Some((2.0 / 3.0 + 2.0 / 3.0 + 2.0) / 4.0));
    assert_eq!(
        (overlaps.measure(Measure::Accuracy), overlaps.ids()),
        (None, ["a".into(), "b".into()].as_slice())
    );
    let decided =
        |d| predict(&Echo, batch.images(), d).map(|m| m.flatten_all().unwrap().to_vec1::<u8>().unwrap());
    assert_eq!(decided(Decision::MostProbable).unwrap(), [0, 1, 1, 2, 0, 0, 0, 1]);
    // From 0 on everything is foreground, of the class that is more probable than the other.
    assert_eq!(decided(Decision::Foreground(0.0)).unwrap(), [1, 1, 1, 2, 1, 1, 1, 1]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let masked = |masks: Tensor, ids: usize| {
        Masked::new(zeros(&[2, 1, 4, 4]), &masks, vec![String::new(); ids]).map(|_| ())
    };
    let loss = |change: &dyn Fn(&mut SegmentationLoss)| {
        let mut loss = SegmentationLoss::default();
        change(&mut loss);
        loss.validate(1)
    };
    let net = |change: &dyn Fn(&mut SegUNetConfig)| {
        let mut config = SegUNetConfig::default();
        change(&mut config);
        SegUNet::new(config, &Params::fresh(0, &Device::Cpu)).map(|_| ())
    };
    let parts = |labels: &[u32]| SegmentationLoss::default().parts(&logits(3), labels).map(|_| ());
    let nan = Tensor::full(f32::NAN, (1, 3, 2, 2), &Device::Cpu).unwrap();
    let cases = [
        ("another size", masked(zeros(&[2, 4, 5]), 0), "must be (B, H, W)"),
        ("two channels of masks", masked(zeros(&[2, 2, 4, 4]), 0), "must be (B, H, W)"),
        ("one name", masked(zeros(&[2, 4, 4]), 1), "1 names"),
        ("half a class", masked((zeros(&[2, 4, 4]) + 0.5).unwrap(), 0), "hold 0.5"),
        ("a negative class", masked((zeros(&[2, 4, 4]) - 1.0).unwrap(), 0), "hold -1"),
        ("a class of NaN", masked((zeros(&[2, 4, 4]) * f64::NAN).unwrap(), 0), "hold NaN"),
        ("no loss", loss(&|l| (l.dice, l.cross_entropy) = (0.0, 0.0)), "no loss"),
        ("a negative share", loss(&|l| l.dice = -1.0), "dice"),
        ("no smoothing of Dice", loss(&|l| l.smooth = 0.0), "smooth"),
        ("one weight of two", loss(&|l| l.entropy.class_weights = Some(vec![1.0])), "1 weights for 2"),
        ("no level", net(&|c| c.widths.clear()), "widths"),
        ("an empty level", net(&|c| c.widths.push(0)), "widths"),
        ("no class", net(&|c| c.classes = 0), "classes"),
        ("groups that do not divide", net(&|c| c.norm = SegNorm::Group { groups: 3 }), "norm"),
        ("dropout of more than everything", net(&|c| c.dropout = 1.5), "dropout"),
        ("too few labels", parts(&[0; 29]), "29 labels"),
        ("a label out of range", parts(&[3; 30]), "a label is 3"),
        ("a threshold of 2", predict(&Echo, &logits(3), Decision::Foreground(2.0)).map(|_| ()), "threshold"),
        ("NaN", predict(&Echo, &nan, Decision::MostProbable).map(|_| ()), "NaN"),
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
