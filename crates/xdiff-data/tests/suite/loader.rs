//! The loader's promises: order, bits, errors, resuming, stopping.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use xdiff_data::{
    Batch, Cached, DataLoader, Dataset, Error, Image, InMemory, LoaderConfig, Mask, MaskKind, MissingMasks,
    Position, Result, Sample, SampleInfo, Scale, Subset, Values,
};
use xdiff_nn::Rng;

/// Each sample holds its index and one random number.
#[derive(Debug, Default)]
struct Counting {
    len: usize,
    calls: AtomicUsize,
    slow: Duration,
}

impl Counting {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Self { len, ..Self::default() })
    }
}

impl Dataset for Counting {
    fn len(&self) -> usize {
        self.len
    }
    fn info(&self, index: usize) -> Result<SampleInfo> {
        Ok(SampleInfo { id: index.to_string(), class: Some(index as u32 % 3), group: None })
    }
    fn get(&self, index: usize, rng: &mut Rng) -> Result<Sample> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.slow);
        let image = Image::new(1, 1, 2, vec![index as f32 / 1000.0, rng.uniform() as f32], Scale::Unit)?;
        Ok(Sample { info: self.info(index)?, image, masks: BTreeMap::new() })
    }
}

fn config(batch_size: usize) -> LoaderConfig {
    LoaderConfig { batch_size, seed: 5, threads: 2, values: Values::Unit, ..Default::default() }
}

fn pixels(batch: &Batch) -> Vec<Vec<f32>> {
    batch.images.flatten_from(1).unwrap().to_vec2().unwrap()
}

/// All samples of an epoch by index, and their order.
fn epoch(loader: &DataLoader, n: u64) -> (BTreeMap<usize, Vec<f32>>, Vec<usize>) {
    let mut samples = BTreeMap::new();
    let mut order = Vec::new();
    for batch in loader.epoch(n) {
        let batch = batch.unwrap();
        order.extend(&batch.indices);
        samples.extend(batch.indices.iter().copied().zip(pixels(&batch)));
    }
    (samples, order)
}

#[test]
fn a_sample_is_the_same_whatever_batch_threads_and_prefetch() {
    let reference = epoch(&DataLoader::new(Counting::new(23), config(4)).unwrap(), 2);
    for (batch_size, threads, prefetch) in [(1, 1, 0), (7, 3, 1), (23, 2, 8), (40, 1, 2)] {
        let config = LoaderConfig { threads, prefetch, ..config(batch_size) };
        let got = epoch(&DataLoader::new(Counting::new(23), config).unwrap(), 2);
        assert_eq!(got, reference, "batch {batch_size}, {threads} threads, prefetch {prefetch}");
    }
    let other = epoch(&DataLoader::new(Counting::new(23), config(4)).unwrap(), 3);
    assert_ne!(other.1, reference.1, "another epoch has another order");
    assert!(other.0.iter().all(|(i, v)| v != &reference.0[i]), "and other chance");
}

