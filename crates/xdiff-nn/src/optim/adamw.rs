//! AdamW.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::engine::{Optimizer, Rule, StepAt, in_range};
use crate::kernels::simd::{Kernel, Vector, dispatch};
use crate::{Error, Result};

/// AdamW with the numbers of PyTorch's `torch.optim.AdamW`.
pub type AdamW = Optimizer<AdamWConfig>;

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019), in PyTorch's order of operations:
///
/// p ← p·(1 − lr·λ); m ← m + (1 − β₁)(g − m); v ← β₂v + (1 − β₂)g²;
/// p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// The base learning rate, from which a schedule computes the rate of each step.
    pub lr: f64,
    /// β₁ and β₂, the decays of the two moments, in [0, 1).
    pub betas: (f64, f64),
    /// ε, above 0.
    pub eps: f64,
    /// λ, at least 0.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The numbers of one step.
struct Factors {
    keep: f64,
    mean: f64,
    decay: f64,
    square: f64,
    root: f64,
    size: f64,
}

impl AdamWConfig {
    fn factors(&self, at: StepAt) -> Factors {
        let t = at.step as f64;
        Factors {
            keep: 1.0 - at.lr * self.weight_decay,
            mean: 1.0 - self.betas.0,
            decay: self.betas.1,
            square: 1.0 - self.betas.1,
            root: (1.0 - self.betas.1.powf(t)).sqrt(),
            size: at.lr / (1.0 - self.betas.0.powf(t)),
        }
    }
}

impl Rule for AdamWConfig {
    fn validate(&self) -> Result<()> {
        in_range("lr", self.lr, 0.0, f64::INFINITY)?;
        in_range("betas.0", self.betas.0, 0.0, 1.0)?;
        in_range("betas.1", self.betas.1, 0.0, 1.0)?;
        in_range("weight_decay", self.weight_decay, 0.0, f64::INFINITY)?;
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(Error::argument("eps", format!("{} is not a positive finite number", self.eps)));
        }
        Ok(())
    }

    fn buffers(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn update_slices(&self, at: StepAt, p: &mut [f32], g: &[f32], [m, v]: [&mut [f32]; 2]) {
        dispatch(Step { factors: self.factors(at), eps: self.eps, p, g, m, v });
    }

    fn update_tensors(&self, at: StepAt, p: &Tensor, g: &Tensor, buffers: &mut [Tensor]) -> Result<Tensor> {
        let [m, v] = buffers else {
            return Err(Error::argument("buffers", "AdamW keeps two moments"));
        };
        let f = self.factors(at);
        *m = (&*m + ((g - &*m)? * f.mean)?)?;
        *v = ((&*v * f.decay)? + (g.sqr()? * f.square)?)?;
        let denominator = v.sqrt()?.affine(1.0 / f.root, self.eps)?;
        Ok(((p * f.keep)? - ((&*m / denominator)? * f.size)?)?)
    }
}

/// One step on slices: plain numbers, which the compiler puts into the vectors of each instruction
/// set. Nothing is fused, so that every set gives the same bits.
struct Step<'a> {
    factors: Factors,
    eps: f64,
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let f = self.factors;
        let (keep, mean, decay, square) = (f.keep as f32, f.mean as f32, f.decay as f32, f.square as f32);
        let (inverse_root, size, eps) = ((1.0 / f.root) as f32, f.size as f32, self.eps as f32);
        for (((p, g), m), v) in self.p.iter_mut().zip(self.g).zip(self.m).zip(self.v) {
            *m += (*g - *m) * mean;
            *v = *v * decay + *g * *g * square;
            *p = *p * keep - *m / (v.sqrt() * inverse_root + eps) * size;
        }
    }
}
