//! Batches, made ahead on background threads and always in the same order.

mod collate;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

pub use collate::{Batch, MissingMasks, Values};

use crate::dataset::{Dataset, Sample};
use crate::{Error, Result};

/// How a [`DataLoader`] makes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Samples a batch.
    pub batch_size: usize,
    /// Whether each epoch has an order of its own, drawn from the seed and the epoch.
    pub shuffle: bool,
    /// The seed of the order and of each sample's chance.
    pub seed: u64,
    /// Whether a last batch that is not full is left out.
    pub drop_last: bool,
    /// How many batches may wait ready. 0: a batch is only handed over when asked for.
    pub prefetch: usize,
    /// Threads that make samples; 0 for as many as there are cores.
    pub threads: usize,
    /// The range of the images' values.
    pub values: Values,
    /// What to do when some samples of a batch have a mask that others lack.
    pub missing_masks: MissingMasks,
}

impl Default for LoaderConfig {
    /// Batches of 16, shuffled with seed 0, two of them ahead, in [−1, 1].
    fn default() -> Self {
        Self {
            batch_size: 16,
            shuffle: true,
            seed: 0,
            drop_last: false,
            prefetch: 2,
            threads: 0,
            values: Values::Signed,
            missing_masks: MissingMasks::Refuse,
        }
    }
}

impl LoaderConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// When the batch size is 0, or `prefetch` or `threads` is beyond all use (over 1024).
    pub fn validate(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::argument("batch_size", "0 given; at least 1"));
        }
        for (what, value) in [("prefetch", self.prefetch), ("threads", self.threads)] {
            if value > 1024 {
                return Err(Error::argument(what, format!("{value} given; at most 1024")));
            }
        }
        Ok(())
    }
}

/// A place in training: the next batch to be seen. Saved with a checkpoint, it lets a run go on as if
/// it had never stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The batch in the epoch, from 0.
    pub batch: usize,
}

/// Makes batches of a dataset.
///
/// The order depends on the seed and the epoch alone, and a sample's chance on the seed, the epoch and
/// its index: neither batch size, thread count nor the place where a run was resumed changes a bit of a
/// sample.
///
/// ```
/// use std::sync::Arc;
/// use xdiff_data::phantom::{PhantomConfig, PhantomDataset};
/// use xdiff_data::{DataLoader, LoaderConfig, Position};
///
/// let data = Arc::new(PhantomDataset::new(PhantomConfig { patients: 8, size: 32, ..Default::default() })?);
/// let loader = DataLoader::new(data, LoaderConfig { batch_size: 4, ..Default::default() })?;
/// for batch in loader.epoch(0) {
///     let batch = batch?;
///     assert_eq!(batch.images.dims(), [4, 1, 32, 32]);
/// }
/// // Any number of batches, over the epochs, from where a checkpoint says.
/// let mut stream = loader.stream(Position { epoch: 3, batch: 1 });
/// let batch = stream.next().transpose()?;
/// assert_eq!(batch.map(|b| b.next), Some(Position { epoch: 4, batch: 0 }));
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone)]
pub struct DataLoader {
    dataset: Arc<dyn Dataset>,
    /// The dataset's length when the loader was made; the order must not change under it.
    len: usize,
    config: LoaderConfig,
    pool: Arc<ThreadPool>,
}

impl fmt::Debug for DataLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataLoader").field("samples", &self.len).field("config", &self.config).finish()
    }
}

