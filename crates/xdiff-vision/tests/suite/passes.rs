//! What a pass does: taps, dropout, statistics, gradients.

use candle_core::{DType, Device, Tensor};
use xdiff_nn::optim::backward;
use xdiff_nn::tap::{GradRecorder, Recorder, Sites};
use xdiff_nn::{ParamSet, Params, Rng};
use xdiff_vision::{
    Backbone, BackboneConfig, DenseNetConfig, Pass, ResNetBlock, ResNetConfig, SmallCnnConfig,
    SqueezeNetConfig, SqueezeNetVersion, VggConfig,
};

use crate::common::{flat, noise};

/// One of each kind, as small as it may be.
fn configs() -> Vec<Box<dyn BackboneConfig>> {
    let residual = |block| ResNetConfig { block, layers: [1, 1, 1, 1], ..ResNetConfig::resnet18(2, 3) };
    let dense = DenseNetConfig {
        growth_rate: 8,
        block_config: vec![2, 2],
        num_init_features: 12,
        bn_size: 2,
        ..DenseNetConfig::densenet121(2, 3)
    };
    vec![
        Box::new(residual(ResNetBlock::Basic)),
        Box::new(residual(ResNetBlock::Bottleneck)),
        Box::new(SqueezeNetConfig::new(SqueezeNetVersion::V1_1, 2, 3)),
        Box::new(dense),
        Box::new(SmallCnnConfig { widths: vec![6, 8], ..SmallCnnConfig::new(2, 3) }),
    ]
}

fn build(config: &dyn BackboneConfig) -> (Box<dyn Backbone>, ParamSet) {
    let params = Params::synthetic(&Device::Cpu);
    let network = config.build(&params).unwrap();
    (network, params.finish().unwrap())
}

