use candle_core::{Device, IndexOp};
use xdiff_nn::weights::write_safetensors;
use xdiff_nn::{Params, Rng};

use super::*;
use crate::testing::Grid;
use crate::{OneHot, PrototypeNetwork, SlotSampling};

type Tensors = BTreeMap<String, Tensor>;

fn tensors(prefix: &str, shapes: &[(&str, &[usize])]) -> Tensors {
    let draw = |(name, dims): &(&str, &[usize])| {
        let x = Rng::new(7).fork(name).randn(*dims, &Device::Cpu).unwrap();
        (format!("{prefix}{name}"), x)
    };
    shapes.iter().map(draw).collect()
}

/// ProtoPNet's names for `p` prototypes, 5 wide, of 3 classes, on features of 8 channels.
fn ppnet_tensors(prefix: &str, p: usize) -> Tensors {
    tensors(
        prefix,
        &[
            ("features.features.0.weight", &[8, 3, 3, 3]),
            ("features.features.0.bias", &[8]),
            ("add_on_layers.0.weight", &[5, 8, 1, 1]),
            ("add_on_layers.0.bias", &[5]),
            ("add_on_layers.2.weight", &[5, 5, 1, 1]),
            ("add_on_layers.2.bias", &[5]),
            ("prototype_vectors", &[p, 5, 1, 1]),
            ("ones", &[p, 5, 1, 1]),
            ("last_layer.weight", &[3, p]),
        ],
    )
}

/// ProtoPool's, with 2 slots for each of 3 classes.
fn protopool_tensors() -> Tensors {
    tensors(
        "",
        &[
            ("alfa", &[1, 3, 2]),
            ("features.conv1.weight", &[8, 3, 7, 7]),
            ("add_on_layers.0.weight", &[5, 8, 1, 1]),
            ("add_on_layers.0.bias", &[5]),
            ("prototype_vectors", &[7, 5, 1, 1]),
            ("ones", &[7, 5, 1, 1]),
            ("proto_presence", &[3, 7, 2]),
            ("last_layer.weight", &[3, 6]),
        ],
    )
}

/// A network of the dict on features that are given as they are; keys of features are left over.
fn network(dict: &StateDict) -> PrototypeNetwork<Grid> {
    let params = Params::frozen(dict.tensors().clone(), &Device::Cpu);
    let network = PrototypeNetwork::new(dict.config(), Grid::identity(), &params).unwrap();
    let (_, report) = params.finish_with_report();
    assert!(report.missing.is_empty() && report.misshaped.is_empty(), "{report}");
    assert!(report.unexpected.iter().all(|key| key.starts_with("features.")), "{report}");
    network
}

