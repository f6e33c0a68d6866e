//! Text in the embedded font: measured, cut, wrapped and drawn.

use ab_glyph::{Font, FontRef, Glyph, GlyphId, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage};

use crate::canvas;
use crate::{Error, Result};

static FONT: &[u8] = include_bytes!("../assets/NotoSans-subset.ttf");

/// Half the height of a capital letter, as a share of the font size: the distance from the middle
/// of a line of text to its baseline.
const HALF_CAPITAL: f32 = 0.357;

/// Which end of a line of text a position refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Center,
    Right,
}

/// A font size and colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ink {
    /// Pixels per em.
    pub(crate) size: f32,
    pub(crate) color: Rgb<u8>,
}

/// The embedded font.
#[derive(Debug)]
pub(crate) struct Typeface {
    font: FontRef<'static>,
}

impl Typeface {
    pub(crate) fn embedded() -> Result<Self> {
        let font = FontRef::try_from_slice(FONT)
            .map_err(|error| Error::Draw(format!("the embedded font: {error}")))?;
        Ok(Typeface { font })
    }

    fn scale(&self, size: f32) -> PxScale {
        let units = self.font.units_per_em().unwrap_or(1000.0);
        PxScale::from(size * self.font.height_unscaled() / units)
    }

    /// The width of a line of text in pixels.
    pub(crate) fn width(&self, text: &str, size: f32) -> f32 {
        let font = self.font.as_scaled(self.scale(size));
        printable(text).map(|c| font.h_advance(font.glyph_id(c))).sum()
    }

    /// The distance between two baselines in pixels.
    pub(crate) fn line_height(&self, size: f32) -> u32 {
        (size * 1.35).ceil() as u32
    }

    /// The text, or its beginning and an ellipsis where it is wider than `max_width`.
    pub(crate) fn ellipsize(&self, text: &str, size: f32, max_width: f32) -> String {
        if self.width(text, size) <= max_width {
            return text.to_owned();
        }
        let room = max_width - self.width("…", size);
        let mut kept = self.prefix(text, size, room).trim_end().to_owned();
        kept.push('…');
        kept
    }

    /// The longest beginning of the text that is at most `room` wide.
    fn prefix<'t>(&self, text: &'t str, size: f32, room: f32) -> &'t str {
        let font = self.font.as_scaled(self.scale(size));
        let mut used = 0.0;
        for (at, c) in text.char_indices() {
            used += font.h_advance(font.glyph_id(if c.is_control() { ' ' } else { c }));
            if used > room {
                return &text[..at];
            }
        }
        text
    }

    /// The text in lines of at most `max_width`, broken at white space, or inside a word that is
    /// wider than a line; an ellipsis ends the last line where there would be more than
    /// `max_lines`. Line feeds break lines.
    pub(crate) fn wrap(&self, text: &str, size: f32, max_width: f32, max_lines: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for paragraph in text.trim().lines() {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
                if self.width(&longer, size) <= max_width {
                    line = longer;
                    continue;
                }
                if !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                let mut rest = word;
                while self.width(rest, size) > max_width && lines.len() <= max_lines {
                    let fitting = self.prefix(rest, size, max_width);
                    let first = rest.chars().next().map_or(0, char::len_utf8);
                    let (head, tail) = rest.split_at(fitting.len().max(first));
                    lines.push(head.to_owned());
                    rest = tail;
                }
                line = rest.to_owned();
                if lines.len() > max_lines {
                    break;
                }
            }
            lines.push(line);
            if lines.len() > max_lines {
                break;
            }
        }
        if lines.len() > max_lines {
            lines.truncate(max_lines);
            if let Some(last) = lines.last_mut() {
                *last = self.ellipsize(&format!("{last} …"), size, max_width);
                if !last.ends_with('…') {
                    last.push('…');
                }
            }
        }
        lines
    }

    /// Draws a line of text whose capitals are centred on `middle`, and returns its width.
    pub(crate) fn draw(
        &self,
        image: &mut RgbImage,
        text: &str,
        ink: Ink,
        (x, middle): (f32, f32),
        align: Align,
    ) -> f32 {
        let width = self.width(text, ink.size);
        let left = match align {
            Align::Left => x,
            Align::Center => x - width / 2.0,
            Align::Right => x - width,
        };
        let baseline = (middle + HALF_CAPITAL * ink.size).round();
        self.rasterize(text, ink.size, (left, baseline), |x, y, coverage| {
            canvas::blend(image, x, y, ink.color, coverage);
        });
        width
    }

    /// Draws a line of text that reads upwards; `x` is the middle of its capitals, and `align`
    /// says what `y` is: its lower end (left), middle or upper end (right).
    pub(crate) fn draw_upwards(
        &self,
        image: &mut RgbImage,
        text: &str,
        ink: Ink,
        (x, y): (f32, f32),
        align: Align,
    ) {
        let width = self.width(text, ink.size);
        let start = match align {
            Align::Left => y,
            Align::Center => y + width / 2.0,
            Align::Right => y + width,
        };
        // Along the text and across it; a quarter turn maps (along, across) to (across, −along).
        let baseline = (x + HALF_CAPITAL * ink.size).round();
        self.rasterize(text, ink.size, (-start, baseline), |along, across, coverage| {
            canvas::blend(image, across, -along - 1, ink.color, coverage);
        });
    }

    /// Calls `pixel` with every pixel that the text touches and how much of it is covered.
    fn rasterize(
        &self,
        text: &str,
        size: f32,
        (left, baseline): (f32, f32),
        mut pixel: impl FnMut(i64, i64, f32),
    ) {
        let scale = self.scale(size);
        let font = self.font.as_scaled(scale);
        let mut x = left;
        let mut base = None;
        for c in printable(text) {
            let id = font.glyph_id(c);
            let at = match base.filter(|_| is_accent(c)) {
                Some(base) => self.accent_place(id, base, scale, (x, baseline)),
                None => (x, baseline),
            };
            if !is_accent(c) {
                base = Some(id);
            }
            x += font.h_advance(id);
            let glyph = Glyph { id, scale, position: point(at.0, at.1) };
            if let Some(outline) = self.font.outline_glyph(glyph) {
                let bounds = outline.px_bounds();
                let (left, top) = (bounds.min.x as i64, bounds.min.y as i64);
                outline.draw(|x, y, coverage| {
                    pixel(left + i64::from(x), top + i64::from(y), coverage.clamp(0.0, 1.0));
                });
            }
        }
    }

    /// Where an accent stands so that it is centred over its letter, which ends at `x`, and clear
    /// of it: accents are drawn for letters as high as an x.
    fn accent_place(
        &self,
        accent: GlyphId,
        base: GlyphId,
        scale: PxScale,
        (x, baseline): (f32, f32),
    ) -> (f32, f32) {
        let outline = |id| self.font.outline(id).map(|outline| outline.bounds);
        let top = |bounds: ab_glyph::Rect| bounds.min.y.max(bounds.max.y);
        let x_height = outline(self.font.glyph_id('x')).map(top);
        let (Some(accent), Some(letter), Some(x_height)) = (outline(accent), outline(base), x_height) else {
            return (x, baseline);
        };
        let per_unit = scale.y / self.font.height_unscaled();
        let middle = (letter.min.x + letter.max.x) / 2.0 - self.font.h_advance_unscaled(base);
        let dx = middle - (accent.min.x + accent.max.x) / 2.0;
        let rise = (top(letter) - x_height).max(0.0);
        (x + dx * per_unit, baseline - rise * per_unit)
    }
}

