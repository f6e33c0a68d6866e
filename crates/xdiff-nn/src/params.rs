//! Named parameters: how a model asks for them, and the set that comes of it.
//!
//! A layer asks a [`Params`] scope for its tensors by name and shape. Behind the scope stands a
//! source: fresh values drawn by (seed, path), tensors of a file, values of another set, or the
//! synthetic values of the conformance format. What was asked for ends in a [`ParamSet`], ordered by
//! name. A file that does not fit is reported whole, as one [`KeyReport`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use rayon::prelude::*;

use crate::rng::{Rng, fnv1a64, splitmix64};
use crate::weights::{KeyReport, Misshaped};
use crate::{Error, Result};

/// How a fresh parameter is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// One value everywhere.
    Const(f64),
    /// Uniform in [−bound, bound).
    Uniform(f64),
    /// Uniform in [0, 1).
    Unit,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
}

impl Init {
    /// All zeros.
    pub const ZEROS: Init = Init::Const(0.0);
    /// All ones.
    pub const ONES: Init = Init::Const(1.0);

    /// PyTorch's default for the weight and bias of linear and convolution layers:
    /// uniform in ±1/√fan_in (Kaiming uniform with a = √5).
    pub fn torch_default(fan_in: usize) -> Self {
        Init::Uniform(1.0 / (fan_in.max(1) as f64).sqrt())
    }

    /// Kaiming initialisation for ReLU (He et al., 2015), normal: standard deviation √(2/fan).
    pub fn kaiming_normal(fan: usize) -> Self {
        Init::Normal((2.0 / fan.max(1) as f64).sqrt())
    }

    /// Kaiming initialisation for ReLU (He et al., 2015), uniform: the same deviation, in ±√(6/fan).
    pub fn kaiming_uniform(fan: usize) -> Self {
        Init::Uniform((6.0 / fan.max(1) as f64).sqrt())
    }

    fn draw(self, rng: &mut Rng, shape: &Shape, device: &Device) -> Result<Tensor> {
        let n = shape.elem_count();
        let values: Vec<f32> = match self {
            Init::Const(v) => vec![v as f32; n],
            Init::Uniform(b) => (0..n).map(|_| rng.range(-b, b) as f32).collect(),
            Init::Unit => (0..n).map(|_| rng.range(0.0, 1.0) as f32).collect(),
            Init::Normal(sd) => (0..n).map(|_| (rng.normal() * sd) as f32).collect(),
        };
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Learnt by the optimiser.
    Weight,
    /// Learnt by nobody's gradient: running statistics.
    Buffer,
}

#[derive(Debug)]
struct Param {
    var: Var,
    role: Role,
    trainable: bool,
}

enum Source {
    Fresh(Box<Rng>),
    Tensors(BTreeMap<String, Tensor>),
    Shared(BTreeMap<String, Var>),
    Synthetic,
}

/// Values for the names that satisfy a rule, drawn whatever the source holds.
struct Redrawn {
    rng: Box<Rng>,
    rule: Box<dyn Fn(&str) -> bool + Send>,
}

struct Store {
    source: Source,
    redrawn: Option<Redrawn>,
    device: Device,
    frozen: Box<dyn Fn(&str) -> bool + Send>,
    params: BTreeMap<String, Param>,
    report: KeyReport,
    /// How many zeros stand in for what the source lacks.
    zeros: usize,
}

/// Most zeros that are made for keys that do not fit: 1 GiB. A file whose configuration asks for more
/// than it holds takes no more memory than this.
const MAX_ZEROS: usize = 1 << 28;

/// A scope in which a model under construction asks for its parameters.
///
/// Cloning is cheap; all clones and sub-scopes feed one set.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::params::{Init, Params};
///
/// let scope = Params::fresh(42, &Device::Cpu);
/// let w = scope.at("conv_in").weight("weight", (8, 1, 3, 3), Init::torch_default(9))?;
/// assert_eq!(w.dims(), [8, 1, 3, 3]);
/// let set = scope.finish()?;
/// assert_eq!(set.names().collect::<Vec<_>>(), ["conv_in.weight"]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone)]
pub struct Params {
    store: Arc<Mutex<Store>>,
    prefix: String,
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Params")
            .field("prefix", &self.prefix)
            .field("asked_for", &self.store().params.len())
            .finish()
    }
}

