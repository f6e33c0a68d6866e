//! Where batches come from.

use std::error::Error as StdError;
use std::fmt;

use crate::{Error, Result};

type Stream<'a, G> = Box<dyn Iterator<Item = Result<Vec<G>>> + 'a>;

/// The batches of each epoch. A batch is a list of groups: images of one size each, with their truth.
///
/// With a loader of `xdiff-data` a feed is
/// `Feed::new(loader.batches(), |epoch, batch| loader.rest_of_epoch(Position { epoch, batch }).map(…))`.
pub struct Feed<'a, G> {
    batches: usize,
    make: Box<dyn Fn(u64, usize) -> Stream<'a, G> + 'a>,
}

impl<G> fmt::Debug for Feed<'_, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("batches", &self.batches).finish_non_exhaustive()
    }
}

impl<'a, G: 'a> Feed<'a, G> {
    /// `make` gives the batches of an epoch from the batch of a number on, and `batches` is how many
    /// there are in an epoch. The same epoch must give the same batches each time.
    pub fn new<I, E>(batches: usize, make: impl Fn(u64, usize) -> I + 'a) -> Self
    where
        I: Iterator<Item = std::result::Result<Vec<G>, E>> + 'a,
        E: Into<Box<dyn StdError + Send + Sync>> + 'a,
    {
        let make = move |epoch, first| -> Stream<'a, G> {
            Box::new(make(epoch, first).map(|batch| batch.map_err(|e| Error::Data(e.into()))))
        };
        Self { batches, make: Box::new(make) }
    }

    /// The same batches in every epoch.
    pub fn fixed(batches: Vec<Vec<G>>) -> Self
    where
        G: Clone,
    {
        let count = batches.len();
        let make = move |_, first| -> Stream<'a, G> {
            Box::new(batches.iter().skip(first).cloned().map(Ok).collect::<Vec<_>>().into_iter())
        };
        Self { batches: count, make: Box::new(make) }
    }

    /// Batches an epoch.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// The batches of an epoch from one on, an error behind them when there are fewer than
    /// [`batches`](Self::batches).
    pub(super) fn epoch(
        &self,
        epoch: u64,
        first: usize,
    ) -> impl Iterator<Item = Result<Vec<G>>> + use<'a, '_, G> {
        let mut stream = (self.make)(epoch, first);
        (first..self.batches).map(move |i| match stream.next() {
            Some(Ok(batch)) if batch.is_empty() => {
                Err(Error::input("batches", format!("batch {i} of epoch {epoch} has no images")))
            }
            Some(batch) => batch,
            None => Err(Error::input(
                "batches",
                format!("epoch {epoch} ended after {i} of {} batches", self.batches),
            )),
        })
    }
}

/// What a training learns from, and what it is validated on.
#[derive(Debug)]
pub struct FitData<'a, G> {
    /// To learn from.
    pub train: Feed<'a, G>,
    /// To choose the best epoch on; its epoch 0 is used each time.
    pub validation: Option<Feed<'a, G>>,
}

impl<'a, G: 'a> FitData<'a, G> {
    /// Without validation.
    pub fn new(train: Feed<'a, G>) -> Self {
        Self { train, validation: None }
    }

    /// With validation.
    #[must_use]
    pub fn validated_on(self, validation: Feed<'a, G>) -> Self {
        Self { validation: Some(validation), ..self }
    }
}
