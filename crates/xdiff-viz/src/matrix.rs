//! A table of numbers as coloured cells, such as a confusion matrix.

use image::{Rgb, RgbImage};

use crate::canvas::{self, INK, QUIET, Rect, WHITE};
use crate::error::require_finite;
use crate::text::{Align, Ink, Typeface};
use crate::{Colormap, Error, Result, ValueRange};

/// Room around the whole picture, in pixels.
const MARGIN: u32 = 14;
/// The widest that the name of a row or column is drawn, as a multiple of the font size.
const LONGEST_NAME: f32 = 11.0;

/// What the colour of a cell of a [`MatrixChart`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CellColor {
    /// Its share of the sum of its row, 0 to 1: rows of unequal sums can be compared. Values must not
    /// be negative; a row whose sum is 0 has the colour of 0.
    #[default]
    RowShare,
    /// Its value, from the least to the greatest of the matrix.
    Value,
}

/// A matrix of numbers with named rows and columns, each cell coloured and labelled.
///
/// ```
/// use xdiff_viz::MatrixChart;
///
/// let picture = MatrixChart {
///     title: "Test set".into(),
///     row_title: "true class".into(),
///     column_title: "predicted class".into(),
///     rows: vec!["glioma".into(), "none".into()],
///     columns: vec!["glioma".into(), "none".into()],
///     values: vec![38.0, 2.0, 1.0, 39.0],
///     ..Default::default()
/// }
/// .render()?;
/// assert!(picture.width() > 200);
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixChart {
    /// Above the matrix.
    pub title: String,
    /// What the rows are, left of their names.
    pub row_title: String,
    /// What the columns are, below their names.
    pub column_title: String,
    /// The names of the rows.
    pub rows: Vec<String>,
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The numbers, row after row.
    pub values: Vec<f64>,
    /// Digits behind the point in a cell.
    pub decimals: usize,
    /// What the colours stand for.
    pub color: CellColor,
    /// Width and height of a cell in pixels, 16 to 400.
    pub cell: u32,
    /// Size of the text in pixels, 6 to 100.
    pub font_size: f32,
}

impl Default for MatrixChart {
    /// An empty matrix with cells of 72 pixels.
    fn default() -> Self {
        Self {
            title: String::new(),
            row_title: String::new(),
            column_title: String::new(),
            rows: Vec::new(),
            columns: Vec::new(),
            values: Vec::new(),
            decimals: 0,
            color: CellColor::default(),
            cell: 72,
            font_size: 16.0,
        }
    }
}

impl MatrixChart {
    /// Draws the matrix on white.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without rows or columns, [`Error::Shape`] if the number of values does not fit
    /// them, [`Error::NonFinite`], [`Error::Argument`] for sizes out of range or a negative value under
    /// [`CellColor::RowShare`], [`Error::TooLarge`] beyond [`crate::MAX_PIXELS`].
    pub fn render(&self) -> Result<RgbImage> {
        let shades = self.shades()?;
        let face = Typeface::embedded()?;
        let layout = Layout::new(self, &face);
        let mut picture = canvas::blank("matrix", layout.width, layout.height, WHITE)?;
        layout.texts(self, &face, &mut picture);
        for (i, (value, shade)) in self.values.iter().zip(shades).enumerate() {
            let (row, column) = (i / self.columns.len(), i % self.columns.len());
            let rect = layout.cell(row, column);
            // Viridis backwards: the more, the darker.
            let color = Colormap::Viridis.color(1.0 - shade);
            canvas::fill(&mut picture, rect, color);
            let ink = Ink { size: self.font_size, color: readable_on(color) };
            let text = face.ellipsize(&format!("{value:.*}", self.decimals), ink.size, self.cell as f32);
            face.draw(&mut picture, &text, ink, middle(rect), Align::Center);
        }
        Ok(picture)
    }

