//! The pointing game (Zhang et al. 2018, "Top-Down Neural Attention by Excitation Backprop").

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::peak::{checked, peaks};
use crate::host::{finite_images, host};
use crate::{Error, Result};

/// How often the greatest value of a map lies where it should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointingGame {
    /// The share of hits among images whose mask is not empty.
    pub accuracy: f64,
    /// The accuracy to be expected of points that are uniform over the image: the mean share of pixels
    /// that count as a hit.
    pub chance: f64,
    /// Hit or miss for each image; none where the mask is empty.
    pub hits: Vec<Option<bool>>,
}

/// Plays the game: a map, enlarged to the image by cubic convolution, hits when its greatest pixel lies at
/// most `tolerance` pixels (15 as published for photographs) from a pixel of the mask.
///
/// For one prototype give its activation maps and the masks of the part it should mark; for all together
/// the sum of the maps, each weighted by the prototype's influence.
///
/// # Shapes
/// `maps` (B, h, w), `masks` (B, H, W): not 0 inside.
///
/// # Errors
/// [`Error::Input`] when shapes do not fit, all masks are empty, or the tolerance is not a number of at
/// least 0; [`Error::NonFinite`] for a map or mask with NaN.
pub fn pointing_game(maps: &Tensor, masks: &Tensor, tolerance: f64) -> Result<PointingGame> {
    let &[count, height, width] = masks.dims() else {
        return Err(Error::input("masks", format!("have shape {:?}, not (B, H, W)", masks.dims())));
    };
    if maps.rank() != 3 || maps.dims()[0] != count || masks.elem_count() == 0 {
        let reason = format!("have shape {:?}, masks {:?}", maps.dims(), masks.dims());
        return Err(Error::input("maps", reason));
    }
    if !(tolerance >= 0.0 && tolerance.is_finite()) {
        return Err(Error::input("tolerance", format!("is {tolerance}, a number of pixels of at least 0")));
    }
    let maps = checked(&maps.unsqueeze(1)?)?.squeeze(1)?;
    finite_images("masks", masks)?;
    let masks = host(masks)?.flatten_from(1)?.to_vec2::<f32>()?;
    let mut hits = Vec::with_capacity(count);
    let mut chance = 0.0;
    for (mask, (row, column)) in masks.iter().zip(peaks(&maps, (height, width))?) {
        if mask.iter().all(|v| *v == 0.0) {
            hits.push(None);
            continue;
        }
        let target = widened(mask, width, tolerance);
        hits.push(Some(target[row * width + column]));
        chance += target.iter().filter(|t| **t).count() as f64 / target.len() as f64;
    }
    let played = hits.iter().flatten().count();
    if played == 0 {
        return Err(Error::input("masks", "are all empty: there is nothing to point at"));
    }
    let accuracy = hits.iter().flatten().filter(|hit| **hit).count() as f64 / played as f64;
    Ok(PointingGame { accuracy, chance: chance / played as f64, hits })
}

/// Which pixels lie at most `radius` from a pixel of the mask.
fn widened(mask: &[f32], width: usize, radius: f64) -> Vec<bool> {
    let height = mask.len() / width;
    let reach = radius.min((height + width) as f64) as usize;
    let mut near = vec![false; mask.len()];
    for at in mask.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(at, _)| at) {
        let (row, column) = (at / width, at % width);
        for y in row.saturating_sub(reach)..(row + reach + 1).min(height) {
            let across = (radius * radius - (row.abs_diff(y) as f64).powi(2)).max(0.0).sqrt() as usize;
            let (from, to) = (column.saturating_sub(across), (column + across + 1).min(width));
            near[y * width + from..y * width + to].fill(true);
        }
    }
    near
}
