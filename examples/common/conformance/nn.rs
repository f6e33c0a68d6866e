//! Ops of xdiff-nn.

use candle_core::{Device, Tensor};
use xdiff::nn::optim::{AdamW, AdamWConfig, backward};
use xdiff::nn::{Params, TorchRng};

use super::{Case, Outputs};
use crate::AnyError;

pub(super) fn torch_randn(case: &Case) -> Result<Outputs, AnyError> {
    let shape: Vec<usize> = case.need("shape")?;
    let x = TorchRng::new(case.need("seed")?).randn(shape, &Device::Cpu)?;
    Ok(vec![("x".to_owned(), x)])
}

pub(super) fn adamw(case: &Case) -> Result<Outputs, AnyError> {
    let defaults = AdamWConfig::default();
    let config = AdamWConfig {
        lr: case.get("lr")?.unwrap_or(defaults.lr),
        betas: case.get("betas")?.unwrap_or(defaults.betas),
        eps: case.get("eps")?.unwrap_or(defaults.eps),
        weight_decay: case.get("weight_decay")?.unwrap_or(defaults.weight_decay),
    };
    let steps: usize = case.need("steps")?;
    let p = case.input_f32("p")?;
    let grads = case.input_f32("grads")?;
    let params = Params::trainable([("p".to_owned(), p.clone())].into(), &Device::Cpu);
    let weight = params.weight("p", p.shape(), xdiff::nn::Init::ZEROS)?;
    let params = params.finish()?;
    let mut optimizer = AdamW::new(&params, config)?;
    for step in 0..steps {
        // The gradient of ⟨p, g⟩ with respect to p is g.
        let loss = (&weight * grads.get(step)?)?.sum_all()?;
        let grads = backward(&loss, &params)?;
        optimizer.step(&grads, config.lr)?;
    }
    let p: Tensor = weight.detach().copy()?;
    Ok(vec![("p".to_owned(), p)])
}
