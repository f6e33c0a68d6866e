//! Influence and faithfulness of prototypes.

use candle_core::{D, Device, Tensor};
use xdiff::proto::faithfulness::{Definition, Evidence};

use super::{Case, Outputs};
use crate::AnyError;

/// Similarities (B, P), their maps (B, P, h, w), or those of one image (P).
fn similarity(case: &Case) -> Result<Tensor, AnyError> {
    let similarity = case.input("similarity")?;
    Ok(match similarity.rank() {
        1 => similarity.unsqueeze(0)?,
        4 => similarity.flatten_from(2)?.max(D::Minus1)?,
        _ => similarity.clone(),
    })
}

pub(super) fn faithfulness(case: &Case) -> Result<Outputs, AnyError> {
    let definition: Definition = case.need("definition")?;
    let correlation = case.input("corr")?;
    let similarity = similarity(case)?;
    let correlation = correlation.reshape(similarity.shape())?;
    let evidence = Evidence::from_similarity(&similarity)?.with_correlation(&correlation)?;
    let (images, prototypes) = (evidence.images(), evidence.prototypes());
    let scores = evidence.score(definition)?.into_iter().map(|score| score.unwrap_or(f64::NAN));
    let scores = Tensor::from_iter(scores, &Device::Cpu)?;
    let nis = Tensor::from_vec(evidence.influence().concat(), (images, prototypes), &Device::Cpu)?;
    // A case may give one image without a batch, or one number for all images: their mean.
    let shape = |name: &str| case.expected().find(|(n, _)| *n == name).map(|(_, t)| t.shape().clone());
    let nis = match shape("nis") {
        Some(shape) if shape.elem_count() == nis.elem_count() => nis.reshape(shape)?,
        _ => nis,
    };
    let scores = match shape("faithfulness") {
        Some(shape) if shape.elem_count() == 1 => scores.mean_all()?,
        _ => scores,
    };
    Ok(vec![("nis".to_owned(), nis), ("faithfulness".to_owned(), scores)])
}
