//! What all optimisers share: one slot of state for each parameter, saved by name.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::{DType, Device, Tensor, Var};

use super::in_place::{SPREAD, on_each, update_f32};
use crate::compute::use_kernel;
use crate::weights::{KeyReport, Misshaped};
use crate::{Error, Gradients, ParamSet, Result};

/// How one optimiser changes one parameter. Both forms give the same bits on the CPU.
///
/// A rule keeps at most two tensors of the parameter's shape, zero at first.
pub trait Rule: fmt::Debug + Clone + Send + Sync {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the field.
    fn validate(&self) -> Result<()>;

    /// The names of the tensors that this rule keeps, at most two.
    fn buffers(&self) -> &'static [&'static str];

    /// One step on slices of equal length; a buffer that the rule does not keep is empty.
    fn update_slices(&self, at: StepAt, p: &mut [f32], g: &[f32], buffers: [&mut [f32]; 2]);

    /// One step in tensor operations: changes the buffers and returns the new parameter.
    ///
    /// # Errors
    /// When the device refuses.
    fn update_tensors(&self, at: StepAt, p: &Tensor, g: &Tensor, buffers: &mut [Tensor]) -> Result<Tensor>;
}

/// Where in training a step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepAt {
    /// The learning rate.
    pub lr: f64,
    /// How many gradients this parameter has received, this one included.
    pub step: u64,
}

#[derive(Debug)]
enum Buffers {
    /// f32 on the CPU, updated in place.
    Host([Vec<f32>; 2]),
    /// Any device and dtype.
    Plain(Vec<Tensor>),
}

#[derive(Debug)]
struct Slot<R> {
    name: String,
    var: Var,
    rule: R,
    step: u64,
    buffers: Buffers,
}

/// An optimiser: a [`Rule`] and its state for the trainable parameters of a set.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::optim::{AdamW, AdamWConfig, backward};
/// use xdiff_nn::{Init, Params};
///
/// let scope = Params::fresh(0, &Device::Cpu);
/// let w = scope.weight("w", 1, Init::Const(1.0))?;
/// let params = scope.finish()?;
/// let mut optimiser = AdamW::new(&params, AdamWConfig::default())?;
/// for _ in 0..200 {
///     let loss = (&w - 0.5)?.sqr()?.sum_all()?;
///     optimiser.step(&backward(&loss, &params)?, 0.01)?;
/// }
/// assert!((w.to_vec1::<f32>()?[0] - 0.5).abs() < 0.01);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Debug)]
pub struct Optimizer<R: Rule> {
    rule: R,
    slots: Vec<Slot<R>>,
}

impl<R: Rule> Optimizer<R> {
    /// An optimiser of all trainable parameters, with fresh state.
    ///
    /// # Errors
    /// [`Error::Argument`] when a value of the configuration is out of range.
    pub fn new(params: &ParamSet, config: R) -> Result<Self> {
        Self::with_rules(params, config, |_, _, rule| rule)
    }

    /// As [`new`](Self::new), where each parameter may have other settings: `rule_of` gets its name,
    /// the parameter and `config`. An AdamW without weight decay for vectors is
    ///
    /// ```
    /// # use candle_core::Device;
    /// # use xdiff_nn::optim::{AdamW, AdamWConfig};
    /// # use xdiff_nn::{Init, Params};
    /// # let scope = Params::fresh(0, &Device::Cpu);
    /// # scope.weight("bias", 4, Init::ZEROS)?;
    /// # let params = scope.finish()?;
    /// let optimiser = AdamW::with_rules(&params, AdamWConfig::default(), |_, var, rule| {
    ///     if var.rank() > 1 { rule } else { AdamWConfig { weight_decay: 0.0, ..rule } }
    /// })?;
    /// # Ok::<(), xdiff_nn::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] when a value of one of the rules is out of range.
    pub fn with_rules(params: &ParamSet, config: R, rule_of: impl Fn(&str, &Var, R) -> R) -> Result<Self> {
        config.validate()?;
        let slots = params
            .trainable()
            .map(|(name, var)| {
                let rule = rule_of(name, var, config.clone());
                rule.validate()?;
                let names = rule.buffers();
                let buffers = if use_kernel(&[var]) && var.is_contiguous() {
                    let len = |i: usize| if i < names.len() { var.elem_count() } else { 0 };
                    Buffers::Host([vec![0.0; len(0)], vec![0.0; len(1)]])
                } else {
                    let zeros = names.iter().map(|_| var.as_detached_tensor().zeros_like());
                    Buffers::Plain(zeros.collect::<candle_core::Result<_>>()?)
                };
                Ok(Slot { name: name.to_owned(), var: var.clone(), rule, step: 0, buffers })
            })
            .collect::<Result<_>>()?;
        Ok(Self { rule: config, slots })
    }

