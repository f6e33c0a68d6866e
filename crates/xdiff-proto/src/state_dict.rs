//! Published weights of ProtoPNet and ProtoPool.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use xdiff_nn::weights::{KeyMap, read};

use crate::protopool::{Preset, protopool};
use crate::{AddOn, Assignment, Error, Head, PrototypeConfig, Result, ppnet};

/// The key that tells such a file from others.
const VECTORS: &str = "prototype_vectors";

/// What the published code stores beside what a network learns.
const UNUSED: [&str; 2] = ["ones", "alfa"];

/// The state dict of a network of the published code, and the configuration that it is of.
///
/// Keys lose what wrappers put before them (`module.` and the like), and `ones` and `alfa`, which say
/// nothing. The rest has the names that [`PrototypeNetwork`](crate::PrototypeNetwork) asks for;
/// those of the features, below `features`, are torchvision's, with one more `features` for VGG and
/// DenseNet. How many prototypes, classes and slots there are follows from the shapes, and so do the
/// add-on layers.
///
/// The files do not say which similarity the network has (the logarithm is taken), nor the classes of
/// the prototypes: these are dealt out in order where their number is a multiple of the classes', and
/// otherwise, in a pruned network, each gets the class that the last layer joins it to most.
/// [`with_classes_of_head`](StateDict::with_classes_of_head) asks for the latter.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_nn::Params;
/// use xdiff_proto::StateDict;
///
/// let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu);
/// // Or StateDict::read("protopnet.pth")?
/// let dict = StateDict::from_tensors(BTreeMap::from([
///     ("module.features.conv1.weight".into(), zeros(&[8, 3, 7, 7])?),
///     ("module.add_on_layers.0.weight".into(), zeros(&[5, 8, 1, 1])?),
///     ("module.add_on_layers.0.bias".into(), zeros(&[5])?),
///     ("module.add_on_layers.2.weight".into(), zeros(&[5, 5, 1, 1])?),
///     ("module.add_on_layers.2.bias".into(), zeros(&[5])?),
///     ("module.prototype_vectors".into(), zeros(&[6, 5, 1, 1])?),
///     ("module.ones".into(), zeros(&[6, 5, 1, 1])?),
///     ("module.last_layer.weight".into(), zeros(&[2, 6])?),
/// ]))?;
/// assert_eq!((dict.config().channels, dict.config().prototypes), (8, 6));
/// // The features are made below `features` of this, then PrototypeNetwork::new(dict.config(), …).
/// let params = Params::trainable(dict.tensors().clone(), &Device::Cpu);
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StateDict {
    tensors: BTreeMap<String, Tensor>,
    config: PrototypeConfig,
}

impl StateDict {
    /// Reads a file of PyTorch or safetensors that holds a state dict, bare or in a checkpoint.
    ///
    /// # Errors
    /// Those of [`xdiff_nn::weights::read`], such as for a whole pickled module, which ProtoPNet's code
    /// saves: nothing in a file is ever executed, so load it with that code and save
    /// `model.state_dict()`. [`Error::File`] when it is not the state dict of such a network.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_tensors(read(path)?).map_err(|e| Error::File {
            path: path.to_owned(),
            reason: e.to_string(),
            hint: "give the state dict of a ProtoPNet or a ProtoPool",
        })
    }

    /// A state dict in memory.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not that of such a network: naming the key that is missing or has
    /// another shape.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let tensors = unwrapped(tensors)?;
        let (prototypes, width) = match *dims(&tensors, VECTORS)? {
            [p, d, 1, 1] if p * d > 0 => (p, d),
            ref other => return Err(misshaped(VECTORS, other, "(P, D, 1, 1)")),
        };
        let (add_on, channels) = add_on(&tensors, width)?;
        let head = tensors.contains_key("last_layer.weight");
        let mut config = if tensors.contains_key("proto_presence") {
            let (classes, slots) = match *dims(&tensors, "proto_presence")? {
                [c, p, n] if p == prototypes && c * n > 0 => (c, n),
                ref other => {
                    return Err(misshaped("proto_presence", other, "(C, P, n) of the prototypes' P"));
                }
            };
            let mut config = protopool(Preset::Released, channels, classes, prototypes);
            if let Assignment::Slots { slots: n, .. } = &mut config.assignment {
                *n = slots;
            }
            if head {
                expect(&tensors, "last_layer.weight", [classes, classes * slots])?;
            } else {
                config.head = Head::Sum;
            }
            config
        } else {
            let classes = match *dims(&tensors, "last_layer.weight")? {
                [c, p] if p == prototypes && c > 0 => c,
                ref other => {
                    return Err(misshaped("last_layer.weight", other, "(C, P) of the prototypes' P"));
                }
            };
            ppnet(channels, classes)
        };
        (config.prototypes, config.width, config.add_on) = (prototypes, width, add_on);
        let dict = Self { tensors, config };
        match dict.config.assignment {
            Assignment::Fixed { classes } if !prototypes.is_multiple_of(classes) => {
                dict.with_classes_of_head()
            }
            _ => Ok(dict),
        }
    }

    /// The same, with each prototype in the class that the last layer joins it to most, the first of
    /// equals: for a pruned network whose prototypes happen to be a multiple of the classes.
    ///
    /// # Errors
    /// [`Error::Input`] where prototypes are shared by the classes.
    pub fn with_classes_of_head(mut self) -> Result<Self> {
        let (Assignment::Fixed { classes } | Assignment::Given { classes, .. }) = self.config.assignment
        else {
            return Err(Error::input("state dict", "is that of a network whose prototypes have no classes"));
        };
        let weight = self.tensors["last_layer.weight"].to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let strongest =
            |j: usize| (1..classes).fold(0, |best, c| if weight[c][j] > weight[best][j] { c } else { best });
        let class_of = (0..self.config.prototypes).map(strongest).collect();
        self.config.assignment = Assignment::Given { classes, class_of };
        Ok(self)
    }

    /// What the network is made of, as far as the file says.
    pub fn config(&self) -> &PrototypeConfig {
        &self.config
    }

    /// The tensors by the names that a [`PrototypeNetwork`](crate::PrototypeNetwork) asks for.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The tensors of the features alone, without `features.`: for a backbone that is made, or adapted,
    /// by itself.
    pub fn features(&self) -> BTreeMap<String, Tensor> {
        let below = |(key, tensor): (&String, &Tensor)| {
            Some((key.strip_prefix("features.")?.to_owned(), tensor.clone()))
        };
        self.tensors.iter().filter_map(below).collect()
    }

    /// Tensors of a network as the published code stores and strictly loads them: with `ones`.
    ///
    /// # Errors
    /// [`Error::Input`] without `prototype_vectors`.
    pub fn published(mut tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        let Some(vectors) = tensors.get(VECTORS) else { return Err(lacks(VECTORS)) };
        let ones = vectors.ones_like()?;
        tensors.insert("ones".to_owned(), ones);
        Ok(tensors)
    }
}

