//! The bar that says which colour is which value.

use image::RgbImage;

use crate::canvas::{self, INK, QUIET, Rect, WHITE};
use crate::text::{Align, Ink, Typeface};
use crate::{Colormap, Result, ValueRange, ticks};

/// A vertical colour bar with numbers beside it and an optional label.
///
/// ```
/// use image::RgbImage;
/// use xdiff_viz::{ColorBar, Colormap, ValueRange};
///
/// let bar = ColorBar::new(Colormap::Viridis, ValueRange::new(0.0, 1.0)?).label("relevance");
/// let picture = bar.beside(&RgbImage::new(200, 150))?;
/// assert!(picture.width() > 200);
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ColorBar {
    /// The colours.
    pub colormap: Colormap,
    /// The values at the lower and the upper end.
    pub range: ValueRange,
    /// What the values are, with their unit; it reads upwards beside the numbers.
    pub label: Option<String>,
}

/// Where the parts of a colour bar lie, from its left edge.
pub(crate) struct BarLayout {
    bar: u32,
    numbers: f32,
    marks: Vec<ticks::Tick>,
    size: f32,
    label: Option<String>,
    /// The width of everything.
    pub(crate) width: u32,
}

impl ColorBar {
    /// A bar without a label.
    pub fn new(colormap: Colormap, range: ValueRange) -> Self {
        ColorBar { colormap, range, label: None }
    }

    /// The same bar with a label.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The picture with this bar on its right, on white. A picture lower than 96 pixels is
    /// surrounded by white, so that the numbers have room.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Empty`] for a picture without pixels, [`crate::Error::TooLarge`] if the
    /// result has more than [`crate::MAX_PIXELS`].
    pub fn beside(&self, image: &RgbImage) -> Result<RgbImage> {
        canvas::require_pixels("image", image)?;
        let face = Typeface::embedded()?;
        let size = 13.0;
        let bar_height = image.height().max(96);
        let layout = self.layout(&face, size, bar_height);
        // Half a line of text reaches beyond each end of the bar.
        let margin = face.line_height(size) / 2 + 4;
        let gap = 12;
        let width = u64::from(image.width()) + u64::from(gap + layout.width + 2 * margin);
        let height = u64::from(bar_height) + 2 * u64::from(margin);
        let mut out = canvas::blank("image with colour bar", width, height, WHITE)?;
        let top = i64::from(margin);
        let centred = top + i64::from((bar_height - image.height()) / 2);
        canvas::paste(&mut out, image, i64::from(margin), centred);
        let left = i64::from(margin) + i64::from(image.width()) + i64::from(gap);
        self.draw(&mut out, &face, &layout, (left, top), bar_height);
        Ok(out)
    }

    /// Measures the bar for a height in pixels.
    pub(crate) fn layout(&self, face: &Typeface, size: f32, height: u32) -> BarLayout {
        let most = (height as f32 / (size * 2.6)).clamp(2.0, 9.0) as usize;
        let marks = ticks::linear(self.range.lo(), self.range.hi(), most);
        let widest = marks.iter().map(|t| face.width(&t.label, size)).fold(0.0, f32::max);
        let bar = (size * 1.1).round() as u32;
        let numbers = bar as f32 + size * 0.65;
        let label = self.label.as_deref().map(|l| face.ellipsize(l, size, height as f32));
        let beside = if label.is_some() { size * 1.7 } else { 0.0 };
        let width = (numbers + widest + beside).ceil() as u32 + 1;
        BarLayout { bar, numbers, marks, size, label, width }
    }

    /// Draws the bar with its upper left corner at (x, y).
    pub(crate) fn draw(
        &self,
        image: &mut RgbImage,
        face: &Typeface,
        layout: &BarLayout,
        (x, y): (i64, i64),
        height: u32,
    ) {
        for row in 0..height {
            let position = 1.0 - (f64::from(row) + 0.5) / f64::from(height);
            let color = self.colormap.color(position);
            canvas::fill(image, Rect { x, y: y + i64::from(row), width: layout.bar, height: 1 }, color);
        }
        canvas::frame(image, Rect { x, y, width: layout.bar, height }, QUIET);
        let ink = Ink { size: layout.size, color: INK };
        for mark in &layout.marks {
            let down = (1.0 - self.range.position(mark.value)) * f64::from(height);
            let row = y + (down.round() as i64).clamp(0, i64::from(height) - 1);
            let tick = Rect { x: x + i64::from(layout.bar) + 1, y: row, width: 4, height: 1 };
            canvas::fill(image, tick, QUIET);
            let at = (x as f32 + layout.numbers, row as f32 + 0.5);
            face.draw(image, &mark.label, ink, at, Align::Left);
        }
        if let Some(label) = &layout.label {
            let right = x as f32 + layout.width as f32 - layout.size * 0.55;
            let middle = y as f32 + height as f32 / 2.0;
            face.draw_upwards(image, label, ink, (right, middle), Align::Center);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_bar_runs_from_the_lowest_to_the_highest_colour() {
        let bar = ColorBar::new(Colormap::Grey, ValueRange::new(-1.0, 1.0).unwrap()).label("x̂₀");
        let image = RgbImage::from_pixel(10, 200, image::Rgb([9, 9, 9]));
        let out = bar.beside(&image).unwrap();
        let top = (out.height() - 200) / 2;
        let x = top + 10 + 12 + 5;
        assert!(out.get_pixel(x, top + 1).0[0] > 250);
        assert!(out.get_pixel(x, top + 198).0[0] < 5);
        assert_eq!(out, bar.beside(&image).unwrap(), "drawing is deterministic");
    }

    #[test]
    fn a_tiny_picture_gets_room_and_an_empty_one_an_error() {
        let bar = ColorBar::new(Colormap::Turbo, ValueRange::new(0.0, 1e-9).unwrap());
        assert!(bar.beside(&RgbImage::new(1, 1)).unwrap().height() > 96);
        assert!(matches!(bar.beside(&RgbImage::new(0, 1)), Err(Error::Empty { .. })));
    }
}
