//! Lines, bands, bars and dots inside the plot.
//!
//! The drawing library places shapes on whole pixels. The plot is therefore drawn larger and
//! averaged down, which gives smooth edges and places between pixels.

use image::{Rgb, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::ChartOptions;
use crate::canvas::{self, Rect};
use crate::{Error, MAX_PIXELS, Result};

/// A place in the plot: (0, 0) is lower left, (1, 1) upper right.
pub(super) type Place = (f64, f64);

/// A colour and how much it covers, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    pub(super) color: Rgb<u8>,
    pub(super) opacity: f64,
}

impl Paint {
    pub(super) fn solid(color: Rgb<u8>) -> Self {
        Paint { color, opacity: 1.0 }
    }

    fn style(self) -> RGBAColor {
        let [r, g, b] = self.color.0;
        RGBColor(r, g, b).mix(self.opacity)
    }
}

/// The enlarged plot while it is drawn on. Widths of lines are in pixels of the finished picture
/// at the usual font size, and grow with it; radii are in pixels.
pub(super) struct Marks<'a> {
    area: DrawingArea<BitMapBackend<'a>, Shift>,
    /// Of the finished plot.
    width: f64,
    height: f64,
    enlarged: f64,
    /// How much thicker lines are than at the usual font size.
    weight: f64,
}

/// Draws on the part `plot` of the image, which keeps what is already there.
pub(super) fn draw_on(
    image: &mut RgbImage,
    plot: Rect,
    font_size: f32,
    draw: impl FnOnce(&Marks<'_>) -> Result<()>,
) -> Result<()> {
    let pixels = u64::from(plot.width) * u64::from(plot.height);
    let factor = if pixels * 16 <= MAX_PIXELS { 4 } else { 2 };
    let (left, top) = (plot.x as u32, plot.y as u32);
    let ground = image::imageops::crop_imm(image, left, top, plot.width, plot.height).to_image();
    let mut large = canvas::enlarge(&ground, factor)?;
    let size = large.dimensions();
    {
        let area = BitMapBackend::with_buffer(&mut large, size).into_drawing_area();
        let marks = Marks {
            area,
            width: f64::from(plot.width),
            height: f64::from(plot.height),
            enlarged: f64::from(factor),
            weight: f64::from(font_size / ChartOptions::default().font_size),
        };
        draw(&marks)?;
        marks.area.present().map_err(refused)?;
    }
    for y in 0..plot.height {
        for x in 0..plot.width {
            image.put_pixel(left + x, top + y, average(&large, x * factor, y * factor, factor));
        }
    }
    Ok(())
}

/// The mean colour of a square.
fn average(image: &RgbImage, left: u32, top: u32, side: u32) -> Rgb<u8> {
    let mut sums = [0u32; 3];
    for y in top..top + side {
        for x in left..left + side {
            let pixel = image.get_pixel(x, y).0;
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += u32::from(value);
            }
        }
    }
    let count = side * side;
    Rgb(sums.map(|sum| ((sum + count / 2) / count) as u8))
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Draw(error.to_string())
}

impl Marks<'_> {
    /// The enlarged pixel of a place.
    fn pixel(&self, (x, y): Place) -> (f64, f64) {
        let across = (x * (self.width - 1.0) + 0.5) * self.enlarged;
        let down = ((1.0 - y) * (self.height - 1.0) + 0.5) * self.enlarged;
        (across, down)
    }

    /// A width as a share of the plot, given in pixels at the usual font size.
    pub(super) fn share_of_width(&self, pixels: f64) -> f64 {
        pixels * self.weight / self.width
    }

    /// A dot for a point that no line reaches.
    pub(super) fn dot(&self, place: Place, paint: Paint) -> Result<()> {
        self.disc(place, 3.0 * self.weight, paint)
    }

    /// A line through the places, with round corners.
    pub(super) fn line(&self, places: &[Place], width: f64, paint: Paint) -> Result<()> {
        for pair in places.windows(2) {
            self.segment(pair[0], pair[1], width, paint)?;
        }
        for &place in places {
            self.disc(place, width * self.weight / 2.0, paint)?;
        }
        Ok(())
    }

    fn segment(&self, from: Place, to: Place, width: f64, paint: Paint) -> Result<()> {
        let Some((from, to)) = clip(from, to) else { return Ok(()) };
        let ends = [from, to].map(|place| {
            let (x, y) = self.pixel(place);
            (x.round() as i32, y.round() as i32)
        });
        // The library fills both borders, which makes a stroke one pixel wider.
        let stroke = (width * self.weight * self.enlarged - 1.0).round().max(1.0) as u32;
        let style = paint.style().stroke_width(stroke);
        self.area.draw(&PathElement::new(ends, style)).map_err(refused)
    }

    /// A straight line in dashes.
    pub(super) fn dashed(&self, from: Place, to: Place, width: f64, paint: Paint) -> Result<()> {
        let Some((from, to)) = clip(from, to) else { return Ok(()) };
        let ((x0, y0), (x1, y1)) = (self.pixel(from), self.pixel(to));
        let length = (x1 - x0).hypot(y1 - y0) / self.enlarged;
        let (dash, gap) = (7.0 * self.weight, 5.0 * self.weight);
        let at = |along: f64| {
            let t = (along / length).min(1.0);
            (from.0 + (to.0 - from.0) * t, from.1 + (to.1 - from.1) * t)
        };
        let mut start = 0.0;
        while start < length {
            self.segment(at(start), at(start + dash), width, paint)?;
            start += dash + gap;
        }
        Ok(())
    }

    /// The area between two curves over rising x; entries are (x, lower y, upper y).
    pub(super) fn band(&self, edges: &[(f64, f64, f64)], paint: Paint) -> Result<()> {
        let last_column = (self.width * self.enlarged) - 1.0;
        for pair in edges.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let (start, end) = (self.pixel((a.0, 0.0)).0, self.pixel((b.0, 0.0)).0);
            let first = start.ceil().max(0.0);
            let mut column = first;
            while column < end && column <= last_column {
                let t = (column - start) / (end - start);
                let (low, high) = (a.1 + (b.1 - a.1) * t, a.2 + (b.2 - a.2) * t);
                if low < 1.1 && high > -0.1 {
                    let rows = [high.min(1.1), low.max(-0.1)].map(|y| self.pixel((0.0, y)).1);
                    let x = column as i32;
                    let corners = [(x, rows[0].round() as i32), (x + 1, rows[1].round() as i32)];
                    self.area.draw(&Rectangle::new(corners, paint.style().filled())).map_err(refused)?;
                }
                column += 1.0;
            }
        }
        Ok(())
    }

    /// A filled rectangle between two corners; what reaches an edge of the plot fills it.
    pub(super) fn rectangle(&self, a: Place, b: Place, paint: Paint) -> Result<()> {
        let side = |share: f64| match share {
            s if s <= 0.0 => -0.1,
            s if s >= 1.0 => 1.1,
            s => s,
        };
        let corners = [a, b].map(|(x, y)| {
            let (x, y) = self.pixel((side(x), side(y)));
            (x.round() as i32, y.round() as i32)
        });
        self.area.draw(&Rectangle::new(corners, paint.style().filled())).map_err(refused)
    }

    /// A filled circle; nothing where its centre lies outside the plot.
    pub(super) fn disc(&self, place: Place, radius: f64, paint: Paint) -> Result<()> {
        let inside = |share: f64| (-1e-9..=1.0 + 1e-9).contains(&share);
        if !inside(place.0) || !inside(place.1) {
            return Ok(());
        }
        let (x, y) = self.pixel(place);
        let radius = (radius * self.enlarged - 0.5).round().max(1.0) as i32;
        let center = (x.round() as i32, y.round() as i32);
        self.area.draw(&Circle::new(center, radius, paint.style().filled())).map_err(refused)
    }
}

