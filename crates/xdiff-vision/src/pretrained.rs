//! Trained weights: reading them, and adapting them to other images and other classes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use xdiff_nn::weights::{KeyMap, read};
use xdiff_nn::{ParamSet, Params};

use crate::{BackboneConfig, Description, Error, Network, Result, is_below};

/// How the weight of the first convolution becomes one for images of another number k of channels.
///
/// With W the weight for c channels, every one of the k channels gets the same weight, G / k, so
/// that k equal channels are answered as one grey channel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StemWeights {
    /// G is the average of W over its channels: the answer to a grey image is a cth of the answer to
    /// the same image in all c channels. Norms behind the convolution, once trained further, make up
    /// for that.
    #[default]
    Mean,
    /// G is the sum of W over its channels: a grey image is answered exactly as the same image in
    /// all c channels. The choice for predictions without further training.
    Sum,
}

/// How trained weights become those of a network for other images and classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adaptation {
    /// Renames keys first, such as those that begin with `module.`, or drops some.
    pub keys: KeyMap,
    /// For images of another number of channels.
    pub stem: StemWeights,
    /// The seed of a fresh classifier where the number of classes differs. Without one that is an
    /// error.
    pub classifier_seed: Option<u64>,
    /// Whether the network is for feature maps alone: the weights of its head and of auxiliary
    /// classifiers are left out, as by [`BackboneConfig::build_without_head`].
    pub without_head: bool,
    /// Paths whose weights no training changes (`conv1`, `layer1`); all with an empty path.
    pub freeze: Vec<String>,
}

impl Default for Adaptation {
    /// No renaming, the mean for other channels, a fresh classifier with seed 0, the whole network,
    /// nothing frozen.
    fn default() -> Self {
        Self {
            keys: KeyMap::new(),
            stem: StemWeights::Mean,
            classifier_seed: Some(0),
            without_head: false,
            freeze: Vec::new(),
        }
    }
}

/// A network with trained weights.
#[derive(Debug)]
pub struct Adapted {
    /// The network; its identity says which weights it has and what was changed.
    pub network: Network,
    /// Its parameters.
    pub params: ParamSet,
    /// The paths of classifiers that are fresh, because their number of classes differed.
    pub fresh: Vec<String>,
}

/// Trained weights of a network.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::{Params, Rng};
/// use xdiff_vision::{Architecture, Adaptation, Pass, Pretrained};
///
/// let rgb = Architecture::SqueezeNet1_1;
/// # let scope = Params::fresh(0, &Device::Cpu);
/// # rgb.build(3, 1000, &scope)?;
/// # let tensors = scope.finish()?.tensors()?;
/// // Or Pretrained::read("squeezenet1_1-b8a52dc0.pth")?
/// let weights = Pretrained::from_tensors(tensors, "drawn with seed 0");
/// let config = rgb.config(1, 4);
/// let adaptation = Adaptation { freeze: vec!["features".into()], ..Adaptation::default() };
/// let adapted = weights.adapt(config.as_ref(), &adaptation, &Device::Cpu)?;
/// assert_eq!(adapted.fresh, ["classifier.1"]);
/// assert_eq!(adapted.params.trainable().count(), 2);
///
/// // Norms of frozen layers keep their statistics when the pass is told so.
/// let mut tap = ();
/// let pass = Pass::train(&mut tap).with_frozen(&adaptation.freeze);
/// assert!(pass.is_training());
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pretrained {
    tensors: BTreeMap<String, Tensor>,
    identity: String,
}

