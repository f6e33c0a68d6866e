//! What configurations and images must be.

use candle_core::Tensor;

use crate::{Error, Result};

/// Fails unless a number of channels, classes, layers and the like is 1 to 65,536.
pub(crate) fn positive(field: &'static str, value: usize) -> Result<()> {
    const MOST: usize = 1 << 16;
    if (1..=MOST).contains(&value) {
        return Ok(());
    }
    Err(Error::config(field, format!("must be 1 to {MOST}, got {value}")))
}

/// Fails unless a share lies in 0..=1.
pub(crate) fn probability(field: &'static str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::config(field, format!("must lie in 0..=1, got {value}")))
}

/// Fails unless there are images (B, C, H, W) with these channels and at least this height and width;
/// `who` takes them.
pub(crate) fn images(who: &str, channels: usize, least_side: usize, images: &Tensor) -> Result<()> {
    match *images.dims() {
        [b, c, h, w] if b > 0 && c == channels && h.min(w) >= least_side => Ok(()),
        _ => Err(Error::input(
            "images",
            format!(
                "shape {:?}; {who} takes (B, {channels}, H, W) with at least one image and sides of \
                 {least_side} or more",
                images.dims()
            ),
        )),
    }
}
