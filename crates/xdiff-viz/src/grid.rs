//! Pictures side by side, with titles, labels and captions.

use image::RgbImage;

use crate::canvas::{self, INK, QUIET, WHITE};
use crate::colorbar::BarLayout;
use crate::text::{Align, Ink, Typeface};
use crate::{ColorBar, Error, Result, enlarge};

/// How a [`Grid`] is laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct GridOptions {
    /// Panels per row.
    pub columns: usize,
    /// Pictures whose longer side is below this are enlarged by the greatest whole factor that
    /// keeps it at or below; larger pictures stay as they are. In pixels.
    pub panel_size: u32,
    /// Space between panels in pixels.
    pub gap: u32,
    /// Size of captions in pixels; the title is larger.
    pub font_size: f32,
    /// Above everything.
    pub title: Option<String>,
    /// One label above each column, or none.
    pub column_labels: Vec<String>,
    /// One label left of each row, or none; they read upwards.
    pub row_labels: Vec<String>,
    /// One colour bar for all panels, at the right.
    pub color_bar: Option<ColorBar>,
}

impl Default for GridOptions {
    /// Four columns of 192-pixel panels without labels.
    fn default() -> Self {
        GridOptions {
            columns: 4,
            panel_size: 192,
            gap: 10,
            font_size: 13.0,
            title: None,
            column_labels: Vec::new(),
            row_labels: Vec::new(),
            color_bar: None,
        }
    }
}

/// Panels in rows, filled from the left and from the top.
///
/// Columns are as wide as their widest picture, rows as high as their highest; smaller pictures
/// are centred. Captions wrap below their picture and end in an ellipsis after three lines.
///
/// ```
/// use image::RgbImage;
/// use xdiff_viz::{Grid, GridOptions};
///
/// let mut grid = Grid::new(GridOptions {
///     columns: 2,
///     title: Some("Denoising".into()),
///     column_labels: vec!["xₜ".into(), "x̂₀".into()],
///     ..GridOptions::default()
/// });
/// grid.push(RgbImage::new(64, 64), "t = 999");
/// grid.push(RgbImage::new(64, 64), "");
/// let picture = grid.render()?;
/// assert!(picture.width() > 2 * 192);
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Grid {
    options: GridOptions,
    panels: Vec<Option<(RgbImage, String)>>,
}

impl Grid {
    /// A grid without panels.
    pub fn new(options: GridOptions) -> Self {
        Grid { options, panels: Vec::new() }
    }

    /// Adds a picture and its caption; an empty caption takes no room.
    pub fn push(&mut self, image: RgbImage, caption: impl Into<String>) {
        self.panels.push(Some((image, caption.into())));
    }

    /// Leaves the next place empty.
    pub fn skip(&mut self) {
        self.panels.push(None);
    }

    /// How many places are taken, with the empty ones.
    pub fn len(&self) -> usize {
        self.panels.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.panels.is_empty()
    }

    /// Draws the grid on white.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without a picture, or with one that has no pixels; [`Error::Argument`]
    /// for options out of range; [`Error::Shape`] if the number of labels is not that of the
    /// columns or rows; [`Error::TooLarge`] beyond [`crate::MAX_PIXELS`].
    pub fn render(&self) -> Result<RgbImage> {
        self.check()?;
        let face = Typeface::embedded()?;
        let layout = Layout::new(&self.options, &face, self.enlarged()?)?;
        layout.draw(&self.options, &face)
    }

