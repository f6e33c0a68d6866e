//! What is learnt.

use std::fmt::Debug;

use candle_core::{DType, Device, Tensor};

use super::config::Measure;
use crate::{Error, Pass, Result};

/// A loss as a sum of weighted means, Σᵢ sumᵢ / weightᵢ, so that the groups of a batch can be put
/// together: sums and weights are added, part by part, before they are divided.
#[derive(Clone, Debug, Default)]
pub struct LossParts {
    parts: Vec<(Tensor, f64)>,
}

impl LossParts {
    /// One mean: `sum` is one number, `weight` that by which it is divided.
    pub fn mean(sum: Tensor, weight: f64) -> Self {
        Self { parts: vec![(sum, weight)] }
    }

    /// With one mean more.
    #[must_use]
    pub fn and(mut self, sum: Tensor, weight: f64) -> Self {
        self.parts.push((sum, weight));
        self
    }

    /// The only mean, of a loss that is one.
    pub(super) fn single(mut self) -> Result<(Tensor, f64)> {
        match (self.parts.pop(), self.parts.is_empty()) {
            (Some(part), true) => Ok(part),
            _ => Err(Error::input("loss", "it is not one mean")),
        }
    }

    /// The loss of several groups.
    ///
    /// # Errors
    /// When they do not have the same parts.
    pub fn join(self, other: Self) -> Result<Self> {
        if self.parts.is_empty() {
            return Ok(other);
        }
        if self.parts.len() != other.parts.len() {
            let reason = format!("{} and {} parts", self.parts.len(), other.parts.len());
            return Err(Error::input("loss", reason));
        }
        let both = self.parts.into_iter().zip(other.parts);
        let parts = both.map(|((a, n), (b, m))| Ok(((a + b)?, n + m))).collect::<Result<_>>()?;
        Ok(Self { parts })
    }

    /// The loss, one number.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no part or nothing has any weight.
    pub fn value(&self) -> Result<Tensor> {
        let mut total: Option<Tensor> = None;
        for (sum, weight) in &self.parts {
            check_weight(*weight)?;
            let mean = (sum / *weight)?;
            total = Some(match total {
                None => mean,
                Some(t) => (t + mean)?,
            });
        }
        total.ok_or_else(|| no_weight("there is no part"))
    }
}

fn no_weight(reason: &str) -> Error {
    let help =
        "every image of the batch is ignored or of a class of weight 0; use larger batches or other weights";
    Error::input("loss", format!("{reason}: {help}"))
}

fn check_weight(weight: f64) -> Result<()> {
    if weight > 0.0 { Ok(()) } else { Err(no_weight("nothing to divide by")) }
}

/// The sums and weights of a loss over many batches, in f64 and constant memory.
#[derive(Debug, Default)]
pub(super) struct LossTally(Vec<(f64, f64)>);

impl LossTally {
    pub(super) fn add(&mut self, loss: &LossParts) -> Result<()> {
        self.0.resize(loss.parts.len().max(self.0.len()), (0.0, 0.0));
        for ((total, weights), (sum, weight)) in self.0.iter_mut().zip(&loss.parts) {
            *total += sum.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            *weights += weight;
        }
        Ok(())
    }

    pub(super) fn value(&self) -> Result<f64> {
        self.0.iter().try_for_each(|(_, weight)| check_weight(*weight))?;
        Ok(self.0.iter().map(|(sum, weight)| sum / weight).sum())
    }
}

/// What a validation gathers, batch by batch.
pub trait Findings: Debug {
    /// How many images were seen.
    fn count(&self) -> usize;

    /// One of the measures that [`Objective::measures`] lists, but for the loss, which the loop
    /// gathers itself; `None` for others.
    fn measure(&self, which: Measure) -> Option<f64>;
}

/// A network and what it is to learn.
pub trait Objective: Debug {
    /// Images of one size with their truth.
    type Group;
    /// What a validation gathers.
    type Findings: Findings;

    /// The loss of a group in a step of training.
    ///
    /// # Errors
    /// When shapes, labels or values do not fit the network.
    fn loss(&self, group: &Self::Group, pass: &mut Pass<'_>) -> Result<LossParts>;

    /// Nothing gathered yet.
    fn findings(&self) -> Self::Findings;

    /// Gathers what the network makes of a group outside of training, and gives the loss.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    fn observe(&self, group: &Self::Group, findings: &mut Self::Findings) -> Result<LossParts>;

    /// The measures that a validation gives.
    fn measures(&self) -> &'static [Measure];
}

/// Adds the names of `count` more images; those without names get their numbers.
pub(crate) fn push_names(all: &mut Vec<String>, names: &[String], count: usize) {
    if names.is_empty() {
        let first = all.len();
        all.extend((first..first + count).map(|i| i.to_string()));
    } else {
        all.extend_from_slice(names);
    }
}

/// Fails unless all images are finite, naming the first that is not.
pub(crate) fn check_finite(images: &Tensor, names: &[String]) -> Result<()> {
    let finite = |x: &Tensor| -> Result<bool> {
        let sum = (x * 0.0)?.sum_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        Ok(sum.to_scalar::<f64>()? == 0.0)
    };
    if finite(images)? {
        return Ok(());
    }
    for i in 0..images.dim(0)? {
        if !finite(&images.get(i)?)? {
            let name = names.get(i).map_or_else(|| format!("image {i} of its batch"), |id| format!("`{id}`"));
            let reason = format!("{name} holds NaN or infinite values; mend or leave it out");
            return Err(Error::input("images", reason));
        }
    }
    Ok(())
}