/// Combining accents, which have no width of their own.
fn is_accent(c: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&c)
}

/// Line feeds, tabs and other control characters take the place of a space.
fn printable(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().map(|c| if c.is_control() { ' ' } else { c })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_font_has_the_characters_of_our_figures() {
        let face = Typeface::embedded().unwrap();
        let needed = "Az09ÄéßñŁ−×±≤≥αβεᾱσμθλΔΩ√ΣΠ∑∏→←↑↓↔⇒°µ²³¹⁻⁰⁹₀₁₉ₜᵢₙ∞≈≠≡∂∇∈∫‖⟨⟩…–—·•∼≪≫∝“”’\u{302}\u{304}";
        let missing: Vec<_> = needed.chars().filter(|&c| face.font.glyph_id(c).0 == 0).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(FONT.len() < 150_000, "{} bytes", FONT.len());
    }

    #[test]
    fn both_directions_draw_the_same_amount_of_ink() {
        let face = Typeface::embedded().unwrap();
        let ink = Ink { size: 20.0, color: canvas::INK };
        let darkness = |image: &RgbImage| -> f64 { image.pixels().map(|p| 255.0 - f64::from(p.0[0])).sum() };
        let mut across = RgbImage::from_pixel(200, 200, canvas::WHITE);
        let mut upwards = across.clone();
        face.draw(&mut across, "x̂₀ = 3±1", ink, (100.0, 100.0), Align::Center);
        face.draw_upwards(&mut upwards, "x̂₀ = 3±1", ink, (100.0, 100.0), Align::Center);
        assert!(darkness(&across) > 10_000.0);
        let turned = image::imageops::rotate270(&across);
        assert!((darkness(&turned) / darkness(&upwards) - 1.0).abs() < 0.02);
    }

    #[test]
    fn long_text_wraps_and_ends_in_an_ellipsis() {
        let face = Typeface::embedded().unwrap();
        let text = "one two three four five six seven eight nine ten";
        assert_eq!(face.wrap("a\nb", 10.0, 100.0, 3), ["a", "b"]);
        assert_eq!(face.wrap("", 10.0, 100.0, 3), Vec::<String>::new());
        let lines = face.wrap(text, 10.0, 80.0, 2);
        assert_eq!(lines.len(), 2);
        assert!(lines[1].ends_with('…'), "{lines:?}");
        assert!(face.wrap(text, 10.0, 80.0, 9).join(" ") == text);
        assert!(face.ellipsize(text, 10.0, 40.0).ends_with('…'));
    }

    proptest! {
        #[test]
        fn wrapped_lines_fit(text in "\\PC{0,80}", width in 1.0f32..200.0, most in 1usize..4) {
            let face = Typeface::embedded().unwrap();
            let lines = face.wrap(&text, 12.0, width, most);
            prop_assert!(lines.len() <= most);
            let wide = |line: &&String| face.width(line, 12.0) > width && line.chars().count() > 2;
            prop_assert_eq!(lines.iter().find(wide), None);
        }
    }
}