    /// Where each value lies between 0 and 1.
    fn shades(&self) -> Result<Vec<f64>> {
        if self.rows.is_empty() || self.columns.is_empty() {
            return Err(Error::Empty { what: "matrix".to_owned(), hint: "name its rows and columns" });
        }
        let wanted = self.rows.len() * self.columns.len();
        if self.values.len() != wanted {
            let expected = format!("{wanted}, {} rows of {}", self.rows.len(), self.columns.len());
            return Err(Error::shape("values", expected, self.values.len().to_string()));
        }
        require_finite("the matrix", self.values.iter().copied())?;
        if !(16..=400).contains(&self.cell) {
            return Err(Error::argument("cell", format!("{} is not between 16 and 400 pixels", self.cell)));
        }
        if !(6.0..=100.0).contains(&self.font_size) {
            let reason = format!("{} is not between 6 and 100 pixels", self.font_size);
            return Err(Error::argument("font_size", reason));
        }
        match self.color {
            CellColor::RowShare => {
                if let Some(value) = self.values.iter().find(|v| **v < 0.0) {
                    let reason = format!("{value} has no share of its row; use CellColor::Value");
                    return Err(Error::argument("values", reason));
                }
                let share = |row: &[f64]| {
                    let sum: f64 = row.iter().sum();
                    row.iter().map(|v| if sum > 0.0 { v / sum } else { 0.0 }).collect::<Vec<_>>()
                };
                Ok(self.values.chunks(self.columns.len()).flat_map(share).collect())
            }
            CellColor::Value => {
                let (lo, hi) = self
                    .values
                    .iter()
                    .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
                if lo == hi {
                    return Ok(vec![0.5; wanted]);
                }
                let range = ValueRange::new(lo, hi)?;
                Ok(self.values.iter().map(|v| range.position(*v)).collect())
            }
        }
    }
}

/// Black on light colours, white on dark ones.
fn readable_on(color: Rgb<u8>) -> Rgb<u8> {
    let [r, g, b] = color.0.map(f32::from);
    if 0.299 * r + 0.587 * g + 0.114 * b > 140.0 { INK } else { WHITE }
}

fn middle(rect: Rect) -> (f32, f32) {
    (rect.x as f32 + rect.width as f32 / 2.0, rect.y as f32 + rect.height as f32 / 2.0)
}

/// Every measure of the picture, in pixels.
struct Layout {
    /// The left upper corner of the first cell.
    left: u32,
    top: u32,
    step: u32,
    cell: u32,
    line: u32,
    /// The width of the matrix.
    span: u32,
    width: u64,
    height: u64,
}

impl Layout {
    fn new(chart: &MatrixChart, face: &Typeface) -> Self {
        let size = chart.font_size;
        let line = face.line_height(size);
        let names = chart.rows.iter().map(|name| face.width(name, size)).fold(0.0, f32::max);
        let names = names.min(LONGEST_NAME * size).ceil() as u32;
        let room = |text: &str| if text.is_empty() { 0 } else { line + 4 };
        let left = MARGIN + room(&chart.row_title) + names + 8;
        let top = MARGIN + room(&chart.title);
        let step = chart.cell + 2;
        let columns = chart.columns.len() as u64 * u64::from(step);
        let rows = chart.rows.len() as u64 * u64::from(step);
        let below = 2 * line + 6 + room(&chart.column_title) + MARGIN;
        let title = face.width(&chart.title, size).ceil() as u64 + 2 * u64::from(MARGIN);
        Self {
            left,
            top,
            step,
            cell: chart.cell,
            line,
            span: u32::try_from(columns).unwrap_or(u32::MAX),
            width: (u64::from(left) + columns + u64::from(MARGIN)).max(title),
            height: u64::from(top) + rows + u64::from(below),
        }
    }

    fn cell(&self, row: usize, column: usize) -> Rect {
        let at = |start: u32, index: usize| i64::from(start) + index as i64 * i64::from(self.step);
        Rect { x: at(self.left, column), y: at(self.top, row), width: self.cell, height: self.cell }
    }

