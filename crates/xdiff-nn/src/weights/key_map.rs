//! Renaming keys of weights.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One change of names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum KeyRule {
    /// Only keys with this prefix stay; it is taken off them.
    Only(String),
    /// Keys with this prefix go.
    Drop(String),
    /// The prefix is taken off the keys that have it.
    StripPrefix(String),
    /// The prefix is put before every key.
    AddPrefix(String),
    /// The key of exactly this name gets another.
    Exact {
        /// The name.
        from: String,
        /// The other name.
        to: String,
    },
    /// A part of keys, wherever it stands, is replaced.
    Replace {
        /// The part.
        from: String,
        /// What stands there then.
        to: String,
    },
}

/// Rules that are applied one after another to every key, so that a file fits a model that calls
/// its parameters by other names.
///
/// ```
/// use xdiff_nn::weights::KeyMap;
///
/// let map = KeyMap::new().only("ema_model.").replace(".query.", ".to_q.");
/// assert_eq!(map.rename("ema_model.mid.query.weight").as_deref(), Some("mid.to_q.weight"));
/// assert_eq!(map.rename("model.mid.query.weight"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyMap {
    rules: Vec<KeyRule>,
}

impl KeyMap {
    /// No rules: all keys stay as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more rule, applied after those before.
    pub fn rule(mut self, rule: KeyRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Only keys with this prefix stay, without it.
    pub fn only(self, prefix: impl Into<String>) -> Self {
        self.rule(KeyRule::Only(prefix.into()))
    }

    /// Keys with this prefix go.
    pub fn drop_prefix(self, prefix: impl Into<String>) -> Self {
        self.rule(KeyRule::Drop(prefix.into()))
    }

    /// The prefix is taken off the keys that have it, such as `module.`.
    pub fn strip_prefix(self, prefix: impl Into<String>) -> Self {
        self.rule(KeyRule::StripPrefix(prefix.into()))
    }

    /// The prefix is put before every key.
    pub fn add_prefix(self, prefix: impl Into<String>) -> Self {
        self.rule(KeyRule::AddPrefix(prefix.into()))
    }

    /// The key of exactly this name gets another.
    pub fn exact(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.rule(KeyRule::Exact { from: from.into(), to: to.into() })
    }

    /// A part of keys, wherever it stands, is replaced.
    pub fn replace(self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.rule(KeyRule::Replace { from: from.into(), to: to.into() })
    }

    /// The new name of a key; `None` when the key goes.
    pub fn rename(&self, key: &str) -> Option<String> {
        let mut key = key.to_owned();
        for rule in &self.rules {
            match rule {
                KeyRule::Only(prefix) => key = key.strip_prefix(prefix.as_str())?.to_owned(),
                KeyRule::Drop(prefix) if key.starts_with(prefix.as_str()) => return None,
                KeyRule::StripPrefix(prefix) => {
                    if let Some(rest) = key.strip_prefix(prefix.as_str()) {
                        key = rest.to_owned();
                    }
                }
                KeyRule::AddPrefix(prefix) => key.insert_str(0, prefix),
                KeyRule::Exact { from, to } if key == *from => key.clone_from(to),
                KeyRule::Replace { from, to } if !from.is_empty() => key = key.replace(from.as_str(), to),
                KeyRule::Drop(_) | KeyRule::Exact { .. } | KeyRule::Replace { .. } => {}
            }
        }
        Some(key)
    }

    /// All tensors under their new names.
    ///
    /// # Errors
    /// [`Error::Argument`] when two keys get the same name.
    pub fn apply(&self, tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        let mut renamed = BTreeMap::new();
        for (key, tensor) in tensors {
            let Some(new) = self.rename(&key) else { continue };
            if renamed.contains_key(&new) {
                let reason = format!("`{key}` and another key would both be called `{new}`");
                return Err(Error::argument("key map", reason));
            }
            renamed.insert(new, tensor);
        }
        Ok(renamed)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn rules_apply_in_order() {
        let cases = [
            (KeyMap::new(), "a.b", Some("a.b")),
            (KeyMap::new().strip_prefix("module."), "module.a", Some("a")),
            (KeyMap::new().strip_prefix("module."), "a.module.b", Some("a.module.b")),
            (KeyMap::new().add_prefix("unet."), "a", Some("unet.a")),
            (KeyMap::new().add_prefix("x.").strip_prefix("x.a."), "a.b", Some("b")),
            (KeyMap::new().exact("a", "b").exact("b", "c"), "a", Some("c")),
            (KeyMap::new().exact("a", "b"), "a.a", Some("a.a")),
            (KeyMap::new().replace(".w", ".weight"), "l.w", Some("l.weight")),
            (KeyMap::new().replace("", "x"), "l", Some("l")),
            (KeyMap::new().drop_prefix("loss."), "loss.a", None),
            (KeyMap::new().drop_prefix("loss."), "a.loss.", Some("a.loss.")),
            (KeyMap::new().only("ema."), "model.a", None),
            (KeyMap::new().only("ema."), "ema.a", Some("a")),
        ];
        let mut wrong = Vec::new();
        for (map, key, expected) in cases {
            if map.rename(key).as_deref() != expected {
                wrong.push(format!("{map:?} on {key}: {:?}", map.rename(key)));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_collision_is_an_error() {
        let t = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        let tensors = BTreeMap::from([("a".to_owned(), t.clone()), ("m.a".to_owned(), t)]);
        let outcome = KeyMap::new().strip_prefix("m.").apply(tensors.clone());
        assert!(matches!(outcome, Err(Error::Argument { .. })));
        let only = KeyMap::new().only("m.").apply(tensors).unwrap();
        assert_eq!(only.keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn the_text_form_is_a_list_of_rules() {
        let map = KeyMap::new().strip_prefix("module.").exact("a", "b");
        let text = r#"[{"strip_prefix":"module."},{"exact":{"from":"a","to":"b"}}]"#;
        assert_eq!(serde_json::to_string(&map).unwrap(), text);
        assert_eq!(serde_json::from_str::<KeyMap>(text).unwrap(), map);
    }
}
