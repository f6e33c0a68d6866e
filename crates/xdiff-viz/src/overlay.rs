//! Marks on pictures: heatmaps, contours of masks, boxes.

use image::{Rgb, RgbImage};

use crate::canvas::{self, Rect};
use crate::text::{Align, Ink, Typeface};
use crate::{Colormap, Error, Mask, Plane, Result, ValueRange};

/// How strongly a heatmap covers the picture below it, from 0 (not) to 1 (wholly).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Opacity {
    /// The same everywhere.
    Even(f64),
    /// Rising with the value: 0 at the lowest, this much at the highest. For
    /// [`Colormap::Diverging`] it rises from the middle to both ends.
    Rising(f64),
}

/// How a map with fewer pixels than the picture is brought to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resample {
    /// Every value becomes a rectangle: shows the resolution that the map really has.
    Nearest,
    /// Linear between the centres of neighbouring values, and even beyond the outermost.
    Bilinear,
}

/// How a heatmap is laid over a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeatmapOptions {
    /// The colours of the map.
    pub colormap: Colormap,
    /// The values of the lowest and the highest colour.
    pub range: ValueRange,
    /// How much of the picture stays visible.
    pub opacity: Opacity,
    /// How the map is brought to the size of the picture.
    pub resample: Resample,
}

impl HeatmapOptions {
    /// Half covering, bilinear.
    pub fn new(colormap: Colormap, range: ValueRange) -> Self {
        HeatmapOptions { colormap, range, opacity: Opacity::Even(0.5), resample: Resample::Bilinear }
    }
}

/// The picture with the map laid over it. The map may have any size; it is stretched to the
/// picture's. NaN covers like the highest value, in [`Colormap::nan_color`].
///
/// # Errors
///
/// [`Error::Empty`] for a picture without pixels, [`Error::Argument`] for an opacity outside
/// [0, 1].
///
/// ```
/// use image::RgbImage;
/// use xdiff_viz::{Colormap, HeatmapOptions, Plane, Window, heatmap};
///
/// let map = Plane::new(2, 2, vec![-1.0, 0.0, 0.5, 2.0])?;
/// let range = Window::Symmetric.over(&[&map])?;
/// println!("relevance from {range}");
/// let picture = heatmap(&RgbImage::new(64, 64), &map, &HeatmapOptions::new(Colormap::Diverging, range))?;
/// assert_eq!(picture.dimensions(), (64, 64));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
pub fn heatmap(image: &RgbImage, map: &Plane, options: &HeatmapOptions) -> Result<RgbImage> {
    canvas::require_pixels("image", image)?;
    let (Opacity::Even(most) | Opacity::Rising(most)) = options.opacity;
    if !(0.0..=1.0).contains(&most) {
        return Err(Error::argument("opacity", format!("{most} is not between 0 and 1")));
    }
    let mut out = image.clone();
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let at = ((f64::from(y) + 0.5) / height, (f64::from(x) + 0.5) / width);
        let position = options.range.position(sample(map, at, options.resample));
        let share = match (options.opacity, options.colormap) {
            (Opacity::Even(_), _) => 1.0,
            (Opacity::Rising(_), _) if position.is_nan() => 1.0,
            (Opacity::Rising(_), Colormap::Diverging) => (2.0 * position - 1.0).abs().min(1.0),
            (Opacity::Rising(_), _) => position.clamp(0.0, 1.0),
        };
        *pixel = canvas::mix(*pixel, options.colormap.color(position), (most * share) as f32);
    }
    Ok(out)
}

/// The value of the map at a place given as shares of its height and width.
fn sample(map: &Plane, (down, across): (f64, f64), resample: Resample) -> f64 {
    let at = |y: usize, x: usize| map.at(y, x).map_or(f64::NAN, f64::from);
    let (rows, columns) = (map.height(), map.width());
    let (y, x) = (down * rows as f64, across * columns as f64);
    match resample {
        Resample::Nearest => at((y as usize).min(rows - 1), (x as usize).min(columns - 1)),
        Resample::Bilinear => {
            let split = |place: f64, size: usize| {
                let place = (place - 0.5).clamp(0.0, (size - 1) as f64);
                let low = place.floor();
                (low as usize, (low as usize + 1).min(size - 1), place - low)
            };
            let ((y0, y1, v), (x0, x1, u)) = (split(y, rows), split(x, columns));
            let between = |a: f64, b: f64, t: f64| if t == 0.0 { a } else { a + (b - a) * t };
            between(between(at(y0, x0), at(y0, x1), u), between(at(y1, x0), at(y1, x1), u), v)
        }
    }
}