fn images(batch: usize) -> Tensor {
    noise([batch, 2, 43, 38])
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    flat(a).iter().zip(flat(b)).fold(0f32, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn who_looks_on_changes_nothing() {
    let mut all = configs();
    // With batch norm between convolution and ReLU.
    all.push(Box::new(VggConfig { layers: [1; 5], ..VggConfig::vgg11(2, 3) }.with_batch_norm()));
    for config in all {
        let (network, _) = build(config.as_ref());
        let name = network.describe().name;
        for train in [false, true] {
            let run = |tap: &mut dyn xdiff_nn::Tap| {
                let mut pass = if train { Pass::train(tap) } else { Pass::eval(tap) };
                network.forward(&images(2), &mut pass).unwrap()
            };
            let quiet = run(&mut ());
            let mut tap = Recorder::new(Sites::All);
            let seen = run(&mut tap);
            // In training the statistics of a batch magnify the order of sums.
            let most = if train { 1e-3 } else { 1e-4 };
            assert!(distance(&quiet.logits, &seen.logits) < most, "{name}, training {train}");
            assert!(distance(&quiet.features, &seen.features) < most, "{name}, training {train}");
            assert!(tap.seen().len() > 8, "{name}");
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    for config in configs() {
        let (network, _) = build(config.as_ref());
        let run = |x: &Tensor| network.forward(x, &mut Pass::eval(&mut ())).unwrap().logits;
        let both = run(&images(2));
        let one = run(&images(2).narrow(0, 1, 1).unwrap());
        assert_eq!(flat(&both.narrow(0, 1, 1).unwrap()), flat(&one), "{}", network.describe().name);
    }
}

#[test]
fn gradients_agree_with_differences_along_their_direction() {
    for config in configs() {
        let (network, set) = build(config.as_ref());
        let name = network.describe().name;
        let x = images(3);
        let weights = Rng::new(2).randn((3, 3), &Device::Cpu).unwrap();
        let loss = || {
            let logits = network.forward(&x, &mut Pass::train(&mut ())).unwrap().logits;
            (logits * &weights).unwrap().sum_all().unwrap()
        };
        let value = || f64::from(loss().to_scalar::<f32>().unwrap());
        let grads = backward(&loss(), &set).unwrap();
        // Each weight by itself: along its gradient g the slope is |g|.
        let mut checked = 0;
        let every = set.trainable().count().div_ceil(12);
        for (weight, var) in set.trainable().step_by(every) {
            let g = grads.get(weight).unwrap();
            let norm =
                f64::from(g.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f32>().unwrap());
            let size =
                f64::from(var.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar::<f32>().unwrap());
            if norm * size < 1e-2 {
                continue;
            }
            // Short, because ReLUs flip on the way.
            let step = 5e-4 * size;
            let before = var.as_tensor().copy().unwrap();
            let at = |sign: f64| {
                let moved = (&before + (g * (sign * step / norm)).unwrap()).unwrap();
                var.set(&moved).unwrap();
                value()
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
            var.set(&before).unwrap();
            assert!((slope / norm - 1.0).abs() < 0.1, "{name} {weight}: {slope}, backward gives {norm}");
            checked += 1;
        }
        assert!(checked > 4, "{name}: {checked}");
    }
}

#[test]
fn gradients_reach_the_sites() {
    for config in configs() {
        let (network, _) = build(config.as_ref());
        let mut tap = GradRecorder::new(Sites::All);
        let output = network.forward(&images(1), &mut Pass::eval(&mut tap)).unwrap();
        let grads = output.logits.sum_all().unwrap().backward().unwrap();
        for site in tap.sites().map(str::to_owned).collect::<Vec<_>>() {
            let gradient = tap.gradient(&grads, &site).unwrap();
            assert_eq!(gradient.dims(), tap.activation_of(&site).unwrap().dims(), "{site}");
        }
    }
}

#[test]
fn dropout_is_drawn_in_training_only_and_by_its_generator() {
    let configs: [Box<dyn BackboneConfig>; 3] = [
        Box::new(SmallCnnConfig { dropout: 0.5, ..SmallCnnConfig::new(2, 3) }),
        Box::new(SqueezeNetConfig::new(SqueezeNetVersion::V1_0, 2, 3)),
        Box::new(DenseNetConfig {
            drop_rate: 0.3,
            block_config: vec![2],
            ..DenseNetConfig::densenet121(2, 3)
        }),
    ];
    for config in configs {
        let (network, _) = build(config.as_ref());
        let x = images(2);
        let train = |seed: Option<u64>| {
            let rng = seed.map(Rng::new);
            let mut tap = ();
            let pass = Pass::train(&mut tap);
            let mut pass = match &rng {
                Some(rng) => pass.with_dropout(rng),
                None => pass,
            };
            flat(&network.forward(&x, &mut pass).unwrap().logits)
        };
        let name = network.describe().name;
        assert_eq!(train(None), train(None), "{name}");
        assert_eq!(train(Some(1)), train(Some(1)), "{name}");
        assert!(train(Some(1)) != train(Some(2)) && train(Some(1)) != train(None), "{name}");
        let rng = Rng::new(1);
        let eval = |pass: Pass<'_>| flat(&network.forward(&x, &mut { pass }).unwrap().logits);
        assert_eq!(eval(Pass::eval(&mut ()).with_dropout(&rng)), eval(Pass::eval(&mut ())), "{name}");
    }
}

#[test]
fn norms_of_frozen_layers_keep_their_statistics() {
    let (network, set) = build(&ResNetConfig { layers: [1, 1, 1, 1], ..ResNetConfig::resnet18(2, 3) });
    let before = set.tensors().unwrap();
    let frozen = ["bn1".to_owned(), "layer2".to_owned()];
    network.forward(&images(2), &mut Pass::train(&mut ()).with_frozen(&frozen)).unwrap();
    for (name, var) in set.iter().filter(|(name, _)| name.contains("running_")) {
        let kept = distance(&before[name], var.as_tensor()) == 0.0;
        assert_eq!(kept, name.starts_with("bn1.") || name.starts_with("layer2."), "{name}");
    }
}

#[test]
fn one_number_a_channel_cannot_be_trained_with() {
    let (network, _) = build(&ResNetConfig::resnet18(2, 3));
    let x = Tensor::zeros((1, 2, 20, 20), DType::F32, &Device::Cpu).unwrap();
    assert!(network.forward(&x, &mut Pass::eval(&mut ())).is_ok());
    let error = network.forward(&x, &mut Pass::train(&mut ())).unwrap_err();
    assert!(error.to_string().contains("two numbers per channel"), "{error}");
}