#[test]
fn unshuffled_epochs_are_in_order_and_drop_last_drops() {
    let plain = LoaderConfig { shuffle: false, ..config(4) };
    let loader = DataLoader::new(Counting::new(10), plain).unwrap();
    assert_eq!(epoch(&loader, 1).1, (0..10).collect::<Vec<_>>());
    assert_eq!(loader.epoch(0).map(|b| b.unwrap().len()).collect::<Vec<_>>(), [4, 4, 2]);
    let dropping = DataLoader::new(Counting::new(10), LoaderConfig { drop_last: true, ..plain }).unwrap();
    assert_eq!(dropping.epoch(0).map(|b| b.unwrap().len()).collect::<Vec<_>>(), [4, 4]);
    assert_eq!((loader.batches(), dropping.batches()), (3, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn resuming_anywhere_goes_on_to_the_same_bits(len in 1usize..30, size in 1usize..9, at in 0usize..12) {
        let loader = DataLoader::new(Counting::new(len), config(size)).unwrap();
        let whole: Vec<Batch> = loader.stream(Position::default()).take(at + 4).map(|b| b.unwrap()).collect();
        let from = if at == 0 { Position::default() } else { whole[at - 1].next };
        for (resumed, straight) in loader.stream(from).zip(&whole[at..]) {
            let resumed = resumed.unwrap();
            prop_assert_eq!(&resumed.indices, &straight.indices);
            prop_assert_eq!(pixels(&resumed), pixels(straight));
            prop_assert_eq!((resumed.position, resumed.next), (straight.position, straight.next));
        }
        let single = loader.batch(from).unwrap();
        prop_assert_eq!(pixels(&single), pixels(&whole[at]));
    }
}

#[test]
fn the_rest_of_an_epoch_ends_with_it() {
    let loader = DataLoader::new(Counting::new(10), config(3)).unwrap();
    assert_eq!(loader.rest_of_epoch(Position { epoch: 4, batch: 2 }).count(), 2);
    assert_eq!(loader.rest_of_epoch(Position { epoch: 4, batch: 9 }).count(), 0);
    assert!(matches!(loader.batch(Position { epoch: 0, batch: 4 }), Err(Error::Argument { .. })));
    let far = Position { epoch: u64::MAX, batch: 3 };
    assert_eq!(loader.stream(far).count(), 1, "epochs end where their numbers do");
}

#[test]
fn batches_carry_classes_ids_and_range() {
    let signed = LoaderConfig { values: Values::Signed, shuffle: false, ..config(5) };
    let batch = DataLoader::new(Counting::new(5), signed).unwrap().epoch(0).next().unwrap().unwrap();
    assert_eq!(batch.classes.as_ref().unwrap().to_vec1::<u32>().unwrap(), [0, 1, 2, 0, 1]);
    assert_eq!(batch.ids, ["0", "1", "2", "3", "4"]);
    assert_eq!(batch.images.dims(), [5, 1, 1, 2]);
    assert_eq!(pixels(&batch)[3][0], 2.0 * 0.003 - 1.0);
    assert!(batch.masks.is_empty() && batch.mask(&MaskKind::Lesion).is_err());
}

/// Fails for one index and panics for another.
#[derive(Debug)]
struct Faulty;

impl Dataset for Faulty {
    fn len(&self) -> usize {
        6
    }
    fn info(&self, index: usize) -> Result<SampleInfo> {
        Ok(SampleInfo { id: index.to_string(), ..Default::default() })
    }
    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        assert_ne!(index, 3, "a fault of the dataset");
        if index == 1 {
            return Err(Error::argument("file", "unreadable"));
        }
        let image = Image::new(1, 1, 1, vec![0.0], Scale::Unit)?;
        Ok(Sample { info: self.info(index)?, image, masks: BTreeMap::new() })
    }
}

#[test]
fn errors_and_panics_come_as_items_and_the_rest_goes_on() {
    let plain = LoaderConfig { shuffle: false, ..config(2) };
    let items: Vec<_> = DataLoader::new(Arc::new(Faulty), plain).unwrap().epoch(0).collect();
    assert_eq!(items.len(), 3);
    match &items[0] {
        Err(Error::Sample { index: 1, batch: 0, epoch: 0, source }) => {
            assert!(matches!(**source, Error::Argument { .. }));
        }
        other => panic!("{other:?}"),
    }
    let panicked = items[1].as_ref().unwrap_err().to_string();
    assert!(panicked.contains("sample 3") && panicked.contains("a fault of the dataset"), "{panicked}");
    assert_eq!(items[2].as_ref().unwrap().indices, [4, 5]);
}

#[test]
fn dropping_the_iterator_stops_the_work() {
    let data = Arc::new(Counting { len: 100_000, slow: Duration::from_millis(2), ..Default::default() });
    let loader = DataLoader::new(data.clone(), LoaderConfig { prefetch: 3, ..config(64) }).unwrap();
    let mut stream = loader.stream(Position::default());
    stream.next().unwrap().unwrap();
    let start = Instant::now();
    drop(stream);
    assert!(start.elapsed() < Duration::from_millis(500));
    std::thread::sleep(Duration::from_millis(100));
    let after = data.calls.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(data.calls.load(Ordering::SeqCst), after, "samples were still being made");
}

#[test]
fn prefetching_is_bounded() {
    let data = Counting::new(1000);
    let loader = DataLoader::new(data.clone(), LoaderConfig { prefetch: 2, ..config(10) }).unwrap();
    let mut stream = loader.stream(Position::default());
    stream.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // One taken, two waiting, one in hand.
    let made = data.calls.load(Ordering::SeqCst);
    assert!(made <= 40, "{made} samples were made");
}

fn sample(id: &str, side: usize, class: Option<u32>, masks: &[MaskKind]) -> Sample {
    let image = Image::new(1, side, side, vec![0.5; side * side], Scale::Unit).unwrap();
    let masks =
        masks.iter().map(|k| (k.clone(), Mask::new(side, side, vec![1; side * side]).unwrap())).collect();
    Sample { info: SampleInfo { id: id.into(), class, group: None }, image, masks }
}

#[test]
fn samples_that_do_not_fit_together_are_refused_by_name() {
    let lesion = [MaskKind::Lesion];
    let mut wrong_mask = sample("b", 4, Some(0), &[]);
    wrong_mask.masks.insert(MaskKind::Lesion, Mask::empty(3, 4).unwrap());
    let mut stored = sample("b", 4, Some(0), &lesion);
    stored.image = Image::new(1, 4, 4, vec![9.0; 16], Scale::Stored).unwrap();
    let cases = [
        ("sizes", sample("b", 5, Some(0), &lesion), "1×5×5"),
        ("classes", sample("b", 4, None, &lesion), "no class"),
        ("masks", sample("b", 4, Some(0), &[]), "no `lesion` mask"),
        ("mask sizes", wrong_mask, "3×4"),
        ("scales", stored, "Window"),
    ];
    let mut failed = Vec::new();
    let plain = LoaderConfig { shuffle: false, ..config(2) };
    for (name, other, want) in cases {
        let data = InMemory::new(vec![sample("a", 4, Some(0), &lesion), other], vec!["x".into()]).unwrap();
        let got = DataLoader::new(Arc::new(data), plain).unwrap().epoch(0).next().unwrap();
        match got {
            Err(e) if e.to_string().contains(want) => {}
            other => failed.push(format!("{name}: {other:?}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));

    let data = InMemory::new(vec![sample("a", 4, None, &lesion), sample("b", 4, None, &[])], vec![]).unwrap();
    let filling = LoaderConfig { missing_masks: MissingMasks::Empty, ..plain };
    let batch = DataLoader::new(Arc::new(data), filling).unwrap().epoch(0).next().unwrap().unwrap();
    let sums = batch.mask(&MaskKind::Lesion).unwrap().flatten_from(1).unwrap().sum(1).unwrap();
    assert_eq!(sums.to_vec1::<f32>().unwrap(), [16.0, 0.0]);
    assert!(batch.classes.is_none());
}

#[test]
fn groups_are_the_batch_by_size() {
    let lesion = [MaskKind::Lesion];
    let sides = [4, 6, 4, 5, 6, 6, 4];
    let samples: Vec<Sample> = sides
        .iter()
        .enumerate()
        .map(|(n, side)| sample(&n.to_string(), *side, Some(n as u32 % 2), &lesion))
        .collect();
    let data = Arc::new(InMemory::new(samples, vec!["a".into(), "b".into()]).unwrap());
    let loader = |config| DataLoader::new(data.clone(), config).unwrap();
    let plain = LoaderConfig { shuffle: false, ..config(7) };
    let groups = loader(plain).groups(Position::default()).unwrap();
    let indices: Vec<_> = groups.iter().map(|g| g.indices.clone()).collect();
    assert_eq!(indices, [vec![0, 2, 6], vec![1, 4, 5], vec![3]]);
    for group in &groups {
        let side = sides[group.indices[0]];
        assert_eq!(group.images.dims(), [group.len(), 1, side, side]);
        assert_eq!(group.mask(&MaskKind::Lesion).unwrap().dims(), [group.len(), 1, side, side]);
        let classes: Vec<u32> = group.indices.iter().map(|i| *i as u32 % 2).collect();
        assert_eq!(group.classes.as_ref().unwrap().to_vec1::<u32>().unwrap(), classes);
        assert_eq!(group.next, Position { epoch: 1, batch: 0 });
    }
    assert!(matches!(loader(plain).batch(Position::default()), Err(Error::Batch { .. })));

    // The same whatever the number of threads, every sample once, and from a position on as without a stop.
    let seen = |threads: usize| -> Vec<Vec<Vec<usize>>> {
        let batches = loader(LoaderConfig { threads, ..config(3) }).epoch_groups(2);
        batches.map(|b| b.unwrap().into_iter().map(|g| g.indices).collect()).collect()
    };
    assert_eq!(seen(1), seen(3));
    let mut all: Vec<usize> = seen(1).concat().concat();
    all.sort_unstable();
    assert_eq!(all, (0..7).collect::<Vec<_>>());
    let rest = loader(config(3)).rest_of_epoch_groups(Position { epoch: 2, batch: 1 });
    let rest: Vec<Vec<_>> = rest.map(|b| b.unwrap().into_iter().map(|g| g.indices).collect()).collect();
    assert_eq!(rest, seen(1)[1..]);
    // Samples of one size make one group, the batch itself.
    let one = DataLoader::new(Counting::new(5), config(5)).unwrap();
    let groups = one.groups(Position::default()).unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(pixels(&groups[0]), pixels(&one.batch(Position::default()).unwrap()));
}

#[test]
fn what_one_size_has_and_another_lacks_is_missed() {
    let groups = |first: Sample, second: Sample, missing_masks| {
        let data = InMemory::new(vec![first, second], vec!["a".into()]).unwrap();
        let config = LoaderConfig { missing_masks, ..config(2) };
        DataLoader::new(Arc::new(data), config).unwrap().groups(Position::default())
    };
    let lesion = [MaskKind::Lesion];
    let (with, without) = (sample("with", 4, None, &lesion), sample("without", 6, None, &[]));
    let error = groups(with.clone(), without.clone(), MissingMasks::Refuse).unwrap_err();
    assert!(matches!(&error, Error::Batch { reason, .. } if reason.contains("without has no")), "{error}");
    let filled = groups(with, without.clone(), MissingMasks::Empty).unwrap();
    assert!(filled.iter().all(|g| g.mask(&MaskKind::Lesion).is_ok()));
    let error = groups(sample("classed", 4, Some(0), &[]), without, MissingMasks::Refuse).unwrap_err();
    assert!(error.to_string().contains("has no class"), "{error}");
}

#[test]
fn impossible_loaders_are_refused() {
    let make = |len, config| DataLoader::new(Counting::new(len), config).map(|_| ());
    assert!(make(4, config(0)).is_err());
    assert!(make(0, config(2)).is_err());
    assert!(make(3, LoaderConfig { drop_last: true, ..config(4) }).is_err());
    assert!(make(3, LoaderConfig { prefetch: 1 << 20, ..config(4) }).is_err());
}

#[test]
fn the_cache_keeps_to_its_bound_and_changes_nothing() {
    let inner = Counting::new(10);
    let one = 2 * 4 + 512;
    let cached = Cached::new(inner.clone(), 4 * one);
    let first: Vec<_> = (0..10).map(|i| cached.get(i, &mut Rng::new(1)).unwrap()).collect();
    assert_eq!(cached.held(), (4, 4 * one));
    let again: Vec<_> = (0..10).map(|i| cached.get(i, &mut Rng::new(2)).unwrap()).collect();
    assert_eq!(first, again);
    assert_eq!(inner.calls.load(Ordering::SeqCst), 10 + 6);
    assert!(matches!(Subset::new(cached, vec![3, 10]), Err(Error::Index { index: 10, len: 10 })));
}

#[test]
fn every_sample_is_seen_once_an_epoch() {
    let loader = DataLoader::new(Counting::new(57), config(8)).unwrap();
    for n in 0..3 {
        let order = epoch(&loader, n).1;
        assert_eq!(order, loader.order(n));
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), 57);
    }
}
