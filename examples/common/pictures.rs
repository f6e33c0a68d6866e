//! Pictures that several reports show.

use image::{Rgb, RgbImage};
use xdiff::viz::{Colormap, Mask, Plane, ValueRange, outline};

use crate::AnyError;

/// A square plane of values.
///
/// # Errors
/// When there are not side × side values.
pub fn plane(values: &[f32], side: usize) -> Result<Plane, AnyError> {
    Ok(Plane::new(side, side, values.to_vec())?)
}

/// Values from 0 (black) to 1 (white).
///
/// # Errors
/// When there are not side × side values.
pub fn grey(values: &[f32], side: usize) -> Result<RgbImage, AnyError> {
    Ok(Colormap::Grey.paint(&plane(values, side)?, ValueRange::new(0.0, 1.0)?)?)
}

/// The picture with the edges of masks drawn in, enlarged so that the lines stay thin.
///
/// # Errors
/// When picture or masks do not have side × side values.
pub fn outlined(values: &[f32], masks: &[(&[u8], Rgb<u8>)], side: usize) -> Result<RgbImage, AnyError> {
    let factor = (256 / side).max(1);
    let mut picture = xdiff::viz::enlarge(&grey(values, side)?, factor as u32)?;
    let (wide, n) = (side * factor, side * factor * side * factor);
    for (mask, colour) in masks {
        if mask.len() != side * side {
            return Err(format!("a mask of {} pixels on a picture of {side}×{side}", mask.len()).into());
        }
        let inside = (0..n).map(|i| mask[i / wide / factor * side + i % wide / factor] != 0).collect();
        outline(&mut picture, &Mask::new(wide, wide, inside)?, *colour, 2)?;
    }
    Ok(picture)
}
