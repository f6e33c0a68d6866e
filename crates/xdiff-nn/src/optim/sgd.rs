//! Stochastic gradient descent.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::engine::{Optimizer, Rule, StepAt, in_range};
use crate::{Error, Result};

/// Stochastic gradient descent with the numbers of PyTorch's `torch.optim.SGD`.
pub type Sgd = Optimizer<SgdConfig>;

/// Gradient descent with momentum μ, dampening τ and L2 weight decay λ, in PyTorch's form:
///
/// g ← g + λp; b ← g at first, then μb + (1 − τ)g; p ← p − lr·b, or p − lr·(g + μb) with `nesterov`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// The base learning rate, from which a schedule computes the rate of each step.
    pub lr: f64,
    /// μ, at least 0; no momentum is kept at 0.
    pub momentum: f64,
    /// λ, at least 0; it is added to the gradient.
    pub weight_decay: f64,
    /// Whether the step looks ahead; takes momentum and no dampening.
    pub nesterov: bool,
    /// τ.
    pub dampening: f64,
}

impl Default for SgdConfig {
    /// PyTorch's defaults.
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, weight_decay: 0.0, nesterov: false, dampening: 0.0 }
    }
}

impl SgdConfig {
    /// How much of the former momentum stays and how much of the gradient comes in. The first
    /// gradient is taken whole.
    fn mixture(&self, at: StepAt) -> (f64, f64) {
        if at.step == 1 { (0.0, 1.0) } else { (self.momentum, 1.0 - self.dampening) }
    }
}

impl Rule for SgdConfig {
    fn validate(&self) -> Result<()> {
        in_range("lr", self.lr, 0.0, f64::INFINITY)?;
        in_range("momentum", self.momentum, 0.0, f64::INFINITY)?;
        in_range("weight_decay", self.weight_decay, 0.0, f64::INFINITY)?;
        if !self.dampening.is_finite() {
            return Err(Error::argument("dampening", format!("{} is not finite", self.dampening)));
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument("nesterov", "it takes a momentum above 0 and a dampening of 0"));
        }
        Ok(())
    }

    fn buffers(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum_buffer"] }
    }

    fn update_slices(&self, at: StepAt, p: &mut [f32], g: &[f32], [b, _]: [&mut [f32]; 2]) {
        let (decay, lr, momentum) = (self.weight_decay as f32, at.lr as f32, self.momentum as f32);
        if self.momentum == 0.0 {
            for (p, g) in p.iter_mut().zip(g) {
                let g = *g + *p * decay;
                *p -= g * lr;
            }
            return;
        }
        let (stays, comes) = self.mixture(at);
        let (stays, comes) = (stays as f32, comes as f32);
        for ((p, g), b) in p.iter_mut().zip(g).zip(b) {
            let g = *g + *p * decay;
            *b = *b * stays + g * comes;
            let g = if self.nesterov { g + *b * momentum } else { *b };
            *p -= g * lr;
        }
    }

    fn update_tensors(&self, at: StepAt, p: &Tensor, g: &Tensor, buffers: &mut [Tensor]) -> Result<Tensor> {
        let g = (g + (p * self.weight_decay)?)?;
        let Some(b) = buffers.first_mut() else {
            return Ok((p - (g * at.lr)?)?);
        };
        let (stays, comes) = self.mixture(at);
        *b = ((&*b * stays)? + (&g * comes)?)?;
        let g = if self.nesterov { (g + (&*b * self.momentum)?)? } else { b.clone() };
        Ok((p - (g * at.lr)?)?)
    }
}