/// Draws the inner edge of a mask, `thickness` pixels wide. The picture may be enlarged: its
/// sides must be the same whole multiple of the mask's.
///
/// # Errors
///
/// [`Error::Shape`] if the sizes do not fit; [`Error::Argument`] for a thickness outside 1 to 64.
///
/// ```
/// use image::{Rgb, RgbImage};
/// use xdiff_viz::{Mask, outline};
///
/// let mut picture = RgbImage::new(9, 9);
/// let mask = Mask::new(3, 3, vec![false, false, false, false, true, true, false, true, true])?;
/// outline(&mut picture, &mask, Rgb([255, 0, 0]), 1)?;
/// assert_eq!(picture.get_pixel(3, 3).0, [255, 0, 0]);
/// assert_eq!(picture.get_pixel(5, 5).0, [0, 0, 0]);
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
pub fn outline(image: &mut RgbImage, mask: &Mask, color: Rgb<u8>, thickness: u32) -> Result<()> {
    if !(1..=64).contains(&thickness) {
        let reason = format!("{thickness} is not between 1 and 64 pixels");
        return Err(Error::argument("thickness", reason));
    }
    let (width, height) = (image.width() as usize, image.height() as usize);
    let factor = width / mask.width();
    if factor == 0 || factor * mask.width() != width || factor * mask.height() != height {
        return Err(Error::shape(
            "mask",
            format!("sides of which the picture's {height}×{width} are the same whole multiple"),
            format!("{}×{}", mask.height(), mask.width()),
        ));
    }
    let inside: Vec<bool> = (0..height * width)
        .map(|i| mask.values()[(i / width / factor) * mask.width() + (i % width) / factor])
        .collect();
    // What is left after taking `thickness` pixels off along rows, then along columns.
    let along_rows = erode(&inside, height, width, (width, 1), thickness as usize);
    let core = erode(&along_rows, width, height, (1, width), thickness as usize);
    for (index, pixel) in image.pixels_mut().enumerate() {
        if inside[index] && !core[index] {
            *pixel = color;
        }
    }
    Ok(())
}

/// For `lines` lines of `length` entries, each `strides.0` from the next and with `strides.1`
/// between entries: true where the entry and its `reach` neighbours on both sides are true.
/// Beyond the ends of a line it is false.
fn erode(inside: &[bool], lines: usize, length: usize, strides: (usize, usize), reach: usize) -> Vec<bool> {
    let mut kept = vec![false; inside.len()];
    for line in 0..lines {
        let at = |i: usize| line * strides.0 + i * strides.1;
        let mut start = 0;
        for i in 0..=length {
            if i < length && inside[at(i)] {
                continue;
            }
            // A run of true entries from `start` to before `i` loses `reach` at both ends.
            for j in start + reach..i.saturating_sub(reach) {
                kept[at(j)] = true;
            }
            start = i + 1;
        }
    }
    kept
}

/// A box on a picture, in its pixels: columns `x` to `x + width`, rows `y` to `y + height`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxMark {
    /// The first column inside.
    pub x: u32,
    /// The first row inside.
    pub y: u32,
    /// Columns inside.
    pub width: u32,
    /// Rows inside.
    pub height: u32,
    /// The colour of the edge and of the label's ground.
    pub color: Rgb<u8>,
    /// A short text at the upper left corner.
    pub label: Option<String>,
}

impl BoxMark {
    /// The box for a picture that was enlarged by `factor`.
    pub fn enlarged(&self, factor: u32) -> Self {
        BoxMark {
            x: self.x.saturating_mul(factor),
            y: self.y.saturating_mul(factor),
            width: self.width.saturating_mul(factor),
            height: self.height.saturating_mul(factor),
            ..self.clone()
        }
    }
}

