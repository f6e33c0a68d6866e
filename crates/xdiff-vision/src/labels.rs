//! The names of classes, and the likeliest of them.

use std::fs;
use std::path::Path;

use candle_core::Tensor;
use xdiff_nn::layers::softmax_last_dim;

use crate::{Error, Result};

/// The names of a network's classes, in order.
///
/// ```
/// let names = xdiff_vision::ClassNames::new(["meningioma", "glioma"]);
/// assert_eq!(names.get(1), Some("glioma"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    names: Vec<String>,
}

impl ClassNames {
    /// These names.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect() }
    }

    /// Reads one name a line. WordNet's numbers before the names, as in ImageNet's list
    /// (`n01440764 tench, Tinca tinca`), are left out; so are empty lines at the end.
    ///
    /// # Errors
    /// [`xdiff_nn::Error::Io`]; [`Error::Input`] when there is no name, or an empty line between
    /// names.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|e| xdiff_nn::Error::io(path, e))?;
        let names: Vec<String> = text.trim_end().lines().map(|line| name(line).to_owned()).collect();
        if names.is_empty() {
            return Err(Error::input("class names", format!("{} has none", path.display())));
        }
        if let Some(i) = names.iter().position(String::is_empty) {
            let reason = format!("line {} of {} is empty; give one name a line", i + 1, path.display());
            return Err(Error::input("class names", reason));
        }
        Ok(Self { names })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name of a class.
    pub fn get(&self, class: usize) -> Option<&str> {
        self.names.get(class).map(String::as_str)
    }
}

/// A line without a WordNet number before the name.
fn name(line: &str) -> &str {
    let line = line.trim();
    match line.split_once(' ') {
        Some((id, name)) if is_wordnet(id) => name.trim(),
        _ => line,
    }
}

fn is_wordnet(id: &str) -> bool {
    id.strip_prefix('n').is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// A class and how likely a network thinks it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The class.
    pub class: usize,
    /// Its share of the softmax of the logits, in [0, 1].
    pub probability: f64,
}

/// The `k` likeliest classes of each sample, the likeliest first; of equally likely ones the first.
///
/// # Shapes
/// Logits (B, K) → B lists of min(k, K).
///
/// # Errors
/// [`Error::Input`] for another shape, or for logits that are not finite.
pub fn top_k(logits: &Tensor, k: usize) -> Result<Vec<Vec<Ranked>>> {
    if logits.rank() != 2 {
        return Err(Error::input("logits", format!("shape {:?}; (B, K) is needed", logits.dims())));
    }
    let rows = softmax_last_dim(&logits.detach())?.to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?;
    rows.into_iter()
        .map(|row| {
            if row.iter().any(|p| !p.is_finite()) {
                return Err(Error::input("logits", "are not finite; look for NaN in images or weights"));
            }
            let mut ranked: Vec<Ranked> = row
                .into_iter()
                .enumerate()
                .map(|(class, probability)| Ranked { class, probability })
                .collect();
            ranked.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            ranked.truncate(k);
            Ok(ranked)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn names_are_read_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.txt");
        for (text, want) in [
            (
                "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
                Some(vec!["tench, Tinca tinca", "goldfish"]),
            ),
            ("no tumour\r\nglioma\r\n\r\n", Some(vec!["no tumour", "glioma"])),
            ("n0144 tench", Some(vec!["n0144 tench"])),
            ("a\n\nb\n", None),
            ("\n \n", None),
            ("", None),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(ClassNames::read(&path).ok(), want.map(ClassNames::new), "{text:?}");
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(ClassNames::read(&path).is_err());
        assert!(ClassNames::read(dir.path().join("none")).is_err());
    }

    #[test]
    fn the_likeliest_come_first() {
        let logits = Tensor::new(&[[0f32, 2.0, 1.0], [3.0, 3.0, -1.0]], &Device::Cpu).unwrap();
        let top = top_k(&logits, 2).unwrap();
        let classes: Vec<Vec<usize>> = top.iter().map(|row| row.iter().map(|r| r.class).collect()).collect();
        assert_eq!(classes, [[1, 2], [0, 1]]);
        assert!((top[0][0].probability - 0.665_240_96).abs() < 1e-6);
        assert_eq!(top_k(&logits, 9).unwrap()[0].len(), 3);
        assert!(top_k(&(&logits * f64::NAN).unwrap(), 1).is_err());
        assert!(top_k(&logits.flatten_all().unwrap(), 1).is_err());
    }
}