    /// Titles, and the names of rows and columns.
    fn texts(&self, chart: &MatrixChart, face: &Typeface, picture: &mut RgbImage) {
        let (name, title) =
            (Ink { size: chart.font_size, color: INK }, Ink { size: chart.font_size, color: QUIET });
        let line = self.line as f32;
        let across = self.left as f32 + self.span as f32 / 2.0;
        let margin = MARGIN as f32 + line / 2.0;
        face.draw(picture, &chart.title, name, (self.width as f32 / 2.0, margin), Align::Center);
        for (row, text) in chart.rows.iter().enumerate() {
            let (_, y) = middle(self.cell(row, 0));
            let text = face.ellipsize(text, name.size, LONGEST_NAME * name.size);
            face.draw(picture, &text, name, (self.left as f32 - 8.0, y), Align::Right);
        }
        let last = self.cell(chart.rows.len(), 0).y as f32;
        for (column, text) in chart.columns.iter().enumerate() {
            let (x, _) = middle(self.cell(0, column));
            for (i, text) in face.wrap(text, name.size, self.cell as f32, 2).iter().enumerate() {
                face.draw(picture, text, name, (x, last + 4.0 + line * (i as f32 + 0.5)), Align::Center);
            }
        }
        let down = (self.top as f32 + last) / 2.0;
        face.draw_upwards(picture, &chart.row_title, title, (margin, down), Align::Center);
        let below = last + 10.0 + line * 2.5;
        face.draw(picture, &chart.column_title, title, (across, below), Align::Center);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[f64]) -> MatrixChart {
        MatrixChart {
            rows: vec!["a".into(), "b".into()],
            columns: vec!["x".into(), "y".into()],
            values: values.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn a_cell_has_the_colour_of_its_share_of_the_row() {
        let one = chart(&[1.0, 3.0, 0.0, 0.0]);
        assert_eq!(one.shades().unwrap(), [0.25, 0.75, 0.0, 0.0]);
        let other = MatrixChart { color: CellColor::Value, ..chart(&[-1.0, 3.0, 1.0, 1.0]) };
        assert_eq!(other.shades().unwrap(), [0.0, 1.0, 0.5, 0.5]);
        let equal = MatrixChart { color: CellColor::Value, ..chart(&[2.0; 4]) };
        assert_eq!(equal.shades().unwrap(), [0.5; 4]);
        let picture = one.render().unwrap();
        assert_eq!(picture, one.render().unwrap());
        let layout = Layout::new(&one, &Typeface::embedded().unwrap());
        let corner = layout.cell(0, 1);
        let pixel = picture.get_pixel(corner.x as u32 + 1, corner.y as u32 + 1);
        assert_eq!(*pixel, Colormap::Viridis.color(0.25));
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let long = "a name that is far too long for the place that there is".to_owned();
        assert!(MatrixChart { rows: vec![long.clone(), long], ..chart(&[1.0; 4]) }.render().is_ok());
        let cases = [
            ("no rows", MatrixChart { rows: vec![], ..chart(&[]) }, "matrix is empty"),
            ("too few", chart(&[1.0]), "expected 4"),
            ("NaN", chart(&[1.0, f64::NAN, 0.0, 0.0]), "value 1 is NaN"),
            ("negative", chart(&[1.0, -1.0, 0.0, 0.0]), "CellColor::Value"),
            ("cell", MatrixChart { cell: 5, ..chart(&[1.0; 4]) }, "cell"),
            ("font", MatrixChart { font_size: f32::NAN, ..chart(&[1.0; 4]) }, "font_size"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .map(|(name, chart, word)| (name, chart.render().map_err(|e| e.to_string()), word))
            .filter(|(_, result, word)| !matches!(result, Err(e) if e.contains(*word)))
            .map(|(name, result, _)| format!("{name}: {:?}", result.err()))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
