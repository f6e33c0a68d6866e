//! The loss of a batch.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_nn::{ParamSet, Rng};

use crate::loss::{AlignOver, LossConfig, LossInputs, Ownership, Term};
use crate::stage::{Stage, Statistics};
use crate::{Assignment, Batch, Error, PrototypeNetwork, Reading, Result};

/// What belongs to which class, as far as it does not change in training.
#[derive(Debug)]
pub(super) struct Owners {
    /// Of the prototypes; none where they are shared.
    prototypes: Option<Ownership>,
    /// Of the last layer's columns.
    columns: Option<Ownership>,
}

impl Owners {
    pub(super) fn of<F>(network: &PrototypeNetwork<F>) -> Result<Self> {
        let classes = network.assignment().classes();
        let fixed = network.class_of().zip(classes);
        let prototypes = fixed.map(|(class_of, classes)| Ownership::fixed(&class_of, classes)).transpose()?;
        let columns = match network.assignment() {
            Assignment::Slots { classes, slots, .. } => {
                let class_of: Vec<usize> = (0..classes * slots).map(|column| column / slots).collect();
                Some(Ownership::fixed(&class_of, *classes)?)
            }
            _ => prototypes.clone(),
        };
        Ok(Self { prototypes, columns })
    }
}

/// A loss with its graph, and what is reported of it.
#[derive(Debug)]
pub(super) struct StepLoss {
    /// One number, with its graph.
    pub(super) total: Tensor,
    /// Its value.
    pub(super) value: f64,
    /// The terms without weights.
    pub(super) terms: BTreeMap<Term, f64>,
    /// How many images were answered rightly; `None` without answers.
    pub(super) right: Option<usize>,
}

/// The loss of a batch in a step of a stage. No graph leads to a part that is not trained and has none
/// before it that is.
pub(super) fn loss<F: FeatureExtractor>(
    (network, params, owners): (&PrototypeNetwork<F>, &ParamSet, &Owners),
    (stage, epoch, step): (&Stage, usize, usize),
    batch: &Batch,
    rng: &Rng,
) -> Result<StepLoss> {
    let train = &stage.train;
    let mut features = match stage.statistics {
        Statistics::Batch => network.extractor().features_training(batch.images(), rng)?,
        Statistics::Frozen => network.extractor().features(batch.images(), &mut ())?,
    };
    if train.features.is_none() {
        features = features.detach();
    }
    let mut embedded = network.embed_features(&features, &mut ())?;
    if train.features.is_none() && train.add_on.is_none() {
        embedded = embedded.detach();
    }
    // Slots that are not learnt are read as they will be in use.
    let reading = match train.assignment {
        Some(_) => network.read_training(&embedded, epoch, rng)?,
        None => network.read(&embedded)?,
    };
    let shared = if needs_owners(&stage.losses) { shared(&reading)? } else { None };
    let weight = params.get("last_layer.weight");
    let losses = stage.losses.compute(&LossInputs {
        labels: batch.classes(),
        distance: &reading.nearest.distance,
        prototypes: network.prototypes().vectors(),
        logits: reading.logits.as_ref(),
        ownership: shared.as_ref().or(owners.prototypes.as_ref()),
        head: weight.map(|w| w.as_tensor()).zip(owners.columns.as_ref()),
        slots: network.presence(),
    })?;
    let value = number(&losses.total)?;
    let terms =
        losses.terms.iter().map(|(term, t)| Ok((*term, number(t)?))).collect::<Result<BTreeMap<_, _>>>()?;
    if !value.is_finite() || terms.values().any(|v| !v.is_finite()) {
        let worst = terms.iter().find(|(_, v)| !v.is_finite()).map_or("sum", |(term, _)| term.name());
        let of = format!("step {step} ({worst})");
        let hint = "lower the learning rates, clip the gradient, and check the images for NaN";
        return Err(Error::NonFinite { what: "the loss", of, hint });
    }
    let right = reading.logits.as_ref().map(|logits| right(logits, batch.classes())).transpose()?;
    Ok(StepLoss { total: losses.total, value, terms, right })
}

fn needs_owners(losses: &LossConfig) -> bool {
    let weights = &losses.weights;
    let aligned = weights.align != 0.0 && losses.align_over == AlignOver::Own;
    weights.cluster != 0.0 || weights.separation != 0.0 || aligned
}

/// The prototypes that each class's slots take most of, as many as it has slots.
fn shared(reading: &Reading) -> Result<Option<Ownership>> {
    let Some(slots) = &reading.slots else { return Ok(None) };
    let (_, count, prototypes) = slots.weights.dims3()?;
    Ownership::strongest(&slots.weights.transpose(1, 2)?, count.min(prototypes)).map(Some)
}

/// The value of a tensor of one number.
fn number(t: &Tensor) -> Result<f64> {
    Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar()?)
}

/// How many of the logits (B, K) are greatest at the label; the first of equals counts.
pub(super) fn right(logits: &Tensor, labels: &[u32]) -> Result<usize> {
    let answers = logits.detach().argmax(1)?.to_vec1::<u32>()?;
    Ok(answers.iter().zip(labels).filter(|(answer, label)| answer == label).count())
}
