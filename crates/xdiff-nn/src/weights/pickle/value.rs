//! What the pickle machine builds: a flat arena of values, so that no nesting is too deep to build,
//! walk or drop.

use crate::weights::elements::Element;

/// The index of a value in the arena.
pub(super) type Id = u32;

/// A value. Lists, tuples and sets are all sequences.
#[derive(Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 8 bytes, little-endian two's complement.
    Long(Box<[u8]>),
    Float,
    Str(Box<str>),
    Bytes,
    Seq(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// An index into [`Pickle::storages`].
    Storage(u32),
    /// An index into [`Pickle::tensors`].
    Tensor(u32),
    /// Something that was not built. It came of the value with this id.
    Opaque(Id),
}

/// A name that a pickle refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Global {
    Dict,
    Rebuild(Rebuild),
    /// A function that returns its first argument as far as weights go.
    First,
    /// `_rebuild_from_type_v2(function, type, arguments, state)`.
    FromType,
    /// A storage class; untyped ones have no element.
    StorageClass(Option<Element>),
    Dtype(Element),
    /// Any other, which is never called.
    Other(Box<str>),
}

/// The functions that make a tensor of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rebuild {
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`.
    OfStorage,
    /// `_rebuild_tensor_v3`, whose argument 6 is the element type.
    WithDtype,
}

impl Global {
    pub(super) fn named(module: &str, name: &str) -> Self {
        let other = |size: usize, name: &'static str| Element::Other { name, size };
        match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") => Global::Dict,
            ("builtins" | "__builtin__", "dict") => Global::Dict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Rebuild(Rebuild::OfStorage),
            ("torch._utils", "_rebuild_tensor_v3") => Global::Rebuild(Rebuild::WithDtype),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::First,
            ("torch", "Size") => Global::First,
            ("torch._tensor", "_rebuild_from_type_v2") => Global::FromType,
            ("torch" | "torch.cuda" | "torch.storage", class) if class.ends_with("Storage") => {
                let element = match class {
                    "UntypedStorage" => return Global::StorageClass(None),
                    "DoubleStorage" => Element::F64,
                    "FloatStorage" => Element::F32,
                    "HalfStorage" => Element::F16,
                    "BFloat16Storage" => Element::Bf16,
                    "LongStorage" => Element::I64,
                    "IntStorage" => Element::I32,
                    "ShortStorage" => Element::I16,
                    "CharStorage" => Element::I8,
                    "ByteStorage" => Element::U8,
                    "BoolStorage" => Element::Bool,
                    "ComplexFloatStorage" => other(8, "complex64"),
                    "ComplexDoubleStorage" => other(16, "complex128"),
                    "QInt8Storage" => other(1, "qint8"),
                    "QUInt8Storage" => other(1, "quint8"),
                    "QInt32Storage" => other(4, "qint32"),
                    _ => return Global::Other(format!("{module}.{name}").into()),
                };
                Global::StorageClass(Some(element))
            }
            ("torch", dtype) => Global::Dtype(match dtype {
                "float64" => Element::F64,
                "float32" => Element::F32,
                "float16" => Element::F16,
                "bfloat16" => Element::Bf16,
                "int64" => Element::I64,
                "int32" => Element::I32,
                "int16" => Element::I16,
                "int8" => Element::I8,
                "uint8" => Element::U8,
                "uint32" => Element::U32,
                "bool" => Element::Bool,
                "uint16" => other(2, "uint16"),
                "uint64" => other(8, "uint64"),
                "complex64" => other(8, "complex64"),
                "complex128" => other(16, "complex128"),
                "float8_e4m3fn" => other(1, "float8_e4m3fn"),
                "float8_e5m2" => other(1, "float8_e5m2"),
                _ => return Global::Other(format!("{module}.{name}").into()),
            }),
            _ => Global::Other(format!("{module}.{name}").into()),
        }
    }
}

/// A reference to raw elements that are stored beside the pickle.
#[derive(Clone, Debug)]
pub(super) struct StorageRef {
    /// The string that names it.
    pub(super) key: Id,
    pub(super) element: Option<Element>,
    /// Elements, or bytes when untyped.
    pub(super) count: usize,
    /// The part that this one is of the storage of that key: offset and length, in elements.
    pub(super) view: Option<(usize, usize)>,
}

/// A strided tensor over a storage.
#[derive(Clone, Debug)]
pub(super) struct TensorRef {
    pub(super) storage: u32,
    pub(super) element: Element,
    pub(super) offset: usize,
    pub(super) shape: Box<[usize]>,
    pub(super) strides: Box<[usize]>,
}

/// One pickle, as far as it matters for weights.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) storages: Vec<StorageRef>,
    pub(super) tensors: Vec<TensorRef>,
    pub(super) root: Id,
    /// How many bytes of the input it took.
    pub(super) length: usize,
}

impl Pickle {
    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    pub(super) fn root(&self) -> &Value {
        self.value(self.root)
    }

    pub(super) fn string(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The entry of a dict; the last one counts, as in Python.
    pub(super) fn entry(&self, dict: &[(Id, Id)], key: &str) -> Option<&Value> {
        let found = dict.iter().rev().find(|(k, _)| self.string(*k) == Some(key));
        found.map(|(_, v)| self.value(*v))
    }

    /// What an opaque value is, for a message.
    pub(super) fn describe(&self, id: Id) -> String {
        match self.value(id) {
            Value::None => "None".to_owned(),
            Value::Bool(_) => "a bool".to_owned(),
            Value::Int(_) | Value::Long(_) => "an integer".to_owned(),
            Value::Float => "a float".to_owned(),
            Value::Str(_) => "a string".to_owned(),
            Value::Bytes => "bytes".to_owned(),
            Value::Seq(_) => "a list or tuple".to_owned(),
            Value::Dict(_) => "a dict".to_owned(),
            Value::Storage(_) => "a bare storage".to_owned(),
            Value::Tensor(_) => "a single tensor".to_owned(),
            Value::Global(Global::Other(name)) => format!("the name {}", super::shown(name)),
            Value::Global(_) => "a function or type".to_owned(),
            Value::Opaque(source) => match self.value(*source) {
                Value::Global(Global::Other(name)) => format!("an object of {}", super::shown(name)),
                _ => "an object of unknown type".to_owned(),
            },
        }
    }
}
