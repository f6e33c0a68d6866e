//! Trained weights adapted to other images and classes.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_nn::weights::{KeyMap, write_safetensors};
use xdiff_nn::{ParamSet, Params};
use xdiff_vision::{
    Adaptation, Adapted, Architecture, BackboneConfig, ClassNames, DenseNetConfig, Error, Network, Normalise,
    Pass, Pretrained, SmallCnnConfig, StemWeights, is_below, top_k,
};

use crate::common::{flat, noise};

fn small(channels: usize, classes: usize) -> SmallCnnConfig {
    SmallCnnConfig { widths: vec![8, 12], ..SmallCnnConfig::new(channels, classes) }
}

/// Weights for three channels and five classes.
fn weights() -> BTreeMap<String, Tensor> {
    let params = Params::synthetic(&Device::Cpu);
    small(3, 5).build(&params).unwrap();
    params.finish().unwrap().tensors().unwrap()
}

fn logits(network: &Network, images: &Tensor) -> Vec<f32> {
    flat(&network.forward(images, &mut Pass::eval(&mut ())).unwrap().logits)
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn the_stem_answers_as_told() {
    let grey = noise([2, 1, 20, 17]);
    let repeated = |channels: usize| grey.repeat((1, channels, 1, 1)).unwrap();
    let weights = Pretrained::from_tensors(weights(), "made up");
    let adapt = |channels, stem| {
        let adaptation = Adaptation { stem, ..Adaptation::default() };
        weights.adapt(&small(channels, 5), &adaptation, &Device::Cpu).unwrap()
    };
    let rgb = adapt(3, StemWeights::Mean);
    assert!(rgb.fresh.is_empty());
    assert_eq!(rgb.network.identity(), "small_cnn (made up)");
    for channels in [1, 2, 4] {
        let sum = adapt(channels, StemWeights::Sum);
        let want = logits(&rgb.network, &repeated(3));
        assert!(close(&logits(&sum.network, &repeated(channels)), &want), "{channels}");
        let of = |set: &ParamSet| set.get("conv1.weight").unwrap().as_tensor().clone();
        let mean = adapt(channels, StemWeights::Mean);
        let third = (of(&sum.params) / 3.0).unwrap();
        let difference = (third - of(&mean.params)).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-7);
        let identity = mean.network.identity();
        assert_eq!(identity, format!("small_cnn (made up, 3 to {channels} channels by the mean)"));
    }
}

#[test]
fn a_classifier_of_other_classes_is_fresh_from_its_seed() {
    let weights = Pretrained::from_tensors(weights(), "made up");
    let adapt = |seed| {
        let adaptation = Adaptation {
            classifier_seed: seed,
            freeze: vec!["conv1".into(), "layer1".into()],
            ..Adaptation::default()
        };
        weights.adapt(&small(3, 2), &adaptation, &Device::Cpu)
    };
    let adapted = adapt(Some(4)).unwrap();
    assert_eq!(adapted.fresh, ["fc"]);
    assert_eq!(adapted.network.identity(), "small_cnn (made up, fresh classifier of seed 4)");
    let trained: Vec<&str> = adapted.params.trainable().map(|(name, _)| name).collect();
    assert!(trained.contains(&"bn1.weight") && trained.contains(&"layer2.0.conv1.weight"));
    assert!(!trained.iter().any(|name| is_below(name, "conv1") || is_below(name, "layer1")));
    let fresh = Params::fresh(4, &Device::Cpu);
    small(3, 2).build(&fresh).unwrap();
    let fresh = fresh.finish().unwrap();
    let values = |set: &ParamSet, name: &str| flat(set.get(name).unwrap());
    assert_eq!(values(&adapted.params, "fc.weight"), values(&fresh, "fc.weight"));
    assert_ne!(values(&adapted.params, "conv1.weight"), values(&fresh, "conv1.weight"));
    let error = adapt(None).unwrap_err();
    assert!(matches!(error, Error::Input { .. }) && error.to_string().contains("fc"), "{error}");
}

#[test]
fn without_a_head_the_maps_are_the_same_and_logits_are_an_error() {
    let weights = Pretrained::from_tensors(weights(), "made up");
    let adapt = |without_head| {
        let adaptation = Adaptation { without_head, classifier_seed: None, ..Adaptation::default() };
        weights.adapt(&small(3, if without_head { 7 } else { 5 }), &adaptation, &Device::Cpu).unwrap()
    };
    let (whole, maps) = (adapt(false), adapt(true));
    let images = noise([2, 3, 20, 17]);
    let of = |adapted: &Adapted| flat(&adapted.network.features(&images, &mut ()).unwrap());
    assert_eq!(of(&whole), of(&maps));
    assert_eq!(maps.network.identity(), "small_cnn (made up)");
    assert!(maps.fresh.is_empty() && !maps.params.names().any(|name| is_below(name, "fc")));
    let error = maps.network.forward(&images, &mut Pass::eval(&mut ())).unwrap_err();
    assert!(matches!(error, Error::Input { what: "head", .. }), "{error}");
}