impl Pretrained {
    /// Reads one file of weights, of PyTorch or safetensors. Its identity is the beginning of its
    /// SHA-256, with which torchvision ends the names of its files.
    ///
    /// # Errors
    /// Those of [`xdiff_nn::weights::read`]; [`Error::Input`] for a folder or an index of files.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "json") {
            let reason = format!("{} is not one file of weights; give its path", path.display());
            return Err(Error::input("weights", reason));
        }
        let tensors = read(path)?;
        Ok(Self { tensors, identity: format!("sha256 {}", &sha256(path)?[..8]) })
    }

    /// Weights in memory, and what they are to be called.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>, identity: impl Into<String>) -> Self {
        Self { tensors, identity: identity.into() }
    }

    /// What the weights are called: `sha256 ` and eight digits for those of a file.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The tensors by their keys.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// A network of these weights for the images and classes of the configuration.
    ///
    /// Old names of DenseNet's layers (`denselayer1.norm.1.weight`) are understood.
    ///
    /// # Errors
    /// [`xdiff_nn::Error::Keys`] with every key that does not fit, [`Error::Input`] when the classifier has
    /// another number of classes and [`Adaptation::classifier_seed`] is none, those of
    /// [`BackboneConfig::build`], and [`xdiff_nn::Error::Argument`] when two keys get the same name.
    pub fn adapt(
        &self,
        config: &dyn BackboneConfig,
        adaptation: &Adaptation,
        device: &Device,
    ) -> Result<Adapted> {
        let is = config.describe();
        let mut identity = self.identity.clone();
        let mut tensors = modern(adaptation.keys.apply(self.tensors.clone())?)?;
        if let Some(channels) = adapt_stem(&mut tensors, &is, adaptation.stem)? {
            let how = match adaptation.stem {
                StemWeights::Mean => "mean",
                StemWeights::Sum => "sum",
            };
            identity.push_str(&format!(", {channels} to {} channels by the {how}", is.in_channels));
        }
        if adaptation.without_head {
            let heads = head_parts(&is);
            tensors.retain(|key, _| !heads.iter().any(|part| is_below(key, part)));
        }
        let fresh = other_classifiers(&tensors, &is);
        let mut params = Params::trainable(tensors, device);
        if !fresh.is_empty() {
            let Some(seed) = adaptation.classifier_seed else {
                let reason = format!(
                    "{} of the weights tells another number of classes apart than the {} asked for; give a \
                     seed for a fresh one, or that number",
                    fresh.join(", "),
                    is.classes
                );
                return Err(Error::input("classes", reason));
            };
            identity.push_str(&format!(", fresh classifier of seed {seed}"));
            let redrawn = fresh.clone();
            params = params.redraw(seed, move |name| redrawn.iter().any(|path| is_below(name, path)));
        }
        let frozen = adaptation.freeze.clone();
        let params = params.freeze(move |name| frozen.iter().any(|path| is_below(name, path)));
        let build =
            if adaptation.without_head { config.build_without_head(&params) } else { config.build(&params) };
        let backbone = build?;
        let params = params.finish()?;
        Ok(Adapted { network: Network::from_box(backbone, identity), params, fresh })
    }
}

/// The SHA-256 of a file in hexadecimal digits.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).map_err(|e| xdiff_nn::Error::io(path, e))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(|e| xdiff_nn::Error::io(path, e))?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Keys as torchvision writes them today.
fn modern(tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let mut renamed = BTreeMap::new();
    for (key, tensor) in tensors {
        let new = modern_key(&key).unwrap_or_else(|| key.clone());
        if renamed.insert(new.clone(), tensor).is_some() {
            let reason = format!("`{key}` and another key would both be called `{new}`");
            return Err(xdiff_nn::Error::argument("weights", reason).into());
        }
    }
    Ok(renamed)
}

/// `….denselayer1.norm.1.weight` → `….denselayer1.norm1.weight`; likewise `conv` and `2`.
fn modern_key(key: &str) -> Option<String> {
    let (block, rest) = key.split_once(".denselayer")?;
    let mut parts = rest.splitn(4, '.');
    let (layer, kind, k, last) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let old = matches!(kind, "norm" | "conv") && matches!(k, "1" | "2");
    old.then(|| format!("{block}.denselayer{layer}.{kind}{k}.{last}"))
}

/// Fits the first convolution to the images; how many channels it had, if that was another number.
fn adapt_stem(
    tensors: &mut BTreeMap<String, Tensor>,
    is: &Description,
    stem: StemWeights,
) -> Result<Option<usize>> {
    let Some(weight) = tensors.get_mut(&format!("{}.weight", is.stem)) else { return Ok(None) };
    let &[_, channels, _, _] = weight.dims() else { return Ok(None) };
    if channels == is.in_channels || channels == 0 || is.in_channels == 0 {
        return Ok(None);
    }
    let w = weight.to_dtype(DType::F64)?;
    let grey = match stem {
        StemWeights::Mean => w.mean_keepdim(1)?,
        StemWeights::Sum => w.sum_keepdim(1)?,
    };
    let each = (grey / is.in_channels as f64)?;
    *weight = each.repeat((1, is.in_channels, 1, 1))?.to_dtype(DType::F32)?;
    Ok(Some(channels))
}

fn classifiers(is: &Description) -> impl Iterator<Item = &String> {
    std::iter::once(&is.classifier).chain(&is.auxiliary_classifiers)
}

/// The modules of the whole network that hold its classifiers: `classifier` for `classifier.6`.
fn head_parts(is: &Description) -> Vec<&str> {
    classifiers(is).map(|path| path.split_once('.').map_or(path.as_str(), |(part, _)| part)).collect()
}

/// The classifiers whose number of classes is not the one asked for.
fn other_classifiers(tensors: &BTreeMap<String, Tensor>, is: &Description) -> Vec<String> {
    let other = |path: &&String| {
        let weight = tensors.get(&format!("{path}.weight"));
        weight.is_some_and(|w| w.dims().first().is_some_and(|classes| *classes != is.classes))
    };
    classifiers(is).filter(other).cloned().collect()
}