    fn check(&self) -> Result<()> {
        let options = &self.options;
        if options.columns == 0 {
            return Err(Error::argument("columns", "a grid has at least one column"));
        }
        if !(options.font_size >= 4.0 && options.font_size <= 200.0) {
            let reason = format!("{} is not between 4 and 200 pixels", options.font_size);
            return Err(Error::argument("font_size", reason));
        }
        if options.gap > 1000 {
            let reason = format!("{} pixels between panels; give at most 1000", options.gap);
            return Err(Error::argument("gap", reason));
        }
        if !self.panels.iter().any(Option::is_some) {
            return Err(Error::Empty { what: "grid".to_owned(), hint: "add at least one picture" });
        }
        let rows = self.panels.len().div_ceil(options.columns);
        let labels = [
            ("column labels", options.column_labels.len(), options.columns, "columns"),
            ("row labels", options.row_labels.len(), rows, "rows"),
        ];
        for (what, given, wanted, of) in labels {
            if given != 0 && given != wanted {
                let expected = format!("none, or one for each of the {wanted} {of}");
                return Err(Error::shape(what, expected, format!("{given} labels")));
            }
        }
        Ok(())
    }

    /// The pictures in the size in which they are shown.
    fn enlarged(&self) -> Result<Vec<Option<(RgbImage, &str)>>> {
        let enlarge_panel = |(index, panel): (usize, &'_ Option<(RgbImage, String)>)| match panel {
            None => Ok(None),
            Some((image, _)) => {
                canvas::require_pixels(&format!("picture {index} of the grid"), image)?;
                let side = image.width().max(image.height());
                Ok(Some(enlarge(image, (self.options.panel_size / side).max(1))?))
            }
        };
        let images: Result<Vec<_>> = self.panels.iter().enumerate().map(enlarge_panel).collect();
        let captions = self.panels.iter().map(|p| p.as_ref().map_or("", |(_, c)| c.as_str()));
        Ok(images?.into_iter().zip(captions).map(|(i, c)| i.map(|image| (image, c))).collect())
    }
}

/// A placed picture and the lines of its caption.
struct Cell {
    image: RgbImage,
    caption: Vec<String>,
}

/// Every measure of a grid, in pixels.
struct Layout {
    cells: Vec<Option<Cell>>,
    columns: usize,
    column_widths: Vec<u32>,
    /// Height of the pictures, then of the captions, for each row.
    rows: Vec<(u32, u32)>,
    title: Vec<String>,
    column_labels: Vec<Vec<String>>,
    /// Left and upper edge of the first panel.
    origin: (u32, u32),
    bar: Option<BarLayout>,
    width: u64,
    height: u64,
}

const MARGIN: u32 = 14;

impl Layout {
    fn new(options: &GridOptions, face: &Typeface, panels: Vec<Option<(RgbImage, &str)>>) -> Result<Self> {
        let columns = options.columns.min(panels.len()).max(options.column_labels.len());
        let (size, line) = (options.font_size, face.line_height(options.font_size));
        let mut column_widths = vec![0; columns];
        for (index, panel) in panels.iter().enumerate() {
            let width = panel.as_ref().map_or(0, |(image, _)| image.width());
            column_widths[index % columns] = width.max(column_widths[index % columns]);
        }
        // A caption needs room for a word, and an empty column for its label.
        let least = (size * 5.0) as u32;
        column_widths.iter_mut().for_each(|w| *w = (*w).max(least));

        let caption = |width: u32, text: &str| face.wrap(text, size, width as f32, 3);
        let cells: Vec<Option<Cell>> = panels
            .into_iter()
            .enumerate()
            .map(|(index, panel)| {
                let width = column_widths[index % columns];
                panel.map(|(image, text)| Cell { image, caption: caption(width, text) })
            })
            .collect();
        let rows: Vec<(u32, u32)> = cells
            .chunks(columns)
            .map(|row| {
                let tallest = row.iter().flatten().map(|c| c.image.height()).max().unwrap_or(0);
                let lines = row.iter().flatten().map(|c| c.caption.len()).max().unwrap_or(0);
                (tallest, if lines == 0 { 0 } else { line * lines as u32 + 3 })
            })
            .collect();
        let column_labels: Vec<_> =
            options.column_labels.iter().zip(&column_widths).map(|(t, &w)| caption(w, t)).collect();

        let sum = |values: &mut dyn Iterator<Item = u32>| values.map(u64::from).sum::<u64>();
        let gaps = |n: usize| (n as u64 - 1) * u64::from(options.gap);
        let panels_width = sum(&mut column_widths.iter().copied()) + gaps(columns);
        let panels_height = sum(&mut rows.iter().map(|(a, b)| a + b)) + gaps(rows.len());
        let bar =
            options.color_bar.as_ref().map(|bar| bar.layout(face, size, panels_height.min(1 << 20) as u32));

        let left = MARGIN + if options.row_labels.is_empty() { 0 } else { line + 4 };
        let bar_width = bar.as_ref().map_or(0, |b| u64::from(b.width) + 14);
        let width = u64::from(left) + panels_width + bar_width + u64::from(MARGIN);
        let title_width = (width as f32 - 2.0 * MARGIN as f32).max(1.0);
        let title = options
            .title
            .as_deref()
            .map(|t| face.wrap(t, title_size(size), title_width, 3))
            .unwrap_or_default();
        let title_height = match title.len() as u32 {
            0 => 0,
            lines => lines * face.line_height(title_size(size)) + 6,
        };
        let label_lines = column_labels.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let top = MARGIN + title_height + if label_lines == 0 { 0 } else { label_lines * line + 3 };
        let height = u64::from(top) + panels_height + u64::from(MARGIN);
        Ok(Layout {
            cells,
            columns,
            column_widths,
            rows,
            title,
            column_labels,
            origin: (left, top),
            bar,
            width,
            height,
        })
    }

