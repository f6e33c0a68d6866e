//! Where batches come from.

use std::error::Error as StdError;
use std::fmt;

use crate::{Batch, Error, Result};

type Make<'a> = Box<dyn Fn(u64, usize) -> Result<Batch> + 'a>;

/// Batches by epoch and number, so that a training can go on anywhere without the state of an iterator.
pub struct Batches<'a> {
    count: usize,
    make: Make<'a>,
}

impl fmt::Debug for Batches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<'a> Batches<'a> {
    /// `make` gives the batch of a number in an epoch, and `count` is how many there are in one. The same
    /// epoch and number must give the same batch each time. Numbers are asked for in order, so that a
    /// loader that works ahead may follow.
    pub fn new<E: Into<Box<dyn StdError + Send + Sync>>>(
        count: usize,
        make: impl Fn(u64, usize) -> std::result::Result<Batch, E> + 'a,
    ) -> Self {
        let make = move |epoch, batch| make(epoch, batch).map_err(|e| Error::Data(e.into()));
        Self { count, make: Box::new(make) }
    }

    /// The same batches in every epoch.
    pub fn fixed(batches: Vec<Batch>) -> Self {
        let lacks = |i| Error::input("batches", format!("there is no batch {i}"));
        let count = batches.len();
        Self { count, make: Box::new(move |_, i| batches.get(i).cloned().ok_or_else(|| lacks(i))) }
    }

    /// Batches an epoch.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The batch of a number in an epoch.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be made.
    pub fn get(&self, epoch: u64, batch: usize) -> Result<Batch> {
        (self.make)(epoch, batch)
    }
}

/// What a training learns from, what it is validated on, and what its prototypes are taken from.
#[derive(Debug)]
pub struct TrainData<'a> {
    /// To learn from; changed at random from epoch to epoch, if one likes.
    pub train: Batches<'a>,
    /// To judge each epoch by; its epoch 0 is used each time.
    pub validation: Option<Batches<'a>>,
    /// The training images as they are, onto which prototypes are projected; its epoch 0 is used each
    /// time.
    pub push: Option<Batches<'a>>,
}

impl<'a> TrainData<'a> {
    /// Without validation and without images to project onto.
    pub fn new(train: Batches<'a>) -> Self {
        Self { train, validation: None, push: None }
    }

    /// With validation.
    #[must_use]
    pub fn validated_on(self, validation: Batches<'a>) -> Self {
        Self { validation: Some(validation), ..self }
    }

    /// With images to project onto.
    #[must_use]
    pub fn pushed_onto(self, push: Batches<'a>) -> Self {
        Self { push: Some(push), ..self }
    }

    /// Fails where a part that is given has no batch.
    pub(super) fn validate(&self) -> Result<()> {
        let parts = [
            ("training data", Some(&self.train)),
            ("validation data", self.validation.as_ref()),
            ("images to project onto", self.push.as_ref()),
        ];
        match parts.into_iter().find(|(_, batches)| batches.is_some_and(|b| b.count == 0)) {
            Some((what, _)) => Err(Error::input(what, "there is no batch; give at least one")),
            None => Ok(()),
        }
    }
}
