//! The sum of the terms.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::config::{LossConfig, Term};
use super::{
    AlignOver, Ownership, align, cluster, cross_entropy, diversity, orthogonality, separation, wrong_class_l1,
};
use crate::{Error, Result};

/// What the terms are computed of; what no term needs may be left out.
#[derive(Clone, Copy, Debug)]
pub struct LossInputs<'a> {
    /// The classes of the images, B.
    pub labels: &'a [u32],
    /// The least squared distance of each image to each prototype (B, P).
    pub distance: &'a Tensor,
    /// The prototypes (P, D).
    pub prototypes: &'a Tensor,
    /// The answers (B, K).
    pub logits: Option<&'a Tensor>,
    /// Which prototypes belong to which class.
    pub ownership: Option<&'a Ownership>,
    /// The last layer's weight (K, columns) and which columns belong to which class.
    pub head: Option<(&'a Tensor, &'a Ownership)>,
    /// The logits of the slots (K, P, slots).
    pub slots: Option<&'a Tensor>,
}

/// The terms of a loss and their weighted sum.
#[derive(Clone, Debug)]
pub struct Losses {
    /// The terms that were computed, without their weights.
    pub terms: BTreeMap<Term, Tensor>,
    /// Σ weight · term, one number.
    pub total: Tensor,
}

impl LossConfig {
    /// The terms that have a weight, and their sum.
    ///
    /// # Errors
    /// [`Error::Config`] when a term needs what is not given; those of the terms.
    pub fn compute(&self, inputs: &LossInputs<'_>) -> Result<Losses> {
        self.validate()?;
        let mut terms = BTreeMap::new();
        let mut total: Option<Tensor> = None;
        for term in Term::ALL {
            let weight = self.weights.of(term);
            if weight == 0.0 {
                continue;
            }
            let value = self.term(term, inputs)?;
            let part = (&value * weight)?;
            total = Some(match total {
                None => part,
                Some(sum) => (sum + part)?,
            });
            terms.insert(term, value);
        }
        let total = total.ok_or_else(|| Error::config("weights", "are all 0"))?;
        Ok(Losses { terms, total })
    }

    fn term(&self, term: Term, inputs: &LossInputs<'_>) -> Result<Tensor> {
        let lacks = |what: &str| {
            let reason = format!("has a weight, but the network has no {what}; give it the weight 0");
            Error::config(term.name(), reason)
        };
        let owned = || inputs.ownership.ok_or_else(|| lacks("prototypes that belong to classes"));
        let (distance, labels) = (inputs.distance, inputs.labels);
        match term {
            Term::CrossEntropy => {
                let logits = inputs.logits.ok_or_else(|| lacks("logits"))?;
                cross_entropy(logits, labels, self.class_weights.as_deref())
            }
            Term::Cluster => cluster(distance, labels, owned()?),
            Term::Separation => separation(distance, labels, owned()?),
            Term::L1 => {
                let (weight, columns) = inputs.head.ok_or_else(|| lacks("last layer"))?;
                wrong_class_l1(weight, columns)
            }
            Term::Align => match self.align_over {
                AlignOver::All => align(distance, None),
                AlignOver::Own => align(distance, Some((labels, owned()?))),
            },
            Term::Diversity => diversity(inputs.prototypes, self.diversity),
            Term::Orthogonality => orthogonality(inputs.slots.ok_or_else(|| lacks("slots"))?),
        }
    }
}
