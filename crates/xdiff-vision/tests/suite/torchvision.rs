//! The networks against torchvision's: parameters, modules, initialisation, sizes.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use xdiff_nn::rng::fnv1a64;
use xdiff_nn::tap::{Recorder, Sites};
use xdiff_nn::{ParamSet, Params};
use xdiff_vision::{Architecture, Backbone, Error, Pass, is_below};

use crate::common::{flat, noise};

/// A network of zeros: nothing is drawn, and memory that is not written costs nothing.
fn zeros(architecture: Architecture, channels: usize, classes: usize) -> (Box<dyn Backbone>, ParamSet) {
    let params = Params::frozen(BTreeMap::new(), &Device::Cpu);
    let network = architecture.build(channels, classes, &params).unwrap();
    (network, params.finish_with_report().0)
}

/// A hash of lines in order, and how many there are.
fn hash(mut lines: Vec<String>) -> (usize, u64) {
    lines.sort();
    (lines.len(), fnv1a64(lines.join("\n").as_bytes()))
}

/// torchvision 0.29: how many numbers its parameters have; how many entries its state dict has, and
/// the FNV-1a hash of their names and shapes (`fc.bias [1000]`), in order; the same of its modules
/// (but for auxiliary classifiers, which a prediction does not run).
type Facts = (usize, (usize, u64), (usize, u64));

const FACTS: [(Architecture, Facts); 15] = [
    (Architecture::ResNet18, (11_689_512, (102, 9038129524502886344), (67, 10424890194469763831))),
    (Architecture::ResNet34, (21_797_672, (182, 11776496979710780674), (115, 4594713422986616681))),
    (Architecture::ResNet50, (25_557_032, (267, 10220422928823979499), (150, 4238481509881002828))),
    (Architecture::Vgg16, (138_357_544, (32, 12746513171048425368), (41, 3972936815378699576))),
    (Architecture::Vgg16Bn, (138_365_992, (84, 14622854304878271635), (54, 2529319605534992649))),
    (Architecture::Vgg19, (143_667_240, (38, 6430384132342391744), (47, 16518577203024931361))),
    (Architecture::Vgg19Bn, (143_678_248, (102, 16475236029676853006), (63, 4759490789997740725))),
    (Architecture::AlexNet, (61_100_840, (16, 12321233035386005114), (23, 5138818074906172877))),
    (Architecture::SqueezeNet1_0, (1_248_424, (52, 13047568330880837853), (67, 2276751820161124159))),
    (Architecture::SqueezeNet1_1, (1_235_496, (52, 6877731577334604364), (67, 10688094161388519461))),
    (Architecture::DenseNet121, (7_978_856, (606, 17133463791861994969), (432, 18184087674034904876))),
    (Architecture::MobileNetV2, (3_504_872, (262, 2237755770184293785), (212, 9123854969334271584))),
    (Architecture::GoogLeNet, (13_004_888, (305, 4452139474990587273), (223, 16029836862722363170))),
    (Architecture::InceptionV3, (27_161_264, (484, 3024019890026086904), (298, 3697795020915705271))),
    (Architecture::FidInception, (23_834_568, (472, 3261572147456253199), (298, 3697795020915705271))),
];