#[test]
fn keys_that_do_not_fit_are_listed_together() {
    let mut tensors = weights();
    tensors.remove("bn1.bias");
    let wide = Tensor::zeros(99, DType::F32, &Device::Cpu).unwrap();
    tensors.insert("bn1.weight".to_owned(), wide.clone());
    tensors.insert("other".to_owned(), wide);
    let adapt = |tensors, adaptation: &Adaptation| {
        Pretrained::from_tensors(tensors, "made up").adapt(&small(3, 5), adaptation, &Device::Cpu)
    };
    let error = adapt(tensors, &Adaptation::default()).unwrap_err();
    let Error::Nn(xdiff_nn::Error::Keys(report)) = &error else { panic!("{error:?}") };
    assert_eq!(
        (&report.missing[..], &report.unexpected[..]),
        (&["bn1.bias".to_owned()][..], &["other".to_owned()][..])
    );
    assert_eq!(report.misshaped[0].name, "bn1.weight");
    let parallel = weights().into_iter().map(|(key, tensor)| (format!("module.{key}"), tensor)).collect();
    let keys = KeyMap::new().strip_prefix("module.");
    assert!(adapt(parallel, &Adaptation { keys, ..Adaptation::default() }).is_ok());
    assert!(adapt(BTreeMap::new(), &Adaptation::default()).is_err());
}

#[test]
fn old_names_of_densenet_are_understood() {
    let config =
        DenseNetConfig { block_config: vec![2, 1], growth_rate: 4, ..DenseNetConfig::densenet121(1, 2) };
    let params = Params::synthetic(&Device::Cpu);
    config.build(&params).unwrap();
    let tensors = params.finish().unwrap().tensors().unwrap();
    let old = |key: &str| {
        ["norm1", "norm2", "conv1", "conv2"].into_iter().fold(key.to_owned(), |key, part| {
            let dotted = format!("{}.{}", &part[..4], &part[4..]);
            if key.contains("denselayer") {
                key.replace(&format!(".{part}."), &format!(".{dotted}."))
            } else {
                key
            }
        })
    };
    let renamed: BTreeMap<String, Tensor> = tensors.iter().map(|(k, t)| (old(k), t.clone())).collect();
    assert!(renamed.contains_key("features.denseblock1.denselayer2.norm.1.running_mean"));
    let adapted =
        Pretrained::from_tensors(renamed.clone(), "old").adapt(&config, &Adaptation::default(), &Device::Cpu);
    assert_eq!(adapted.unwrap().params.names().count(), tensors.len());
    let both: BTreeMap<String, Tensor> = renamed.into_iter().chain(tensors).collect();
    let error = Pretrained::from_tensors(both, "both")
        .adapt(&config, &Adaptation::default(), &Device::Cpu)
        .unwrap_err();
    assert!(error.to_string().contains("would both be called"), "{error}");
}

#[test]
fn files_are_named_by_their_hash_and_broken_ones_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.safetensors");
    write_safetensors(&path, &weights(), &BTreeMap::new()).unwrap();
    let read = Pretrained::read(&path).unwrap();
    let digits = read.identity().strip_prefix("sha256 ").unwrap();
    assert!(digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{digits}");
    assert!(read.adapt(&small(3, 5), &Adaptation::default(), &Device::Cpu).is_ok());
    assert!(matches!(Pretrained::read(dir.path()), Err(Error::Input { .. })));
    let bytes = std::fs::read(&path).unwrap();
    for broken in [&bytes[..bytes.len() / 2], &[], b"<html>"] {
        std::fs::write(&path, broken).unwrap();
        assert!(matches!(Pretrained::read(&path), Err(Error::Nn(xdiff_nn::Error::Malformed { .. }))));
    }
    assert!(Pretrained::read(dir.path().join("none.pth")).is_err());
}

/// SqueezeNet 1.0 of ImageNet on an image of a formula; the numbers are torchvision's with the same
/// weights. The file lies beside the project and is not part of it.
#[test]
fn imagenet_weights_give_the_logits_that_torchvision_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/weights");
    let file = folder.join("squeezenet1_0_imagenet.safetensors");
    if !file.is_file() {
        println!("no trained weights beside the project");
        return;
    }
    let weights = Pretrained::read(&file).unwrap();
    let config = Architecture::SqueezeNet1_0.config(3, 1000);
    let adapted = weights.adapt(config.as_ref(), &Adaptation::default(), &Device::Cpu).unwrap();
    assert!(adapted.fresh.is_empty());
    let pixel =
        |c: usize, y: usize, x: usize| ((7 * x + 13 * y + (x * y) % 31 + 40 * c) % 256) as f32 / 255.0;
    let pixels =
        (0..3 * 227 * 227).map(|i| pixel(i / (227 * 227), i / 227 % 227, i % 227)).collect::<Vec<_>>();
    let image = Tensor::from_vec(pixels, (1, 3, 227, 227), &Device::Cpu).unwrap();
    let image = Normalise::bytes_less([123.0, 117.0, 104.0]).unit(&image).unwrap();
    let output = adapted.network.forward(&image, &mut Pass::eval(&mut ())).unwrap();
    let values = flat(&output.logits);
    for (class, want) in [(858, 30.75397), (533, 23.7581), (599, 21.88518), (911, 20.67119), (735, 18.72709)]
    {
        assert!((values[class] - want).abs() < 2e-3, "{class}: {}, not {want}", values[class]);
    }
    assert!((values.iter().sum::<f32>() - 2123.935).abs() < 0.1);
    let top = top_k(&output.logits, 2).unwrap();
    assert_eq!([top[0][0].class, top[0][1].class], [858, 533]);
    let names = ClassNames::read(folder.join("imagenet_synset.txt")).unwrap();
    assert_eq!((names.len(), names.get(858)), (1000, Some("tile roof")));
}