    fn draw(&self, options: &GridOptions, face: &Typeface) -> Result<RgbImage> {
        let mut out = canvas::blank("grid", self.width, self.height, WHITE)?;
        let size = options.font_size;
        let line = face.line_height(size) as f32;
        let label = Ink { size, color: INK };
        let quiet = Ink { size, color: QUIET };
        let heading = Ink { size: title_size(size), color: INK };
        let title_line = face.line_height(heading.size) as f32;
        lines(&mut out, face, &self.title, heading, (self.width as f32 / 2.0, MARGIN as f32), title_line);

        let (left, top) = self.origin;
        let mut y = top;
        for (row, &(picture_height, caption_height)) in self.rows.iter().enumerate() {
            if let Some(text) = options.row_labels.get(row) {
                let text = face.ellipsize(text, size, picture_height.max(1) as f32);
                let at = (MARGIN as f32 + line / 2.0 - 2.0, y as f32 + picture_height as f32 / 2.0);
                face.draw_upwards(&mut out, &text, label, at, Align::Center);
            }
            let mut x = left;
            for (column, &width) in self.column_widths.iter().enumerate() {
                let middle = x as f32 + width as f32 / 2.0;
                if let (0, Some(text)) = (row, self.column_labels.get(column)) {
                    // Labels of fewer lines stand at the lower edge.
                    let above = top as f32 - 3.0 - line * text.len() as f32;
                    lines(&mut out, face, text, label, (middle, above), line);
                }
                if let Some(Some(cell)) = self.cells.get(row * self.columns + column) {
                    let dx = (width - cell.image.width()) / 2;
                    let dy = (picture_height - cell.image.height()) / 2;
                    canvas::paste(&mut out, &cell.image, i64::from(x + dx), i64::from(y + dy));
                    let below = (y + picture_height) as f32 + 3.0;
                    lines(&mut out, face, &cell.caption, quiet, (middle, below), line);
                }
                x += width + options.gap;
            }
            y += picture_height + caption_height + options.gap;
        }
        if let (Some(bar), Some(layout)) = (&options.color_bar, &self.bar) {
            let x = self.width as i64 - i64::from(MARGIN) - i64::from(layout.width);
            // The caption of the last row hangs below the pictures.
            let caption = self.rows.last().map_or(0, |(_, caption)| *caption);
            let height = (y - options.gap - top).saturating_sub(caption).max(1);
            bar.draw(&mut out, face, layout, (x, i64::from(top)), height);
        }
        Ok(out)
    }
}