impl Params {
    fn from_source(source: Source, device: &Device, frozen: Box<dyn Fn(&str) -> bool + Send>) -> Self {
        let store = Store {
            source,
            redrawn: None,
            device: device.clone(),
            frozen,
            params: BTreeMap::new(),
            report: KeyReport::default(),
            zeros: 0,
        };
        Self { store: Arc::new(Mutex::new(store)), prefix: String::new() }
    }

    /// Fresh, trainable parameters, each drawn from its own fork of (seed, path): adding a layer
    /// changes no other layer's values.
    pub fn fresh(seed: u64, device: &Device) -> Self {
        Self::from_source(Source::Fresh(Box::new(init_rng(seed))), device, Box::new(|_| false))
    }

    /// Trainable parameters with the values of these tensors.
    pub fn trainable(tensors: BTreeMap<String, Tensor>, device: &Device) -> Self {
        Self::from_source(Source::Tensors(tensors), device, Box::new(|_| false))
    }

    /// Parameters with the values of these tensors that no gradient reaches: for inference.
    pub fn frozen(tensors: BTreeMap<String, Tensor>, device: &Device) -> Self {
        Self::from_source(Source::Tensors(tensors), device, Box::new(|_| true))
    }

    /// The synthetic values of the conformance format: functions of name and index alone.
    pub fn synthetic(device: &Device) -> Self {
        Self::from_source(Source::Synthetic, device, Box::new(|_| false))
    }

    /// Freezes, from here on, every parameter whose full name satisfies `rule`: no gradient is
    /// computed for it.
    pub fn freeze(self, rule: impl Fn(&str) -> bool + Send + 'static) -> Self {
        self.store().frozen = Box::new(rule);
        self
    }