/// Draws boxes whose edges lie `thickness` pixels wide inside them.
///
/// # Errors
///
/// [`Error::Shape`] for a box that is empty or reaches beyond the picture; [`Error::Argument`]
/// for a thickness outside 1 to 64.
///
/// ```
/// use image::{Rgb, RgbImage};
/// use xdiff_viz::{BoxMark, draw_boxes};
///
/// let mut picture = RgbImage::new(100, 80);
/// let found = BoxMark { x: 10, y: 30, width: 40, height: 25, color: Rgb([255, 210, 0]), label: Some("0.93".into()) };
/// draw_boxes(&mut picture, &[found], 2)?;
/// assert_eq!(picture.get_pixel(10, 54).0, [255, 210, 0]);
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
pub fn draw_boxes(image: &mut RgbImage, boxes: &[BoxMark], thickness: u32) -> Result<()> {
    if !(1..=64).contains(&thickness) {
        let reason = format!("{thickness} is not between 1 and 64 pixels");
        return Err(Error::argument("thickness", reason));
    }
    let face = Typeface::embedded()?;
    for (index, mark) in boxes.iter().enumerate() {
        let ends = (u64::from(mark.x) + u64::from(mark.width), u64::from(mark.y) + u64::from(mark.height));
        let fits = ends.0 <= u64::from(image.width()) && ends.1 <= u64::from(image.height());
        if !fits || mark.width == 0 || mark.height == 0 {
            return Err(Error::shape(
                format!("box {index}"),
                format!("at least one pixel inside the picture of {}×{}", image.width(), image.height()),
                format!("{}×{} at ({}, {})", mark.width, mark.height, mark.x, mark.y),
            ));
        }
        let (x, y) = (i64::from(mark.x), i64::from(mark.y));
        let edge = thickness.min(mark.width.min(mark.height).div_ceil(2));
        let inner = i64::from(edge);
        let (right, bottom) = (x + i64::from(mark.width), y + i64::from(mark.height));
        for rect in [
            Rect { x, y, width: mark.width, height: edge },
            Rect { x, y: bottom - inner, width: mark.width, height: edge },
            Rect { x, y, width: edge, height: mark.height },
            Rect { x: right - inner, y, width: edge, height: mark.height },
        ] {
            canvas::fill(image, rect, mark.color);
        }
        if let Some(text) = mark.label.as_deref().filter(|t| !t.is_empty()) {
            draw_label(image, &face, mark, text);
        }
    }
    Ok(())
}

