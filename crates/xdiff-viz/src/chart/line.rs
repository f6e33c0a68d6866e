//! Lines over a numeric axis.

use image::{Rgb, RgbImage};

use super::axis::Axis;
use super::frame::{self, Across, Entry, Sign};
use super::marks::{Marks, Paint, Place};
use super::{ChartOptions, name_with_omitted, require_series, series_color, series_name};
use crate::{Error, Result};

/// Points joined in the order in which they are given.
#[derive(Debug, Clone, PartialEq)]
pub struct LineSeries {
    /// In the legend; empty for none.
    pub name: String,
    /// The points, as (x, y). A point that is not finite, or has no place on a logarithmic axis,
    /// leaves a gap, and the legend says how many there are.
    pub points: Vec<(f64, f64)>,
    /// The lower and upper end of a band around each point. It needs rising x.
    pub band: Option<Vec<(f64, f64)>>,
    /// `None` takes the next of [`series_color`].
    pub color: Option<Rgb<u8>>,
}

impl LineSeries {
    /// A line without a band.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        LineSeries { name: name.into(), points, band: None, color: None }
    }

    /// The same line with a band of `half_widths` below and above, such as standard deviations.
    /// There must be one for each point, which is checked when the chart is drawn.
    pub fn plus_minus(mut self, half_widths: &[f64]) -> Self {
        let ends = |(index, &half): (usize, &f64)| {
            let y = self.points.get(index).map_or(f64::NAN, |p| p.1);
            (y - half, y + half)
        };
        self.band = Some(half_widths.iter().enumerate().map(ends).collect());
        self
    }
}

/// Several lines, with or without bands.
///
/// ```
/// use xdiff_viz::{ChartOptions, LineChart, LineSeries, Scale};
///
/// let loss: Vec<_> = (1..=100).map(|step| (step as f64, 1.0 / step as f64)).collect();
/// let chart = LineChart {
///     options: ChartOptions {
///         y_scale: Scale::Log,
///         ..ChartOptions::titled("Training", "step", "loss")
///     },
///     series: vec![LineSeries::new("train", loss)],
/// };
/// assert_eq!(chart.render()?.dimensions(), (880, 520));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LineChart {
    /// Texts, sizes and axes.
    pub options: ChartOptions,
    /// The lines, the last one on top.
    pub series: Vec<LineSeries>,
}

impl LineChart {
    /// Draws the chart.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without series or for one without points; [`Error::Shape`] for a band of
    /// another length; [`Error::Argument`] for a band over x that does not rise, for options out
    /// of range, and where no point has a place on the axes.
    pub fn render(&self) -> Result<RgbImage> {
        let options = &self.options;
        options.validate()?;
        require_series(self.series.len())?;
        self.series.iter().enumerate().try_for_each(|(i, s)| s.check(i))?;

        let points = || self.series.iter().flat_map(|s| &s.points);
        let bands = self.series.iter().filter_map(|s| s.band.as_ref()).flatten();
        let heights = points().map(|p| p.1).chain(bands.flat_map(|&(a, b)| [a, b]));
        let x = Axis::new("x axis", options.x_scale, options.x_range, points().map(|p| p.0), 0.02)?;
        let y = Axis::new("y axis", options.y_scale, options.y_range, heights, 0.05)?;
        let color = |i: usize| self.series[i].color.unwrap_or_else(|| series_color(i));
        let legend: Vec<Entry> = self
            .series
            .iter()
            .enumerate()
            .map(|(index, series)| {
                let omitted = series.places(&x, &y).iter().filter(|p| p.is_none()).count();
                let sign = if series.band.is_some() { Sign::LineInBand } else { Sign::Line };
                let name = name_with_omitted(&series.name, omitted, "not drawn");
                Entry { name, color: color(index), sign }
            })
            .collect();
        frame::render(options, (&Across::Values(x), &y), &legend, |marks| {
            for (index, series) in self.series.iter().enumerate() {
                series.draw_band(marks, &x, &y, color(index))?;
            }
            for (index, series) in self.series.iter().enumerate() {
                series.draw_line(marks, &x, &y, color(index))?;
            }
            Ok(())
        })
    }
}

impl LineSeries {
    fn check(&self, index: usize) -> Result<()> {
        let name = || series_name(index, &self.name);
        if self.points.is_empty() {
            return Err(Error::Empty { what: name(), hint: "give at least one point" });
        }
        let Some(band) = &self.band else { return Ok(()) };
        if band.len() != self.points.len() {
            let expected = format!("{} ends, one pair for each point", self.points.len());
            return Err(Error::shape(format!("band of {}", name()), expected, band.len().to_string()));
        }
        if self.points.windows(2).any(|w| w[0].0 >= w[1].0) {
            let reason = format!("the x values of {} do not rise; sort its points", name());
            return Err(Error::argument("band", reason));
        }
        Ok(())
    }

    fn places(&self, x: &Axis, y: &Axis) -> Vec<Option<Place>> {
        self.points.iter().map(|&(px, py)| Some((x.place(px)?, y.place(py)?))).collect()
    }