#[test]
fn protopnets_are_recognised_by_their_shapes() {
    for prefix in ["", "module.", "model.net."] {
        let mut given = ppnet_tensors(prefix, 6);
        given.insert("optimiser.steps".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        if prefix.is_empty() {
            given.remove("optimiser.steps");
        }
        let dict = StateDict::from_tensors(given).unwrap();
        let config = dict.config();
        assert_eq!((config.channels, config.prototypes, config.width), (8, 6, 5), "{prefix}");
        assert_eq!((config.add_on, config.head), (AddOn::Regular, Head::PPNET));
        assert_eq!(network(&dict).class_of(), Some(vec![0, 0, 1, 1, 2, 2]));
        assert_eq!(dict.features().keys().collect::<Vec<_>>(), ["features.0.bias", "features.0.weight"]);
    }
}

#[test]
fn pruned_protopnets_take_their_classes_from_the_head() {
    let mut given = ppnet_tensors("", 4);
    let rows = [[1f32, -0.4, -0.6, -0.5], [-0.5, 0.9, -0.5, -0.2], [-0.5, -0.5, 1.3, 1.0]];
    given.insert("last_layer.weight".into(), Tensor::new(&rows, &Device::Cpu).unwrap());
    let dict = StateDict::from_tensors(given).unwrap();
    assert_eq!(network(&dict).class_of(), Some(vec![0, 1, 2, 2]));

    let mut given = ppnet_tensors("", 3);
    let rows = [[1f32, 1.0, -0.5], [-0.5, -0.5, -0.5], [-0.5, -0.5, 1.0]];
    given.insert("last_layer.weight".into(), Tensor::new(&rows, &Device::Cpu).unwrap());
    let dict = StateDict::from_tensors(given).unwrap();
    assert_eq!(network(&dict).class_of(), Some(vec![0, 1, 2]));
    assert_eq!(network(&dict.with_classes_of_head().unwrap()).class_of(), Some(vec![0, 0, 2]));
}

#[test]
fn protopools_are_recognised_by_their_shapes() {
    let given = protopool_tensors();
    let dict = StateDict::from_tensors(given.clone()).unwrap();
    let config = dict.config();
    assert_eq!((config.prototypes, config.width, config.add_on), (7, 5, AddOn::Single));
    assert_eq!(config.head, Head::PROTOPOOL);
    let Assignment::Slots { classes: 3, slots: 2, sampling: SlotSampling::Gumbel(gumbel), .. } =
        config.assignment
    else {
        panic!("{:?}", config.assignment);
    };
    assert_eq!((gumbel.inference, gumbel.one_hot), (1e4, OneHot::Never));
    assert_eq!(network(&dict).slot_weights().unwrap().unwrap().dims(), [3, 2, 7]);
    assert!(matches!(dict.with_classes_of_head(), Err(Error::Input { .. })));

    let mut given = given;
    given.remove("last_layer.weight");
    let dict = StateDict::from_tensors(given).unwrap();
    assert_eq!(dict.config().head, Head::Sum);
    let features = Rng::new(1).randn((2, 8, 3, 3), &Device::Cpu).unwrap();
    assert_eq!(network(&dict).forward(&features, &mut ()).unwrap().logits.unwrap().dims(), [2, 3]);
}

#[test]
fn bottlenecks_and_bare_features_are_recognised() {
    let mut given = ppnet_tensors("", 6);
    given.retain(|key, _| !key.starts_with("add_on_layers"));
    assert_eq!(StateDict::from_tensors(given.clone()).unwrap().config().add_on, AddOn::None);
    let mut inputs = 20;
    for (i, outputs) in [10, 10, 5, 5].into_iter().enumerate() {
        let name = format!("add_on_layers.{}", 2 * i);
        given.extend(tensors(&name, &[(".weight", &[outputs, inputs, 1, 1]), (".bias", &[outputs])]));
        inputs = outputs;
    }
    let dict = StateDict::from_tensors(given).unwrap();
    assert_eq!((dict.config().add_on, dict.config().channels), (AddOn::Bottleneck, 20));
    network(&dict);
}

#[test]
fn what_goes_out_comes_back() {
    let given = ppnet_tensors("", 6);
    let dict = StateDict::from_tensors(given.clone()).unwrap();
    let out = StateDict::published(dict.tensors().clone()).unwrap();
    assert_eq!(out.keys().collect::<Vec<_>>(), given.keys().collect::<Vec<_>>());
    assert_eq!(out["ones"].i((5, 4, 0, 0)).unwrap().to_scalar::<f32>().unwrap(), 1.0);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.safetensors");
    write_safetensors(&path, &out, &BTreeMap::new()).unwrap();
    let read = StateDict::read(&path).unwrap();
    assert_eq!(read.config(), dict.config());
    let sum = |dict: &StateDict| dict.tensors()[VECTORS].sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert_eq!(sum(&read), sum(&dict));
}

#[test]
fn what_is_no_such_network_is_an_error() {
    let change = |name: &str, dims: &[usize]| {
        let mut given = ppnet_tensors("", 6);
        given.insert(name.to_owned(), Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap());
        given
    };
    let without = |name: &str| {
        let mut given = ppnet_tensors("", 6);
        given.remove(name);
        given
    };
    let cases = [
        ("nothing", Tensors::new(), "no `prototype_vectors`"),
        ("no prototypes", without("prototype_vectors"), "no `prototype_vectors`"),
        ("no head", without("last_layer.weight"), "no `last_layer.weight`"),
        ("large patches", change("prototype_vectors", &[6, 5, 3, 3]), "[6, 5, 3, 3]"),
        ("no number", change("prototype_vectors", &[0, 5, 1, 1]), "[0, 5, 1, 1]"),
        ("flat prototypes", change("prototype_vectors", &[30]), "[30]"),
        ("two networks", change("teacher.prototype_vectors", &[6, 5, 1, 1]), "2 networks"),
        ("other head", change("last_layer.weight", &[3, 7]), "[3, 7]"),
        ("no class", change("last_layer.weight", &[0, 6]), "[0, 6]"),
        ("other slots", change("proto_presence", &[3, 7, 2]), "[3, 7, 2]"),
        ("head of other slots", change("proto_presence", &[3, 6, 5]), "not [3, 15]"),
        ("large add-on windows", change("add_on_layers.0.weight", &[5, 8, 3, 3]), "[5, 8, 3, 3]"),
        ("other add-on layers", change("add_on_layers.2.weight", &[5, 4, 1, 1]), "[5, 4, 1, 1]"),
        ("too many add-on layers", change("add_on_layers.4.weight", &[5, 5, 1, 1]), "none of the published"),
    ];
    for (what, given, words) in cases {
        let e = StateDict::from_tensors(given).unwrap_err();
        assert!(matches!(e, Error::Input { .. }) && e.to_string().contains(words), "{what}: {e}");
    }
}

#[test]
fn files_of_other_things_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    write_safetensors(&path, &tensors("", &[("fc.weight", &[2, 3])]), &BTreeMap::new()).unwrap();
    let e = StateDict::read(&path).unwrap_err();
    assert!(matches!(e, Error::File { .. }) && e.to_string().contains("other.safetensors"), "{e}");

    // A module as the older torch.save writes it: magic number, protocol, system, the object
    // `model.PPNet()`, no storage.
    let module = [
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".as_slice(),
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}q\x00.",
        b"\x80\x02cmodel\nPPNet\n)\x81.",
        b"\x80\x02].",
    ]
    .concat();
    let path = folder.path().join("module.pth");
    std::fs::write(&path, module).unwrap();
    let e = StateDict::read(&path).unwrap_err().to_string();
    assert!(e.contains("PPNet") && e.contains("torch.save(model.state_dict(), path)"), "{e}");
}
