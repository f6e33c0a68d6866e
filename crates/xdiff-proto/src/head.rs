//! From similarities to classes.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_nn::layers::linear;
use xdiff_nn::{Init, Params};

use crate::{Assignment, Error, Result};

/// How a network gets from its prototypes, slots or codes to one number a class. No head has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Head {
    /// Not at all: the prototypes are for explanation only.
    None,
    /// The sum over the prototypes or slots of the class.
    Sum,
    /// Learnt weights from every prototype (C, P) or slot (C, C·n) to every class, that begin with one
    /// number for the class's own and another for all others.
    Linear {
        /// For the class's own: 1 as published.
        own: f64,
        /// For the others: −0.5 in ProtoPNet, 0 in ProtoPool.
        other: f64,
    },
    /// Learnt weights (C, D) for the average over all positions of a soft codebook's z; fresh ones as
    /// in PyTorch's linear layers.
    Pooled {
        /// C.
        classes: usize,
    },
}

impl Head {
    /// ProtoPNet's: 1 for the class's own prototypes, −0.5 for the others.
    pub const PPNET: Head = Head::Linear { own: 1.0, other: -0.5 };
    /// ProtoPool's: 1 for the class's own slots, 0 for the others.
    pub const PROTOPOOL: Head = Head::Linear { own: 1.0, other: 0.0 };

    /// Checks that the head goes with the assignment.
    ///
    /// # Errors
    /// [`Error::Config`] when it does not, for no class, and for weights that are not finite.
    pub fn validate(&self, assignment: &Assignment) -> Result<()> {
        let codebook = matches!(assignment, Assignment::SoftCodebook);
        let reason = match self {
            Head::Sum | Head::Linear { .. } if codebook => {
                "is for prototypes or slots with classes; a soft codebook takes Head::Pooled or Head::None"
            }
            Head::Pooled { .. } if !codebook => "pools the codes of a soft codebook, and there is none",
            Head::Pooled { classes: 0 } => "has no class, must have at least 1",
            Head::Linear { own, other } if !(own.is_finite() && other.is_finite()) => {
                "has weights that are not finite"
            }
            _ => return Ok(()),
        };
        Err(Error::config("head", reason))
    }
}

/// A head with its parameters: `weight`, as in the published files' `last_layer`.
#[derive(Clone, Debug)]
pub(crate) struct HeadLayer {
    /// (C, inputs); of a sum it is no parameter.
    weight: Option<Tensor>,
}

impl HeadLayer {
    /// `width` is that of the prototypes.
    pub(crate) fn new(
        head: Head,
        assignment: &Assignment,
        (prototypes, width): (usize, usize),
        params: &Params,
    ) -> Result<Self> {
        head.validate(assignment)?;
        let owners = match assignment {
            Assignment::Slots { classes, slots, .. } => {
                Some((0..classes * slots).map(|k| k / slots).collect())
            }
            other => other.class_of(prototypes),
        };
        let weight = match (head, owners, assignment.classes()) {
            (Head::Pooled { classes }, ..) => {
                Some(params.weight("weight", (classes, width), Init::torch_default(width))?)
            }
            (Head::Linear { own, other }, Some(owners), Some(classes)) => {
                let values = joined(&owners, classes, own as f32, other as f32);
                Some(params.weight_from("weight", (classes, owners.len()), &values)?)
            }
            (Head::Sum, Some(owners), Some(classes)) => {
                let values = joined(&owners, classes, 1.0, 0.0);
                Some(Tensor::from_vec(values, (classes, owners.len()), &params.device())?)
            }
            _ => None,
        };
        Ok(Self { weight })
    }

    /// (B, inputs) → (B, C), where there is a head.
    pub(crate) fn logits(&self, inputs: &Tensor) -> Result<Option<Tensor>> {
        self.weight.as_ref().map(|weight| Ok(linear(inputs, weight, None)?)).transpose()
    }
}

/// Row by row for each class: `own` for its inputs, `other` for the rest.
fn joined(owners: &[usize], classes: usize, own: f32, other: f32) -> Vec<f32> {
    (0..classes).flat_map(|c| owners.iter().map(move |o| if *o == c { own } else { other })).collect()
}
