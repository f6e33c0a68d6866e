//! Pixels: limits, blending, filling, pasting, enlarging.

use image::{GrayImage, Rgb, RgbImage};

use crate::{Error, Result};

/// The largest number of pixels in a picture that this crate makes (192 MB as RGB).
pub const MAX_PIXELS: u64 = 64 << 20;

pub(crate) const WHITE: Rgb<u8> = Rgb([255; 3]);
/// Text and axes.
pub(crate) const INK: Rgb<u8> = Rgb([38, 38, 38]);
/// Captions and other quiet text.
pub(crate) const QUIET: Rgb<u8> = Rgb([89, 89, 89]);

/// A rectangle of pixels that may reach beyond the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: i64,
    pub(crate) y: i64,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// An evenly coloured picture.
pub(crate) fn blank(what: &'static str, width: u64, height: u64, color: Rgb<u8>) -> Result<RgbImage> {
    if width == 0 || height == 0 {
        return Err(Error::Empty { what: what.to_owned(), hint: "both sides must be at least 1" });
    }
    let fits = width.checked_mul(height).is_some_and(|n| n <= MAX_PIXELS);
    match (fits, u32::try_from(width), u32::try_from(height)) {
        (true, Ok(width), Ok(height)) => Ok(RgbImage::from_pixel(width, height, color)),
        _ => Err(Error::TooLarge { what, width, height, limit: MAX_PIXELS }),
    }
}

/// Refuses pictures without pixels.
pub(crate) fn require_pixels(what: &str, image: &RgbImage) -> Result<()> {
    if image.width() == 0 || image.height() == 0 {
        return Err(Error::Empty { what: what.to_owned(), hint: "both sides must be at least 1" });
    }
    Ok(())
}

/// Mixes `color` into one pixel; `alpha` 0 leaves it, 1 replaces it. Outside: nothing happens.
pub(crate) fn blend(image: &mut RgbImage, x: i64, y: i64, color: Rgb<u8>, alpha: f32) {
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    if let Some(pixel) = image.get_pixel_mut_checked(x, y) {
        *pixel = mix(*pixel, color, alpha);
    }
}

/// `(1 − alpha) below + alpha above`, rounded.
pub(crate) fn mix(below: Rgb<u8>, above: Rgb<u8>, alpha: f32) -> Rgb<u8> {
    let channel = |i: usize| {
        let (below, above) = (f32::from(below.0[i]), f32::from(above.0[i]));
        (below + (above - below) * alpha).round() as u8
    };
    Rgb([channel(0), channel(1), channel(2)])
}

/// Fills the part of the rectangle that lies inside the picture.
pub(crate) fn fill(image: &mut RgbImage, rect: Rect, color: Rgb<u8>) {
    let clip = |start: i64, length: u32, size: u32| {
        let end = (start + i64::from(length)).clamp(0, i64::from(size)) as u32;
        (start.clamp(0, i64::from(size)) as u32)..end
    };
    let columns = clip(rect.x, rect.width, image.width());
    for y in clip(rect.y, rect.height, image.height()) {
        for x in columns.clone() {
            image.put_pixel(x, y, color);
        }
    }
}

/// Draws the edge of a rectangle, one pixel wide, just outside of it.
pub(crate) fn frame(image: &mut RgbImage, rect: Rect, color: Rgb<u8>) {
    let (right, bottom) = (rect.x + i64::from(rect.width), rect.y + i64::from(rect.height));
    for y in [rect.y - 1, bottom] {
        fill(image, Rect { x: rect.x - 1, y, width: rect.width + 2, height: 1 }, color);
    }
    for x in [rect.x - 1, right] {
        fill(image, Rect { x, y: rect.y, width: 1, height: rect.height }, color);
    }
}

/// Copies `source` with its upper left corner at (x, y).
pub(crate) fn paste(image: &mut RgbImage, source: &RgbImage, x: i64, y: i64) {
    image::imageops::replace(image, source, x, y);
}

/// Enlarges a picture by a whole factor; every pixel becomes a square, so nothing is invented.
///
/// # Errors
///
/// [`Error::Argument`] for a factor of zero, [`Error::Empty`] for a picture without pixels,
/// [`Error::TooLarge`] beyond [`MAX_PIXELS`].
///
/// ```
/// use image::{Rgb, RgbImage};
///
/// let tiny = RgbImage::from_fn(2, 1, |x, _| Rgb([x as u8 * 255; 3]));
/// let large = xdiff_viz::enlarge(&tiny, 3)?;
/// assert_eq!(large.dimensions(), (6, 3));
/// assert_eq!(large.get_pixel(2, 2), tiny.get_pixel(0, 0));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
pub fn enlarge(image: &RgbImage, factor: u32) -> Result<RgbImage> {
    require_pixels("image", image)?;
    if factor == 0 {
        return Err(Error::argument("factor", "an image cannot be enlarged 0 times; give 1 or more"));
    }
    let scale = |side: u32| u64::from(side) * u64::from(factor);
    let mut large = blank("enlarged image", scale(image.width()), scale(image.height()), WHITE)?;
    for (x, y, pixel) in large.enumerate_pixels_mut() {
        *pixel = *image.get_pixel(x / factor, y / factor);
    }
    Ok(large)
}

/// A grey picture as RGB.
///
/// # Errors
///
/// [`Error::Empty`] for a picture without pixels, [`Error::TooLarge`] beyond [`MAX_PIXELS`].
pub fn grey_to_rgb(image: &GrayImage) -> Result<RgbImage> {
    let mut rgb = blank("grey image", u64::from(image.width()), u64::from(image.height()), WHITE)?;
    for (pixel, grey) in rgb.pixels_mut().zip(image.pixels()) {
        *pixel = Rgb([grey.0[0]; 3]);
    }
    Ok(rgb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited() {
        assert!(matches!(blank("test", 0, 5, WHITE), Err(Error::Empty { .. })));
        for (width, height) in [(u64::MAX, u64::MAX), (1 << 40, 1), (1 << 14, (1 << 12) + 1)] {
            assert!(matches!(blank("test", width, height, WHITE), Err(Error::TooLarge { .. })));
        }
        let image = RgbImage::new(4, 4);
        assert!(matches!(enlarge(&image, u32::MAX), Err(Error::TooLarge { .. })));
        assert!(matches!(enlarge(&image, 0), Err(Error::Argument { .. })));
        assert!(matches!(enlarge(&RgbImage::new(0, 4), 2), Err(Error::Empty { .. })));
        assert!(matches!(grey_to_rgb(&GrayImage::new(3, 0)), Err(Error::Empty { .. })));
    }

    #[test]
    fn drawing_beyond_the_edges_is_cut_off() {
        let mut image = RgbImage::new(3, 3);
        fill(&mut image, Rect { x: -5, y: 1, width: 20, height: 1 }, WHITE);
        fill(&mut image, Rect { x: 7, y: 9, width: 20, height: 20 }, WHITE);
        blend(&mut image, -1, 0, WHITE, 1.0);
        blend(&mut image, 0, 3, WHITE, 1.0);
        let lit: Vec<_> = image.pixels().map(|p| p.0[0] == 255).collect();
        assert_eq!(lit, [false, false, false, true, true, true, false, false, false]);
    }

    #[test]
    fn mixing_is_exact_at_both_ends() {
        let (a, b) = (Rgb([3, 100, 255]), Rgb([250, 7, 0]));
        assert_eq!((mix(a, b, 0.0), mix(a, b, 1.0)), (a, b));
        assert_eq!(mix(Rgb([0; 3]), WHITE, 0.5), Rgb([128; 3]));
    }
}