/// The part of a straight line that lies in the plot, or `None`. The library would move ends
/// outside to the border, which bends the line.
fn clip(from: Place, to: Place) -> Option<(Place, Place)> {
    let (lo, hi) = (0.0, 1.0);
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    if !(dx.is_finite() && dy.is_finite()) {
        return None;
    }
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    for (start, change) in [(from.0, dx), (from.1, dy)] {
        if change == 0.0 {
            if start < lo || start > hi {
                return None;
            }
            continue;
        }
        let (a, b) = ((lo - start) / change, (hi - start) / change);
        enter = enter.max(a.min(b));
        leave = leave.min(a.max(b));
    }
    let at = |t: f64| (from.0 + dx * t, from.1 + dy * t);
    (enter <= leave).then(|| (at(enter), at(leave)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RED: Paint = Paint { color: Rgb([255, 0, 0]), opacity: 1.0 };

    fn drawn(draw: impl FnOnce(&Marks<'_>) -> Result<()>) -> RgbImage {
        let mut image = RgbImage::from_pixel(60, 40, canvas::WHITE);
        draw_on(&mut image, Rect { x: 10, y: 10, width: 40, height: 20 }, 16.0, draw).unwrap();
        image
    }

    /// How many pixels of ink there are.
    fn ink(image: &RgbImage) -> f64 {
        image.pixels().map(|p| 1.0 - f64::from(p.0[1]) / 255.0).sum()
    }

    #[test]
    fn shapes_have_their_size() {
        let cases = [
            ("rectangle", ink(&drawn(|m| m.rectangle((0.25, 0.0), (0.75, 1.0), RED))), 19.5 * 19.0),
            ("line", ink(&drawn(|m| m.line(&[(0.2, 0.5), (0.8, 0.5)], 2.0, RED))), 23.4 * 2.0 + 3.1),
            ("disc", ink(&drawn(|m| m.disc((0.5, 0.5), 4.0, RED))), 50.3),
            ("band", ink(&drawn(|m| m.band(&[(0.0, 0.2, 0.6), (1.0, 0.2, 0.6)], RED))), 39.0 * 7.6),
        ];
        let wrong: Vec<_> = cases.iter().filter(|(_, got, want)| (got / want - 1.0).abs() > 0.08).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn nothing_leaves_the_plot() {
        let image = drawn(|m| {
            m.line(&[(-1e300, -5.0), (0.5, 0.5), (1e300, 9.0)], 5.0, RED)?;
            m.rectangle((-1e9, -1e9), (1e9, 0.1), RED)?;
            m.band(&[(-1e6, -1e6, 0.0), (1e6, 0.0, 1e6)], RED)?;
            m.disc((0.0, 0.0), 9.0, RED)?;
            m.dashed((-1e9, 0.3), (1e9, 0.3), 2.0, RED)
        });
        let outside = image
            .enumerate_pixels()
            .filter(|(x, y, p)| !((10..50).contains(x) && (10..30).contains(y)) && **p != canvas::WHITE);
        assert_eq!(outside.count(), 0);
        assert!(ink(&image) > 100.0);
    }

    proptest! {
        #[test]
        fn clipped_lines_stay_in_the_plot(a in -9.0..9.0, b in -9.0..9.0, c in -9.0..9.0, d in -9.0..9.0) {
            if let Some((from, to)) = clip((a, b), (c, d)) {
                for value in [from.0, from.1, to.0, to.1] {
                    prop_assert!((-1e-9..=1.0 + 1e-9).contains(&value));
                }
            }
        }
    }
}