/// The label on a ground of the box's colour: above the box, or inside where there is no room.
fn draw_label(image: &mut RgbImage, face: &Typeface, mark: &BoxMark, text: &str) {
    let size = 12.0;
    let padding = 3.0;
    let text = face.ellipsize(text, size, (image.width() as f32 - 2.0 * padding).max(0.0));
    let width = (face.width(&text, size) + 2.0 * padding).ceil() as u32;
    let height = face.line_height(size);
    let x = mark.x.min(image.width().saturating_sub(width));
    let y = if mark.y >= height { mark.y - height } else { mark.y };
    canvas::fill(image, Rect { x: i64::from(x), y: i64::from(y), width, height }, mark.color);
    let [r, g, b] = mark.color.0.map(f32::from);
    let bright = 0.299 * r + 0.587 * g + 0.114 * b > 140.0;
    let ink = Ink { size, color: if bright { Rgb([0; 3]) } else { canvas::WHITE } };
    let at = (x as f32 + padding, y as f32 + height as f32 / 2.0);
    face.draw(image, &text, ink, at, Align::Left);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RED: Rgb<u8> = Rgb([255, 0, 0]);

    fn options(opacity: Opacity, resample: Resample) -> HeatmapOptions {
        let range = ValueRange::new(0.0, 1.0).unwrap();
        HeatmapOptions { opacity, resample, ..HeatmapOptions::new(Colormap::Grey, range) }
    }

    #[test]
    fn opacity_decides_what_stays_visible() {
        let image = RgbImage::from_pixel(2, 1, Rgb([100, 100, 100]));
        let map = Plane::new(1, 2, vec![0.0, 1.0]).unwrap();
        let cases = [
            (Opacity::Even(0.0), [100, 100]),
            (Opacity::Even(1.0), [0, 255]),
            (Opacity::Even(0.5), [50, 178]),
            (Opacity::Rising(1.0), [100, 255]),
        ];
        for (opacity, want) in cases {
            let out = heatmap(&image, &map, &options(opacity, Resample::Nearest)).unwrap();
            let got: Vec<_> = out.pixels().map(|p| p.0[0]).collect();
            assert_eq!(got, want, "{opacity:?}");
        }
        for opacity in [Opacity::Even(1.5), Opacity::Rising(f64::NAN)] {
            let result = heatmap(&image, &map, &options(opacity, Resample::Nearest));
            assert!(matches!(result, Err(Error::Argument { .. })), "{opacity:?}");
        }
    }

    #[test]
    fn nan_is_shown_and_does_not_hide() {
        let map = Plane::new(1, 2, vec![f32::NAN, 0.0]).unwrap();
        let out =
            heatmap(&RgbImage::new(2, 1), &map, &options(Opacity::Rising(1.0), Resample::Nearest)).unwrap();
        assert_eq!(*out.get_pixel(0, 0), Colormap::Grey.nan_color());
    }

    #[test]
    fn bilinear_values_lie_between_their_neighbours() {
        let map = Plane::new(1, 2, vec![0.0, 1.0]).unwrap();
        let got: Vec<_> =
            (0..8).map(|x| sample(&map, (0.5, (f64::from(x) + 0.5) / 8.0), Resample::Bilinear)).collect();
        assert_eq!(got, [0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0]);
    }

    #[test]
    fn an_outline_follows_the_enlarged_pixels() {
        let mask = Mask::new(2, 2, vec![true, false, false, false]).unwrap();
        let mut image = RgbImage::new(8, 8);
        outline(&mut image, &mask, RED, 1).unwrap();
        let lit: Vec<_> =
            image.enumerate_pixels().filter(|(_, _, p)| **p == RED).map(|(x, y, _)| (x, y)).collect();
        assert_eq!(lit.len(), 12, "{lit:?}");
        assert!(lit.iter().all(|&(x, y)| x < 4 && y < 4 && (x % 3 == 0 || y % 3 == 0)));
        for (height, width) in [(3, 3), (2, 4), (16, 16)] {
            let mask = Mask::new(height, width, vec![true; height * width]).unwrap();
            assert!(matches!(outline(&mut image, &mask, RED, 1), Err(Error::Shape { .. })));
        }
        assert!(matches!(outline(&mut image, &mask, RED, 0), Err(Error::Argument { .. })));
    }

    proptest! {
        #[test]
        fn an_outline_is_the_mask_without_its_core(
            bits in proptest::collection::vec(any::<bool>(), 30),
            thickness in 1i64..4,
        ) {
            let (height, width) = (5i64, 6i64);
            let mask = Mask::new(5, 6, bits.clone()).unwrap();
            let mut image = RgbImage::new(6, 5);
            outline(&mut image, &mask, RED, thickness as u32).unwrap();
            let inside = |y: i64, x: i64| {
                (0..height).contains(&y) && (0..width).contains(&x) && bits[(y * width + x) as usize]
            };
            for (x, y, pixel) in image.enumerate_pixels() {
                let (x, y) = (i64::from(x), i64::from(y));
                let square = -thickness..=thickness;
                let core = square.clone().all(|dy| square.clone().all(|dx| inside(y + dy, x + dx)));
                prop_assert_eq!(*pixel == RED, inside(y, x) && !core);
            }
        }
    }

    #[test]
    fn boxes_stay_inside_and_labels_find_room() {
        let mark = |x, y, width, height| BoxMark {
            x,
            y,
            width,
            height,
            color: RED,
            label: Some("a label that is much too long for the picture".into()),
        };
        let mut image = RgbImage::new(60, 40);
        draw_boxes(&mut image, &[mark(0, 0, 60, 40), mark(5, 30, 1, 1)], 3).unwrap();
        assert_eq!(*image.get_pixel(59, 39), RED);
        for wrong in [mark(0, 0, 0, 1), mark(59, 0, 2, 1), mark(u32::MAX, 0, u32::MAX, 1)] {
            let result = draw_boxes(&mut image, std::slice::from_ref(&wrong), 1);
            assert!(matches!(result, Err(Error::Shape { .. })), "{wrong:?}");
        }
        let twice = mark(1, 2, 3, 4).enlarged(2);
        assert_eq!((twice.x, twice.y, twice.width, twice.height), (2, 4, 6, 8));
        assert!(matches!(draw_boxes(&mut image, &[], 0), Err(Error::Argument { .. })));
    }
}