fn title_size(size: f32) -> f32 {
    (size * 1.3).round()
}

/// Centred lines of text, the first one's upper edge at y.
fn lines(
    out: &mut RgbImage,
    face: &Typeface,
    text: &[String],
    ink: Ink,
    (x, y): (f32, f32),
    line_height: f32,
) {
    for (index, line) in text.iter().enumerate() {
        let middle = y + (index as f32 + 0.5) * line_height;
        face.draw(out, line, ink, (x, middle), Align::Center);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Colormap, ValueRange};
    use image::Rgb;

    fn square(side: u32, level: u8) -> RgbImage {
        RgbImage::from_pixel(side, side, Rgb([level, 0, 0]))
    }

    fn full_options() -> GridOptions {
        GridOptions {
            columns: 2,
            panel_size: 96,
            title: Some("A title that is longer than the grid is wide, and so it wraps".into()),
            column_labels: vec!["xₜ".into(), "x̂₀".into()],
            row_labels: vec!["first".into(), "second".into()],
            color_bar: Some(ColorBar::new(Colormap::Magma, ValueRange::new(0.0, 1.0).unwrap())),
            ..GridOptions::default()
        }
    }

    #[test]
    fn small_pictures_are_enlarged_by_whole_factors() {
        let mut grid = Grid::new(GridOptions { columns: 3, panel_size: 100, ..Default::default() });
        for (side, level) in [(10, 200), (64, 201), (130, 202)] {
            grid.push(square(side, level), "");
        }
        let out = grid.render().unwrap();
        let sides = [200, 201, 202].map(|level| {
            let count = out.pixels().filter(|p| p.0 == [level, 0, 0]).count();
            (count as f64).sqrt()
        });
        assert_eq!(sides, [100.0, 64.0, 130.0]);
        assert_eq!(out.width(), 100 + 65 + 130 + 2 * 10 + 2 * MARGIN);
    }

    #[test]
    fn every_part_is_drawn_and_the_same_each_time() {
        let mut grid = Grid::new(full_options());
        grid.push(square(8, 200), "caption\nof two lines");
        grid.skip();
        grid.push(square(8, 210), "");
        assert_eq!((grid.len(), grid.is_empty()), (3, false));
        let out = grid.render().unwrap();
        assert_eq!(out, grid.render().unwrap());
        for level in [200, 210] {
            assert_eq!(out.pixels().filter(|p| p.0 == [level, 0, 0]).count(), 96 * 96);
        }
        let plain =
            Grid { options: GridOptions { columns: 2, panel_size: 96, ..Default::default() }, ..grid };
        let plain = plain.render().unwrap();
        assert!(out.width() > plain.width() && out.height() > plain.height());
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let one = |options: GridOptions, image: RgbImage| {
            let mut grid = Grid::new(options);
            grid.push(image, "caption");
            grid.render().map_err(|e| e.to_string())
        };
        let with = |change: fn(&mut GridOptions)| {
            let mut options = GridOptions::default();
            change(&mut options);
            one(options, square(2, 1))
        };
        let cases = [
            ("no panels", Grid::new(GridOptions::default()).render().map_err(|e| e.to_string()), "empty"),
            ("no pixels", one(GridOptions::default(), RgbImage::new(0, 0)), "picture 0"),
            ("no columns", with(|o| o.columns = 0), "columns"),
            ("font NaN", with(|o| o.font_size = f32::NAN), "font_size"),
            ("font huge", with(|o| o.font_size = 1e9), "font_size"),
            ("gap huge", with(|o| o.gap = u32::MAX), "gap"),
            ("panel huge", with(|o| o.panel_size = u32::MAX), "pixels"),
            ("labels", with(|o| o.row_labels = vec!["a".into(), "b".into()]), "row labels"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(_, result, word)| !matches!(result, Err(e) if e.contains(word)))
            .map(|(name, result, _)| format!("{name}: {:?}", result.as_ref().err()))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