impl DataLoader {
    /// A loader over a dataset.
    ///
    /// # Errors
    /// When the configuration is wrong, the dataset gives no batch at all, or threads cannot be started.
    pub fn new(dataset: Arc<dyn Dataset>, config: LoaderConfig) -> Result<Self> {
        config.validate()?;
        let pool = ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|i| format!("xdiff-data {i}"))
            .build()
            .map_err(|e| Error::argument("threads", format!("{} cannot be started: {e}", config.threads)))?;
        let loader = Self { len: dataset.len(), dataset, config, pool: Arc::new(pool) };
        if loader.batches() == 0 {
            return Err(Error::argument(
                "batch_size",
                format!(
                    "{} samples give no batch of {} with drop_last {}",
                    loader.len, config.batch_size, config.drop_last
                ),
            ));
        }
        Ok(loader)
    }

    /// Batches an epoch.
    pub fn batches(&self) -> usize {
        let n = self.len;
        if self.config.drop_last { n / self.config.batch_size } else { n.div_ceil(self.config.batch_size) }
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.dataset
    }

    /// The configuration.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// The order in which an epoch sees the samples.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len).collect();
        if self.config.shuffle {
            Rng::new(self.config.seed).fork("shuffle").sample(epoch).shuffle(&mut order);
        }
        order
    }

    /// The batches of one epoch.
    pub fn epoch(&self, epoch: u64) -> Batches {
        self.start(Position { epoch, batch: 0 }, Some(epoch), collate::collate)
    }

    /// The batches of one epoch, each as its groups of samples of one size: for images that keep their
    /// sizes. Which samples stand in a batch, and all chance, is as in [`DataLoader::epoch`]; groups come
    /// in the order in which their sizes first occur in the batch.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use xdiff_data::{DataLoader, Image, InMemory, LoaderConfig, Sample, SampleInfo, Scale};
    ///
    /// let sample = |n: usize, side: usize| -> xdiff_data::Result<Sample> {
    ///     let info = SampleInfo { id: format!("image {n}"), ..Default::default() };
    ///     let image = Image::new(1, side, side, vec![0.5; side * side], Scale::Unit)?;
    ///     Ok(Sample { info, image, masks: Default::default() })
    /// };
    /// let data = InMemory::new(vec![sample(0, 8)?, sample(1, 12)?, sample(2, 8)?], vec![])?;
    /// let config = LoaderConfig { batch_size: 3, shuffle: false, ..Default::default() };
    /// let loader = DataLoader::new(Arc::new(data), config)?;
    /// for groups in loader.epoch_groups(0) {
    ///     let sizes: Vec<_> = groups?.iter().map(|g| g.images.dims().to_vec()).collect();
    ///     assert_eq!(sizes, [[2, 1, 8, 8], [1, 1, 12, 12]]);
    /// }
    /// # Ok::<(), xdiff_data::Error>(())
    /// ```
    pub fn epoch_groups(&self, epoch: u64) -> Batches<Vec<Batch>> {
        self.start(Position { epoch, batch: 0 }, Some(epoch), collate::by_size)
    }

    /// The batches of one epoch from a position in it.
    pub fn rest_of_epoch(&self, from: Position) -> Batches {
        self.start(from, Some(from.epoch), collate::collate)
    }

    /// The groups of one epoch from a position in it.
    pub fn rest_of_epoch_groups(&self, from: Position) -> Batches<Vec<Batch>> {
        self.start(from, Some(from.epoch), collate::by_size)
    }

    /// Batches without end, epoch after epoch, from a position. A batch past the last of its epoch is
    /// taken for the first of the next.
    ///
    /// An error does not end the stream: a caller who wants to stop at one must do so.
    pub fn stream(&self, from: Position) -> Batches {
        self.start(from, None, collate::collate)
    }

    fn start<T: Send + 'static>(
        &self,
        from: Position,
        last_epoch: Option<u64>,
        collate: Collate<T>,
    ) -> Batches<T> {
        let (sender, receiver) = sync_channel(self.config.prefetch);
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker { loader: self.clone(), sender, stop: stop.clone(), collate };
        let started = std::thread::Builder::new()
            .name("xdiff-data loader".into())
            .spawn(move || worker.run(from, last_epoch));
        let failed =
            started.err().map(|e| Error::argument("loader", format!("its thread cannot be started: {e}")));
        Batches { receiver, stop, failed }
    }

    /// One batch, made on the calling thread's behalf: what [`DataLoader::epoch`] gives at that position.
    ///
    /// # Errors
    /// When the position is past the epoch's end, a sample fails, or samples do not fit together.
    pub fn batch(&self, at: Position) -> Result<Batch> {
        self.make(at, &self.order(at.epoch), &AtomicBool::new(false), collate::collate)
    }

    /// The groups of one batch: what [`DataLoader::epoch_groups`] gives at that position.
    ///
    /// # Errors
    /// As [`DataLoader::batch`], but samples need not be of one size.
    pub fn groups(&self, at: Position) -> Result<Vec<Batch>> {
        self.make(at, &self.order(at.epoch), &AtomicBool::new(false), collate::by_size)
    }

    fn make<T>(&self, at: Position, order: &[usize], stop: &AtomicBool, collate: Collate<T>) -> Result<T> {
        let batches = self.batches();
        if at.batch >= batches {
            return Err(Error::argument(
                "position",
                format!("batch {} of an epoch of {batches} batches", at.batch),
            ));
        }
        let first = at.batch * self.config.batch_size;
        let indices = &order[first..order.len().min(first + self.config.batch_size)];
        let chance = Rng::new(self.config.seed).fork("sample").sample(at.epoch);
        let samples: Vec<Result<Sample>> =
            self.pool.install(|| indices.par_iter().map(|i| self.sample(at, *i, &chance, stop)).collect());
        let samples = samples.into_iter().collect::<Result<Vec<_>>>()?;
        let next = if at.batch + 1 < batches {
            Position { batch: at.batch + 1, ..at }
        } else {
            Position { epoch: at.epoch.saturating_add(1), batch: 0 }
        };
        collate(samples, indices, at, next, &self.config)
    }

    fn sample(&self, at: Position, index: usize, chance: &Rng, stop: &AtomicBool) -> Result<Sample> {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::argument("loader", "its iterator was dropped"));
        }
        let mut rng = chance.sample(index as u64);
        let made = catch_unwind(AssertUnwindSafe(|| self.dataset.get(index, &mut rng)))
            .unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(panic.as_ref()) }));
        made.map_err(|e| Error::Sample { epoch: at.epoch, batch: at.batch, index, source: Box::new(e) })
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// From the samples of a batch and their indices, with the batch's position and the next, to what a loader gives.
type Collate<T> = fn(Vec<Sample>, &[usize], Position, Position, &LoaderConfig) -> Result<T>;

