//! An exponential moving average of the parameters.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::engine::{StateKeys, counter, in_range};
use super::in_place::{on_each, update_chunks_f32};
use crate::compute::use_kernel;
use crate::kernels::simd::{Kernel, Vector, dispatch};
use crate::weights::{KeyReport, Misshaped};
use crate::{ParamSet, Result};

/// How slowly the average follows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmaConfig {
    /// The decay that the warm-up ends at, in [0, 1).
    pub max_decay: f64,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self { max_decay: 0.9999 }
    }
}

impl EmaConfig {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) naming the field.
    pub fn validate(&self) -> Result<()> {
        in_range("max_decay", self.max_decay, 0.0, 1.0)
    }

    /// The decay of the update that follows `done` updates: min((1 + s)/(10 + s), `max_decay`).
    pub fn decay(&self, done: u64) -> f64 {
        let s = done as f64;
        ((1.0 + s) / (10.0 + s)).min(self.max_decay)
    }
}

/// A shadow of the parameters that follows them slowly: s ← s − (1 − decay)(s − p).
///
/// Buffers and frozen parameters are copied as they are. The first update has decay 1/10, where
/// diffusers' `EMAModel` copies; from the second on both agree.
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::optim::{Ema, EmaConfig};
/// use xdiff_nn::{Init, Params};
///
/// let scope = Params::fresh(0, &Device::Cpu);
/// scope.weight("w", 1, Init::Const(1.0))?;
/// let params = scope.finish()?;
/// let mut ema = Ema::new(&params, EmaConfig::default())?;
/// params.load(&[("w".to_owned(), params.get("w").unwrap().zeros_like()?)].into())?;
/// ema.update(&params)?;
/// assert!((ema.tensors()?["w"].to_vec1::<f32>()?[0] - 0.1).abs() < 1e-6);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Debug)]
pub struct Ema {
    config: EmaConfig,
    updates: u64,
    shadow: BTreeMap<String, Var>,
}

impl Ema {
    /// A shadow that starts at the present values.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) when the configuration is out of range.
    pub fn new(params: &ParamSet, config: EmaConfig) -> Result<Self> {
        config.validate()?;
        let shadow = params
            .tensors()?
            .into_iter()
            .map(|(name, t)| Ok((name, Var::from_tensor(&t)?)))
            .collect::<Result<_>>()?;
        Ok(Self { config, updates: 0, shadow })
    }

    /// How many updates have been made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Moves the shadow towards the present values.
    ///
    /// # Errors
    /// [`Error::Keys`](crate::Error::Keys) when this is not the set that the shadow was made of;
    /// nothing has changed then.
    pub fn update(&mut self, params: &ParamSet) -> Result<()> {
        let mut report = KeyReport::default();
        for (name, shadow) in &self.shadow {
            match params.get(name) {
                None => report.missing.push(name.clone()),
                Some(p) if p.dims() != shadow.dims() => report.misshaped.push(Misshaped {
                    name: name.clone(),
                    expected: shadow.dims().to_vec(),
                    found: p.dims().to_vec(),
                }),
                Some(_) => {}
            }
        }
        report.unexpected =
            params.names().filter(|n| !self.shadow.contains_key(*n)).map(str::to_owned).collect();
        if !report.is_empty() {
            return Err(Box::new(report).into());
        }

        let rate = 1.0 - self.config.decay(self.updates);
        let mut followed = params.trainable().map(|(n, _)| n).peekable();
        let mut in_place = Vec::with_capacity(self.shadow.len());
        for (name, p) in params.iter() {
            let shadow = &self.shadow[name];
            let p = p.as_detached_tensor();
            if followed.next_if_eq(&name).is_none() {
                shadow.set(&p)?;
            } else if use_kernel(&[shadow, &p]) {
                in_place.push((shadow, p));
            } else {
                let s = shadow.as_detached_tensor();
                shadow.set(&(&s - ((&s - p)? * rate)?)?)?;
            }
        }
        let rate = rate as f32;
        let follow = |(shadow, p): &mut (&Var, Tensor)| {
            update_chunks_f32(shadow, p, |shadow, p| dispatch(Follow { shadow, p, rate }))
        };
        on_each(&mut in_place, |(shadow, _)| shadow.elem_count(), follow)?;
        self.updates += 1;
        Ok(())
    }