#[test]
fn parameters_and_sites_are_those_of_torchvision() {
    let mut wrong = Vec::new();
    for (architecture, (count, state, modules)) in FACTS {
        let (network, set) = zeros(architecture, 3, 1000);
        if set.count() != count {
            wrong.push(format!("{architecture}: {} numbers", set.count()));
        }
        if hash(set.iter().map(|(name, var)| format!("{name} {:?}", var.dims())).collect()) != state {
            wrong.push(format!("{architecture}: {:?}", set.names().collect::<Vec<_>>()));
        }
        let mut tap = Recorder::new(Sites::All);
        let side = network.describe().least_side.max(8);
        network.forward(&noise([1, 3, side, side]), &mut Pass::eval(&mut tap)).unwrap();
        if hash(tap.seen().keys().cloned().collect()) != modules {
            wrong.push(format!("{architecture}: {:?}", tap.seen().keys().collect::<Vec<_>>()));
        }
        let is = network.describe();
        if is.name != architecture.name()
            || architecture.name().parse::<Architecture>().unwrap() != architecture
        {
            wrong.push(format!("{architecture} calls itself {}", is.name));
        }
        if serde_json::to_value(architecture).unwrap() != architecture.name() {
            wrong.push(format!("{architecture} in JSON"));
        }
        for (path, outputs) in
            [(&is.classifier, 1000), (&is.stem, set.get(&format!("{}.weight", is.stem)).unwrap().dims()[0])]
        {
            let weight = set.get(&format!("{path}.weight"));
            if weight.is_none_or(|w| w.dims()[0] != outputs) {
                wrong.push(format!("{architecture} has no layer {path} of {outputs} outputs"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_least_side_is_the_least_and_any_channels_and_classes_do() {
    let mut wrong = Vec::new();
    // Of the VGGs, whose linear layers are large, one stands for all.
    let others = [Architecture::Vgg16Bn, Architecture::Vgg19, Architecture::Vgg19Bn];
    for architecture in Architecture::ALL.into_iter().filter(|a| !others.contains(a)) {
        let (network, _) = zeros(architecture, 2, 3);
        let side = network.describe().least_side;
        for (shape, fits) in [
            ([2, 2, side, side + 5], true),
            ([1, 2, side + 3, side], true),
            ([1, 2, side - 1, side + 9], false),
            ([1, 2, side + 9, side - 1], false),
            ([1, 3, side, side], false),
            ([0, 2, side, side], false),
        ] {
            let x = Tensor::ones(&shape[..], DType::F32, &Device::Cpu).unwrap();
            let given = network.forward(&x, &mut Pass::eval(&mut ()));
            let as_told = match &given {
                Ok(output) => fits && output.logits.dims() == [shape[0], 3] && output.features.rank() == 2,
                Err(Error::Input { .. }) => !fits,
                Err(_) => false,
            };
            if !as_told {
                wrong.push(format!("{architecture} {shape:?}: {:?}", given.map(|o| o.logits)));
            }
        }
        // The least side is not only what is checked: the layers themselves take no less.
        let x = Tensor::ones((1, 2, side - 1, side + 9), DType::F32, &Device::Cpu).unwrap();
        if network.maps(&x, &mut Pass::eval(&mut ())).is_ok() {
            wrong.push(format!("{architecture} takes less than {side}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn without_a_head_only_the_maps_have_parameters() {
    let mut wrong = Vec::new();
    for architecture in Architecture::ALL {
        let (whole, all) = zeros(architecture, 3, 7);
        let params = Params::frozen(BTreeMap::new(), &Device::Cpu);
        let network = architecture.build_without_head(3, &params).unwrap();
        let set = params.finish_with_report().0;
        let head = |name: &str| ["fc", "classifier", "aux1", "aux2", "AuxLogits"].map(|h| is_below(name, h));
        if !set.names().eq(all.names().filter(|name| !head(name).contains(&true))) {
            wrong.push(format!("{architecture}: {:?}", set.names().collect::<Vec<_>>()));
        }
        let is = network.describe();
        if (is.classes, &is.name, &is.stem) != (0, &whole.describe().name, &whole.describe().stem) {
            wrong.push(format!("{architecture}: {is:?}"));
        }
        let x = noise([1, 3, is.least_side, is.least_side]);
        let maps = network.maps(&x, &mut Pass::eval(&mut ())).unwrap().maps;
        let logits = network.head(&maps, &mut Pass::eval(&mut ()));
        if !matches!(logits, Err(Error::Input { what: "head", .. })) {
            wrong.push(format!("{architecture}: {logits:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// How torchvision draws a parameter.
#[derive(Clone, Copy, Debug)]
enum Drawn {
    Normal(f64),
    Uniform(f64),
    Const(f64),
}

#[test]
fn fresh_weights_are_drawn_as_torchvision_draws_them() {
    use Drawn::{Const, Normal, Uniform};
    let cases: [(Architecture, &[(&str, Drawn)]); 4] = [
        (
            Architecture::ResNet18,
            &[
                ("conv1.weight", Normal((2.0 / (64.0 * 49.0f64)).sqrt())),
                ("layer2.0.downsample.0.weight", Normal((2.0 / 128.0f64).sqrt())),
                ("layer3.1.conv2.weight", Normal((2.0 / (256.0 * 9.0f64)).sqrt())),
                ("layer4.0.bn1.weight", Const(1.0)),
                ("layer4.0.bn1.bias", Const(0.0)),
                ("fc.weight", Uniform(1.0 / 512f64.sqrt())),
                ("fc.bias", Uniform(1.0 / 512f64.sqrt())),
            ],
        ),
        (
            Architecture::DenseNet121,
            &[
                ("features.conv0.weight", Normal((2.0 / (3.0 * 49.0f64)).sqrt())),
                ("features.denseblock1.denselayer1.conv1.weight", Normal((2.0 / 64.0f64).sqrt())),
                ("features.denseblock3.denselayer4.conv2.weight", Normal((2.0 / (128.0 * 9.0f64)).sqrt())),
                ("classifier.weight", Uniform(1.0 / 1024f64.sqrt())),
                ("classifier.bias", Const(0.0)),
            ],
        ),
        (
            Architecture::SqueezeNet1_0,
            &[
                ("features.0.weight", Uniform((6.0 / (3.0 * 49.0f64)).sqrt())),
                ("features.4.expand3x3.weight", Uniform((6.0 / (16.0 * 9.0f64)).sqrt())),
                ("features.4.expand3x3.bias", Const(0.0)),
                ("classifier.1.weight", Normal(0.01)),
                ("classifier.1.bias", Const(0.0)),
            ],
        ),
        (
            Architecture::AlexNet,
            &[
                ("features.0.weight", Uniform(1.0 / 363f64.sqrt())),
                ("features.0.bias", Uniform(1.0 / 363f64.sqrt())),
                ("classifier.4.weight", Uniform(1.0 / 4096f64.sqrt())),
            ],
        ),
    ];
    let mut wrong = Vec::new();
    for (architecture, weights) in cases {
        let params = Params::fresh(3, &Device::Cpu);
        architecture.build(3, 1000, &params).unwrap();
        let set = params.finish().unwrap();
        for (name, drawn) in weights {
            let values = flat(set.get(name).unwrap());
            let n = values.len() as f64;
            let sd = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n).sqrt();
            let most = values.iter().fold(0f64, |most, v| most.max(f64::from(v.abs())));
            // Four deviations of the estimate.
            let near = |want: f64| (sd / want - 1.0).abs() < 4.0 / (2.0 * n).sqrt();
            let fits = match drawn {
                Normal(want) => near(*want) && most > 2.5 * want,
                Uniform(bound) => near(bound / 3f64.sqrt()) && most <= *bound,
                Const(want) => values.iter().all(|v| f64::from(*v) == *want),
            };
            if !fits {
                wrong.push(format!("{architecture} {name}: deviation {sd}, largest {most}, not {drawn:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn keyword_arguments_are_those_of_torchvision_and_wrong_ones_are_named() {
    let build = |architecture: Architecture, arguments: Value| {
        let config = architecture.config(3, 1000).with_arguments(arguments.as_object().unwrap())?;
        config.build(&Params::frozen(BTreeMap::new(), &Device::Cpu))
    };
    for (architecture, arguments, name) in [
        (Architecture::ResNet50, json!({"groups": 32, "width_per_group": 4}), "resnext50_32x4d"),
        (Architecture::ResNet50, json!({"width_per_group": 128, "num_classes": 7}), "wide_resnet50_2"),
        (Architecture::ResNet50, json!({"replace_stride_with_dilation": [false, true, true]}), "resnet"),
        (Architecture::ResNet18, json!({"replace_stride_with_dilation": null}), "resnet18"),
        (Architecture::Vgg16, json!({"dropout": 0, "init_weights": false}), "vgg16"),
        (Architecture::DenseNet121, json!({"growth_rate": 12, "block_config": [2, 3, 2]}), "densenet"),
        (Architecture::SqueezeNet1_0, json!({"version": "1_1"}), "squeezenet1_1"),
    ] {
        assert_eq!(build(architecture, arguments).unwrap().describe().name, name);
    }
    for (architecture, arguments, field) in [
        (Architecture::ResNet18, json!({"groups": 2}), "groups"),
        (
            Architecture::ResNet18,
            json!({"replace_stride_with_dilation": [true, false, false]}),
            "replace_stride",
        ),
        (Architecture::ResNet50, json!({"width_per_group": 0}), "width_per_group"),
        (Architecture::ResNet18, json!({"layers": [2, 0, 2, 2]}), "layers"),
        (Architecture::ResNet18, json!({"num_classes": 0}), "num_classes"),
        (Architecture::ResNet18, json!({"in_channels": 0}), "in_channels"),
        (Architecture::ResNet18, json!({"width": 3}), "width"),
        (Architecture::ResNet18, json!({"num_classes": "many"}), "many"),
        (Architecture::AlexNet, json!({"dropout": 1.5}), "dropout"),
        (Architecture::Vgg19, json!({"dropout": -0.5}), "dropout"),
        (Architecture::Vgg19, json!({"layers": [1, 1, 1, 1, 0]}), "layers"),
        (Architecture::SqueezeNet1_1, json!({"version": "1_2"}), "1_2"),
        (Architecture::DenseNet121, json!({"block_config": []}), "block_config"),
        (Architecture::DenseNet121, json!({"growth_rate": usize::MAX}), "growth_rate"),
        (Architecture::DenseNet121, json!({"bn_size": 0}), "bn_size"),
        (Architecture::DenseNet121, json!({"drop_rate": 2}), "drop_rate"),
        (Architecture::SmallCnn, json!({"widths": []}), "widths"),
        (Architecture::SmallCnn, json!({"blocks": 0}), "blocks"),
    ] {
        let error = build(architecture, arguments).map(|network| network.describe()).unwrap_err();
        assert!(matches!(error, Error::Config { .. } | Error::Input { .. }), "{error:?}");
        assert!(error.to_string().contains(field), "{architecture}: {error}");
    }
    assert!("resnet17".parse::<Architecture>().unwrap_err().to_string().contains("resnet18"));
}