    fn draw_line(&self, marks: &Marks<'_>, x: &Axis, y: &Axis, color: Rgb<u8>) -> Result<()> {
        let places = self.places(x, y);
        // Curves of many steps would run together.
        let width = if places.len() > 400 { 1.25 } else { 2.0 };
        for piece in places.split(Option::is_none) {
            let piece: Vec<Place> = piece.iter().copied().flatten().collect();
            match piece.as_slice() {
                [alone] => marks.dot(*alone, Paint::solid(color))?,
                piece => marks.line(piece, width, Paint::solid(color))?,
            }
        }
        Ok(())
    }

    fn draw_band(&self, marks: &Marks<'_>, x: &Axis, y: &Axis, color: Rgb<u8>) -> Result<()> {
        let Some(band) = &self.band else { return Ok(()) };
        // A lower end without a place on a logarithmic axis lies below the plot.
        let below = |value: f64| match y.place(value) {
            None if value <= 0.0 => Some(-1.0),
            place => place,
        };
        let edges: Vec<Option<(f64, f64, f64)>> = self
            .points
            .iter()
            .zip(band)
            .map(|(&(px, _), &(lo, hi))| Some((x.place(px)?, below(lo)?, y.place(hi)?)))
            .collect();
        for piece in edges.split(Option::is_none) {
            let piece: Vec<_> = piece.iter().copied().flatten().collect();
            marks.band(&piece, Paint { color, opacity: 0.22 })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Guide, Scale, ValueRange};

    fn chart(series: Vec<LineSeries>) -> LineChart {
        LineChart { options: ChartOptions::titled("Loss", "step", "ε-loss"), series }
    }

    fn curve(name: &str) -> LineSeries {
        LineSeries::new(name, (1..50).map(|i| (f64::from(i), 1.0 / f64::from(i))).collect())
    }

    #[test]
    fn the_same_chart_is_the_same_picture() {
        let chart = chart(vec![curve("a").plus_minus(&[0.1; 49]), curve("b")]);
        let bytes = || crate::encode_png(&chart.render().unwrap()).unwrap();
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn gaps_log_axes_and_guides_are_drawn() {
        let mut gappy = curve("gappy").plus_minus(&[2.0; 49]);
        gappy.points[7].1 = f64::NAN;
        gappy.points[20].1 = f64::INFINITY;
        let mut chart = chart(vec![gappy]);
        chart.options.guides =
            vec![Guide::Horizontal(0.5), Guide::Vertical(3.0), Guide::Diagonal, Guide::Vertical(1e9)];
        let linear = chart.render().unwrap();
        chart.options.y_scale = Scale::Log;
        chart.options.x_scale = Scale::Log;
        assert_ne!(linear, chart.render().unwrap());
        chart.options.y_range = ValueRange::new(0.2, 0.3).ok();
        assert!(chart.render().is_ok(), "most of the line is cut off");
        assert_eq!(name_with_omitted("a", 2, "not drawn"), "a (2 not drawn)");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let with = |series: LineSeries| chart(vec![series]).render().map_err(|e| e.to_string());
        let points = |points: &[(f64, f64)]| LineSeries::new("s", points.to_vec());
        let changed = |change: fn(&mut ChartOptions)| {
            let mut chart = chart(vec![curve("a")]);
            change(&mut chart.options);
            chart.render().map_err(|e| e.to_string())
        };
        let cases = [
            ("no series", chart(vec![]).render().map_err(|e| e.to_string()), "chart is empty"),
            ("no points", with(points(&[])), "`s` is empty"),
            ("only NaN", with(points(&[(0.0, f64::NAN)])), "y axis"),
            ("too wide", with(points(&[(0.0, f64::MIN), (1.0, f64::MAX)])), "range"),
            ("short band", with(curve("s").plus_minus(&[1.0])), "band of series `s`"),
            ("long band", with(curve("s").plus_minus(&[1.0; 99])), "band of series `s`"),
            ("unsorted", with(points(&[(1.0, 0.0), (0.0, 0.0)]).plus_minus(&[1.0; 2])), "rise"),
            ("NaN guide", changed(|o| o.guides = vec![Guide::Vertical(f64::NAN)]), "guides"),
            ("width 0", changed(|o| o.width = 0), "width"),
            ("height", changed(|o| o.height = u32::MAX), "height"),
            ("font", changed(|o| o.font_size = f32::INFINITY), "font_size"),
            ("no room", changed(|o| (o.width, o.font_size) = (160, 60.0)), "40"),
            ("no room at all", changed(|o| (o.width, o.height, o.font_size) = (160, 120, 100.0)), "40"),
            (
                "log of 0",
                changed(|o| {
                    o.y_scale = Scale::Log;
                    o.y_range = ValueRange::new(0.0, 1.0).ok();
                }),
                "positive",
            ),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(_, result, word)| !matches!(result, Err(e) if e.contains(word)))
            .map(|(name, result, _)| format!("{name}: {:?}", result.as_ref().err()))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
