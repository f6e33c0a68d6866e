use std::collections::BTreeMap;

use serde_json::{Value, json};
use xdiff_nn::weights::{read_safetensors_with_metadata, write_safetensors};

use super::*;

fn projected() -> Projected {
    let config = ProjectionConfig { window: WindowRule::Percentile(90.0), ..Default::default() };
    run(&Small::new(1), 4, 5, &config).unwrap()
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    let written = projected();
    written.write(&path).unwrap();
    let read = Projected::read(&path).unwrap();
    assert_eq!(values(&read.vectors), values(&written.vectors));
    assert_eq!(values(&read.maps), values(&written.maps));
    for (a, b) in read.patches.iter().zip(&written.patches) {
        assert_eq!((a.dims(), values(a)), (b.dims(), values(b)));
    }
    for (a, b) in read.projection.sources.iter().zip(&written.projection.sources) {
        // JSON may lose the last digit.
        assert!((a.distance - b.distance).abs() <= 1e-14 * b.distance);
        assert_eq!(Source { distance: 0.0, ..a.clone() }, Source { distance: 0.0, ..b.clone() });
    }
    read.projection.check(&read.prototypes().unwrap(), &Small::new(1)).unwrap();
    let text = std::fs::read_to_string(folder.path().join("p.json")).unwrap();
    let beside: Projection = serde_json::from_str(&text).unwrap();
    assert_eq!(beside.prototypes_hash, written.projection.prototypes_hash);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let refused = written.write(folder.path().join("p.json"));
    assert!(matches!(refused, Err(Error::File { .. })));
}

/// Every change of a file that is otherwise sound is refused, by name of what is wrong.
#[test]
fn hostile_files_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.safetensors");
    projected().write(&path).unwrap();
    let (tensors, metadata) = read_safetensors_with_metadata(&path).unwrap();
    let record: Value = serde_json::from_str(&metadata["projection"]).unwrap();

    type Tensors = BTreeMap<String, Tensor>;
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let of_record = |change: fn(&mut Value)| {
        let mut changed = record.clone();
        change(&mut changed);
        (tensors.clone(), Some(changed.to_string()))
    };
    let of_tensors = |change: &dyn Fn(&mut Tensors)| {
        let mut changed = tensors.clone();
        change(&mut changed);
        (changed, Some(record.to_string()))
    };
    let set = |name: &'static str, t: Tensor| of_tensors(&move |all| _ = all.insert(name.into(), t.clone()));
    let cases = [
        ("no record", (tensors.clone(), None)),
        ("its record", (tensors.clone(), Some("{".into()))),
        ("its record", (tensors.clone(), Some("[".repeat(100_000)))),
        ("its record", of_record(|r| r["more"] = json!(1))),
        ("a size is 0", of_record(|r| r["map_size"] = json!([0, 4]))),
        ("its record", of_record(|r| r["images"] = json!(-1))),
        ("of a map of", of_record(|r| r["sources"][1]["row"] = json!(3))),
        ("of an image", of_record(|r| r["sources"][0]["window"]["bottom"] = json!(u64::MAX))),
        ("of an image", of_record(|r| r["sources"][0]["window"]["left"] = json!(8))),
        ("squared distance", of_record(|r| r["sources"][2]["distance"] = json!(-1.0))),
        ("its record", of_record(|r| r["sources"][2]["distance"] = json!("nan"))),
        ("for 0 sources", of_record(|r| r["sources"] = json!([]))),
        ("`patch.0` has shape", of_record(|r| r["channels"] = json!(u64::MAX))),
        ("not those of the record", of_record(|r| r["prototypes_hash"] = json!("00"))),
        ("no `vectors`", of_tensors(&|all| _ = all.remove("vectors"))),
        ("no `patch.3`", of_tensors(&|all| _ = all.remove("patch.3"))),
        ("does not belong", set("patch.4", zeros(&[1]))),
        ("`vectors` has shape", set("vectors", zeros(&[3, 5]))),
        ("`maps` has shape", set("maps", zeros(&[4, 4, 3]))),
        ("not those of the record", set("vectors", zeros(&[4, 5]))),
        ("numbers of type", set("maps", Tensor::zeros((4, 3, 4), DType::U8, &Device::Cpu).unwrap())),
    ];
    let mut wrong = Vec::new();
    for (part, (tensors, record)) in cases {
        let mut metadata = BTreeMap::from([("format".to_owned(), "xdiff-prototypes-1".to_owned())]);
        metadata.extend(record.map(|record| ("projection".to_owned(), record)));
        write_safetensors(&path, &tensors, &metadata).unwrap();
        match Projected::read(&path) {
            Err(Error::File { reason, .. }) if reason.contains(part) => {}
            other => wrong.push(format!("{part}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    assert!(matches!(Projected::read(&path), Err(Error::File { .. })));
    for bytes in [&b""[..], b"no such thing", &[0xff; 64]] {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Projected::read(&path), Err(Error::Core(_))), "{bytes:?}");
    }
    assert!(matches!(Projected::read(folder.path().join("none")), Err(Error::Core(_))));
}
