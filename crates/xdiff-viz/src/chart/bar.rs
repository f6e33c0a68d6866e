//! Grouped bars.

use image::{Rgb, RgbImage};

use super::axis::Axis;
use super::frame::{self, Across, Entry, Sign};
use super::marks::{Marks, Paint};
use super::{ChartOptions, Scale, require_series, series_color, series_name};
use crate::error::require_finite;
use crate::{Error, Result};

/// One bar in each group.
#[derive(Debug, Clone, PartialEq)]
pub struct BarSeries {
    /// In the legend; empty for none.
    pub name: String,
    /// The height of the bar in each group.
    pub values: Vec<f64>,
    /// The lower and upper end of an error bar in each group.
    pub intervals: Option<Vec<(f64, f64)>>,
    /// `None` takes the next of [`series_color`].
    pub color: Option<Rgb<u8>>,
}

impl BarSeries {
    /// Bars without error bars.
    pub fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        BarSeries { name: name.into(), values, intervals: None, color: None }
    }

    /// The same bars with error bars, given as (lower, upper) ends.
    pub fn intervals(mut self, intervals: Vec<(f64, f64)>) -> Self {
        self.intervals = Some(intervals);
        self
    }
}

/// Bars of one or more series, side by side in each group. Bars start at zero, on a logarithmic
/// axis at its lower end.
///
/// ```
/// use xdiff_viz::{BarChart, BarSeries, ChartOptions};
///
/// let chart = BarChart {
///     options: ChartOptions::titled("Deletion", "", "AUC"),
///     groups: vec!["DF-RISE".into(), "Grad-CAM".into()],
///     series: vec![BarSeries::new("n = 200", vec![0.31, 0.44]).intervals(vec![(0.29, 0.34), (0.4, 0.47)])],
/// };
/// assert_eq!(chart.render()?.dimensions(), (880, 520));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BarChart {
    /// Texts, sizes and the y axis.
    pub options: ChartOptions,
    /// The names below the bars.
    pub groups: Vec<String>,
    /// The bars, from left to right in each group.
    pub series: Vec<BarSeries>,
}

impl BarChart {
    /// Draws the chart.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without groups or series; [`Error::Shape`] for a series that has not one
    /// value and interval for each group; [`Error::NonFinite`] for NaN and infinities;
    /// [`Error::Argument`] for options out of range, for a guide across the groups, and for a
    /// value that is not positive on a logarithmic axis.
    pub fn render(&self) -> Result<RgbImage> {
        let options = &self.options;
        options.validate()?;
        require_series(self.series.len())?;
        if self.groups.is_empty() {
            return Err(Error::Empty { what: "groups".to_owned(), hint: "name at least one" });
        }
        for (index, series) in self.series.iter().enumerate() {
            series.check(index, self.groups.len(), options.y_scale)?;
        }
        let y = self.y_axis()?;
        let color = |i: usize| self.series[i].color.unwrap_or_else(|| series_color(i));
        let entry = |(index, series): (usize, &BarSeries)| Entry {
            name: series.name.clone(),
            color: color(index),
            sign: Sign::Patch,
        };
        let legend: Vec<Entry> = self.series.iter().enumerate().map(entry).collect();
        frame::render(options, (&Across::Groups(&self.groups), &y), &legend, |marks| {
            for (index, series) in self.series.iter().enumerate() {
                for group in 0..self.groups.len() {
                    let count = (self.groups.len() as f64, self.series.len() as f64);
                    let width = (0.78 / count.0 / count.1).min(marks.share_of_width(110.0));
                    let middle = (group as f64 + 0.5) / count.0;
                    let left = middle + width * (index as f64 - count.1 / 2.0);
                    series.draw(marks, &y, group, (left, width), color(index))?;
                }
            }
            Ok(())
        })
    }

    fn y_axis(&self) -> Result<Axis> {
        let options = &self.options;
        let values = self.series.iter().flat_map(|s| s.values.iter().copied());
        let ends = self.series.iter().filter_map(|s| s.intervals.as_ref()).flatten();
        let data: Vec<f64> = values.chain(ends.flat_map(|&(a, b)| [a, b])).collect();
        if options.y_scale == Scale::Log || options.y_range.is_some() {
            return Axis::new("y axis", options.y_scale, options.y_range, data, 0.06);
        }
        let (positive, negative) = (data.iter().any(|&v| v > 0.0), data.iter().any(|&v| v < 0.0));
        let with_zero = data.into_iter().chain([0.0]);
        let axis = Axis::new("y axis", Scale::Linear, None, with_zero, 0.06)?;
        match (positive, negative) {
            (_, false) => axis.starting_at(0.0),
            (false, true) => axis.ending_at(0.0),
            (true, true) => Ok(axis),
        }
    }
}

