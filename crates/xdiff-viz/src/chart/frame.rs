//! What stands around the data: title, legend, axes, grid, labels.

use image::{Rgb, RgbImage};

use super::axis::Axis;
use super::marks::{self, Marks, Paint};
use super::{ChartOptions, Guide};
use crate::canvas::{self, INK, QUIET, Rect, WHITE};
use crate::text::{Align, Ink, Typeface};
use crate::ticks::Tick;
use crate::{Error, Result};

const GRID: Rgb<u8> = Rgb([228, 228, 228]);
const MINOR_GRID: Rgb<u8> = Rgb([243, 243, 243]);
const TICK: u32 = 5;

/// What runs along the lower edge.
pub(super) enum Across<'a> {
    /// Numbers.
    Values(Axis),
    /// Names, each in the middle of an equal share.
    Groups(&'a [String]),
}

/// The sign of a series in the legend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sign {
    Line,
    LineInBand,
    Patch,
    Dot,
}

/// One series in the legend; one without a name is left out.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) color: Rgb<u8>,
    pub(super) sign: Sign,
}

/// Draws everything but the data, then calls `draw` for those.
pub(super) fn render(
    options: &ChartOptions,
    (across, up): (&Across<'_>, &Axis),
    legend: &[Entry],
    draw: impl FnOnce(&Marks<'_>) -> Result<()>,
) -> Result<RgbImage> {
    let face = Typeface::embedded()?;
    let layout = Layout::new(options, across, up, legend, &face)?;
    let mut image = canvas::blank("chart", u64::from(options.width), u64::from(options.height), WHITE)?;
    layout.draw_grid(&mut image, across, up);
    marks::draw_on(&mut image, layout.plot, options.font_size, |marks| {
        draw_guides(marks, options, across, up)?;
        draw(marks)
    })?;
    layout.draw_axes(&mut image, options, across, up, &face);
    layout.draw_heading(&mut image, legend, &face);
    Ok(image)
}

/// Sizes of text in pixels.
struct Sizes {
    title: f32,
    label: f32,
    number: f32,
}

/// The names of groups below the axis.
enum Names {
    Across(Vec<Vec<String>>),
    Upwards(Vec<String>),
}

/// A row of the legend.
#[derive(Default)]
struct LegendRow {
    width: f32,
    items: Vec<LegendItem>,
}

struct LegendItem {
    /// Which of the entries it is.
    entry: usize,
    /// From the left end of the row.
    x: f32,
    text: String,
}

struct Layout {
    sizes: Sizes,
    plot: Rect,
    title: Vec<String>,
    legend: Vec<LegendRow>,
    legend_top: f32,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    names: Names,
}

impl Layout {
    fn new(
        options: &ChartOptions,
        across: &Across<'_>,
        up: &Axis,
        legend: &[Entry],
        face: &Typeface,
    ) -> Result<Self> {
        let base = options.font_size;
        let sizes = Sizes { title: (base * 1.2).round(), label: base, number: (base * 0.88).round() };
        let margin = base.ceil() as u32;
        let (number_line, label_line) = (face.line_height(sizes.number), face.line_height(sizes.label));
        let (width, height) = (options.width, options.height);

        let title = face.wrap(&options.title, sizes.title, width.saturating_sub(2 * margin) as f32, 2);
        let title_height = title.len() as u32 * face.line_height(sizes.title);
        let legend_top = margin + title_height;

        let label_below = if options.x_label.is_empty() { 0 } else { label_line };
        let label_left = if options.y_label.is_empty() { 0 } else { label_line };
        let below_axis = TICK + 3;
        // The height decides how many numbers fit at the left, and their width what is left for the
        // rest; one row of legend and of names is a guess that is mended below.
        let about = height.saturating_sub(legend_top + number_line * 2 + label_below + margin + below_axis);
        let most = |height: u32| (height as f32 / (sizes.number * 3.0)).clamp(2.0, 12.0) as usize;
        let mut y_ticks = up.ticks(most(about));
        let widest = y_ticks.iter().map(|t| face.width(&t.label, sizes.number)).fold(0.0, f32::max);
        let left = margin + label_left + widest.ceil() as u32 + TICK + 5;
        let right = margin + sizes.number as u32;
        let mut plot_width = width.saturating_sub(left + right);
        let mut x_ticks = Vec::new();
        if let Across::Values(axis) = across {
            x_ticks = fitting_ticks(axis, face, sizes.number, plot_width);
            let beyond = beyond_right(&x_ticks, axis, face, sizes.number, plot_width);
            plot_width = plot_width.saturating_sub(beyond.saturating_sub(right - 4));
        }
        if plot_width < 40 {
            return Err(too_small("width", width));
        }

        let legend = legend_rows(legend, face, &sizes, plot_width as f32);
        let legend_height = match legend.len() as u32 {
            0 => 6,
            rows => rows * label_line + 8,
        };
        let top = legend_top + legend_height;

        let names = match across {
            Across::Values(_) => None,
            Across::Groups(names) => Some(place_names(names, face, &sizes, plot_width)),
        };
        let names_height = match &names {
            Some(Names::Across(names)) => number_line * names.iter().map(Vec::len).max().unwrap_or(0) as u32,
            Some(Names::Upwards(names)) => {
                names.iter().map(|n| face.width(n, sizes.number)).fold(0.0, f32::max).ceil() as u32
            }
            None => number_line,
        };
        let below = below_axis + names_height + label_below + margin;
        let plot_height = height.saturating_sub(top + below);
        if plot_height < 40 {
            return Err(too_small("height", height));
        }
        if y_ticks.len() as u32 * number_line > plot_height {
            y_ticks = up.ticks(most(plot_height));
        }
        let plot = Rect { x: i64::from(left), y: i64::from(top), width: plot_width, height: plot_height };
        let names = names.unwrap_or(Names::Across(Vec::new()));
        let legend_top = legend_top as f32 + 2.0;
        Ok(Layout { sizes, plot, title, legend, legend_top, x_ticks, y_ticks, names })
    }

    /// The pixel column of a place across.
    fn column(&self, place: f64) -> i64 {
        self.plot.x + (place * f64::from(self.plot.width - 1)).round() as i64
    }

    /// The pixel row of a place upwards.
    fn row(&self, place: f64) -> i64 {
        self.plot.y + ((1.0 - place) * f64::from(self.plot.height - 1)).round() as i64
    }

    fn draw_grid(&self, image: &mut RgbImage, across: &Across<'_>, up: &Axis) {
        let Rect { x, y, width, height } = self.plot;
        let vertical = |image: &mut RgbImage, place: f64, color| {
            let column = self.column(place);
            canvas::fill(image, Rect { x: column, y, width: 1, height }, color);
        };
        let horizontal = |image: &mut RgbImage, place: f64, color| {
            canvas::fill(image, Rect { x, y: self.row(place), width, height: 1 }, color);
        };
        if let Across::Values(axis) = across {
            axis.minor_places().into_iter().for_each(|p| vertical(image, p, MINOR_GRID));
        }
        up.minor_places().into_iter().for_each(|p| horizontal(image, p, MINOR_GRID));
        if let Across::Values(axis) = across {
            for place in self.x_ticks.iter().filter_map(|t| axis.place(t.value)) {
                vertical(image, place, GRID);
            }
        }
        for place in self.y_ticks.iter().filter_map(|t| up.place(t.value)) {
            horizontal(image, place, GRID);
        }
    }

    fn draw_axes(
        &self,
        image: &mut RgbImage,
        options: &ChartOptions,
        across: &Across<'_>,
        up: &Axis,
        face: &Typeface,
    ) {
        let Rect { x, y, width, height } = self.plot;
        let bottom = y + i64::from(height);
        let number = Ink { size: self.sizes.number, color: INK };
        let line = face.line_height(number.size) as f32;
        canvas::fill(image, Rect { x: x - 1, y, width: 1, height: height + 1 }, QUIET);
        canvas::fill(image, Rect { x: x - 1, y: bottom, width: width + 1, height: 1 }, QUIET);

        for (tick, place) in self.y_ticks.iter().filter_map(|t| Some((t, up.place(t.value)?))) {
            let row = self.row(place);
            let mark = Rect { x: x - 1 - i64::from(TICK), y: row, width: TICK, height: 1 };
            canvas::fill(image, mark, QUIET);
            let at = ((x - 1 - i64::from(TICK)) as f32 - 4.0, row as f32 + 0.5);
            face.draw(image, &tick.label, number, at, Align::Right);
        }
        let names_top = bottom as f32 + TICK as f32 + 3.0;
        if let Across::Values(axis) = across {
            for (tick, place) in self.x_ticks.iter().filter_map(|t| Some((t, axis.place(t.value)?))) {
                let column = self.column(place);
                canvas::fill(image, Rect { x: column, y: bottom + 1, width: 1, height: TICK }, QUIET);
                let at = (column as f32 + 0.5, names_top + line / 2.0);
                face.draw(image, &tick.label, number, at, Align::Center);
            }
        }
        if let Across::Groups(groups) = across {
            let middle = |index: usize| x as f32 + width as f32 * (index as f32 + 0.5) / groups.len() as f32;
            match &self.names {
                Names::Across(names) => {
                    for (index, lines) in names.iter().enumerate() {
                        for (row, text) in lines.iter().enumerate() {
                            let at = (middle(index), names_top + line * (row as f32 + 0.5));
                            face.draw(image, text, number, at, Align::Center);
                        }
                    }
                }
                Names::Upwards(names) => {
                    for (index, text) in names.iter().enumerate() {
                        let at = (middle(index), names_top);
                        face.draw_upwards(image, text, number, at, Align::Right);
                    }
                }
            }
        }
        let label = Ink { size: self.sizes.label, color: INK };
        let half = face.line_height(label.size) as f32 / 2.0;
        let margin = options.font_size.ceil();
        let x_label = face.ellipsize(&options.x_label, label.size, width as f32);
        let at = (x as f32 + width as f32 / 2.0, options.height as f32 - margin * 0.75 - half);
        face.draw(image, &x_label, label, at, Align::Center);
        let y_label = face.ellipsize(&options.y_label, label.size, height as f32);
        let at = (margin * 0.75 + half, y as f32 + height as f32 / 2.0);
        face.draw_upwards(image, &y_label, label, at, Align::Center);
    }

    fn draw_heading(&self, image: &mut RgbImage, entries: &[Entry], face: &Typeface) {
        let title = Ink { size: self.sizes.title, color: INK };
        let line = face.line_height(title.size) as f32;
        let middle = self.plot.x as f32 + self.plot.width as f32 / 2.0;
        let first = self.legend_top - 2.0 - line * self.title.len() as f32;
        let margin = self.sizes.label.ceil();
        for (index, text) in self.title.iter().enumerate() {
            // Over the plot where it fits, else as near as the picture allows.
            let half = face.width(text, title.size) / 2.0;
            let highest = image.width() as f32 - margin - half;
            let x = middle.min(highest).max(half.min(highest));
            let at = (x, first + line * (index as f32 + 0.5));
            face.draw(image, text, title, at, Align::Center);
        }
        let ink = Ink { size: self.sizes.label, color: INK };
        let line = face.line_height(ink.size) as f32;
        for (index, row) in self.legend.iter().enumerate() {
            let y = self.legend_top + line * (index as f32 + 0.5);
            let left = middle - row.width / 2.0;
            for LegendItem { entry, x, text } in &row.items {
                if let Some(entry) = entries.get(*entry) {
                    draw_sign(image, entry, (left + x, y), ink.size);
                    let after = left + x + sign_width(entry.sign, ink.size);
                    face.draw(image, text, ink, (after, y), Align::Left);
                }
            }
        }
    }
}

fn too_small(what: &'static str, pixels: u32) -> Error {
    let reason = format!(
        "{pixels} pixels leave less than 40 for the plot beside title, legend and labels; make the \
         chart larger, the font smaller, or the texts shorter"
    );
    Error::argument(what, reason)
}

/// How many pixels the last number reaches beyond the right edge of the plot.
fn beyond_right(ticks: &[Tick], axis: &Axis, face: &Typeface, size: f32, plot_width: u32) -> u32 {
    let Some((tick, place)) = ticks.last().and_then(|t| Some((t, axis.place(t.value)?))) else {
        return 0;
    };
    let inside = (1.0 - place) as f32 * plot_width as f32;
    (face.width(&tick.label, size) / 2.0 - inside).ceil().max(0.0) as u32
}

/// Marks whose numbers keep apart.
fn fitting_ticks(axis: &Axis, face: &Typeface, size: f32, plot_width: u32) -> Vec<Tick> {
    let mut most = (plot_width as f32 / (size * 4.0)).clamp(2.0, 12.0) as usize;
    loop {
        let ticks = axis.ticks(most);
        let needed: f32 = ticks.iter().map(|t| face.width(&t.label, size) + size * 1.2).sum();
        if needed <= plot_width as f32 * 1.1 || most <= 2 {
            return ticks;
        }
        most -= 1;
    }
}

/// Names in up to three lines below their group, or upwards where that would cut them.
fn place_names(names: &[String], face: &Typeface, sizes: &Sizes, plot_width: u32) -> Names {
    let size = sizes.number;
    let room = (plot_width as f32 / names.len().max(1) as f32 - size * 0.5).max(size);
    let across: Vec<Vec<String>> = names.iter().map(|n| face.wrap(n, size, room, 3)).collect();
    let cut = names.iter().zip(&across).any(|(name, lines)| {
        let words: Vec<&str> = name.split_whitespace().collect();
        lines.join(" ") != words.join(" ")
    });
    if !cut {
        return Names::Across(across);
    }
    Names::Upwards(names.iter().map(|n| face.ellipsize(n, size, size * 10.0)).collect())
}

/// Entries of the legend in rows that are at most as wide as the plot.
fn legend_rows(entries: &[Entry], face: &Typeface, sizes: &Sizes, plot_width: f32) -> Vec<LegendRow> {
    let size = sizes.label;
    let gap = size * 1.6;
    let mut rows: Vec<LegendRow> = Vec::new();
    for (index, entry) in entries.iter().enumerate().filter(|(_, e)| !e.name.is_empty()) {
        let sign = sign_width(entry.sign, size);
        let text = face.ellipsize(&entry.name, size, plot_width - sign);
        let width = sign + face.width(&text, size);
        let x = match rows.last() {
            Some(row) if row.width + gap + width <= plot_width => row.width + gap,
            _ => {
                rows.push(LegendRow::default());
                0.0
            }
        };
        if let Some(row) = rows.last_mut() {
            row.items.push(LegendItem { entry: index, x, text });
            row.width = x + width;
        }
    }
    rows
}

/// How far the name of an entry is from its left end.
fn sign_width(sign: Sign, size: f32) -> f32 {
    match sign {
        Sign::Dot => size * 1.2,
        Sign::Line | Sign::LineInBand | Sign::Patch => size * 2.1,
    }
}

fn draw_sign(image: &mut RgbImage, entry: &Entry, (x, y): (f32, f32), size: f32) {
    let width = (size * 1.6) as u32;
    let (left, middle) = (x.round() as i64, y.round() as i64);
    let mut band = |height: u32, color| {
        let top = middle - i64::from(height / 2);
        canvas::fill(image, Rect { x: left, y: top, width, height }, color);
    };
    match entry.sign {
        Sign::Line => band(3, entry.color),
        Sign::LineInBand => {
            band((size * 0.75) as u32, canvas::mix(WHITE, entry.color, 0.22));
            band(3, entry.color);
        }
        Sign::Patch => band((size * 0.75) as u32, entry.color),
        Sign::Dot => {
            let (radius, centre) = (size * 0.3, (x + size * 0.5, y));
            let reach = radius.ceil() as i64 + 1;
            for dy in -reach..=reach {
                for dx in -reach..=reach {
                    let (px, py) = (centre.0.floor() as i64 + dx, centre.1.floor() as i64 + dy);
                    let distance = (px as f32 + 0.5 - centre.0).hypot(py as f32 + 0.5 - centre.1);
                    let share = (radius + 0.5 - distance).clamp(0.0, 1.0);
                    canvas::blend(image, px, py, entry.color, share);
                }
            }
        }
    }
}

fn draw_guides(marks: &Marks<'_>, options: &ChartOptions, across: &Across<'_>, up: &Axis) -> Result<()> {
    let paint = Paint::solid(Rgb([120, 120, 120]));
    for guide in &options.guides {
        match (guide, across) {
            (Guide::Horizontal(value), _) => {
                if let Some(y) = up.place(*value) {
                    marks.dashed((0.0, y), (1.0, y), 1.5, paint)?;
                }
            }
            (Guide::Vertical(value), Across::Values(axis)) => {
                if let Some(x) = axis.place(*value) {
                    marks.dashed((x, 0.0), (x, 1.0), 1.5, paint)?;
                }
            }
            (Guide::Diagonal, Across::Values(axis)) => {
                // In pieces, since the diagonal of unlike scales is curved.
                let places: Vec<_> = (0..=200)
                    .map(|i| f64::from(i) / 200.0)
                    .filter_map(|x| Some((x, up.place(axis.value(x))?)))
                    .collect();
                for piece in places.chunks_exact(4) {
                    marks.line(&piece[..3], 1.5, paint)?;
                }
            }
            (Guide::Vertical(_) | Guide::Diagonal, Across::Groups(_)) => {
                let reason = format!("{guide:?} needs numbers on the x axis; a bar chart has groups");
                return Err(Error::argument("guides", reason));
            }
        }
    }
    Ok(())
}
