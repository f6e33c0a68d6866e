//! The names of classes.

use std::fs;
use std::path::Path;

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

#[cfg(test)]
mod tests {
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
}