impl BarSeries {
    fn check(&self, index: usize, groups: usize, scale: Scale) -> Result<()> {
        let name = series_name(index, &self.name);
        let lengths = [Some(self.values.len()), self.intervals.as_ref().map(Vec::len)];
        for (what, len) in ["values", "intervals"].iter().zip(lengths) {
            if let Some(len) = len.filter(|&len| len != groups) {
                let expected = format!("{groups}, one for each group");
                return Err(Error::shape(format!("{what} of {name}"), expected, len.to_string()));
            }
        }
        require_finite(&name, self.values.iter().copied())?;
        let intervals = self.intervals.iter().flatten();
        require_finite(&format!("intervals of {name}"), intervals.flat_map(|&(a, b)| [a, b]))?;
        if scale == Scale::Log && self.values.iter().any(|&v| v <= 0.0) {
            let reason =
                format!("{name} has a value that is not positive, which has no place on a logarithmic axis");
            return Err(Error::argument("y_scale", reason));
        }
        Ok(())
    }

    fn draw(
        &self,
        marks: &Marks<'_>,
        y: &Axis,
        group: usize,
        (left, width): (f64, f64),
        color: Rgb<u8>,
    ) -> Result<()> {
        let base = y.place(0.0).unwrap_or(0.0);
        let gap = (width * 0.06).min(marks.share_of_width(2.0));
        if let Some(top) = y.place(self.values[group]) {
            let corners = ((left + gap, base), (left + width - gap, top));
            marks.rectangle(corners.0, corners.1, Paint::solid(color))?;
        }
        let Some(intervals) = &self.intervals else { return Ok(()) };
        let (lo, hi) = intervals[group];
        let ends = (y.place(lo).unwrap_or(0.0), y.place(hi).unwrap_or(0.0));
        let (middle, paint) = (left + width / 2.0, Paint::solid(Rgb([38, 38, 38])));
        let cap = (width * 0.2).min(marks.share_of_width(7.0));
        marks.line(&[(middle, ends.0), (middle, ends.1)], 1.6, paint)?;
        for end in [ends.0, ends.1] {
            marks.line(&[(middle - cap, end), (middle + cap, end)], 1.6, paint)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Guide;

    fn chart(values: &[f64]) -> BarChart {
        BarChart {
            options: ChartOptions::titled("AUC", "method", "AUC"),
            groups: (0..values.len()).map(|i| format!("group {i}")).collect(),
            series: vec![BarSeries::new("a", values.to_vec())],
        }
    }

    fn share_of_color(image: &RgbImage, color: Rgb<u8>) -> f64 {
        image.pixels().filter(|p| **p == color).count() as f64
    }

    #[test]
    fn areas_are_in_proportion_to_values() {
        let mut chart = chart(&[1.0, 1.0]);
        chart.series.push(BarSeries::new("b", vec![0.5, 0.5]));
        let image = chart.render().unwrap();
        // The legend has a patch of the same size for both.
        let (a, b) = (share_of_color(&image, series_color(0)), share_of_color(&image, series_color(1)));
        assert!((a / b - 2.0).abs() < 0.05, "{a} {b}");
    }

    #[test]
    fn negative_constant_and_zero_bars_are_drawn() {
        for values in [vec![-1.0, -2.0], vec![0.0], vec![1.0, -1.0, 0.5], vec![1e-12]] {
            let first = chart(&values).render().unwrap();
            assert_eq!(first, chart(&values).render().unwrap(), "{values:?}");
        }
        let many: Vec<f64> = (0..60).map(f64::from).collect();
        assert!(chart(&many).render().is_ok(), "names turn upwards");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let changed = |change: &dyn Fn(&mut BarChart)| {
            let mut chart = chart(&[1.0, 2.0]);
            change(&mut chart);
            chart.render().map_err(|e| e.to_string())
        };
        let cases = [
            ("no series", changed(&|c| c.series.clear()), "chart is empty"),
            ("no groups", changed(&|c| c.groups.clear()), "groups is empty"),
            ("lengths", changed(&|c| c.series[0].values.push(1.0)), "values of series `a`"),
            ("intervals", changed(&|c| c.series[0].intervals = Some(vec![])), "intervals of"),
            ("NaN", changed(&|c| c.series[0].values[1] = f64::NAN), "value 1 is NaN"),
            (
                "infinite",
                changed(&|c| {
                    c.series[0].intervals = Some(vec![(0.0, 1.0), (0.0, f64::INFINITY)]);
                }),
                "value 3 is inf",
            ),
            (
                "log",
                changed(&|c| {
                    c.options.y_scale = Scale::Log;
                    c.series[0].values[0] = 0.0;
                }),
                "positive",
            ),
            ("guide", changed(&|c| c.options.guides = vec![Guide::Diagonal]), "groups"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(_, result, word)| !matches!(result, Err(e) if e.contains(word)))
            .map(|(name, result, _)| format!("{name}: {:?}", result.as_ref().err()))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
