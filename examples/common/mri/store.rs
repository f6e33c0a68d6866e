//! Samples on disk, so that a report can be written again without sampling again.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use xdiff::nn::weights::{read_safetensors_with_metadata, write_safetensors};

use super::sampling::{Case, Moment, Sampled};
use crate::AnyError;

#[derive(Serialize, Deserialize)]
struct Header {
    ids: Vec<String>,
    t: Vec<f64>,
    size: usize,
    steps: usize,
    seed: u64,
    clipped: f64,
    model_steps: usize,
}

fn stack(rows: impl Iterator<Item = Vec<f32>>, size: usize) -> Result<Tensor, AnyError> {
    let values: Vec<f32> = rows.flatten().collect();
    Ok(Tensor::from_vec(values, ((), size, size), &Device::Cpu)?)
}

/// Writes samples drawn from a model that was trained for `model_steps` steps.
///
/// # Errors
/// When the file cannot be written.
pub fn save(path: &Path, sampled: &Sampled, model_steps: usize) -> Result<(), AnyError> {
    let size = sampled.size;
    let header = Header {
        ids: sampled.cases.iter().map(|c| c.id.clone()).collect(),
        t: sampled.course.iter().map(|m| m.t).collect(),
        size,
        steps: sampled.steps,
        seed: sampled.seed,
        clipped: sampled.clipped,
        model_steps,
    };
    let tensors = BTreeMap::from([
        ("real".to_owned(), stack(sampled.cases.iter().map(|c| c.real.clone()), size)?),
        ("sample".to_owned(), stack(sampled.cases.iter().map(|c| c.sample.clone()), size)?),
        (
            "mask".to_owned(),
            stack(sampled.cases.iter().map(|c| c.mask.iter().map(|m| f32::from(*m)).collect()), size)?,
        ),
        ("x_t".to_owned(), stack(sampled.course.iter().map(|m| m.x_t.clone()), size)?),
        ("pred_x0".to_owned(), stack(sampled.course.iter().map(|m| m.pred_x0.clone()), size)?),
    ]);
    let metadata = BTreeMap::from([("samples".to_owned(), serde_json::to_string(&header)?)]);
    Ok(write_safetensors(path, &tensors, &metadata)?)
}

/// Reads what [`save`] wrote, if it was drawn from a model of just `model_steps` steps.
///
/// # Errors
/// When the file cannot be read or is something else.
pub fn load(path: &Path, model_steps: usize) -> Result<Option<Sampled>, AnyError> {
    if !path.try_exists().map_err(|e| format!("{}: {e}", path.display()))? {
        return Ok(None);
    }
    let (tensors, metadata) = read_safetensors_with_metadata(path)?;
    let header = metadata.get("samples").ok_or_else(|| format!("{}: holds no samples", path.display()))?;
    let header: Header = serde_json::from_str(header)?;
    if header.model_steps != model_steps {
        return Ok(None);
    }
    let rows = |name: &str| -> Result<Vec<Vec<f32>>, AnyError> {
        let t = tensors.get(name).ok_or_else(|| format!("{}: lacks `{name}`", path.display()))?;
        Ok(t.flatten_from(1)?.to_vec2()?)
    };
    let cases = header
        .ids
        .into_iter()
        .zip(rows("real")?)
        .zip(rows("mask")?)
        .zip(rows("sample")?)
        .map(|(((id, real), mask), sample)| Case {
            id,
            real,
            mask: mask.iter().map(|m| *m as u8).collect(),
            sample,
        })
        .collect();
    let course = header
        .t
        .into_iter()
        .zip(rows("x_t")?)
        .zip(rows("pred_x0")?)
        .map(|((t, x_t), pred_x0)| Moment { t, x_t, pred_x0 })
        .collect();
    Ok(Some(Sampled {
        cases,
        size: header.size,
        course,
        steps: header.steps,
        seed: header.seed,
        clipped: header.clipped,
    }))
}
