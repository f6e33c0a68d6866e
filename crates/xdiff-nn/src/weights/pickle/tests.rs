use std::io::Write;

use candle_core::DType;
use proptest::prelude::*;
use serde_json::Value as Json;
use zip::write::SimpleFileOptions;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_kind_of_tensor_is_read_from_every_kind_of_file() {
    let expected: Json = serde_json::from_slice(&fixture("expected.json")).unwrap();
    let expected = expected.as_object().unwrap();
    let mut wrong = Vec::new();
    for file in ["zip.pth", "deflated.pth", "legacy.pth", "legacy_protocol4.pth"] {
        let tensors = parse(&fixture(file), None).unwrap();
        assert_eq!(tensors.len(), expected.len(), "{file}");
        for (name, e) in expected {
            let t = &tensors[name];
            let dtype = match e["dtype"].as_str().unwrap() {
                "float64" => DType::F64,
                "float32" => DType::F32,
                "float16" => DType::F16,
                "bfloat16" => DType::BF16,
                "int64" => DType::I64,
                "int32" => DType::I32,
                "int16" | "int8" => DType::I16,
                _ => DType::U8,
            };
            let shape: Vec<usize> = serde_json::from_value(e["shape"].clone()).unwrap();
            let values: Vec<f64> = serde_json::from_value(e["values"].clone()).unwrap();
            if (t.dtype(), t.dims(), floats(t)) != (dtype, &shape, values) {
                wrong.push(format!("{file}, {name}: {:?} {:?} {:?}", t.dtype(), t.dims(), floats(t)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_dict_that_is_meant_is_found() {
    let w = |file: &str, key: Option<&str>| {
        parse(&fixture(file), key).map(|t| t.iter().map(|(n, t)| (n.clone(), floats(t))).collect::<Vec<_>>())
    };
    let pair = |n: &str, v: &[f64]| (n.to_owned(), v.to_vec());
    let both = vec![pair("ema_model.w", &[3.0, 4.0]), pair("model.w", &[1.0, 2.0])];
    let cases = [
        ("lightning.ckpt", None, both.clone()),
        ("lightning_legacy.ckpt", None, both.clone()),
        ("lightning.ckpt", Some("state_dict"), both),
        ("lightning.ckpt", Some("callbacks.checkpoint"), vec![pair("score", &[0.25])]),
        ("one.pth", None, vec![pair("module.w", &[5.0])]),
        ("one.pth", Some("model"), vec![pair("module.w", &[5.0])]),
        ("two.pth", Some("net"), vec![pair("w", &[1.0])]),
        ("two.pth", Some("ema.params"), vec![pair("w", &[2.0])]),
    ];
    let mut wrong = Vec::new();
    for (file, key, expected) in cases {
        let got = w(file, key);
        if !matches!(&got, Ok(g) if *g == expected) {
            wrong.push(format!("{file} {key:?}: {got:?}"));
        }
    }
    let faults = [
        ("two.pth", None, "several of its dicts have tensors: `net` (1 tensor), `ema.params` (1 tensor)"),
        (
            "two.pth",
            Some("ema"),
            "no dict of tensors `ema`; it has `net` (1 tensor), `ema.params` (1 tensor)",
        ),
        ("one.pth", Some(""), "no dict of tensors ``; it has `model` (1 tensor)"),
        ("module.pth", None, "it holds an object of `torch.nn.modules.linear.Linear`, not a dict"),
        ("complex.pth", None, "elements of type complex64"),
    ];
    for (file, key, part) in faults {
        match w(file, key) {
            Err(m) if m.reason.contains(part) => {}
            other => wrong.push(format!("{file} {key:?}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A stream whose object has these opcodes, with the elements of one storage of f32.
fn stream(object: &[u8], floats: &[f32]) -> Vec<u8> {
    let mut bytes =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend(object);
    bytes.extend(b"]X\x01\0\0\0ka.");
    bytes.extend((floats.len() as u64).to_le_bytes());
    bytes.extend(floats.iter().flat_map(|f| f.to_le_bytes()));
    bytes
}

/// Opcodes of a dict with a tensor `w` of these parts.
fn tensor_of(count: &str, offset: &str, shape: &str, strides: &str) -> Vec<u8> {
    format!(
        "(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0k\
         X\x03\0\0\0cpuI{count}\ntQI{offset}\n({shape}t({strides}tI00\nNtRd."
    )
    .into_bytes()
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_errors() {
    let max = "I9223372036854775807\n";
    let cases = [
        ("fits", tensor_of("4", "0", "I2\nI2\n", "I2\nI1\n"), None),
        ("beyond", tensor_of("4", "1", "I2\nI2\n", "I2\nI1\n"), Some("goes beyond the 4 elements")),
        ("negative offset", tensor_of("4", "-1", "I1\n", "I1\n"), Some("-1 is not a size")),
        ("negative stride", tensor_of("4", "3", "I2\n", "I-1\n"), Some("-1 is not a size")),
        ("storage shorter than said", tensor_of("9", "0", "I9\n", "I1\n"), Some("its tensors take more")),
        ("storage absurd", tensor_of("4611686018427387904", "0", "I1\n", "I1\n"), Some("many times larger")),
        ("huge shape", tensor_of("4", "0", &max.repeat(3), "I0\nI0\nI0\n"), Some("larger than any memory")),
        (
            "huge and empty",
            tensor_of("4", "0", &format!("I0\n{max}{max}"), "I0\nI0\nI0\n"),
            Some("any memory"),
        ),
        ("expanded beyond reason", tensor_of("4", "0", "I1000000000\n", "I0\n"), Some("many times larger")),
        ("stride overflows", tensor_of("4", "0", "I3\n", max), Some("goes beyond")),
        ("fewer strides", tensor_of("4", "0", "I2\nI2\n", "I2\n"), Some("2 dimensions and 1 strides")),
    ];
    let mut wrong = Vec::new();
    for (name, object, part) in cases {
        let got = parse(&stream(&object, &[1.0, 2.0, 3.0, 4.0]), None);
        let right = match (&got, part) {
            (Ok(t), None) => t["w"].to_vec2::<f32>().unwrap() == [[1.0, 2.0], [3.0, 4.0]],
            (Err(m), Some(part)) => m.reason.contains(part),
            _ => false,
        };
        if !right {
            wrong.push(format!("{name}: {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hostile_pickles_are_errors_and_end_soon() {
    let many = |op: &[u8], n: usize| op.repeat(n);
    let memo_bomb =
        [b"](".as_slice(), b"e".as_slice(), &b"q\x01(h\x01h\x01h\x01h\x01t".repeat(2000), b"."].concat();
    let pairs = [b"ccollections\nOrderedDict\nq\0](".to_vec(), many(b"]q\x01(NNe", 2000), b"eq\x02".to_vec()]
        .concat();
    let copied = [pairs, many(b"h\0h\x02\x85R0", 20_000), b".".to_vec()].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("deep list", [many(b"](", 100_000), many(b"e", 100_000), b".".to_vec()].concat(), "not a dict"),
        ("deep tuple", [b"N".to_vec(), many(b"\x85", 100_000), b".".to_vec()].concat(), "not a dict"),
        ("list in itself", b"]q\0h\0a.".to_vec(), "not a dict"),
        ("dict in itself", b"}q\0X\x01\0\0\0ah\0s.".to_vec(), "no dict of tensors"),
        ("doubling", memo_bomb, "not a dict"),
        ("copying", copied, "one long value into many"),
        ("empty stack", b"a.".to_vec(), "stack is empty"),
        ("below a mark", b"N(0.".to_vec(), "stack is empty"),
        ("no mark", b"NNt.".to_vec(), "mark is missing"),
        ("odd items", b"}(Nu.".to_vec(), "no value"),
        ("unknown memo", b"h\x07.".to_vec(), "before it is made"),
        ("huge memo index", b"Nr\xff\xff\xff\xff.".to_vec(), "not a dict"),
        ("huge string", b"X\xff\xff\xff\xffab".to_vec(), "ends within"),
        ("huger string", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab".to_vec(), "ends within"),
        ("not UTF-8", b"X\x01\0\0\0\xff.".to_vec(), "not UTF-8"),
        ("extension", b"\x82\x01.".to_vec(), "0x82"),
        ("calls the system", b"cos\nsystem\n(X\x02\0\0\0lstR.".to_vec(), "an object of `os.system`"),
        (
            "nested rebuild",
            b"ctorch._tensor\n_rebuild_from_type_v2\nq\0(h\0Nh\0NtR.".to_vec(),
            "wrong arguments",
        ),
        ("storage without type", b"(X\x07\0\0\0storageNNNNtQ.".to_vec(), "no type"),
    ];
    let mut wrong = Vec::new();
    for (name, object, part) in cases {
        match machine::run(&object).and_then(|p| select::select(&p, None)) {
            Err(m) if m.reason.contains(part) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn old_and_new_forms_of_objects_are_understood() {
    // OrderedDict([['w', tensor]]) as Python 2 wrote it, and a tensor of a storage that is a view.
    let tensor =
        b"ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x01kU\x06cuda:0K\x04\
                   (U\x03k:1K\x01K\x02ttQK\0(K\x02t(K\x01ttR";
    let object = [b"ccollections\nOrderedDict\n](](U\x01w".as_slice(), tensor, b"ee\x85R."].concat();
    let tensors = parse(&stream(&object, &[1.0, 2.0, 3.0, 4.0]), None).unwrap();
    assert_eq!(tensors["w"].to_vec1::<f32>().unwrap(), [2.0, 3.0]);
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn hostile_archives_are_errors() {
    let object = tensor_of("4", "0", "I4\n", "I1\n");
    let large = tensor_of("8000000", "0", "I1\n", "I1\n");
    let nulls = vec![0; 32_000_000];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no pickle", zipped(&[("a/version", b"3")]), "without a data.pkl"),
        ("no storage", zipped(&[("a/data.pkl", &object)]), "storage `k` is missing"),
        ("short storage", zipped(&[("a/data.pkl", &object), ("a/data/k", &[0; 15])]), "has 15 bytes"),
        ("big-endian", zipped(&[("a/data.pkl", &object), ("a/byteorder", b"big")]), "big-endian"),
        ("pickle bomb", zipped(&[("a/data.pkl", &nulls)]), "unpacks to more than"),
        ("storage bomb", zipped(&[("a/data.pkl", &large), ("a/data/k", &nulls)]), "many times larger"),
        ("not a zip", b"PK\x03\x04 and no more".to_vec(), "zip archive cannot be read"),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, part) in cases {
        match parse(&bytes, None) {
            Err(m) if m.reason.contains(part) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    // A flipped bit among the elements is found by the checksum.
    let mut flipped = fixture("one.pth");
    let at = flipped.windows(4).position(|w| w == 5f32.to_le_bytes()).unwrap();
    flipped[at] ^= 1;
    if !matches!(parse(&flipped, None), Err(m) if m.reason.contains("hecksum")) {
        wrong.push("a flipped bit was not noticed".to_owned());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damaged_files_never_panic(
        file in 0..7usize,
        cut in 0.0..1.5f64,
        flips in prop::collection::vec((0.0..1.0f64, any::<u8>()), 0..6),
    ) {
        let names = [
            "zip.pth", "deflated.pth", "legacy.pth", "legacy_protocol4.pth", "lightning.ckpt",
            "lightning_legacy.ckpt", "two.pth",
        ];
        let mut bytes = fixture(names[file]);
        for (at, byte) in flips {
            let at = (at * bytes.len() as f64) as usize;
            bytes[at] = byte;
        }
        bytes.truncate((cut * bytes.len() as f64) as usize);
        // What comes out, if anything, is bounded by the file.
        if let Ok(tensors) = parse(&bytes, None) {
            let size: usize = tensors.values().map(Tensor::elem_count).sum();
            prop_assert!(size <= 8 * bytes.len() + (1 << 20));
        }
    }

    #[test]
    fn arbitrary_opcodes_never_panic(object in prop::collection::vec(
        prop::sample::select(b".(012NIJKMLGFSUX]t)l\x85\x86\x87ae}dsucR\x81\x93bpqrgh\x94Q\n\0\x01\x02ab\x80\x8a\x8c".to_vec()),
        0..200,
    )) {
        let outcome = parse(&stream(&object, &[1.0]), None);
        prop_assert!(outcome.is_err() || outcome.is_ok_and(|t| t.len() <= object.len()));
    }
}
