//! Whole networks and their gradients.

use candle_core::{DType, Tensor};
use xdiff::core::unet::{UNet2D, UNet2DConfig};
use xdiff::core::{Cond, Denoiser};
use xdiff::nn::ParamSet;
use xdiff::nn::optim::backward_partial;

use super::{Case, Outputs};
use crate::AnyError;

/// The time steps of a batch: one for each sample, or one for all.
fn time_steps(case: &Case, batch: usize) -> Result<Tensor, AnyError> {
    let t = case.input("timestep")?.to_dtype(DType::F32)?.flatten_all()?;
    Ok(if t.elem_count() == 1 { t.broadcast_as(batch)?.contiguous()? } else { t })
}

/// Runs the pixel U-Net of the case.
fn run_unet2d(case: &Case) -> Result<(Tensor, ParamSet), AnyError> {
    let config = UNet2DConfig::from_diffusers(&case.config)?;
    let params = case.params();
    let unet = UNet2D::new(&config, &params)?;
    let set = params.finish()?;
    let sample = case.input_f32("sample")?;
    let t = time_steps(case, sample.dim(0)?)?;
    let class = case.input("class_labels").ok().cloned();
    let cond = Cond { class, ..Default::default() };
    Ok((unet.predict(&sample, &t, &cond, &mut ())?, set))
}

pub(super) fn unet2d(case: &Case) -> Result<Outputs, AnyError> {
    let (sample, _) = run_unet2d(case)?;
    Ok(vec![("sample".to_owned(), sample.detach())])
}

pub(super) fn loss_grads(case: &Case) -> Result<Outputs, AnyError> {
    let model: String = case.need("model")?;
    let (out, set) = match model.as_str() {
        "model.unet2d" => run_unet2d(case)?,
        other => return Err(format!("gradients of `{other}` are not known").into()),
    };
    let loss = (out - case.input_f32("target")?)?.sqr()?.mean_all()?;
    let names: Vec<String> = case.need("names")?;
    let grads = backward_partial(&loss, &set, |name| !names.iter().any(|n| n == name))?;
    let mut outputs = vec![("loss".to_owned(), loss.detach())];
    for name in names {
        let grad = grads.get(&name).ok_or_else(|| format!("the model has no trainable `{name}`"))?;
        outputs.push((format!("grad.{name}"), grad.clone()));
    }
    Ok(outputs)
}
