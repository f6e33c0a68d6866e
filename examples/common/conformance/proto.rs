//! Prototype networks.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use xdiff::nn::Params;
use xdiff::proto::{
    AddOn, Assignment, Head, Mixing, PrototypeConfig, PrototypeNetwork, Prototypes, Reading, Similarity,
    SlotSampling, squared_distances,
};

use super::{Case, Outputs};
use crate::AnyError;

/// The features of the case (B, D, h, w). Patches (…, D) without a grid lie in one column.
fn features(case: &Case, width: usize) -> Result<Tensor, AnyError> {
    let x = case.input_f32("features")?;
    Ok(match *x.dims() {
        [_, d, _, _] if d == width => x,
        [d, _, _] if d == width => x.unsqueeze(0)?,
        [_, _, d] if d == width => x.transpose(1, 2)?.unsqueeze(3)?.contiguous()?,
        [_, d] if d == width => x.t()?.unsqueeze(0)?.unsqueeze(3)?.contiguous()?,
        _ => return Err(format!("in.features {:?} have no prototypes of width {width}", x.dims()).into()),
    })
}

fn optional(case: &Case, name: &str) -> Result<Option<Tensor>, AnyError> {
    case.weight(name).ok().map(|w| Ok(w.to_dtype(DType::F32)?)).transpose()
}

/// The similarity that the code of the network calls by this name.
fn similarity(case: &Case, linear: Similarity) -> Result<Similarity, AnyError> {
    let name: String = case.get("activation")?.unwrap_or_else(|| "log".to_owned());
    match name.as_str() {
        "log" => Ok(Similarity::Log { epsilon: case.get("epsilon")?.unwrap_or(1e-4) }),
        "linear" => Ok(linear),
        other => Err(format!("the activation `{other}` is neither log nor linear").into()),
    }
}

/// Reads the features of the case with a network of its weights.
fn read(
    case: &Case,
    similarity: Similarity,
    assignment: impl FnOnce(&Prototypes) -> Result<(Assignment, Head), AnyError>,
) -> Result<(Tensor, Prototypes, Reading), AnyError> {
    let vectors = case.weight("prototype_vectors")?.to_dtype(DType::F32)?;
    let prototypes = Prototypes::from_vectors(&vectors)?;
    let (count, width) = (prototypes.len(), prototypes.width());
    let mut weights =
        BTreeMap::from([("prototype_vectors".to_owned(), vectors.reshape((count, width, 1, 1))?)]);
    for name in ["last_layer.weight", "proto_presence"] {
        weights.extend(optional(case, name)?.map(|w| (name.to_owned(), w)));
    }
    let (assignment, head) = assignment(&prototypes)?;
    let config = PrototypeConfig {
        channels: width,
        prototypes: count,
        width,
        add_on: AddOn::None,
        similarity,
        assignment,
        head,
    };
    let params = Params::frozen(weights, &Device::Cpu);
    let network = PrototypeNetwork::new(&config, (), &params)?;
    params.finish()?;
    let features = features(case, width)?;
    let reading = network.read(&features)?;
    Ok((features, prototypes, reading))
}

/// The first of some forms of one output that has the shape that the case expects, else the first.
fn shaped(case: &Case, name: &str, forms: Vec<Tensor>) -> Outputs {
    let wanted = case.expected().find(|(n, _)| *n == name).map(|(_, t)| t.dims());
    let fits = forms.iter().position(|form| Some(form.dims()) == wanted).unwrap_or(0);
    forms.into_iter().nth(fits).map(|form| (name.to_owned(), form)).into_iter().collect()
}

pub(super) fn ppnet(case: &Case) -> Result<Outputs, AnyError> {
    let similarity = similarity(case, Similarity::Linear)?;
    let (features, prototypes, reading) = read(case, similarity, |prototypes| {
        let Some(head) = optional(case, "last_layer.weight")? else {
            return Ok((Assignment::Fixed { classes: 1 }, Head::None));
        };
        let classes = head.dim(0)?;
        // The head is given, so that it does not matter whose the prototypes are.
        Ok((Assignment::Given { classes, class_of: vec![0; prototypes.len()] }, Head::PPNET))
    })?;
    let maps = squared_distances(&features, prototypes.vectors())?;
    let alike = similarity.of_distance(&maps)?;
    let mut outputs = shaped(case, "distances", vec![maps, reading.nearest.distance]);
    outputs.extend(shaped(case, "similarity", vec![reading.similarity, alike]));
    outputs.extend(reading.logits.map(|logits| ("logits".to_owned(), logits)));
    Ok(outputs)
}

pub(super) fn protopool(case: &Case) -> Result<Outputs, AnyError> {
    let similarity = similarity(case, Similarity::Reciprocal)?;
    let (_, _, reading) = read(case, similarity, |_| {
        let (classes, _, slots) = case.weight("proto_presence")?.dims3()?;
        let stated: usize = case.get("n_slots")?.unwrap_or(slots);
        if stated != slots {
            return Err(format!("n_slots is {stated}, w.proto_presence has {slots}").into());
        }
        let sampling = SlotSampling::Softmax { temperature: case.get("temperature")?.unwrap_or(1.0) };
        let head = if optional(case, "last_layer.weight")?.is_some() { Head::PROTOPOOL } else { Head::Sum };
        Ok((Assignment::Slots { classes, slots, sampling, mixing: Mixing::Distances }, head))
    })?;
    let mut outputs = vec![("distances".to_owned(), reading.nearest.distance)];
    outputs.extend(reading.logits.map(|logits| ("logits".to_owned(), logits)));
    outputs.extend(reading.slots.map(|slots| ("slots".to_owned(), slots.similarity)));
    Ok(outputs)
}

pub(super) fn soft_codebook(case: &Case) -> Result<Outputs, AnyError> {
    let codebook = |_: &Prototypes| Ok((Assignment::SoftCodebook, Head::None));
    let (_, _, reading) = read(case, Similarity::Linear, codebook)?;
    let codes = reading.codes.ok_or("the codebook gave no codes")?;
    // Maps; rows of patches; patches of the only image; maps with the prototypes last; flat maps.
    let forms = |maps: &Tensor| -> Result<Vec<Tensor>, AnyError> {
        let flat = maps.flatten_from(2)?;
        let rows = flat.transpose(1, 2)?.contiguous()?;
        let last = maps.permute((0, 2, 3, 1))?.contiguous()?;
        let all = [maps, &rows, &last, &flat].map(Clone::clone).to_vec();
        let single = all.iter().filter_map(|form| form.squeeze(0).ok().filter(|s| s.rank() < form.rank()));
        Ok(all.iter().cloned().chain(single).collect())
    };
    let mut z = forms(&codes.z)?;
    z.push(codes.pooled()?);
    let mut alpha = forms(&codes.alpha)?;
    alpha.push(codes.influence()?);
    let mut outputs = shaped(case, "alpha", alpha);
    outputs.extend(shaped(case, "z", z));
    Ok(outputs)
}
