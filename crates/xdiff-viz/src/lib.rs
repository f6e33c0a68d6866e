//! Pictures and reports: grids of images, heatmaps and contours over them, charts, and one
//! self-contained HTML file that shows them.
//!
//! This crate knows no model. Its inputs are plain: a [`Plane`] of `f32` values, a [`Mask`],
//! [`image::RgbImage`] pictures, vectors of numbers. Its outputs are [`image::RgbImage`] pictures,
//! [`save_png`] writes them, and [`Report`] holds them.
//!
//! Values become colours only through a [`ValueRange`], which a [`Window`] gives: nothing is
//! ranged silently, and the range prints as `[lo, hi]` so that it can stand in a caption. NaN has
//! a colour of its own ([`Colormap::nan_color`]). What cannot be drawn is an [`Error`] that says
//! what to change. The same input gives the same bytes; text is drawn in an embedded font, so
//! that no font of the machine matters. That font is a subset of Noto Sans under the SIL Open Font
//! License 1.1, whose text lies beside it in `assets/`.
//!
//! ```
//! use image::Rgb;
//! use xdiff_viz::{
//!     ChartOptions, ColorBar, Colormap, Grid, GridOptions, HeatmapOptions, LineChart, LineSeries,
//!     Mask, Plane, Report, Window, enlarge, heatmap, outline,
//! };
//!
//! // A scan and an attribution map of 32 × 32 values.
//! let values = |f: fn(f32, f32) -> f32| {
//!     let at = |i: usize| f((i % 32) as f32 / 16.0 - 1.0, (i / 32) as f32 / 16.0 - 1.0);
//!     Plane::new(32, 32, (0..32 * 32).map(at).collect())
//! };
//! let scan = values(|x, y| (1.0 - x * x - y * y).max(0.0))?;
//! let map = values(|x, y| x * (-4.0 * (x * x + y * y)).exp())?;
//!
//! let grey = Colormap::Grey.paint(&scan, Window::Fixed(0.0, 1.0).over(&[&scan])?)?;
//! let range = Window::Symmetric.over(&[&map])?;
//! let mut overlay = enlarge(&grey, 6)?;
//! overlay = heatmap(&overlay, &map, &HeatmapOptions::new(Colormap::Diverging, range))?;
//! outline(&mut overlay, &Mask::above(&map, 0.1), Rgb([255, 220, 0]), 2)?;
//!
//! let mut grid = Grid::new(GridOptions {
//!     columns: 2,
//!     title: Some("Where the model looked".into()),
//!     color_bar: Some(ColorBar::new(Colormap::Diverging, range).label("relevance")),
//!     ..GridOptions::default()
//! });
//! grid.push(grey, "scan, window [0, 1]");
//! grid.push(overlay, format!("relevance, window {range}; above 0.1 outlined"));
//!
//! let curve: Vec<_> = (0..=20).map(|i| (f64::from(i) / 20.0, (-f64::from(i) / 6.0).exp())).collect();
//! let chart = LineChart {
//!     options: ChartOptions::titled("Deletion", "share of pixels deleted", "score"),
//!     series: vec![LineSeries::new("mean ± sd", curve).plus_minus(&[0.05; 21])],
//! };
//!
//! let mut report = Report::new("One scan");
//! report.figure(&grid.render()?, "Scan and relevance.", "A bright disc, relevance at its sides")?;
//! report.figure(&chart.render()?, "Deletion curve.", "A curve that falls from 1 to 0")?;
//! report.provenance("seed", "7");
//! let folder = tempfile::tempdir()?;
//! report.save(folder.path().join("report.html"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod canvas;
mod chart;
mod colorbar;
mod colormap;
mod error;
mod grid;
mod io;
mod likeness;
mod matrix;
mod overlay;
mod plane;
mod report;
mod table;
mod text;
mod ticks;

pub use canvas::{MAX_PIXELS, enlarge, grey_to_rgb};
pub use chart::{
    BarChart, BarSeries, Bins, ChartOptions, Guide, Histogram, HistogramSeries, LineChart, LineSeries, Scale,
    ScatterChart, ScatterSeries, series_color,
};
pub use colorbar::ColorBar;
pub use colormap::Colormap;
pub use error::{Error, Result};
pub use grid::{Grid, GridOptions};
pub use io::{encode_grey_png, encode_png, save_grey_png, save_png, write_atomic};
pub use likeness::{Likeness, LikenessOptions, PictureBox, likeness_panel};
pub use matrix::{CellColor, MatrixChart};
pub use overlay::{BoxMark, HeatmapOptions, Opacity, Resample, draw_boxes, heatmap, outline};
pub use plane::{Mask, Plane, ValueRange, Window};
pub use report::Report;
pub use table::{Cell, Table};
