//! What configurations have to be.

use crate::{Error, Result};

/// The most channels or classes that a layer may have.
const MOST: usize = 1 << 16;

/// Fails unless the numbers of channels, classes and the like are 1 to 65,536.
pub(crate) fn sizes(fields: &[(&'static str, usize)]) -> Result<()> {
    for (field, value) in fields {
        if *value == 0 || *value > MOST {
            return Err(Error::config(field, format!("is {value}, must be 1 to {MOST}")));
        }
    }
    Ok(())
}

/// Fails unless the probabilities lie in 0..=1.
pub(crate) fn probabilities(fields: &[(&'static str, f64)]) -> Result<()> {
    for (field, value) in fields {
        if !(0.0..=1.0).contains(value) {
            return Err(Error::config(field, format!("is {value}, must lie between 0 and 1")));
        }
    }
    Ok(())
}
