//! The safetensors format.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde_json::{Map, Value, json};

use super::elements::{Element, element_count, unsupported};
use super::files::{map, write_atomically};
use super::malformed::{DAMAGED, Malformed, Parse, shown};
use crate::{Error, Result};

/// Reads all tensors of a safetensors file, in their own types (booleans become u8, i8 becomes
/// i16), onto the CPU.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] when the header or an offset is wrong, or a tensor has a type
/// that the tensor engine lacks.
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    parse(&map(path)?).map_err(|m| m.at(path))
}

/// Reads the metadata of a safetensors file; empty when it has none.
///
/// # Errors
/// As [`read_safetensors`].
pub fn read_safetensors_metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>> {
    let path = path.as_ref();
    metadata(&map(path)?).map_err(|m| m.at(path))
}

/// Reads the tensors and the metadata of a safetensors file, both of the same file even when another
/// takes its place meanwhile.
///
/// # Errors
/// As [`read_safetensors`].
pub fn read_safetensors_with_metadata(
    path: impl AsRef<Path>,
) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, String>)> {
    let path = path.as_ref();
    let bytes = map(path)?;
    let both = metadata(&bytes).and_then(|metadata| Ok((parse(&bytes)?, metadata)));
    both.map_err(|m| m.at(path))
}

fn metadata(bytes: &[u8]) -> Parse<BTreeMap<String, String>> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| explain(e, bytes))?;
    Ok(header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// Whether these bytes start as a safetensors file does.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    header_length(bytes).is_some_and(|n| n <= bytes.len() as u64 - 8) && bytes.get(8) == Some(&b'{')
}

fn header_length(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|n| u64::from_le_bytes(*n))
}

pub(super) fn parse(bytes: &[u8]) -> Parse<BTreeMap<String, Tensor>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| explain(e, bytes))?;
    let views: Vec<(&str, TensorView)> = file.iter().collect();
    views.into_par_iter().map(|(name, view)| Ok((name.to_owned(), tensor(name, &view)?))).collect()
}

fn tensor(name: &str, view: &TensorView) -> Parse<Tensor> {
    let fault = |m: Malformed| Malformed::new(format!("{}: {}", shown(name), m.reason), m.hint);
    let element = match view.dtype() {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::Bf16,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U32 => Element::U32,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        other => return Err(fault(unsupported(&format!("{other:?}")))),
    };
    let count =
        element_count(view.shape()).filter(|n| n.checked_mul(element.size()) == Some(view.data().len()));
    let Some(count) = count else {
        return Err(fault(Malformed::damaged(format!(
            "its {} bytes do not make the shape {:?}",
            view.data().len(),
            view.shape()
        ))));
    };
    let flat = element.read(count, &mut view.data()).map_err(fault)?;
    flat.reshape(view.shape()).map_err(|e| fault(Malformed::damaged(e.to_string())))
}

fn explain(error: SafeTensorError, bytes: &[u8]) -> Malformed {
    let reason = match (&error, header_length(bytes)) {
        (SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength, Some(n)) => {
            format!("its header should be {n} bytes long, the whole file has {}", bytes.len())
        }
        (SafeTensorError::MetadataIncompleteBuffer, _) => {
            format!("its {} bytes are not what the header announces", bytes.len())
        }
        _ => format!("it is not a safetensors file: {error}"),
    };
    Malformed::new(reason, DAMAGED)
}

/// Writes tensors as a safetensors file, atomically. The same tensors and metadata give the same
/// bytes: tensors are ordered by element size, widest first, and then by name.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::weights::{read, write_safetensors};
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("model.safetensors");
/// let tensors = BTreeMap::from([("w".to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu)?)]);
/// write_safetensors(&path, &tensors, &BTreeMap::new())?;
/// assert_eq!(read(&path)?["w"].to_vec1::<f32>()?, [1.0, 2.0]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::Argument`] for a tensor named `__metadata__` or of a type that cannot be written,
/// [`Error::Io`] when the disk refuses.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut items = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if name == "__metadata__" {
            return Err(Error::argument("tensors", "the format reserves the name `__metadata__`"));
        }
        let kind = dtype_name(tensor.dtype())
            .ok_or_else(|| Error::argument("tensors", format!("`{name}` is {:?}", tensor.dtype())))?;
        items.push((name, kind, tensor.detach().to_device(&Device::Cpu)?.contiguous()?));
    }
    items.sort_by_key(|(name, _, t)| (std::cmp::Reverse(t.dtype().size_in_bytes()), *name));

    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut start = 0;
    for (name, kind, tensor) in &items {
        let end = start + tensor.elem_count() * tensor.dtype().size_in_bytes();
        let entry = json!({"dtype": kind, "shape": tensor.dims(), "data_offsets": [start, end]});
        header.insert((*name).clone(), entry);
        start = end;
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

    write_atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        items.iter().try_for_each(|(_, _, tensor)| write_values(out, tensor))
    })
}

fn dtype_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I16 => "I16",
        DType::U32 => "U32",
        DType::U8 => "U8",
        _ => return None,
    })
}

