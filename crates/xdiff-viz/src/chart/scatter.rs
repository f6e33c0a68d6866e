//! Points over two numeric axes.

use image::{Rgb, RgbImage};

use super::axis::Axis;
use super::frame::{self, Across, Entry, Sign};
use super::marks::Paint;
use super::{ChartOptions, Scale, name_with_omitted, require_series, series_color, series_name};
use crate::error::require_finite;
use crate::{Error, Result};

/// Points of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct ScatterSeries {
    /// In the legend; empty for none.
    pub name: String,
    /// The points, as (x, y). On a logarithmic axis, points without a place are left out, and the
    /// legend says how many there are.
    pub points: Vec<(f64, f64)>,
    /// `None` takes the next of [`series_color`].
    pub color: Option<Rgb<u8>>,
}

impl ScatterSeries {
    /// Points in the next colour.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        ScatterSeries { name: name.into(), points, color: None }
    }
}

/// Half-transparent dots.
///
/// ```
/// use xdiff_viz::{ChartOptions, Guide, ScatterChart, ScatterSeries};
///
/// let chart = ScatterChart {
///     options: ChartOptions {
///         guides: vec![Guide::Diagonal],
///         ..ChartOptions::titled("Agreement", "predicted", "measured")
///     },
///     series: vec![ScatterSeries::new("", vec![(0.1, 0.2), (0.5, 0.45), (0.9, 0.8)])],
///     radius: 4.0,
/// };
/// assert_eq!(chart.render()?.dimensions(), (880, 520));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ScatterChart {
    /// Texts, sizes and axes.
    pub options: ChartOptions,
    /// The points, the last series on top.
    pub series: Vec<ScatterSeries>,
    /// The radius of a dot in pixels, 0.5 to 50.
    pub radius: f64,
}

impl ScatterChart {
    /// Draws the chart.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without series or for one without points; [`Error::NonFinite`] for NaN
    /// and infinities (value 2i is the x of point i, value 2i + 1 its y); [`Error::Argument`] for
    /// options or a radius out of range, and where no point has a place on the axes.
    pub fn render(&self) -> Result<RgbImage> {
        let options = &self.options;
        options.validate()?;
        require_series(self.series.len())?;
        if !(0.5..=50.0).contains(&self.radius) {
            let reason = format!("{} is not between 0.5 and 50 pixels", self.radius);
            return Err(Error::argument("radius", reason));
        }
        for (index, series) in self.series.iter().enumerate() {
            let name = series_name(index, &series.name);
            require_finite(&name, series.points.iter().flat_map(|&(x, y)| [x, y]))?;
            if series.points.is_empty() {
                return Err(Error::Empty { what: name, hint: "give at least one point" });
            }
        }
        let points = || self.series.iter().flat_map(|s| &s.points);
        let x = Axis::new("x axis", options.x_scale, options.x_range, points().map(|p| p.0), 0.05)?;
        let y = Axis::new("y axis", options.y_scale, options.y_range, points().map(|p| p.1), 0.05)?;
        let color = |i: usize| self.series[i].color.unwrap_or_else(|| series_color(i));
        let entry = |(index, series): (usize, &ScatterSeries)| {
            let has_no_place = |&&(px, py): &&(f64, f64)| {
                (options.x_scale == Scale::Log && px <= 0.0) || (options.y_scale == Scale::Log && py <= 0.0)
            };
            let omitted = series.points.iter().filter(has_no_place).count();
            let name = name_with_omitted(&series.name, omitted, "not drawn");
            Entry { name, color: color(index), sign: Sign::Dot }
        };
        let legend: Vec<Entry> = self.series.iter().enumerate().map(entry).collect();
        frame::render(options, (&Across::Values(x), &y), &legend, |marks| {
            for (index, series) in self.series.iter().enumerate() {
                let paint = Paint { color: color(index), opacity: 0.65 };
                let places = series.points.iter().filter_map(|p| Some((x.place(p.0)?, y.place(p.1)?)));
                for place in places {
                    marks.disc(place, self.radius, paint)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ValueRange;

    fn chart(points: &[(f64, f64)]) -> ScatterChart {
        ScatterChart {
            options: ChartOptions::titled("Influence", "x", "y"),
            series: vec![ScatterSeries::new("a", points.to_vec())],
            radius: 3.0,
        }
    }

    #[test]
    fn single_equal_and_cut_off_points_are_drawn() {
        for points in [&[(0.0, 0.0)][..], &[(5.0, 1.0), (5.0, 2.0)], &[(-1.0, 3.0), (1e6, 3.0)]] {
            let mut chart = chart(points);
            assert_eq!(chart.render().unwrap(), chart.render().unwrap(), "{points:?}");
            chart.options.x_range = ValueRange::new(100.0, 101.0).ok();
            assert!(chart.render().is_ok());
        }
        let mut chart = chart(&[(1.0, 1.0), (-1.0, 1.0), (10.0, 0.0)]);
        (chart.options.x_scale, chart.options.y_scale) = (Scale::Log, Scale::Log);
        assert!(chart.render().is_ok());
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let radius = |radius: f64| ScatterChart { radius, ..chart(&[(0.0, 1.0)]) };
        let log = |points: &[(f64, f64)]| {
            let mut chart = chart(points);
            chart.options.x_scale = Scale::Log;
            chart
        };
        let cases = [
            ("no series", ScatterChart { series: vec![], ..chart(&[]) }, "chart is empty"),
            ("no points", chart(&[]), "`a` is empty"),
            ("NaN", chart(&[(0.0, 1.0), (0.0, f64::NAN)]), "value 3 is NaN"),
            ("infinite", chart(&[(f64::INFINITY, 1.0)]), "value 0 is inf"),
            ("radius", radius(f64::NAN), "radius"),
            ("radius huge", radius(1e9), "radius"),
            ("log", log(&[(0.0, 1.0)]), "positive"),
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
