//! Reading weights as a user has them on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use xdiff_nn::Error;
use xdiff_nn::weights::{read, read_pickle, read_safetensors_metadata, write_safetensors};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn one(name: &str, value: f32) -> BTreeMap<String, Tensor> {
    BTreeMap::from([(name.to_owned(), Tensor::new(&[value], &Device::Cpu).unwrap())])
}

fn sum(t: &Tensor) -> f64 {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| f64::from(*v)).sum()
}

/// Cases of a folder's content and the value of the tensor `w` that is read, or a part of the error.
#[test]
fn a_folder_is_searched_for_its_weights() {
    type Case<'a> = (&'a [(&'a str, f32)], Result<f64, &'a str>);
    let cases: [Case; 6] = [
        (&[("model.safetensors", 1.0), ("other.safetensors", 2.0)], Ok(1.0)),
        (&[("diffusion_pytorch_model.safetensors", 1.0), ("model.safetensors", 2.0)], Ok(1.0)),
        (&[("diffusion_pytorch_model.fp16.safetensors", 1.0), ("pytorch_model.bin", 2.0)], Ok(1.0)),
        (&[("mine.safetensors", 3.0)], Ok(3.0)),
        (&[("b.safetensors", 1.0), ("a.pth", 2.0)], Err("2 files of weights: a.pth, b.safetensors")),
        (&[("readme.txt", 1.0)], Err("the folder has no weights")),
    ];
    let mut wrong = Vec::new();
    for (files, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        for (file, value) in files {
            write_safetensors(folder.path().join(file), &one("w", *value), &BTreeMap::new()).unwrap();
        }
        let got = read(folder.path());
        let right = match (&got, expected) {
            (Ok(t), Ok(value)) => sum(&t["w"]) == value,
            (Err(e), Err(part)) => e.to_string().contains(part),
            _ => false,
        };
        if !right {
            wrong.push(format!("{files:?}: {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn shards_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_safetensors(at("part-1.safetensors"), &one("a", 1.0), &BTreeMap::new()).unwrap();
    fs::copy(data("one.pth"), at("part-2.bin")).unwrap();
    let index = |map: &str| format!("{{\"metadata\": {{\"total_size\": 8}}, \"weight_map\": {map}}}");
    fs::write(
        at("model.safetensors.index.json"),
        index(r#"{"a": "part-1.safetensors", "module.w": "part-2.bin"}"#),
    )
    .unwrap();
    let tensors = read(folder.path()).unwrap();
    assert_eq!(
        tensors.iter().map(|(n, t)| (n.as_str(), sum(t))).collect::<Vec<_>>(),
        [("a", 1.0), ("module.w", 5.0)]
    );

    let bad = [
        (index(r#"{"a": "../part-1.safetensors"}"#), "outside its folder"),
        (index(r#"{"a": "/etc/passwd"}"#), "outside its folder"),
        (index(r#"{"a": ""}"#), "outside its folder"),
        (index(r#"{"b": "part-1.safetensors"}"#), "lists `b` in `part-1.safetensors`, which lacks it"),
        (index(r#"{"b": "index.json"}"#), "neither a safetensors file nor a PyTorch file"),
        ("{\"weight_map\": 3}".to_owned(), "not an index of weights"),
        ("{".repeat(100_000), "not an index of weights"),
    ];
    let mut wrong = Vec::new();
    for (text, part) in bad {
        fs::write(at("index.json"), &text).unwrap();
        match read(at("index.json")) {
            Err(e @ Error::Malformed { .. }) if e.to_string().contains(part) => {}
            other => wrong.push(format!("{text:.60}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    fs::write(at("index.json"), index(r#"{"a": "part-9.safetensors"}"#)).unwrap();
    assert!(
        matches!(read(at("index.json")), Err(Error::Io { path, .. }) if path == at("part-9.safetensors"))
    );
}

#[test]
fn content_decides_and_faults_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    fs::copy(data("legacy.pth"), &path).unwrap();
    assert_eq!(read(&path).unwrap()["scalar"].to_scalar::<f32>().unwrap(), 4.25);

    let cases: [(&[u8], &str); 6] = [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{\"a\"", "its header should be 255 bytes long"),
        (b"\x80\x02}.", "torch.save did not write"),
        (b"PK\x03\x04", "zip archive cannot be read"),
    ];
    let mut wrong = Vec::new();
    for (bytes, part) in cases {
        fs::write(&path, bytes).unwrap();
        match read(&path) {
            Err(e @ Error::Malformed { .. }) if e.to_string().contains(part) => {}
            other => wrong.push(format!("{}: {other:?}", bytes.escape_ascii())),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(matches!(read(folder.path().join("none")), Err(Error::Io { .. })));
    assert!(matches!(read_safetensors_metadata(data("zip.pth")), Err(Error::Malformed { .. })));
}

/// The folder of published weights: `XDIFF_WEIGHTS`, or `shared/weights` beside the workspace.
fn published() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/weights");
    let folder = std::env::var_os("XDIFF_WEIGHTS").map_or(beside, PathBuf::from);
    folder.join("lpips_v0.1_alex.pth").is_file().then_some(folder)
}

#[test]
fn published_weights_are_read_when_they_are_there() {
    let Some(folder) = published() else { return };
    let alex = read_pickle(folder.join("lpips_v0.1_alex.pth"), None).unwrap();
    let sums = [2.349532, 16.143027, 39.268439, 27.197178, 20.317177];
    assert_eq!(alex.len(), sums.len());
    for (i, expected) in sums.into_iter().enumerate() {
        let got = sum(&alex[&format!("lin{i}.model.1.weight")]);
        assert!((got - expected).abs() < 1e-4, "head {i}: {got}, expected {expected}");
    }
    for (file, count) in [
        ("lpips_v0.1_vgg.pth", 5),
        ("lpips_v0.1_squeeze.pth", 7),
        ("squeezenet1_0_imagenet.safetensors", 52),
        ("cifar10_captum_net.safetensors", 10),
    ] {
        assert_eq!(read(folder.join(file)).unwrap().len(), count, "{file}");
    }
}