    /// The configuration that parameters have unless a rule of their own was given.
    pub fn config(&self) -> &R {
        &self.rule
    }

    /// One step at learning rate `lr`. Parameters that [`backward_partial`](super::backward_partial)
    /// found rightly without a gradient are left alone, as is their step count; gradients of
    /// parameters that this optimiser does not train are not looked at.
    ///
    /// # Errors
    /// [`Error::MissingGradient`], [`Error::Shape`] and, for a rate that is negative or not finite,
    /// [`Error::Argument`]; no parameter has changed then.
    pub fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        in_range("lr", lr, 0.0, f64::INFINITY)?;
        for slot in &self.slots {
            if let Some(g) = gradients.expect(&slot.name)?
                && g.dims() != slot.var.dims()
            {
                let expected = format!("a gradient of `{}` of shape {:?}", slot.name, slot.var.dims());
                return Err(Error::shape("optimiser step", expected, g.dims()));
            }
        }
        let update = |slot: &mut Slot<R>| match gradients.expect(&slot.name)? {
            Some(g) => slot.update(lr, g),
            None => Ok(()),
        };
        // Gradients from elsewhere may share memory with parameters: then the order matters.
        let together =
            gradients.are_own() && self.slots.iter().all(|s| matches!(s.buffers, Buffers::Host(_)));
        if together {
            return on_each(&mut self.slots, |slot| slot.var.elem_count(), update);
        }
        self.slots.iter_mut().try_for_each(update)
    }

    /// The whole state as tensors by name: `step.NAME` (one i64) and, for each tensor that the rule
    /// keeps, `BUFFER.NAME`. With PyTorch's buffer names.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for slot in &self.slots {
            state.insert(format!("step.{}", slot.name), Tensor::new(slot.step as i64, &Device::Cpu)?);
            for (i, buffer) in slot.rule.buffers().iter().enumerate() {
                let value = match &slot.buffers {
                    Buffers::Host(b) => Tensor::from_slice(&b[i], slot.var.shape(), &Device::Cpu)?,
                    Buffers::Plain(b) => b[i].copy()?,
                };
                state.insert(format!("{buffer}.{}", slot.name), value);
            }
        }
        Ok(state)
    }

    /// Puts back what [`state`](Self::state) gave: the next steps give the same bits as if there had
    /// been no interruption.
    ///
    /// # Errors
    /// [`Error::Keys`] with every missing, unexpected and mis-shaped key, [`Error::Argument`] for a
    /// negative step count; nothing has changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut keys = StateKeys::new(state);
        let mut loaded = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let step = keys.take(format!("step.{}", slot.name), &[]);
            let buffers = slot.rule.buffers().iter();
            let buffers: Vec<_> =
                buffers.map(|b| keys.take(format!("{b}.{}", slot.name), slot.var.dims())).collect();
            loaded.push((step, buffers));
        }
        keys.finish()?;
        let mut fresh = Vec::with_capacity(self.slots.len());
        for (slot, (step, tensors)) in self.slots.iter().zip(loaded) {
            let step = step.map_or(Ok(0), |t| counter("step", t))?;
            let mut buffers = match &slot.buffers {
                Buffers::Host(_) => Buffers::Host(Default::default()),
                Buffers::Plain(_) => Buffers::Plain(Vec::new()),
            };
            for (i, t) in tensors.into_iter().flatten().enumerate() {
                match &mut buffers {
                    Buffers::Host(b) => b[i] = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
                    Buffers::Plain(b) => {
                        b.push(t.to_dtype(slot.var.dtype())?.to_device(slot.var.device())?.copy()?);
                    }
                }
            }
            fresh.push((step, buffers));
        }
        for (slot, (step, buffers)) in self.slots.iter_mut().zip(fresh) {
            slot.step = step;
            slot.buffers = buffers;
        }
        Ok(())
    }
}

