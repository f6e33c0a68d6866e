//! How often values fall into bins.

use image::{Rgb, RgbImage};

use super::axis::Axis;
use super::frame::{self, Across, Entry, Sign};
use super::marks::{Marks, Paint, Place};
use super::{ChartOptions, Scale, name_with_omitted, require_series, series_color, series_name};
use crate::error::require_finite;
use crate::{Error, Result, ValueRange};

/// The values of one distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSeries {
    /// In the legend; empty for none.
    pub name: String,
    /// The values, in any order.
    pub values: Vec<f64>,
    /// `None` takes the next of [`series_color`].
    pub color: Option<Rgb<u8>>,
}

impl HistogramSeries {
    /// A distribution in the next colour.
    pub fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        HistogramSeries { name: name.into(), values, color: None }
    }
}

/// Equally wide bins, the same for all series. The last one has its upper end too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bins {
    /// How many, 1 to 10 000.
    pub count: usize,
    /// From the lower end of the first to the upper end of the last; `None` takes the least and
    /// the greatest value, or half a unit to both sides where these are equal. Values outside are
    /// counted in the legend.
    pub range: Option<ValueRange>,
}

impl Default for Bins {
    /// Forty bins over all values.
    fn default() -> Self {
        Bins { count: 40, range: None }
    }
}

/// Distributions laid over each other.
///
/// ```
/// use xdiff_viz::{Bins, ChartOptions, Histogram, HistogramSeries};
///
/// let values: Vec<f64> = (0..500).map(|i| (i as f64 * 0.618).fract()).collect();
/// let chart = Histogram {
///     options: ChartOptions::titled("Similarity", "cosine", "count"),
///     series: vec![HistogramSeries::new("members", values)],
///     bins: Bins { count: 20, ..Bins::default() },
///     density: false,
/// };
/// assert_eq!(chart.counts()?[0].iter().sum::<u64>(), 500);
/// assert_eq!(chart.render()?.dimensions(), (880, 520));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Texts, sizes and axes; the x axis is that of the bins.
    pub options: ChartOptions,
    /// The distributions.
    pub series: Vec<HistogramSeries>,
    /// The bins.
    pub bins: Bins,
    /// Whether heights are counts, or counts / (number of values × width of a bin), so that
    /// distributions of unlike size compare.
    pub density: bool,
}

impl Histogram {
    /// The number of values in each bin, for each series.
    ///
    /// # Errors
    ///
    /// As [`Histogram::render`], for the series and the bins.
    pub fn counts(&self) -> Result<Vec<Vec<u64>>> {
        let range = self.bin_range()?;
        Ok(self.series.iter().map(|s| s.count(self.bins.count, range)).collect())
    }

    /// Draws the chart.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] without series or for one without values; [`Error::NonFinite`] for NaN
    /// and infinities; [`Error::Argument`] for bins or options out of range, for a logarithmic x
    /// axis, and where no value falls into a bin.
    pub fn render(&self) -> Result<RgbImage> {
        let options = &self.options;
        options.validate()?;
        if options.x_scale == Scale::Log {
            let reason = "bins are equally wide, which a logarithmic axis cannot show; count logarithms";
            return Err(Error::argument("x_scale", reason));
        }
        let range = self.bin_range()?;
        let heights = self.heights(&self.counts()?, range);
        let shown = Some(options.x_range.unwrap_or(range));
        let x = Axis::new("x axis", Scale::Linear, shown, [], 0.0)?;
        let y = self.y_axis(&heights)?;
        let color = |i: usize| self.series[i].color.unwrap_or_else(|| series_color(i));
        let entry = |(index, series): (usize, &HistogramSeries)| {
            let inside = |v: &&f64| **v >= range.lo() && **v <= range.hi();
            let outside = series.values.len() - series.values.iter().filter(inside).count();
            let name = name_with_omitted(&series.name, outside, "outside");
            Entry { name, color: color(index), sign: Sign::Patch }
        };
        let legend: Vec<Entry> = self.series.iter().enumerate().map(entry).collect();
        frame::render(options, (&Across::Values(x), &y), &legend, |marks| {
            for (index, heights) in heights.iter().enumerate() {
                let places: Vec<(f64, f64)> = (0..=self.bins.count)
                    .map(|i| edge(range, i, self.bins.count))
                    .map(|value| x.place(value).unwrap_or(0.0))
                    .zip(heights.iter().map(|&h| y.place(h).unwrap_or(0.0)).chain([0.0]))
                    .collect();
                draw(marks, &places, color(index), heights.len())?;
            }
            Ok(())
        })
    }

    fn bin_range(&self) -> Result<ValueRange> {
        require_series(self.series.len())?;
        for (index, series) in self.series.iter().enumerate() {
            let name = series_name(index, &series.name);
            require_finite(&name, series.values.iter().copied())?;
            if series.values.is_empty() {
                return Err(Error::Empty { what: name, hint: "give at least one value" });
            }
        }
        if !(1..=10_000).contains(&self.bins.count) {
            let reason = format!("{} bins; give 1 to 10000", self.bins.count);
            return Err(Error::argument("bins", reason));
        }
        if let Some(range) = self.bins.range {
            return Ok(range);
        }
        let values = || self.series.iter().flat_map(|s| s.values.iter().copied());
        let (lo, hi) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let range = ValueRange::widened(lo, hi);
        ValueRange::new(range.lo(), range.hi())
    }

