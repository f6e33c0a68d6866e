//! Terms of the losses of prototype networks.

use candle_core::{DType, Tensor};
use xdiff::proto::loss::{DiversityScale, Ownership, align, cluster, diversity, orthogonality, separation};
use xdiff::proto::{Prototypes, nearest};

use super::proto::features;
use super::{Case, Outputs};
use crate::AnyError;

/// Indices of any integer or float type.
fn indices(t: &Tensor) -> Result<Vec<u32>, AnyError> {
    let indices = t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let index = |v: f64| {
        let whole = v.fract() == 0.0 && (0.0..f64::from(u32::MAX)).contains(&v);
        if whole { Ok(v as u32) } else { Err(format!("{v} is no index").into()) }
    };
    indices.into_iter().map(index).collect()
}

/// The terms that the case expects.
pub(super) fn losses(case: &Case) -> Result<Outputs, AnyError> {
    let prototypes = Prototypes::from_vectors(&case.weight("prototype_vectors")?.to_dtype(DType::F32)?)?;
    let distance = nearest(&features(case, prototypes.width())?, prototypes.vectors())?.distance;
    let labels = indices(case.input("labels")?)?;
    let class_of: Vec<usize> = indices(case.weight("class_of")?)?.into_iter().map(|c| c as usize).collect();
    let most = class_of.iter().copied().chain(labels.iter().map(|l| *l as usize)).max().unwrap_or(0);
    let own = Ownership::fixed(&class_of, most + 1)?;
    let term = |name: &str| -> Result<Tensor, AnyError> {
        Ok(match name {
            "cluster" => cluster(&distance, &labels, &own)?,
            "separation" => separation(&distance, &labels, &own)?,
            "align" => align(&distance, None)?,
            "diversity" => diversity(prototypes.vectors(), DiversityScale::Plain)?,
            "orthogonality" => orthogonality(&case.weight("proto_presence")?.to_dtype(DType::F32)?)?,
            other => return Err(format!("the term `{other}` is not known").into()),
        })
    };
    case.expected().map(|(name, _)| Ok((name.to_owned(), term(name)?))).collect()
}