struct Worker<T> {
    loader: DataLoader,
    sender: SyncSender<Result<T>>,
    stop: Arc<AtomicBool>,
    collate: Collate<T>,
}

impl<T> Worker<T> {
    fn run(self, from: Position, last_epoch: Option<u64>) {
        let mut at = from;
        let mut order = self.loader.order(at.epoch);
        loop {
            if at.batch >= self.loader.batches() {
                let Some(epoch) = at.epoch.checked_add(1) else { return };
                if last_epoch.is_some_and(|last| epoch > last) {
                    return;
                }
                at = Position { epoch, batch: 0 };
                order = self.loader.order(epoch);
            }
            let batch = self.loader.make(at, &order, &self.stop, self.collate);
            if self.stop.load(Ordering::Relaxed) || self.sender.send(batch).is_err() {
                return;
            }
            at.batch += 1;
        }
    }
}

/// The batches of a [`DataLoader`], or their groups, in order. Dropping it stops the work behind it after the samples
/// that are just being made.
#[derive(Debug)]
pub struct Batches<T = Batch> {
    receiver: Receiver<Result<T>>,
    stop: Arc<AtomicBool>,
    failed: Option<Error>,
}

impl<T> Iterator for Batches<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.failed.take().map(Err).or_else(|| self.receiver.recv().ok())
    }
}

impl<T> Drop for Batches<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
