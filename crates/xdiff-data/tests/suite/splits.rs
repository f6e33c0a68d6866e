//! Splits: no group torn, classes balanced, the same for the same seed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xdiff_data::{Error, SampleInfo, SplitConfig, k_fold, split};

fn items(classes_and_groups: &[(u32, Option<u32>)]) -> Vec<SampleInfo> {
    let info = |(i, (class, group)): (usize, &(u32, Option<u32>))| SampleInfo {
        id: i.to_string(),
        class: Some(*class),
        group: group.map(|g| format!("p{g}")),
    };
    classes_and_groups.iter().enumerate().map(info).collect()
}

/// Groups as sets, an item without one by itself.
fn groups(items: &[SampleInfo], part: &[usize]) -> BTreeSet<String> {
    part.iter().map(|i| items[*i].group.clone().unwrap_or_else(|| format!("item {i}"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parts_cover_everything_once_and_tear_no_group(
        raw in prop::collection::vec((0u32..4, prop::option::of(0u32..25)), 3..120),
        seed in 0u64..1000,
    ) {
        let items = items(&raw);
        let config = SplitConfig { seed, ..Default::default() };
        match split(&items, &config) {
            Ok(parts) => {
                let all: BTreeSet<usize> = [&parts.train, &parts.val, &parts.test].into_iter().flatten().copied().collect();
                prop_assert_eq!(all.len(), items.len());
                prop_assert_eq!(parts.train.len() + parts.val.len() + parts.test.len(), items.len());
                let [a, b, c] = [&parts.train, &parts.val, &parts.test].map(|p| groups(&items, p));
                prop_assert!(a.is_disjoint(&b) && a.is_disjoint(&c) && b.is_disjoint(&c));
                prop_assert!(!a.is_empty() && !b.is_empty() && !c.is_empty());
                prop_assert_eq!(split(&items, &config).unwrap(), parts);
            }
            Err(e) => {
                let n = groups(&items, &(0..items.len()).collect::<Vec<_>>()).len();
                let is_split = matches!(e, Error::Split { .. });
                prop_assert!(n < 3 && is_split);
            }
        }
    }

    #[test]
    fn folds_hold_each_item_out_once(
        raw in prop::collection::vec((0u32..3, prop::option::of(0u32..30)), 30..90),
        k in 2usize..6,
        seed in 0u64..1000,
    ) {
        let items = items(&raw);
        prop_assume!(groups(&items, &(0..items.len()).collect::<Vec<_>>()).len() >= k);
        let folds = k_fold(&items, k, seed).unwrap();
        let mut held: Vec<usize> = folds.iter().flat_map(|f| f.held_out.clone()).collect();
        held.sort_unstable();
        prop_assert_eq!(held, (0..items.len()).collect::<Vec<_>>());
        for fold in &folds {
            prop_assert!(!fold.held_out.is_empty());
            prop_assert_eq!(fold.train.len() + fold.held_out.len(), items.len());
            prop_assert!(groups(&items, &fold.train).is_disjoint(&groups(&items, &fold.held_out)));
        }
    }

    #[test]
    fn without_groups_each_class_is_shared_out_to_within_one(counts in prop::collection::vec(10usize..60, 1..5), seed in 0u64..100) {
        let raw: Vec<_> = counts.iter().enumerate().flat_map(|(c, n)| vec![(c as u32, None); *n]).collect();
        let items = items(&raw);
        let parts = split(&items, &SplitConfig { train: 0.5, val: 0.2, test: 0.3, seed }).unwrap();
        for (part, share) in [(&parts.train, 0.5), (&parts.val, 0.2), (&parts.test, 0.3)] {
            for (class, n) in counts.iter().enumerate() {
                let got = part.iter().filter(|i| items[**i].class == Some(class as u32)).count() as f64;
                prop_assert!((got - share * *n as f64).abs() <= 1.0, "class {} of {}: {} at {}", class, n, got, share);
            }
        }
    }
}

#[test]
fn many_patients_of_uneven_size_come_out_near_the_shares() {
    // 60 patients with 1 to 7 slices; a third of the patients are ill.
    let raw: Vec<(u32, Option<u32>)> =
        (0..60u32).flat_map(|p| vec![(u32::from(p % 3 == 0), Some(p)); 1 + (p * 5 % 7) as usize]).collect();
    let items = items(&raw);
    let total = |part: &[usize]| -> BTreeMap<u32, f64> {
        let mut counts = BTreeMap::new();
        part.iter().for_each(|i| *counts.entry(items[*i].class.unwrap()).or_insert(0.0) += 1.0);
        counts
    };
    let all = total(&(0..items.len()).collect::<Vec<_>>());
    for seed in 0..5 {
        let parts = split(&items, &SplitConfig { train: 0.6, val: 0.2, test: 0.2, seed }).unwrap();
        for (part, share) in [(&parts.train, 0.6), (&parts.val, 0.2), (&parts.test, 0.2)] {
            for (class, n) in total(part) {
                assert!(
                    (n / all[&class] - share).abs() < 0.03,
                    "seed {seed}, class {class}: {n} of {}",
                    all[&class]
                );
            }
        }
    }
}

#[test]
fn folds_of_uneven_patients_are_balanced_down_to_the_rarest_class() {
    // 60 patients with 3 to 9 slices; the rarest class has one patient a fold.
    let class = |p: u32| if p.is_multiple_of(12) { 2 } else { u32::from(p.is_multiple_of(3)) };
    let raw: Vec<(u32, Option<u32>)> =
        (0..60u32).flat_map(|p| vec![(class(p), Some(p)); 3 + (p * 5 % 7) as usize]).collect();
    let items = items(&raw);
    for seed in 0..10 {
        for fold in k_fold(&items, 5, seed).unwrap() {
            let count = |part: &[usize], c: u32| part.iter().filter(|i| items[**i].class == Some(c)).count();
            for c in 0..3 {
                let share = count(&fold.held_out, c) as f64
                    / (count(&fold.held_out, c) + count(&fold.train, c)) as f64;
                let most = if c == 2 { 0.12 } else { 0.03 };
                assert!((share - 0.2).abs() < most, "seed {seed}, class {c}: a share of {share}");
            }
            let rare: BTreeSet<String> = groups(&items, &fold.held_out)
                .into_iter()
                .filter(|g| g[1..].parse().is_ok_and(|p: u32| class(p) == 2))
                .collect();
            assert_eq!(rare.len(), 1, "seed {seed}: {rare:?}");
        }
    }
}

#[test]
fn another_seed_gives_another_split() {
    let items = items(&(0..40).map(|i| (i % 2, None)).collect::<Vec<_>>());
    let of = |seed| split(&items, &SplitConfig { seed, ..Default::default() }).unwrap();
    assert_ne!(of(1), of(2));
}

#[test]
fn impossible_splits_are_refused() {
    let two_groups = items(&[(0, Some(1)), (0, Some(1)), (1, Some(2)), (1, Some(2))]);
    let error = k_fold(&two_groups, 3, 0).unwrap_err();
    assert!(matches!(error, Error::Split { items: 4, groups: 2, .. }), "{error}");
    assert!(matches!(split(&two_groups, &SplitConfig::default()), Err(Error::Split { .. })));
    let train_test = SplitConfig { train: 0.5, val: 0.0, test: 0.5, seed: 0 };
    assert!(split(&two_groups, &train_test).unwrap().val.is_empty());
    assert!(matches!(k_fold(&two_groups, 1, 0), Err(Error::Argument { .. })));
    assert!(matches!(k_fold(&two_groups, usize::MAX, 0), Err(Error::Split { .. })));
    assert!(matches!(split(&[], &train_test), Err(Error::Split { .. })));
    for (train, test) in [(0.5, 0.6), (-0.5, 1.5), (f64::NAN, 0.5), (f64::INFINITY, 0.0)] {
        let config = SplitConfig { train, val: 0.0, test, seed: 0 };
        assert!(matches!(split(&two_groups, &config), Err(Error::Argument { .. })), "{train} and {test}");
    }
}
