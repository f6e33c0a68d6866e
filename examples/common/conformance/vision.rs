//! Networks for classification and their gradients.

use candle_core::{DType, Tensor};
use serde_json::{Map, Value};
use xdiff::nn::optim::backward;
use xdiff::nn::tap::{Recorder, Sites};
use xdiff::nn::{ParamSet, Params, Tap};
use xdiff::vision::{Architecture, Backbone, Pass};

use super::{Case, Outputs};
use crate::AnyError;

/// Keys of a case that are no arguments of a network, and arguments that change no number.
const NOT_OURS: [&str; 6] = ["mode", "taps", "names", "memory_efficient", "progress", "weights"];

/// The network of the case, for images with as many channels as the case's.
fn network(case: &Case, params: Params) -> Result<(Box<dyn Backbone>, ParamSet), AnyError> {
    let name = case.op.trim_start_matches("vision.").trim_end_matches(".grads");
    let architecture: Architecture = name.parse()?;
    let mut arguments = Map::from_iter([("in_channels".to_owned(), Value::from(case.input("x")?.dim(1)?))]);
    let given = case.config.as_object().ok_or("the config is no object")?;
    let own = given.iter().filter(|(key, _)| !NOT_OURS.contains(&key.as_str()));
    arguments.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    let network = architecture.config(3, 1000).with_arguments(&arguments)?.build(&params)?;
    Ok((network, params.finish()?))
}

fn pass<'a>(mode: &str, tap: &'a mut dyn Tap) -> Result<Pass<'a>, AnyError> {
    match mode {
        "eval" => Ok(Pass::eval(tap)),
        "train" => Ok(Pass::train(tap)),
        other => Err(format!("the mode `{other}` is neither eval nor train").into()),
    }
}

pub(super) fn outputs(case: &Case) -> Result<Outputs, AnyError> {
    let (network, _) = network(case, case.params().freeze(|_| true))?;
    let taps: Vec<String> = case.get("taps")?.unwrap_or_default();
    let mut recorder = Recorder::new(Sites::Named(taps.clone()));
    let mode: String = case.get("mode")?.unwrap_or_else(|| "eval".to_owned());
    let output = network.forward(&case.input_f32("x")?, &mut pass(&mode, &mut recorder)?)?;
    let mut outputs = vec![("logits".to_owned(), output.logits)];
    for (i, site) in taps.iter().enumerate() {
        let seen = recorder.seen().get(site).ok_or_else(|| format!("the network has no site `{site}`"))?;
        // A case may call an activation by its site or by its place in the list.
        outputs.extend([site.clone(), i.to_string()].map(|name| (format!("tap.{name}"), seen.clone())));
    }
    Ok(outputs)
}

/// The mean over the batch of log Σ exp(logits) minus the logit of the right class.
fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor, AnyError> {
    let labels = labels.to_dtype(DType::U32)?.unsqueeze(1)?;
    Ok((logits.log_sum_exp(1)? - logits.gather(&labels, 1)?.squeeze(1)?)?.mean_all()?)
}

pub(super) fn grads(case: &Case) -> Result<Outputs, AnyError> {
    let names: Vec<String> = case.need("names")?;
    let asked = names.clone();
    let (network, set) = network(case, case.params().freeze(move |name| !asked.iter().any(|n| n == name)))?;
    let output = network.forward(&case.input_f32("x")?, &mut Pass::train(&mut ()))?;
    let loss = cross_entropy(&output.logits, case.input("labels")?)?;
    let grads = backward(&loss, &set)?;
    let mut outputs = vec![("loss".to_owned(), loss.detach())];
    for name in names {
        let grad = grads.get(&name).ok_or_else(|| format!("the network has no trainable `{name}`"))?;
        outputs.push((format!("grad.{name}"), grad.clone()));
    }
    Ok(outputs)
}
