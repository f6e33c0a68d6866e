//! Which dict of a pickle holds the weights.

use std::collections::{BTreeMap, HashSet};

use super::value::{Id, Pickle, Value};
use crate::weights::malformed::{Malformed, Parse, shown};

/// How far below the top dicts are looked for.
const DEPTH: usize = 4;

const SAVE_A_DICT: &str = "save the weights alone, with torch.save(model.state_dict(), path)";

/// A dict that has tensors among its values.
struct Candidate {
    /// The keys that lead to it.
    path: Vec<Id>,
    entries: Id,
    tensors: usize,
}

/// The tensors, as indices into [`Pickle::tensors`], of the dict that `key` names. Without a key:
/// of the top-level dict when no dict below it has tensors, else of `state_dict`, else of the only
/// dict that has some.
pub(super) fn select(pickle: &Pickle, key: Option<&str>) -> Parse<BTreeMap<String, u32>> {
    if !matches!(pickle.root(), Value::Dict(_)) {
        let reason = format!("it holds {}, not a dict of tensors", pickle.describe(pickle.root));
        return Err(Malformed::new(reason, SAVE_A_DICT));
    }
    let found = candidates(pickle);
    let chosen = match key {
        Some(key) => found.iter().find(|c| named(pickle, c, key)),
        None if found.len() == 1 => found.first(),
        None => found.iter().find(|c| named(pickle, c, "state_dict")),
    };
    let Some(chosen) = chosen else {
        return Err(match (key, found.is_empty()) {
            (_, true) => Malformed::new("it has no dict of tensors", SAVE_A_DICT),
            (Some(key), _) => Malformed::new(
                format!("it has no dict of tensors {}; it has {}", shown(key), list(pickle, &found)),
                "give one of these keys",
            ),
            (None, _) => Malformed::new(
                format!("several of its dicts have tensors: {}", list(pickle, &found)),
                "say which, with read_pickle and its key",
            ),
        });
    };
    let mut tensors = BTreeMap::new();
    if let Value::Dict(entries) = pickle.value(chosen.entries) {
        for (key, value) in entries {
            match (pickle.string(*key), pickle.value(*value)) {
                (Some(name), Value::Tensor(index)) => drop(tensors.insert(name.to_owned(), *index)),
                (Some(name), _) => drop(tensors.remove(name)),
                (None, _) => {}
            }
        }
    }
    Ok(tensors)
}

/// All dicts with tensors, the top first; each once, by whatever way it is reached first.
fn candidates(pickle: &Pickle) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut seen = HashSet::from([pickle.root]);
    let mut level = vec![(pickle.root, Vec::new())];
    for _ in 0..=DEPTH {
        let mut below = Vec::new();
        for (id, path) in level {
            let Value::Dict(entries) = pickle.value(id) else { continue };
            let mut tensors = 0;
            for (key, value) in entries.iter().filter(|(key, _)| pickle.string(*key).is_some()) {
                match pickle.value(*value) {
                    Value::Tensor(_) => tensors += 1,
                    Value::Dict(_) if seen.insert(*value) => {
                        below.push((*value, [path.as_slice(), &[*key]].concat()));
                    }
                    _ => {}
                }
            }
            if tensors > 0 {
                found.push(Candidate { path, entries: id, tensors });
            }
        }
        level = below;
    }
    found
}

/// Whether the keys that lead to a candidate, joined by dots, are this name.
fn named(pickle: &Pickle, candidate: &Candidate, name: &str) -> bool {
    let mut rest = Some(name);
    for (i, part) in candidate.path.iter().filter_map(|k| pickle.string(*k)).enumerate() {
        rest = rest
            .and_then(|r| if i == 0 { Some(r) } else { r.strip_prefix('.') })
            .and_then(|r| r.strip_prefix(part));
    }
    rest == Some("")
}

fn list(pickle: &Pickle, found: &[Candidate]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> = found
        .iter()
        .take(SHOWN)
        .map(|c| {
            let count = if c.tensors == 1 { "1 tensor".to_owned() } else { format!("{} tensors", c.tensors) };
            if c.path.is_empty() {
                return format!("the top level ({count})");
            }
            let parts: Vec<&str> = c.path.iter().filter_map(|k| pickle.string(*k)).collect();
            format!("{} ({count})", shown(&parts.join(".")))
        })
        .collect();
    if found.len() > SHOWN {
        names.push(format!("{} more", found.len() - SHOWN));
    }
    names.join(", ")
}