    /// Draws, from here on, every parameter whose full name satisfies `rule` as
    /// [`fresh`](Params::fresh) with this seed would, whatever the source holds under that name: a
    /// new head on a trained network.
    pub fn redraw(self, seed: u64, rule: impl Fn(&str) -> bool + Send + 'static) -> Self {
        self.store().redrawn = Some(Redrawn { rng: Box::new(init_rng(seed)), rule: Box::new(rule) });
        self
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scope below this one.
    pub fn at(&self, name: impl fmt::Display) -> Self {
        Self { store: self.store.clone(), prefix: self.full(name) }
    }

    /// The full name of something in this scope.
    pub fn full(&self, name: impl fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// The path of this scope: the site name of what is built in it.
    pub fn path(&self) -> &str {
        &self.prefix
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.store().device.clone()
    }

    /// A learnt f32 tensor.
    ///
    /// A name that the source lacks, or that has another shape there, is noted for
    /// [`finish`](Params::finish) and zeros are returned, so that one run reports all of them.
    ///
    /// # Errors
    /// When a name is asked for twice, or the device refuses; [`Error::Keys`] at once when what does
    /// not fit adds up to more than a gigabyte.
    pub fn weight(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        let shape = shape.into();
        let device = self.device();
        self.learnt(name, &shape, &|rng| init.draw(&mut rng.fork(&self.full(name)), &shape, &device))
    }

    /// A learnt f32 tensor that, where it is fresh, has these values, row by row: a structure rather
    /// than a draw, such as the signs that join prototypes to classes.
    ///
    /// # Errors
    /// As [`weight`](Params::weight); [`Error::Shape`] when there are more or fewer values than the
    /// shape has.
    pub fn weight_from(&self, name: &str, shape: impl Into<Shape>, values: &[f32]) -> Result<Tensor> {
        let shape = shape.into();
        if values.len() != shape.elem_count() {
            return Err(Error::shape("initial values", format!("{} of them", values.len()), shape.dims()));
        }
        let device = self.device();
        self.learnt(name, &shape, &|_| Ok(Tensor::from_slice(values, &shape, &device)?))
    }

    fn learnt(&self, name: &str, shape: &Shape, fresh: Fresh<'_>) -> Result<Tensor> {
        let (var, frozen) = self.ask(name, shape, fresh, Role::Weight)?;
        Ok(if frozen { var.as_detached_tensor() } else { var.as_tensor().clone() })
    }

    /// A tensor that a layer updates by itself, such as a running mean.
    ///
    /// # Errors
    /// As [`weight`](Params::weight).
    pub fn buffer(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Var> {
        let shape = shape.into();
        let device = self.device();
        let fresh = |rng: &Rng| init.draw(&mut rng.fork(&self.full(name)), &shape, &device);
        Ok(self.ask(name, &shape, &fresh, Role::Buffer)?.0)
    }

    fn ask(&self, name: &str, shape: &Shape, fresh: Fresh<'_>, role: Role) -> Result<(Var, bool)> {
        let name = self.full(name);
        let store = &mut *self.store();
        if store.params.contains_key(&name) {
            return Err(Error::argument("parameter", format!("`{name}` is asked for twice")));
        }
        let var = store.find(&name, shape, fresh)?;
        let frozen = role == Role::Buffer || (store.frozen)(&name);
        store.params.insert(name, Param { var: var.clone(), role, trainable: !frozen });
        Ok((var, frozen))
    }

    /// Ends construction: the set of all parameters asked for.
    ///
    /// # Errors
    /// [`Error::Keys`] with every missing, unexpected and mis-shaped key.
    pub fn finish(self) -> Result<ParamSet> {
        let (set, report) = self.finish_with_report();
        if report.is_empty() { Ok(set) } else { Err(Box::new(report).into()) }
    }

    /// Ends construction, leaving it to the caller what to make of keys that do not fit.
    /// Parameters that were missing or mis-shaped hold zeros.
    pub fn finish_with_report(self) -> (ParamSet, KeyReport) {
        let store = &mut *self.store();
        let mut report = std::mem::take(&mut store.report);
        let params = std::mem::take(&mut store.params);
        report.unexpected = match &store.source {
            Source::Fresh(_) | Source::Synthetic => Vec::new(),
            Source::Tensors(t) => unasked(t.keys(), &params),
            Source::Shared(t) => unasked(t.keys(), &params),
        };
        (ParamSet { params }, report)
    }
}

/// The generator from which fresh parameters are forked.
fn init_rng(seed: u64) -> Rng {
    Rng::new(seed).fork("init")
}

/// Keys that nobody asked for, leaving out PyTorch's step counters and position tables, which
/// carry no information that a model here needs.
fn unasked<'a>(keys: impl Iterator<Item = &'a String>, asked: &BTreeMap<String, Param>) -> Vec<String> {
    keys.filter(|k| !asked.contains_key(*k))
        .filter(|k| !k.ends_with("num_batches_tracked") && !k.ends_with("position_ids"))
        .cloned()
        .collect()
}

/// The values of a fresh parameter, from the generator of all of them.
type Fresh<'a> = &'a dyn Fn(&Rng) -> Result<Tensor>;

impl Store {
    fn find(&mut self, name: &str, shape: &Shape, fresh: Fresh<'_>) -> Result<Var> {
        let draw = |rng: &Rng| -> Result<Var> { Ok(Var::from_tensor(&fresh(rng)?)?) };
        let redrawn = self.redrawn.as_ref().filter(|redrawn| (redrawn.rule)(name));
        let found = match (redrawn, &self.source) {
            (Some(redrawn), _) => Some(draw(&redrawn.rng)?),
            (None, Source::Fresh(rng)) => Some(draw(rng)?),
            (None, Source::Synthetic) => Some(Var::from_tensor(&synthetic(name, shape, &self.device)?)?),
            (None, Source::Shared(map)) => map.get(name).cloned(),
            (None, Source::Tensors(map)) => match map.get(name) {
                Some(t) => Some(Var::from_tensor(&t.to_dtype(DType::F32)?.to_device(&self.device)?)?),
                None => None,
            },
        };
        match found {
            Some(var) if var.shape() == shape => return Ok(var),
            Some(var) => self.report.misshaped.push(Misshaped {
                name: name.to_owned(),
                expected: shape.dims().to_vec(),
                found: var.dims().to_vec(),
            }),
            None => self.report.missing.push(name.to_owned()),
        }
        let size = shape.dims().iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        self.zeros = size.map_or(usize::MAX, |n| self.zeros.saturating_add(n));
        if self.zeros > MAX_ZEROS {
            return Err(Box::new(self.report.clone()).into());
        }
        Ok(Var::zeros(shape, DType::F32, &self.device)?)
    }
}

fn synthetic(name: &str, shape: &Shape, device: &Device) -> Result<Tensor> {
    let seed = fnv1a64(name.as_bytes());
    let dims = shape.dims();
    let fan_in: usize = dims.iter().skip(1).product();
    let bound = (3.0 / fan_in.max(1) as f64).sqrt();
    let value = |u: f64| {
        if name.ends_with("running_var") {
            0.5 + u
        } else if name.ends_with("running_mean") {
            0.2 * (u - 0.5)
        } else if dims.len() == 1 && name.ends_with("weight") {
            0.8 + 0.4 * u
        } else if dims.len() == 1 {
            0.2 * (u - 0.5)
        } else {
            (2.0 * u - 1.0) * bound
        }
    };
    let values: Vec<f32> = (0..shape.elem_count() as u64)
        .into_par_iter()
        .map(|i| value((splitmix64(seed.wrapping_add(i)) >> 11) as f64 / (1u64 << 53) as f64) as f32)
        .collect();
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// All parameters of a model, ordered by name.
#[derive(Debug, Default)]
pub struct ParamSet {
    params: BTreeMap<String, Param>,
}

impl ParamSet {
    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.params.keys().map(String::as_str)
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.params.get(name).map(|p| &p.var)
    }

    /// What the parameter of that name is for.
    pub fn role(&self, name: &str) -> Option<Role> {
        self.params.get(name).map(|p| p.role)
    }

    /// All parameters, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.params.iter().map(|(n, p)| (n.as_str(), &p.var))
    }

    /// The parameters that an optimiser trains, in order of name.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.params.iter().filter(|(_, p)| p.trainable).map(|(n, p)| (n.as_str(), &p.var))
    }

