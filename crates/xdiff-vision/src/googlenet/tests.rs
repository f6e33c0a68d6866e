//! Against torchvision's numbers, and gradients against differences.

use candle_core::Device;
use xdiff_nn::Rng;
use xdiff_nn::layers::Mode;

use super::*;
use crate::Error;
use crate::testing::{
    assert_rows, check_gradients, deviation, fresh, randn, seen_and_unseen, size, synthetic, waves,
};

fn small() -> GoogLeNetConfig {
    GoogLeNetConfig { num_classes: 5, ..Default::default() }
}

/// Parameters and names (but step counters) of torchvision 0.29.
#[test]
fn the_size_is_torchvisions() {
    let config = GoogLeNetConfig::default();
    let without = GoogLeNetConfig { aux_logits: false, ..config.clone() };
    let seven = GoogLeNetConfig { num_classes: 7, ..config.clone() };
    for (config, wanted) in
        [(config, (13_004_888, 305)), (without, (6_624_904, 287)), (seven, (9_951_413, 305))]
    {
        assert_eq!(size(|p| GoogLeNet::new(&config, p)), wanted, "{config:?}");
    }
}

#[test]
fn every_module_is_a_site() {
    let net = fresh(|p| GoogLeNet::new(&small(), p));
    let (output, tap) = seen_and_unseen(&net, &randn(1, &[2, 3, 33, 40]));
    assert!(output.auxiliary.is_empty());
    for (site, dims) in [
        ("conv1.conv", [2, 64, 17, 20]),
        ("conv1.bn", [2, 64, 17, 20]),
        ("maxpool1", [2, 64, 8, 10]),
        ("conv3", [2, 192, 8, 10]),
        ("inception3a.branch1", [2, 64, 4, 5]),
        ("inception3a.branch4.0", [2, 192, 4, 5]),
        ("inception3a.branch4", [2, 32, 4, 5]),
        ("inception3a", [2, 256, 4, 5]),
        ("inception4d.branch3.1.bn", [2, 64, 2, 2]),
        ("maxpool4", [2, 832, 1, 1]),
        ("inception5b", [2, 1024, 1, 1]),
        ("avgpool", [2, 1024, 1, 1]),
    ] {
        assert_eq!(tap.seen().get(site).map(|x| x.dims()), Some(&dims[..]), "{site}");
    }
    assert_eq!(tap.seen()["fc"].dims(), [2, 5]);
    assert!(!tap.seen().keys().any(|site| site.starts_with("aux")));
}

#[test]
fn training_runs_the_auxiliary_classifiers_in_order_of_depth() {
    let net = fresh(|p| GoogLeNet::new(&small(), p));
    let images = randn(1, &[2, 3, 40, 40]);
    let mut tap = xdiff_nn::tap::Recorder::default();
    let output = net.forward(&images, &mut Pass::train(&mut tap)).unwrap();
    assert_eq!(output.auxiliary.len(), 2);
    for (logits, site) in output.auxiliary.iter().zip(["aux1", "aux2"]) {
        assert_eq!(logits.to_vec2::<f32>().unwrap(), tap.seen()[site].to_vec2::<f32>().unwrap());
    }
    assert_eq!(tap.seen()["aux1.conv"].dims(), [2, 128, 4, 4]);
    let rng = Rng::new(3);
    let dropped = net.forward(&images, &mut Pass::train(&mut ()).with_dropout(&rng)).unwrap();
    let positive = |x: &Tensor| {
        let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        x.into_iter().filter(|v| *v > 0.0).count() as f64
    };
    let share = positive(&dropped.features) / positive(&output.features);
    assert!((share - 0.8).abs() < 0.05, "{share}");
}

/// torchvision 0.29's `InceptionAux` with synthetic weights, without dropout.
#[test]
fn the_auxiliary_classifier_is_torchvisions() {
    let config = GoogLeNetConfig { num_classes: 3, ..small() };
    let style = config.style();
    let head = synthetic(|p| AuxiliaryClassifier::new(512, &config, style, p));
    let x = waves(&[2, 512, 5, 6]);
    let eval = head.forward(&x, &mut Pass::eval(&mut ())).unwrap();
    let wanted =
        [[-0.130_551_5, 0.083_717_704, -0.035_103_247], [-0.020_829_493, 0.180_959_98, 0.212_805_99]];
    assert_rows(&eval, &wanted, 1e-5);
    let train = head.forward(&x, &mut Pass::train(&mut ())).unwrap();
    let wanted = [[-0.146_449_69, 0.353_435_9, 0.061_767_586], [-0.395_610_24, 0.961_090_74, 0.918_328_46]];
    assert_rows(&train, &wanted, 1e-4);
}