    fn heights(&self, counts: &[Vec<u64>], range: ValueRange) -> Vec<Vec<f64>> {
        let width = (range.hi() - range.lo()) / self.bins.count as f64;
        let per = |series: &HistogramSeries| match self.density {
            true => 1.0 / (series.values.len() as f64 * width),
            false => 1.0,
        };
        let scaled = |(series, counts): (&HistogramSeries, &Vec<u64>)| {
            counts.iter().map(|&n| n as f64 * per(series)).collect()
        };
        self.series.iter().zip(counts).map(scaled).collect()
    }

    fn y_axis(&self, heights: &[Vec<f64>]) -> Result<Axis> {
        let options = &self.options;
        let filled: Vec<f64> = heights.iter().flatten().copied().filter(|&h| h > 0.0).collect();
        if filled.is_empty() {
            return Err(Error::argument("bins", "no value falls into a bin; widen the range"));
        }
        let linear = options.y_scale == Scale::Linear;
        let data = filled.into_iter().chain(linear.then_some(0.0));
        let axis = Axis::new("y axis", options.y_scale, options.y_range, data, 0.06)?;
        if linear && options.y_range.is_none() { axis.starting_at(0.0) } else { Ok(axis) }
    }
}

impl HistogramSeries {
    fn count(&self, bins: usize, range: ValueRange) -> Vec<u64> {
        let mut counts = vec![0; bins];
        for position in self.values.iter().map(|&v| range.position(v)) {
            if (0.0..=1.0).contains(&position) {
                counts[((position * bins as f64) as usize).min(bins - 1)] += 1;
            }
        }
        counts
    }
}

/// The value at the lower end of a bin.
fn edge(range: ValueRange, index: usize, bins: usize) -> f64 {
    range.lo() + (range.hi() - range.lo()) * (index as f64 / bins as f64)
}

/// Fills the bins lightly and draws their outline; a place is the left edge and the height.
fn draw(marks: &Marks<'_>, places: &[Place], color: Rgb<u8>, bins: usize) -> Result<()> {
    let mut outline: Vec<Place> = Vec::with_capacity(2 * bins + 2);
    outline.extend(places.first().map(|&(x, _)| (x, 0.0)));
    for pair in places.windows(2) {
        let ((left, height), (right, _)) = (pair[0], pair[1]);
        marks.rectangle((left, 0.0), (right, height), Paint { color, opacity: 0.3 })?;
        outline.extend([(left, height), (right, height)]);
    }
    outline.extend(places.last().map(|&(x, _)| (x, 0.0)));
    marks.line(&outline, 1.6, Paint::solid(color))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chart(values: &[f64]) -> Histogram {
        Histogram {
            options: ChartOptions::titled("Scores", "score", "count"),
            series: vec![HistogramSeries::new("a", values.to_vec())],
            bins: Bins { count: 4, range: None },
            density: false,
        }
    }

    #[test]
    fn ends_belong_to_the_outer_bins() {
        let mut chart = chart(&[0.0, 0.25, 0.49, 0.5, 1.0, 1.0]);
        assert_eq!(chart.counts().unwrap(), [[1, 2, 1, 2]]);
        chart.bins.range = ValueRange::new(0.0, 0.5).ok();
        assert_eq!(chart.counts().unwrap(), [[1, 0, 1, 2]], "values above are outside");
        assert_eq!(chart.render().unwrap(), chart.render().unwrap());
    }

    #[test]
    fn constant_values_have_a_bin() {
        let chart = chart(&[3.0; 9]);
        assert_eq!(chart.counts().unwrap(), [[0, 0, 9, 0]]);
        assert!(chart.render().is_ok());
    }

    #[test]
    fn densities_and_log_counts_are_drawn() {
        let mut chart = chart(&[0.0, 0.1, 0.9]);
        chart.density = true;
        let counts = chart.counts().unwrap();
        let heights = chart.heights(&counts, ValueRange::new(0.0, 0.9).unwrap());
        assert!((heights[0].iter().sum::<f64>() * 0.9 / 4.0 - 1.0).abs() < 1e-12);
        let linear = chart.render().unwrap();
        chart.options.y_scale = Scale::Log;
        assert_ne!(linear, chart.render().unwrap());
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let changed = |change: &dyn Fn(&mut Histogram)| {
            let mut chart = chart(&[1.0, 2.0]);
            change(&mut chart);
            chart.render().map_err(|e| e.to_string())
        };
        let cases = [
            ("no series", changed(&|c| c.series.clear()), "chart is empty"),
            ("no values", changed(&|c| c.series[0].values.clear()), "`a` is empty"),
            ("NaN", changed(&|c| c.series[0].values.push(f64::NAN)), "value 2 is NaN"),
            ("no bins", changed(&|c| c.bins.count = 0), "bins"),
            ("many bins", changed(&|c| c.bins.count = usize::MAX), "bins"),
            ("all outside", changed(&|c| c.bins.range = ValueRange::new(5.0, 6.0).ok()), "no value"),
            ("too wide", changed(&|c| c.series[0].values = vec![f64::MIN, f64::MAX]), "range"),
            ("log", changed(&|c| c.options.x_scale = Scale::Log), "x_scale"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(_, result, word)| !matches!(result, Err(e) if e.contains(word)))
            .map(|(name, result, _)| format!("{name}: {:?}", result.as_ref().err()))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    proptest! {
        #[test]
        fn every_value_is_counted(values in proptest::collection::vec(-1e6..1e6, 1..50), bins in 1usize..30) {
            let mut chart = chart(&values);
            chart.bins.count = bins;
            prop_assert_eq!(chart.counts().unwrap()[0].iter().sum::<u64>(), values.len() as u64);
        }
    }
}
