//! What does not fit between a file of weights and a model.

use std::fmt;

/// A key whose tensor has another shape than the model asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshaped {
    /// The key.
    pub name: String,
    /// The shape that the model asks for.
    pub expected: Vec<usize>,
    /// The shape that the file has.
    pub found: Vec<usize>,
}

/// All keys that do not fit, so that one run tells everything there is to mend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// Keys that the model asks for and the weights lack.
    pub missing: Vec<String>,
    /// Keys that the weights have and the model never asked for.
    pub unexpected: Vec<String>,
    /// Keys whose shapes differ.
    pub misshaped: Vec<Misshaped>,
}

impl KeyReport {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshaped.is_empty()
    }
}

const SHOWN: usize = 8;

fn list<T>(f: &mut fmt::Formatter<'_>, title: &str, items: &[T], show: impl Fn(&T) -> String) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = items.iter().take(SHOWN).map(show).collect();
    write!(f, "; {} {title}: {}", items.len(), shown.join(", "))?;
    if items.len() > SHOWN {
        write!(f, ", … and {} more", items.len() - SHOWN)?;
    }
    Ok(())
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the weights do not fit the model")?;
        list(f, "missing", &self.missing, String::clone)?;
        list(f, "unexpected", &self.unexpected, String::clone)?;
        list(f, "mis-shaped", &self.misshaped, |m| {
            format!("{} is {:?}, the model asks for {:?}", m.name, m.found, m.expected)
        })?;
        write!(f, "; check that file and configuration belong together, or give a key map")
    }
}

impl std::error::Error for KeyReport {}
