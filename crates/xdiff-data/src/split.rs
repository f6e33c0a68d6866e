//! Splits that keep a patient together and the classes balanced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use crate::dataset::SampleInfo;
use crate::{Error, Result};

/// A part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What a model learns from.
    Train,
    /// What choices are made on.
    Val,
    /// What is looked at once.
    Test,
}

/// The shares of a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// The share of the training part.
    pub train: f64,
    /// The share of the validation part; may be 0.
    pub val: f64,
    /// The share of the test part; may be 0.
    pub test: f64,
    /// The seed that breaks ties.
    pub seed: u64,
}

impl Default for SplitConfig {
    /// 70 % to train, 10 % to validate, 20 % to test.
    fn default() -> Self {
        Self { train: 0.7, val: 0.1, test: 0.2, seed: 0 }
    }
}

/// The indices of each part, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The training part.
    pub train: Vec<usize>,
    /// The validation part.
    pub val: Vec<usize>,
    /// The test part.
    pub test: Vec<usize>,
}

/// One fold of a cross-validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// The indices to train on, ascending.
    pub train: Vec<usize>,
    /// The indices held out, ascending.
    pub held_out: Vec<usize>,
}

/// Splits into train, validation and test so that no group is in two parts.
///
/// Groups are dealt out one by one, large ones first and equal ones in an order drawn from the seed,
/// each to the part where it brings Σ ((have − want) / total)² over parts and classes lowest; the last
/// groups go to parts that would stay empty. This is greedy: near the asked shares when groups are many
/// and small, but not the best split there is. An item without a group is a group of its own; items
/// without a class count as one class.
///
/// ```
/// use xdiff_data::{SampleInfo, SplitConfig, split};
///
/// // Ten patients with three slices each, half of them ill.
/// let items: Vec<SampleInfo> = (0..30)
///     .map(|i| SampleInfo {
///         id: format!("slice {i}"),
///         class: Some((i / 3) % 2),
///         group: Some(format!("patient {}", i / 3)),
///     })
///     .collect();
/// let parts = split(&items, &SplitConfig { train: 0.6, val: 0.2, test: 0.2, seed: 1 })?;
/// assert_eq!((parts.train.len(), parts.val.len(), parts.test.len()), (18, 6, 6));
/// # Ok::<(), xdiff_data::Error>(())
/// ```
///
/// # Errors
/// When shares are negative, not finite or do not sum to 1, or there are fewer groups than parts with a
/// share.
pub fn split(items: &[SampleInfo], config: &SplitConfig) -> Result<Split> {
    let shares = [config.train, config.val, config.test];
    let sum: f64 = shares.iter().sum();
    if shares.iter().any(|s| !s.is_finite() || *s < 0.0) || (sum - 1.0).abs() > 1e-6 {
        return Err(Error::argument("shares", format!("{shares:?} given; each at least 0, together 1")));
    }
    let parts = deal(items, &shares, config.seed)?;
    let [train, val, test] = [0, 1, 2].map(|p| indices(&parts, |q| q == p));
    Ok(Split { train, val, test })
}

/// `k` folds of about equal size and class balance, each group held out in exactly one. Dealt as in
/// [`split`].
///
/// # Errors
/// When `k` is below 2 or there are fewer groups than folds.
pub fn k_fold(items: &[SampleInfo], k: usize, seed: u64) -> Result<Vec<Fold>> {
    if k < 2 {
        return Err(Error::argument("k", format!("{k} given; at least 2")));
    }
    if k > items.len() {
        return Err(Error::Split {
            items: items.len(),
            groups: Groups::new(items).members.len(),
            reason: format!("{k} folds are asked for; ask for fewer"),
        });
    }
    let parts = deal(items, &vec![1.0 / k as f64; k], seed)?;
    Ok((0..k)
        .map(|f| Fold { train: indices(&parts, |q| q != f), held_out: indices(&parts, |q| q == f) })
        .collect())
}

fn indices(parts: &[usize], wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..parts.len()).filter(|i| wanted(parts[*i])).collect()
}

/// Items by group, and how many of each class a group has.
struct Groups {
    members: Vec<Vec<usize>>,
    counts: Vec<Vec<f64>>,
    totals: Vec<f64>,
}

impl Groups {
    fn new(items: &[SampleInfo]) -> Self {
        let mut classes: Vec<Option<u32>> = items.iter().map(|i| i.class).collect();
        classes.sort_unstable();
        classes.dedup();
        let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match &item.group {
                Some(name) => {
                    let place = *by_name.entry(name).or_insert(members.len());
                    if place == members.len() {
                        members.push(Vec::new());
                    }
                    members[place].push(i);
                }
                None => members.push(vec![i]),
            }
        }
        let count = |of: &[usize]| -> Vec<f64> {
            let mut counts = vec![0.0; classes.len()];
            for i in of {
                if let Ok(c) = classes.binary_search(&items[*i].class) {
                    counts[c] += 1.0;
                }
            }
            counts
        };
        let counts = members.iter().map(|m| count(m)).collect();
        let totals = count(&(0..items.len()).collect::<Vec<_>>());
        Self { members, counts, totals }
    }
}

/// The part of each item.
fn deal(items: &[SampleInfo], shares: &[f64], seed: u64) -> Result<Vec<usize>> {
    let groups = Groups::new(items);
    let open: Vec<usize> = (0..shares.len()).filter(|p| shares[*p] > 0.0).collect();
    if groups.members.len() < open.len() {
        return Err(Error::Split {
            items: items.len(),
            groups: groups.members.len(),
            reason: format!(
                "{} parts are asked for and no group may be torn; ask for fewer parts",
                open.len()
            ),
        });
    }
    let mut order: Vec<usize> = (0..groups.members.len()).collect();
    Rng::new(seed).fork("split").shuffle(&mut order);
    order.sort_by_key(|g| std::cmp::Reverse(groups.members[*g].len()));

    let mut have = vec![vec![0.0; groups.totals.len()]; shares.len()];
    let mut placed: Vec<usize> = vec![0; groups.members.len()];
    let mut sizes = vec![0usize; shares.len()];
    // How much the sum of squares grows when a group joins a part.
    let cost = |have: &[f64], share: f64, group: &[f64]| -> f64 {
        (have.iter().zip(group).zip(&groups.totals))
            .map(|((h, g), total)| {
                let before = h / total - share;
                let after = (h + g) / total - share;
                after * after - before * before
            })
            .sum()
    };
    for (dealt, g) in order.iter().enumerate() {
        let empty: Vec<usize> = open.iter().copied().filter(|p| sizes[*p] == 0).collect();
        // The last groups go to parts that are still empty.
        let candidates = if order.len() - dealt <= empty.len() { &empty } else { &open };
        let best = candidates.iter().copied().min_by(|a, b| {
            let of = |p: usize| cost(&have[p], shares[p], &groups.counts[*g]);
            of(*a).total_cmp(&of(*b))
        });
        let Some(p) = best else { continue };
        have[p].iter_mut().zip(&groups.counts[*g]).for_each(|(h, c)| *h += c);
        sizes[p] += 1;
        placed[*g] = p;
    }
    let mut parts = vec![0; items.len()];
    for (members, part) in groups.members.iter().zip(&placed) {
        members.iter().for_each(|i| parts[*i] = *part);
    }
    Ok(parts)
}