#[test]
fn frozen_norms_keep_their_statistics() {
    let params = Params::fresh(0, &Device::Cpu);
    let net = GoogLeNet::new(&small(), &params).unwrap();
    let set = params.finish().unwrap();
    let mean = |name: &str| set.get(name).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    let frozen = ["inception3a".to_owned()];
    net.forward(&randn(1, &[2, 3, 32, 32]), &mut Pass::train(&mut ()).with_frozen(&frozen)).unwrap();
    assert_eq!(mean("inception3a.branch2.1.bn.running_mean"), 0.0);
    assert_ne!(mean("inception3b.branch2.1.bn.running_mean"), 0.0);
}

#[test]
fn fresh_weights_are_torchvisions() {
    for (init_weights, drawn) in [(true, 0.01), (false, 1.0 / (3.0f64 * 192.0 * 9.0).sqrt())] {
        let params = Params::fresh(0, &Device::Cpu);
        let config = GoogLeNetConfig { init_weights, ..small() };
        GoogLeNet::new(&config, &params).unwrap();
        let set = params.finish().unwrap();
        let got = deviation(&set, "inception4a.branch2.1.conv.weight") / drawn;
        let wanted = if init_weights { 1.0 } else { (192.0f64 / 96.0).sqrt() };
        assert!((got - wanted).abs() < 0.02, "{init_weights}: {got}");
        assert!((deviation(&set, "fc.bias") - (3.0f64 * 1024.0).sqrt().recip()).abs() < 0.01);
    }
}

#[test]
fn transformed_images_are_those_of_half_and_half() {
    let config = GoogLeNetConfig { transform_input: true, aux_logits: false, ..small() };
    let build = |config: &GoogLeNetConfig| fresh(|p| GoogLeNet::new(config, p));
    let images = randn(1, &[1, 3, 32, 32]);
    let inner = |c: usize, a: f64, b: f64| images.narrow(1, c, 1).unwrap().affine(a, b).unwrap();
    let by_hand =
        Tensor::cat(&[inner(0, 0.458, -0.03), inner(1, 0.448, -0.088), inner(2, 0.45, -0.188)], 1).unwrap();
    let run = |net: &GoogLeNet, x: &Tensor| net.forward(x, &mut Pass::eval(&mut ())).unwrap().features;
    let transformed = run(&build(&config), &images);
    let plain = run(&build(&GoogLeNetConfig { transform_input: false, ..config }), &by_hand);
    assert!(crate::testing::difference(&transformed, &plain) < 1e-4);
}

#[test]
fn gradients_of_a_block_and_of_a_head_match_differences() {
    let config = GoogLeNetConfig { init_weights: false, ..small() };
    let style = config.style();
    let one = fresh(|p| block(3, [2, 3, 4, 2, 3, 2], style, p));
    let head = fresh(|p| AuxiliaryClassifier::new(3, &config, style, p));
    for mode in [Mode::Eval, Mode::Train] {
        let pass = |run: &dyn Fn(&mut Pass<'_>) -> Result<Tensor>| match mode {
            Mode::Eval => run(&mut Pass::eval(&mut ())),
            Mode::Train => run(&mut Pass::train(&mut ())),
        };
        check_gradients(&[2, 3, 5, 7], |x| pass(&|p| one.forward(x, p)));
        check_gradients(&[2, 3, 5, 7], |x| pass(&|p| head.forward(x, p)));
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let base = small;
    let cases = [
        (GoogLeNetConfig { num_classes: 0, ..base() }, "num_classes"),
        (GoogLeNetConfig { in_channels: 0, ..base() }, "in_channels"),
        (GoogLeNetConfig { dropout: 1.5, ..base() }, "dropout"),
        (GoogLeNetConfig { dropout_aux: f64::NAN, ..base() }, "dropout_aux"),
        (GoogLeNetConfig { in_channels: 1, transform_input: true, ..base() }, "transform_input"),
    ];
    for (config, wanted) in cases {
        let outcome = GoogLeNet::new(&config, &Params::fresh(0, &Device::Cpu));
        assert!(matches!(outcome, Err(Error::Config { field, .. }) if field == wanted), "{config:?}");
    }
    let net = fresh(|p| GoogLeNet::new(&small(), p));
    for dims in [&[2, 3, 14, 20][..], &[2, 1, 20, 20], &[0, 3, 20, 20], &[3, 20, 20]] {
        let outcome = net.forward(&randn(1, dims), &mut Pass::eval(&mut ()));
        assert!(matches!(outcome, Err(Error::Input { .. })), "{dims:?}");
    }
    for train in [false, true] {
        let mut tap = ();
        let mut pass = if train { Pass::train(&mut tap) } else { Pass::eval(&mut tap) };
        assert!(net.forward(&randn(1, &[2, 3, 15, 15]), &mut pass).is_ok());
    }
    // One value a channel has no variance.
    assert!(net.forward(&randn(1, &[1, 3, 15, 15]), &mut Pass::train(&mut ())).is_err());
    assert!(serde_json::from_str::<GoogLeNetConfig>(r#"{"classes": 3}"#).is_err());
    let read: GoogLeNetConfig = serde_json::from_str(r#"{"aux_logits": false, "num_classes": 5}"#).unwrap();
    assert_eq!(read, GoogLeNetConfig { aux_logits: false, ..small() });
}
