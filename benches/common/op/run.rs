//! One pass of an operation, ready to be timed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var};
use xdiff::nn::optim::{AdamW, AdamWConfig, Ema, EmaConfig, Gradients};
use xdiff::nn::{Init, ParamSet, Params, Rng};
use xdiff_examples::AnyError;

use super::{Op, Pass, layer};
use crate::workload::{Prepared, Runner, timed};

/// Builds the operation, its inputs and parameters. Forward passes get frozen parameters, so that a
/// layer may keep what it derives from them.
///
/// # Errors
/// When the operation has no such pass, or the memory does not suffice.
pub(crate) fn prepare(op: &Op, pass: Pass) -> Result<Prepared, AnyError> {
    match (op, pass) {
        (Op::AdamW { tensors, values } | Op::Ema { tensors, values }, Pass::Step) => {
            let set = parameters(*tensors, *values)?;
            let parameters = set.count();
            let run = if matches!(op, Op::AdamW { .. }) { adamw(&set)? } else { ema(set)? };
            Ok(Prepared { run, parameters })
        }
        (Op::AdamW { .. } | Op::Ema { .. }, _) | (_, Pass::Step) => {
            Err(format!("`{}` has no pass `{}`", op.name(), pass.name()).into())
        }
        (_, Pass::Forward) => {
            let params = Params::fresh(0, &Device::Cpu).freeze(|_| true);
            let (layer, inputs) = (layer(op, &params)?, inputs(op)?);
            let run: Runner = Box::new(move || timed(|| Ok(layer(&inputs)?)));
            Ok(Prepared { run, parameters: params.finish()?.count() })
        }
        (_, Pass::Backward) => {
            let params = Params::fresh(0, &Device::Cpu);
            let layer = layer(op, &params)?;
            let inputs = inputs(op)?.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
            let run: Runner = Box::new(move || backward(&layer, &inputs));
            Ok(Prepared { run, parameters: params.finish()?.count() })
        }
    }
}

fn inputs(op: &Op) -> Result<Vec<Tensor>, AnyError> {
    let mut rng = Rng::new(1);
    Ok(op.inputs().into_iter().map(|s| rng.randn(s, &Device::Cpu)).collect::<Result<_, _>>()?)
}

/// How long the backward pass from a gradient of ones takes; the forward pass before it and the
/// clearing away after it do not count.
fn backward(layer: &super::Layer, inputs: &[Var]) -> Result<Duration, AnyError> {
    let inputs: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let y = layer(&inputs)?;
    let start = Instant::now();
    let gradients = y.backward()?;
    let time = start.elapsed();
    if inputs.iter().any(|x| gradients.get(x).is_none()) {
        return Err("an input has no gradient".into());
    }
    Ok(time)
}

fn parameters(tensors: usize, values: usize) -> Result<ParamSet, AnyError> {
    let params = Params::fresh(0, &Device::Cpu);
    for index in 0..tensors {
        params.weight(&index.to_string(), values, Init::Normal(1.0))?;
    }
    Ok(params.finish()?)
}

fn adamw(set: &ParamSet) -> Result<Runner, AnyError> {
    let config = AdamWConfig::default();
    let mut rng = Rng::new(1);
    let mut gradients = BTreeMap::new();
    for (name, var) in set.trainable() {
        gradients.insert(name.to_owned(), rng.randn(var.shape(), &Device::Cpu)?);
    }
    let (mut optimizer, gradients) = (AdamW::new(set, config)?, Gradients::new(gradients));
    Ok(Box::new(move || timed(|| Ok(optimizer.step(&gradients, config.lr)?))))
}

fn ema(set: ParamSet) -> Result<Runner, AnyError> {
    let mut ema = Ema::new(&set, EmaConfig::default())?;
    Ok(Box::new(move || timed(|| Ok(ema.update(&set)?))))
}