    /// The averaged values, as tensors that no later update changes: to be saved, given to
    /// [`ParamSet::load`] or to [`Params::frozen`](crate::Params::frozen).
    ///
    /// # Errors
    /// When the device refuses.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.shadow.iter().map(|(n, s)| Ok((n.clone(), s.as_detached_tensor().copy()?))).collect()
    }

    /// The whole state as tensors by name: `updates` and, for each parameter, `shadow.NAME`.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state: BTreeMap<_, _> =
            self.tensors()?.into_iter().map(|(n, t)| (format!("shadow.{n}"), t)).collect();
        state.insert("updates".to_owned(), Tensor::new(self.updates as i64, &Device::Cpu)?);
        Ok(state)
    }

    /// Puts back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// [`Error::Keys`](crate::Error::Keys) with every missing, unexpected and mis-shaped key;
    /// nothing has changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut keys = StateKeys::new(state);
        let updates = keys.take("updates".to_owned(), &[]);
        let loaded: Vec<_> =
            self.shadow.iter().map(|(n, s)| (s, keys.take(format!("shadow.{n}"), s.dims()))).collect();
        keys.finish()?;
        let updates = updates.map_or(Ok(0), |t| counter("updates", t))?;
        for (shadow, tensor) in loaded {
            if let Some(t) = tensor {
                shadow.set(&t.to_dtype(shadow.dtype())?.to_device(shadow.device())?.contiguous()?)?;
            }
        }
        self.updates = updates;
        Ok(())
    }
}

/// s ← s − rate · (s − p), put into vectors by the compiler.
struct Follow<'a> {
    shadow: &'a mut [f32],
    p: &'a [f32],
    rate: f32,
}

impl Kernel for Follow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (s, p) in self.shadow.iter_mut().zip(self.p) {
            *s -= (*s - *p) * self.rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Path, with_path};
    use crate::{Error, Init, Params};

    fn set(seed: u64) -> ParamSet {
        let scope = Params::fresh(seed, &Device::Cpu).freeze(|n| n == "frozen");
        scope.weight("w", (300, 301), Init::Normal(1.0)).unwrap();
        scope.weight("frozen", 3, Init::Normal(1.0)).unwrap();
        scope.buffer("running_mean", 3, Init::Normal(1.0)).unwrap();
        scope.finish().unwrap()
    }

    fn values(map: &BTreeMap<String, Tensor>, name: &str) -> Vec<f32> {
        map[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn weights_follow_and_buffers_are_copied() {
        let params = set(1);
        let mut ema = Ema::new(&params, EmaConfig { max_decay: 0.15 }).unwrap();
        let start = ema.tensors().unwrap();
        let other = set(2).tensors().unwrap();
        params.load(&other).unwrap();
        ema.update(&params).unwrap();
        ema.update(&params).unwrap();
        let now = ema.tensors().unwrap();
        for name in ["frozen", "running_mean"] {
            assert_eq!(values(&now, name), values(&other, name), "{name}");
        }
        let both = values(&start, "w").into_iter().zip(values(&other, "w")).zip(values(&now, "w"));
        for ((from, to), got) in both {
            // Decays 1/10 and min(2/11, 0.15).
            assert!((got - (to + (from - to) * 0.1 * 0.15)).abs() < 1e-5);
        }
    }

    #[test]
    fn plain_path_and_resumption_give_the_same_bits() {
        let run = |interrupt: bool| {
            let params = set(1);
            let mut ema = Ema::new(&params, EmaConfig::default()).unwrap();
            for seed in 2..6 {
                params.load(&set(seed).tensors().unwrap()).unwrap();
                ema.update(&params).unwrap();
                if interrupt {
                    let state = ema.state().unwrap();
                    ema = Ema::new(&set(9), EmaConfig::default()).unwrap();
                    ema.load_state(&state).unwrap();
                }
            }
            (ema.updates(), values(&ema.tensors().unwrap(), "w"))
        };
        let whole = run(false);
        assert_eq!(whole.0, 4);
        assert!(whole == run(true));
        assert!(whole == with_path(Path::Plain, || run(false)));
    }

    #[test]
    fn another_model_is_refused() {
        let scope = Params::fresh(1, &Device::Cpu);
        scope.weight("v", 1, Init::ZEROS).unwrap();
        let other = scope.finish().unwrap();
        let mut ema = Ema::new(&set(1), EmaConfig::default()).unwrap();
        assert!(matches!(ema.update(&other), Err(Error::Keys(_))));
        assert!(matches!(ema.load_state(&other.tensors().unwrap()), Err(Error::Keys(_))));
        for max_decay in [1.0, -0.1, f64::NAN] {
            assert!(matches!(Ema::new(&other, EmaConfig { max_decay }), Err(Error::Argument { .. })));
        }
        assert_eq!(ema.updates(), 0);
    }
}
