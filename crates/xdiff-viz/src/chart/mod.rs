//! Charts: lines, bars, histograms, scatters.
//!
//! Every chart is a plain struct with [`ChartOptions`] and its series, and draws itself with
//! `render`. The first seven colours are those of Okabe and Ito (2008), with grey for black, which
//! stay apart with the usual forms of colour blindness. The legend stands above the plot, so that it hides no data, and names a
//! series only if it has a name.

mod axis;
mod bar;
mod frame;
mod histogram;
mod line;
mod marks;
mod scatter;

pub use bar::{BarChart, BarSeries};
pub use histogram::{Bins, Histogram, HistogramSeries};
pub use line::{LineChart, LineSeries};
pub use scatter::{ScatterChart, ScatterSeries};

use image::Rgb;

use crate::{Error, Result, ValueRange};

/// How values are spread along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scale {
    /// Equal differences are equally far apart.
    #[default]
    Linear,
    /// Equal ratios are equally far apart; only positive values have a place.
    Log,
}

/// A dashed line to compare the data with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Guide {
    /// At this y, for example chance level.
    Horizontal(f64),
    /// At this x, for example the chosen threshold.
    Vertical(f64),
    /// Where y equals x.
    Diagonal,
}

/// What all charts have in common. Empty texts take no room.
#[derive(Debug, Clone, PartialEq)]
pub struct ChartOptions {
    /// Above the plot, centred.
    pub title: String,
    /// Below the x axis, with the unit.
    pub x_label: String,
    /// Left of the y axis, reading upwards, with the unit.
    pub y_label: String,
    /// Width of the picture in pixels, 160 to 4096.
    pub width: u32,
    /// Height of the picture in pixels, 120 to 4096.
    pub height: u32,
    /// Size of labels in pixels, 6 to 100; the title is larger, numbers are smaller.
    pub font_size: f32,
    /// How x values are spread. Bar charts have groups instead.
    pub x_scale: Scale,
    /// How y values are spread.
    pub y_scale: Scale,
    /// The ends of the x axis; `None` takes them from the data. Marks outside are cut off.
    pub x_range: Option<ValueRange>,
    /// The ends of the y axis; `None` takes them from the data. Marks outside are cut off.
    pub y_range: Option<ValueRange>,
    /// Dashed lines behind the data.
    pub guides: Vec<Guide>,
}

impl Default for ChartOptions {
    /// 880 × 520 pixels, linear, without texts.
    fn default() -> Self {
        ChartOptions {
            title: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            width: 880,
            height: 520,
            font_size: 16.0,
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            x_range: None,
            y_range: None,
            guides: Vec::new(),
        }
    }
}

impl ChartOptions {
    /// The usual options with a title and both axis labels.
    pub fn titled(title: impl Into<String>, x_label: impl Into<String>, y_label: impl Into<String>) -> Self {
        ChartOptions {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            ..ChartOptions::default()
        }
    }

    /// Checks sizes and guides.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] with the field and what it can be.
    pub fn validate(&self) -> Result<()> {
        let sides = [("width", self.width, 160), ("height", self.height, 120)];
        for (what, given, least) in sides {
            if !(least..=4096).contains(&given) {
                return Err(Error::argument(what, format!("{given} is not between {least} and 4096 pixels")));
            }
        }
        if !(6.0..=100.0).contains(&self.font_size) {
            let reason = format!("{} is not between 6 and 100 pixels", self.font_size);
            return Err(Error::argument("font_size", reason));
        }
        for guide in &self.guides {
            let (Guide::Horizontal(at) | Guide::Vertical(at)) = *guide else { continue };
            if !at.is_finite() {
                return Err(Error::argument("guides", format!("{guide:?} is not at a finite value")));
            }
        }
        Ok(())
    }
}

/// The colour of the series with this index; the colours repeat after ten.
pub fn series_color(index: usize) -> Rgb<u8> {
    const COLORS: [[u8; 3]; 10] = [
        [0, 114, 178],
        [213, 94, 0],
        [0, 158, 115],
        [204, 121, 167],
        [230, 159, 0],
        [86, 180, 233],
        [70, 70, 70],
        [126, 47, 142],
        [153, 102, 51],
        [140, 150, 20],
    ];
    Rgb(COLORS[index % COLORS.len()])
}

/// Refuses a chart without series.
fn require_series(len: usize) -> Result<()> {
    if len == 0 {
        return Err(Error::Empty { what: "chart".to_owned(), hint: "add at least one series" });
    }
    Ok(())
}

/// How a series is called in messages.
fn series_name(index: usize, name: &str) -> String {
    if name.is_empty() { format!("series {index}") } else { format!("series `{name}`") }
}

/// The name of a series with how many of its values are not drawn.
fn name_with_omitted(name: &str, omitted: usize, reason: &str) -> String {
    match (omitted, name) {
        (0, name) => name.to_owned(),
        (n, "") => format!("{n} {reason}"),
        (n, name) => format!("{name} ({n} {reason})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scale() -> impl Strategy<Value = Scale> {
        prop_oneof![Just(Scale::Linear), Just(Scale::Log)]
    }

    /// Any number at all, or one that charts usually have.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![any::<f64>(), -10.0..10.0, Just(0.0)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_number_is_drawn_or_refused(
            points in proptest::collection::vec((number(), number()), 0..12),
            (x_scale, y_scale) in (scale(), scale()),
            at in number(),
        ) {
            let options = ChartOptions {
                width: 200,
                height: 150,
                font_size: 9.0,
                x_scale,
                y_scale,
                y_range: ValueRange::new(at, at + 1.0).ok().filter(|_| at > 1.0),
                guides: vec![Guide::Horizontal(at), Guide::Diagonal],
                ..ChartOptions::titled("any", "x", "y")
            };
            let values: Vec<f64> = points.iter().map(|p| p.1).collect();
            let line = LineSeries::new("line", points.clone()).plus_minus(&values);
            let pictures = [
                LineChart { options: options.clone(), series: vec![line] }.render(),
                LineChart { options: options.clone(), series: vec![LineSeries::new("", points.clone())] }.render(),
                ScatterChart {
                    options: options.clone(),
                    series: vec![ScatterSeries::new("dots", points)],
                    radius: 2.0,
                }
                .render(),
                Histogram {
                    options: options.clone(),
                    series: vec![HistogramSeries::new("counts", values.clone())],
                    bins: Bins::default(),
                    density: true,
                }
                .render(),
                BarChart {
                    options: ChartOptions { guides: vec![], ..options },
                    groups: values.iter().map(|v| v.to_string()).collect(),
                    series: vec![BarSeries::new("bars", values)],
                }
                .render(),
            ];
            for picture in pictures.into_iter().flatten() {
                prop_assert_eq!(picture.dimensions(), (200, 150));
            }
        }
    }
}