/// Tensors under the names of a network that nothing wraps, less those that say nothing.
fn unwrapped(tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let prefix = |key: &String| {
        let prefix = key.strip_suffix(VECTORS)?;
        (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
    };
    let prefixes: Vec<String> = tensors.keys().filter_map(prefix).collect();
    let map = match prefixes.as_slice() {
        [] => return Err(lacks(VECTORS)),
        [prefix] => KeyMap::new().only(prefix.as_str()),
        several => {
            let reason = format!("has the prototypes of {} networks; give the tensors of one", several.len());
            return Err(Error::input("state dict", reason));
        }
    };
    let mut tensors = map.apply(tensors)?;
    tensors.retain(|key, _| !UNUSED.contains(&key.as_str()));
    Ok(tensors)
}

fn lacks(key: &str) -> Error {
    Error::input("state dict", format!("has no `{key}`"))
}

fn misshaped(key: &str, dims: &[usize], wanted: &str) -> Error {
    Error::input("state dict", format!("has `{key}` of shape {dims:?}, not {wanted}"))
}

fn dims<'a>(tensors: &'a BTreeMap<String, Tensor>, key: &str) -> Result<&'a [usize]> {
    tensors.get(key).map(Tensor::dims).ok_or_else(|| lacks(key))
}

fn expect<const N: usize>(tensors: &BTreeMap<String, Tensor>, key: &str, wanted: [usize; N]) -> Result<()> {
    let found = dims(tensors, key)?;
    if found == wanted { Ok(()) } else { Err(misshaped(key, found, &format!("{wanted:?}"))) }
}

/// Which add-on layers there are, and the channels of the features.
fn add_on(tensors: &BTreeMap<String, Tensor>, width: usize) -> Result<(AddOn, usize)> {
    let weight = |i: usize| tensors.get(&format!("add_on_layers.{}.weight", 2 * i)).map(Tensor::dims);
    let count = (0..).take_while(|i| weight(*i).is_some()).count();
    let channels = match weight(0) {
        None => width,
        Some(&[_, channels, 1, 1]) => channels,
        Some(other) => return Err(misshaped("add_on_layers.0.weight", other, "(out, in, 1, 1)")),
    };
    let kind = match count {
        0 => AddOn::None,
        1 => AddOn::Single,
        2 => AddOn::Regular,
        _ => AddOn::Bottleneck,
    };
    let fits =
        |(i, (inputs, outputs)): (usize, &(usize, usize))| weight(i) == Some(&[*outputs, *inputs, 1, 1]);
    let widths = kind.widths(channels, width);
    if widths.len() != count || !widths.iter().enumerate().all(fits) {
        let found: Vec<_> = (0..count).filter_map(weight).collect();
        let reason = format!("has add-on layers of shapes {found:?}, which are none of the published ones");
        return Err(Error::input("state dict", reason));
    }
    Ok((kind, channels))
}

#[cfg(test)]
mod tests;
