//! Where activation maps are greatest, in pixels.

use candle_core::Tensor;
use xdiff_nn::layers::upsample_bicubic2d;

use crate::host::{finite_images, first_largest, host};
use crate::{Error, Result};

/// How many enlarged maps are held at a time.
const AT_A_TIME: usize = 64;

/// Activation maps (B, P, h, w) on the host as f32, checked.
pub(super) fn checked(maps: &Tensor) -> Result<Tensor> {
    if maps.rank() != 4 || maps.elem_count() == 0 {
        let reason = format!("have shape {:?}, not (B, P, h, w)", maps.dims());
        return Err(Error::input("activation maps", reason));
    }
    let maps = host(maps)?;
    finite_images("activation maps", &maps)?;
    Ok(maps)
}

/// The pixel (row, column) where each map of (N, h, w), enlarged by cubic convolution (a = −0.75), is
/// greatest; the first of equals.
pub(super) fn peaks(maps: &Tensor, size: (usize, usize)) -> Result<Vec<(usize, usize)>> {
    let count = maps.dim(0)?;
    let mut peaks = Vec::with_capacity(count);
    for first in (0..count).step_by(AT_A_TIME) {
        let part = maps.narrow(0, first, AT_A_TIME.min(count - first))?.unsqueeze(0)?.contiguous()?;
        let large = upsample_bicubic2d(&part, size, false)?.squeeze(0)?.flatten_from(1)?;
        let large = large.to_vec2::<f32>()?;
        peaks.extend(large.iter().map(|map| first_largest(map)).map(|at| (at / size.1, at % size.1)));
    }
    Ok(peaks)
}
