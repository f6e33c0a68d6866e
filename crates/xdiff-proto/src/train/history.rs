//! What happened in a training.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use xdiff_core::train::Tensors;

use crate::Result;
use crate::loss::Term;

/// What the network answers to the validation images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// The mean of −ln of the probability of the true class.
    pub cross_entropy: f64,
    /// The share of right answers.
    pub accuracy: f64,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pushed {
    /// The mean, over the prototypes, of the distance by which each moved (the root of the squared one).
    pub moved: f64,
    /// What the network answers behind it; nothing without validation data.
    pub validation: Option<Validation>,
}

/// What one epoch gave.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochReport {
    /// The epoch, from 0, over all stages.
    pub epoch: usize,
    /// The mean of the losses of its steps.
    pub loss: f64,
    /// The mean of each term that its stage learns by, without weights.
    pub terms: BTreeMap<Term, f64>,
    /// The share of training images that were answered rightly, as they were in the steps; nothing where
    /// the network gives no answers.
    pub accuracy: Option<f64>,
    /// What the network answers to the validation images; nothing without.
    pub validation: Option<Validation>,
    /// The push behind the epoch.
    pub pushed: Option<Pushed>,
}

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// What each epoch gave.
    pub epochs: Vec<EpochReport>,
}

/// Loss, terms, accuracy, two of the validation, the push's distance and two of its validation.
const COLUMNS: usize = 1 + Term::ALL.len() + 6;

impl EpochReport {
    /// All numbers, NaN for what there is not: none of them can be NaN.
    fn row(&self) -> Vec<f64> {
        let validated = |v: Option<Validation>| v.map_or([f64::NAN; 2], |v| [v.cross_entropy, v.accuracy]);
        let mut row = vec![self.loss];
        row.extend(Term::ALL.map(|term| self.terms.get(&term).copied().unwrap_or(f64::NAN)));
        row.push(self.accuracy.unwrap_or(f64::NAN));
        row.extend(validated(self.validation));
        row.push(self.pushed.map_or(f64::NAN, |pushed| pushed.moved));
        row.extend(validated(self.pushed.and_then(|pushed| pushed.validation)));
        row
    }

    /// What [`row`](Self::row) gave; `None` for another length.
    fn of_row(epoch: usize, row: &[f64]) -> Option<Self> {
        let (loss, rest) = row.split_first()?;
        let (terms, rest) = rest.split_at_checked(Term::ALL.len())?;
        let &[accuracy, v0, v1, moved, p0, p1] = rest else { return None };
        let known = |value: f64| (!value.is_nan()).then_some(value);
        let validated = |cross_entropy: f64, accuracy: f64| {
            Some(Validation { cross_entropy: known(cross_entropy)?, accuracy: known(accuracy)? })
        };
        let terms = Term::ALL.into_iter().zip(terms).filter_map(|(term, v)| Some((term, known(*v)?)));
        Some(Self {
            epoch,
            loss: *loss,
            terms: terms.collect(),
            accuracy: known(accuracy),
            validation: validated(v0, v1),
            pushed: known(moved).map(|moved| Pushed { moved, validation: validated(p0, p1) }),
        })
    }
}

/// The name of the only tensor of the group.
const ROWS: &str = "rows";

impl History {
    /// The epochs as f64, to the last bit.
    pub(super) fn tensors(&self) -> Result<Tensors> {
        let rows: Vec<f64> = self.epochs.iter().flat_map(EpochReport::row).collect();
        if rows.is_empty() {
            return Ok(Tensors::new());
        }
        let rows = Tensor::from_vec(rows, (self.epochs.len(), COLUMNS), &Device::Cpu)?;
        Ok([(ROWS.to_owned(), rows)].into())
    }

    /// What [`tensors`](Self::tensors) gave; the reason when they are something else.
    pub(super) fn from_tensors(losses: Vec<f32>, tensors: &Tensors) -> std::result::Result<Self, String> {
        let Some(rows) = tensors.get(ROWS) else { return Ok(Self { losses, epochs: Vec::new() }) };
        let rows = rows.to_vec2::<f64>().map_err(|_| "its epochs are no table of f64".to_owned())?;
        let epochs = rows.iter().enumerate().map(|(epoch, row)| EpochReport::of_row(epoch, row));
        let epochs = epochs.collect::<Option<Vec<_>>>().ok_or("its epochs have another number of columns")?;
        Ok(Self { losses, epochs })
    }
}

/// What the steps of an epoch gave so far, in f64.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tally {
    steps: usize,
    /// Sums over the steps; `None` for terms that no step had.
    terms: [Option<f64>; Term::ALL.len()],
    /// Images that were answered, and answered rightly.
    answered: [usize; 2],
    /// Images of each class.
    pub(super) classes: Vec<usize>,
}

impl Tally {
    pub(super) fn new(classes: usize) -> Self {
        Self { steps: 0, terms: [None; Term::ALL.len()], answered: [0; 2], classes: vec![0; classes] }
    }

    pub(super) fn add(&mut self, terms: &BTreeMap<Term, f64>, right: Option<usize>, labels: &[u32]) {
        self.steps += 1;
        for (sum, term) in self.terms.iter_mut().zip(Term::ALL) {
            if let Some(value) = terms.get(&term) {
                *sum = Some(sum.unwrap_or(0.0) + value);
            }
        }
        if let Some(right) = right {
            self.answered[0] += labels.len();
            self.answered[1] += right;
        }
        for label in labels {
            if let Some(count) = self.classes.get_mut(*label as usize) {
                *count += 1;
            }
        }
    }

    pub(super) fn terms(&self) -> BTreeMap<Term, f64> {
        let means = Term::ALL.into_iter().zip(self.terms);
        means.filter_map(|(term, sum)| Some((term, sum? / self.steps as f64))).collect()
    }

    pub(super) fn accuracy(&self) -> Option<f64> {
        let [answered, right] = self.answered;
        (answered > 0).then(|| right as f64 / answered as f64)
    }

    pub(super) fn tensors(&self) -> Result<Tensors> {
        let counts =
            [self.steps, self.answered[0], self.answered[1]].into_iter().chain(self.classes.iter().copied());
        let numbers = counts.map(|n| n as f64).chain(self.terms.iter().map(|t| t.unwrap_or(f64::NAN)));
        let numbers = Tensor::from_iter(numbers, &Device::Cpu)?;
        Ok([(ROWS.to_owned(), numbers)].into())
    }

    /// What [`tensors`](Self::tensors) gave; `None` when they are something else.
    pub(super) fn from_tensors(classes: usize, tensors: &Tensors) -> Option<Self> {
        let numbers = tensors.get(ROWS)?.to_vec1::<f64>().ok()?;
        let (counts, terms) = numbers.split_at_checked(3 + classes)?;
        let whole = |n: &f64| (n.fract() == 0.0 && (0.0..1e15).contains(n)).then_some(*n as usize);
        let counts = counts.iter().map(whole).collect::<Option<Vec<_>>>()?;
        let known = |value: &f64| (!value.is_nan()).then_some(*value);
        let terms: Vec<Option<f64>> = terms.iter().map(known).collect();
        Some(Self {
            steps: counts[0],
            terms: terms.try_into().ok()?,
            answered: [counts[1], counts[2]],
            classes: counts[3..].to_vec(),
        })
    }
}