/// Writes the elements of a contiguous tensor on the CPU.
fn write_values(out: &mut dyn Write, tensor: &Tensor) -> io::Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(io::Error::other("the tensor is not contiguous on the CPU"));
    };
    match storage {
        CpuStorage::F64(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::F32(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::F16(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::BF16(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::I64(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::I32(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::I16(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::U32(v) => write_all(out, &v[from..to], |x| x.to_le_bytes()),
        CpuStorage::U8(v) => out.write_all(&v[from..to]),
        _ => Err(io::Error::other("the tensor has a type that cannot be written")),
    }
}

fn write_all<T: Copy, const N: usize>(
    out: &mut dyn Write,
    values: &[T],
    encode: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = vec![[0u8; N]; values.len().min(1 << 13)];
    for part in values.chunks(1 << 13) {
        for (bytes, value) in buffer.iter_mut().zip(part) {
            *bytes = encode(*value);
        }
        out.write_all(buffer[..part.len()].as_flattened())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn every_type_survives_the_round_trip_and_bytes_are_the_same_each_time() {
        let cpu = &Device::Cpu;
        let turned = Tensor::arange(0f32, 6., cpu).unwrap().reshape((2, 3)).unwrap().t().unwrap();
        let tensors = BTreeMap::from(
            [
                ("f64", Tensor::new(&[1.5f64, f64::NAN], cpu)),
                ("f32", Tensor::new(&[[1f32], [-2.0]], cpu)),
                ("f16", Tensor::new(&[f16::from_f32(0.5)], cpu)),
                ("bf16", Tensor::new(&[bf16::from_f32(-3.0)], cpu)),
                ("i64", Tensor::new(i64::MIN, cpu)),
                ("i32", Tensor::new(&[-7i32], cpu)),
                ("i16", Tensor::new(&[-8i16], cpu)),
                ("u32", Tensor::new(&[u32::MAX], cpu)),
                ("u8", Tensor::new(&[255u8, 0, 1], cpu)),
                ("none", Tensor::zeros((0, 3), DType::F32, cpu)),
                ("turned", Ok(turned)),
            ]
            .map(|(n, t)| (n.to_owned(), t.unwrap())),
        );
        let metadata = BTreeMap::from([("b", "ü\n"), ("a", "1")].map(|(k, v)| (k.into(), v.into())));
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a.safetensors", "b.safetensors"].map(|n| folder.path().join(n));
        for path in &paths {
            write_safetensors(path, &tensors, &metadata).unwrap();
        }
        let [a, b] = paths.each_ref().map(|p| std::fs::read(p).unwrap());
        assert_eq!(a, b);
        assert_eq!(header_length(&a).unwrap() % 8, 0);
        assert_eq!(read_safetensors_metadata(&paths[0]).unwrap(), metadata);
        let back = read_safetensors(&paths[0]).unwrap();
        assert_eq!(back.len(), tensors.len());
        for (name, t) in &tensors {
            assert_eq!((t.dtype(), t.dims()), (back[name].dtype(), back[name].dims()), "{name}");
            let text = |t: &Tensor| {
                format!(
                    "{:?}",
                    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
                )
            };
            assert_eq!(text(t), text(&back[name]), "{name}");
        }
    }

    #[test]
    fn narrow_types_are_widened() {
        let header = r#"{"b":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]},"i":{"dtype":"I8","shape":[1],"data_offsets":[3,4]}}"#;
        let tensors = parse(&file(header, &[0, 1, 7, 0xff])).unwrap();
        assert_eq!(tensors["b"].to_vec1::<u8>().unwrap(), [0, 1, 1]);
        assert_eq!(tensors["i"].to_vec1::<i16>().unwrap(), [-1]);
    }

    #[test]
    fn hostile_headers_are_errors() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let cases = [
            ("no header", vec![1, 2, 3], "not a safetensors file"),
            ("header beyond the file", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "whole file has 10"),
            ("header a little beyond", [&9u64.to_le_bytes()[..], b"{}"].concat(), "should be 9 bytes"),
            ("not UTF-8", [&2u64.to_le_bytes()[..], b"\xff\xff"].concat(), "not a safetensors file"),
            ("not JSON", file("{\"w\":", &[]), "not a safetensors file"),
            ("deep JSON", file(&"{\"a\":".repeat(100_000), &[]), "not a safetensors file"),
            ("wrong length", file(&one("F32", "[2]", "[0,4]"), &[0; 4]), "not a safetensors file"),
            ("data missing", file(&one("F32", "[2]", "[0,8]"), &[0; 4]), "not what the header announces"),
            ("data left over", file(&one("F32", "[1]", "[0,4]"), &[0; 5]), "not what the header announces"),
            ("offsets reversed", file(&one("F32", "[1]", "[4,0]"), &[0; 4]), "not a safetensors file"),
            (
                "huge shape",
                file(&one("F32", "[9223372036854775807,4]", "[0,4]"), &[0; 4]),
                "not a safetensors",
            ),
            ("huge and empty", file(&one("F32", "[0,4294967295,4294967295,9]", "[0,0]"), &[]), "do not make"),
            ("negative", file(&one("F32", "[-1]", "[0,4]"), &[0; 4]), "not a safetensors file"),
            ("unknown type", file(&one("Q9", "[1]", "[0,4]"), &[0; 4]), "not a safetensors file"),
            ("complex", file(&one("C64", "[1]", "[0,8]"), &[0; 8]), "`w`: a tensor has elements of type C64"),
            (
                "overlap",
                file(
                    r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
                    &[0; 3],
                ),
                "not a safetensors file",
            ),
        ];
        let mut wrong = Vec::new();
        for (name, bytes, part) in cases {
            match parse(&bytes) {
                Ok(_) => wrong.push(format!("{name}: was taken")),
                Err(m) if !m.reason.contains(part) => wrong.push(format!("{name}: {}", m.reason)),
                Err(_) => {}
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        let path = tempfile::tempdir().unwrap().path().join("a");
        let t = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        let reserved = BTreeMap::from([("__metadata__".to_owned(), t)]);
        assert!(matches!(write_safetensors(&path, &reserved, &BTreeMap::new()), Err(Error::Argument { .. })));
    }
}
