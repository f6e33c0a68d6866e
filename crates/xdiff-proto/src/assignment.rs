//! Which prototypes speak for which class.

use serde::{Deserialize, Serialize};

use crate::slots::SlotSampling;
use crate::{Error, Result};

/// How prototypes are assigned to classes.
///
/// ```
/// use xdiff_proto::Assignment;
///
/// let fixed = Assignment::Fixed { classes: 2 };
/// assert_eq!(fixed.class_of(6), Some(vec![0, 0, 0, 1, 1, 1]));
/// assert!(fixed.validate(7).is_err());
/// // Seven prototypes, of which the second class has three.
/// let given = Assignment::Given { classes: 2, class_of: vec![0, 0, 0, 1, 1, 1, 0] };
/// given.validate(7)?;
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Assignment {
    /// The same number of prototypes for each class: of P prototypes and C classes, prototype j is that
    /// of class ⌊j / (P/C)⌋ (Chen et al. 2019). P is a multiple of C.
    Fixed {
        /// C.
        classes: usize,
    },
    /// Each prototype has a class of its own, such as what pruning leaves of [`Fixed`](Self::Fixed).
    Given {
        /// C.
        classes: usize,
        /// The class of each prototype.
        class_of: Vec<usize>,
    },
    /// Every class has n slots, each a learnt distribution q over all prototypes (Rymarczyk et al.
    /// 2022): prototypes are shared.
    Slots {
        /// C.
        classes: usize,
        /// n.
        slots: usize,
        /// How q is formed from what is learnt.
        sampling: SlotSampling,
        /// What q is an average of.
        mixing: Mixing,
    },
    /// Every patch is written as an average of all prototypes (Dey & Saikia 2025, Eq. 9); classes have
    /// no part in it.
    SoftCodebook,
}

/// What a slot averages over its distribution q of prototypes; s is the similarity, d_j the squared
/// distances of prototype j to all patches of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// Distances: s(Σ_j q_j min d_j) − s(Σ_j q_j mean d_j), as in the released code.
    #[default]
    Distances,
    /// Similarities: Σ_j q_j (max s(d_j) − mean s(d_j)), the formula of the paper. The average runs
    /// over the similarities of all patches, which takes memory of B·P·h·w numbers.
    Similarities,
}

impl Assignment {
    /// Checks that `prototypes` can be assigned.
    ///
    /// # Errors
    /// [`Error::Config`] for no class or no slot, for P that is no multiple of C, and for classes of
    /// prototypes that do not exist; those of [`SlotSampling::validate`].
    pub fn validate(&self, prototypes: usize) -> Result<()> {
        if self.classes() == Some(0) {
            return Err(Error::config("classes", "is 0, must be at least 1"));
        }
        match self {
            Assignment::Fixed { classes } if !prototypes.is_multiple_of(*classes) => {
                let reason = format!(
                    "are {prototypes} for {classes} classes; give a multiple of {classes}, or the class of \
                     each with Assignment::Given"
                );
                Err(Error::config("prototypes", reason))
            }
            Assignment::Given { class_of, .. } if class_of.len() != prototypes => {
                let reason = format!("names the class of {} prototypes out of {prototypes}", class_of.len());
                Err(Error::config("class_of", reason))
            }
            Assignment::Given { classes, class_of } => match class_of.iter().position(|c| c >= classes) {
                Some(j) => {
                    let reason =
                        format!("gives prototype {j} class {}, of {classes} counted from 0", class_of[j]);
                    Err(Error::config("class_of", reason))
                }
                None => Ok(()),
            },
            Assignment::Slots { slots: 0, .. } => Err(Error::config("slots", "is 0, must be at least 1")),
            Assignment::Slots { sampling, .. } => sampling.validate(),
            Assignment::Fixed { .. } | Assignment::SoftCodebook => Ok(()),
        }
    }

    /// How many classes there are; none for a soft codebook.
    pub fn classes(&self) -> Option<usize> {
        match self {
            Assignment::Fixed { classes }
            | Assignment::Given { classes, .. }
            | Assignment::Slots { classes, .. } => Some(*classes),
            Assignment::SoftCodebook => None,
        }
    }

    /// The class of each of `prototypes`, where each has one.
    pub fn class_of(&self, prototypes: usize) -> Option<Vec<usize>> {
        match self {
            Assignment::Fixed { classes } => {
                let each = (prototypes / classes.max(&1)).max(1);
                Some((0..prototypes).map(|j| j / each).collect())
            }
            Assignment::Given { class_of, .. } => Some(class_of.clone()),
            Assignment::Slots { .. } | Assignment::SoftCodebook => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prototypes_are_dealt_out_in_order() {
        let fixed = Assignment::Fixed { classes: 3 };
        assert_eq!(fixed.class_of(6), Some(vec![0, 0, 1, 1, 2, 2]));
        assert_eq!(Assignment::Fixed { classes: 1 }.class_of(2), Some(vec![0, 0]));
        assert_eq!(Assignment::SoftCodebook.class_of(2), None);
    }

    #[test]
    fn what_cannot_be_assigned_is_an_error() {
        let slots = |classes, slots| Assignment::Slots {
            classes,
            slots,
            sampling: SlotSampling::default(),
            mixing: Mixing::default(),
        };
        let given = |classes, class_of: &[usize]| Assignment::Given { classes, class_of: class_of.to_vec() };
        let cases = [
            (Assignment::Fixed { classes: 0 }, 4, "classes"),
            (Assignment::Fixed { classes: 3 }, 4, "multiple of 3"),
            (given(0, &[]), 0, "classes"),
            (given(2, &[0, 1]), 3, "2 prototypes out of 3"),
            (given(2, &[0, 1, 2]), 3, "prototype 2 class 2"),
            (slots(0, 1), 4, "classes"),
            (slots(2, 0), 4, "slots"),
        ];
        for (assignment, prototypes, words) in cases {
            let e = assignment.validate(prototypes).unwrap_err();
            assert!(
                matches!(e, Error::Config { .. }) && e.to_string().contains(words),
                "{assignment:?}: {e}"
            );
        }
        for assignment in [Assignment::Fixed { classes: 1 }, given(5, &[4, 4, 0]), slots(1, 1)] {
            assignment.validate(3).unwrap();
        }
    }
}