impl<R: Rule> Slot<R> {
    fn update(&mut self, lr: f64, g: &Tensor) -> Result<()> {
        self.step += 1;
        let at = StepAt { lr, step: self.step };
        let rule = &self.rule;
        match &mut self.buffers {
            Buffers::Plain(buffers) => {
                let p = self.var.as_detached_tensor();
                let g = g.to_dtype(p.dtype())?;
                self.var.set(&rule.update_tensors(at, &p, &g, buffers)?)?;
            }
            Buffers::Host([a, b]) => {
                let g = g.to_dtype(DType::F32)?;
                update_f32(&self.var, &g, |p, g| spread(rule, at, p, g, [a, b]))?;
            }
        }
        Ok(())
    }
}

/// One step on slices, in halves on two threads while they are long.
fn spread(rule: &impl Rule, at: StepAt, p: &mut [f32], g: &[f32], [a, b]: [&mut [f32]; 2]) {
    if p.len() <= SPREAD {
        return rule.update_slices(at, p, g, [a, b]);
    }
    let half = p.len() / 2;
    let (p, p2) = p.split_at_mut(half);
    let (g, g2) = g.split_at(half);
    let (a, a2) = a.split_at_mut(half.min(a.len()));
    let (b, b2) = b.split_at_mut(half.min(b.len()));
    rayon::join(|| spread(rule, at, p, g, [a, b]), || spread(rule, at, p2, g2, [a2, b2]));
}

/// Takes tensors out of a saved state and notes every key that does not fit.
pub(super) struct StateKeys<'a> {
    left: BTreeMap<&'a str, &'a Tensor>,
    report: KeyReport,
}

impl<'a> StateKeys<'a> {
    pub(super) fn new(state: &'a BTreeMap<String, Tensor>) -> Self {
        Self { left: state.iter().map(|(n, t)| (n.as_str(), t)).collect(), report: KeyReport::default() }
    }

    pub(super) fn take(&mut self, name: String, dims: &[usize]) -> Option<&'a Tensor> {
        match self.left.remove(name.as_str()) {
            None => self.report.missing.push(name),
            Some(t) if t.dims() != dims => {
                let found = t.dims().to_vec();
                self.report.misshaped.push(Misshaped { name, expected: dims.to_vec(), found });
            }
            found => return found,
        }
        None
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.report.unexpected = self.left.into_keys().map(str::to_owned).collect();
        if self.report.is_empty() { Ok(()) } else { Err(Box::new(self.report).into()) }
    }
}

/// A count out of a saved state.
pub(super) fn counter(what: &'static str, t: &Tensor) -> Result<u64> {
    let value: i64 = t.to_dtype(DType::I64)?.to_scalar()?;
    u64::try_from(value).map_err(|_| Error::argument(what, format!("a count of {value} is below zero")))
}

/// Checks low ≤ value < high; NaN is never in range.
pub(super) fn in_range(what: &'static str, value: f64, low: f64, high: f64) -> Result<()> {
    if value >= low && value < high {
        return Ok(());
    }
    let range =
        if high.is_finite() { format!("[{low}, {high})") } else { format!("finite and at least {low}") };
    Err(Error::argument(what, format!("{value} is out of range; it must be {range}")))
}