    /// Freezes, from here on, every parameter whose name satisfies `rule`: no optimiser that is made
    /// later trains it. The model still computes its gradient; [`Params::freeze`] spares that too.
    pub fn freeze(&mut self, rule: impl Fn(&str) -> bool) {
        for (name, param) in &mut self.params {
            param.trainable &= !rule(name);
        }
    }

    /// The same parameters in the same memory, of which only those are trainable whose name satisfies
    /// `rule` and that are trainable here: what an optimiser and a backward pass get while a part of a
    /// model is trained.
    #[must_use]
    pub fn only(&self, rule: impl Fn(&str) -> bool) -> ParamSet {
        let chosen = |(name, p): (&String, &Param)| {
            let param = Param { var: p.var.clone(), role: p.role, trainable: p.trainable && rule(name) };
            (name.clone(), param)
        };
        ParamSet { params: self.params.iter().map(chosen).collect() }
    }

    /// How many numbers the learnt parameters have.
    pub fn count(&self) -> usize {
        self.params.values().filter(|p| p.role == Role::Weight).map(|p| p.var.elem_count()).sum()
    }

    /// The values now, as tensors that no later training changes.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.params.iter().map(|(n, p)| Ok((n.clone(), p.var.as_detached_tensor().copy()?))).collect()
    }

    /// A scope from which a second model of the same architecture is built over the *same*
    /// memory, without gradients: it sees every later update.
    pub fn view(&self, device: &Device) -> Params {
        let vars = self.params.iter().map(|(n, p)| (n.clone(), p.var.clone())).collect();
        Params::from_source(Source::Shared(vars), device, Box::new(|_| true))
    }

    /// Overwrites the values in place.
    ///
    /// # Errors
    /// [`Error::Keys`] when names or shapes differ; nothing is changed then.
    pub fn load(&self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let have: BTreeSet<&String> = self.params.keys().collect();
        let mut report =
            KeyReport { unexpected: unasked(tensors.keys(), &self.params), ..Default::default() };
        for name in have {
            let expected = self.params[name].var.dims();
            match tensors.get(name) {
                None => report.missing.push(name.clone()),
                Some(t) if t.dims() != expected => report.misshaped.push(Misshaped {
                    name: name.clone(),
                    expected: expected.to_vec(),
                    found: t.dims().to_vec(),
                }),
                Some(_) => {}
            }
        }
        if !report.is_empty() {
            return Err(Box::new(report).into());
        }
        for (name, p) in &self.params {
            let value = tensors[name].to_dtype(p.var.dtype())?.to_device(p.var.device())?;
            p.var.set(&value.contiguous()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
