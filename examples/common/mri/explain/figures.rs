//! Pictures of prototypes and of their influence.

use image::RgbImage;
use xdiff::metrics::{BootstrapConfig, Design, bootstrap_mean};
use xdiff::proto::correlation::{Correlation, Queries};
use xdiff::proto::faithfulness::{Baseline, Definition, DefinitionScore, FaithfulnessReport};
use xdiff::proto::projection::ProjectionConfig;
use xdiff::proto::window::Window;
use xdiff::viz::{
    BarChart, BarSeries, Bins, ChartOptions, Grid, GridOptions, Guide, Histogram, HistogramSeries, Likeness,
    LikenessOptions, LineChart, LineSeries, PictureBox, Plane, ValueRange, likeness_panel,
};

use super::features::Images;
use super::over_time::OverTime;
use super::study::{Explained, Outcome, Samples};
use crate::AnyError;
use crate::pictures::grey;

/// The mean over images with its 95 % interval, images of one group drawn together.
///
/// # Errors
/// When every value is undefined.
pub fn interval(values: &[f64], report: &FaithfulnessReport) -> Result<xdiff::metrics::Interval, AnyError> {
    Ok(bootstrap_mean(values, &Design::groups(&report.groups)?, &BootstrapConfig::default())?)
}

fn bars(
    name: &str,
    outcomes: &[(&FaithfulnessReport, &DefinitionScore)],
    values: impl Fn(&DefinitionScore) -> Option<Vec<f64>>,
) -> Result<Option<BarSeries>, AnyError> {
    let (mut means, mut ends) = (Vec::new(), Vec::new());
    for (report, score) in outcomes {
        let Some(values) = values(score) else { return Ok(None) };
        let interval = interval(&values, report)?;
        means.push(interval.value);
        ends.push((interval.low, interval.high));
    }
    Ok(Some(BarSeries::new(name, means).intervals(ends)))
}

/// Fig. 4 of the paper under every definition: each with the same influences dealt out at random, random
/// prototypes, and the range that the definition has.
///
/// # Errors
/// When a score is undefined for every image.
pub fn faithfulness(outcomes: &[Outcome]) -> Result<RgbImage, AnyError> {
    let mut grid = Grid::new(GridOptions { columns: 2, panel_size: 1, ..Default::default() });
    for definition in Definition::ALL {
        let scores: Vec<_> = outcomes
            .iter()
            .filter_map(|o| {
                let report = o.report(Correlation::PatchPixel)?;
                Some((report, report.score(definition)?))
            })
            .collect();
        if scores.len() != outcomes.len() {
            continue;
        }
        let (low, high) = scores[0].1.range;
        let random = |s: &DefinitionScore| s.random.as_ref().map(Baseline::image_values);
        let series = [
            bars("prototypes", &scores, |s| Some(s.image_values()))?,
            bars("influences permuted", &scores, |s| Some(s.permuted.image_values()))?,
            bars("random prototypes", &scores, random)?,
        ];
        let title = format!("{definition}, possible: {low:.3} to {high:.3}");
        let chart = BarChart {
            options: ChartOptions {
                width: 560,
                height: 320,
                ..ChartOptions::titled(title, "", "mean over samples")
            },
            groups: outcomes.iter().map(|o| o.method.name().to_owned()).collect(),
            series: series.into_iter().flatten().collect(),
        };
        grid.push(chart.render()?, "");
    }
    Ok(grid.render()?)
}

/// Fig. 5 of the paper: how the influences of the first seed are distributed.
///
/// # Errors
/// When there is none.
pub fn influences(outcomes: &[Outcome]) -> Result<RgbImage, AnyError> {
    let series = outcomes
        .iter()
        .filter_map(|o| {
            let run = o.runs.first()?;
            let values = run.influence.iter().flatten().copied().collect();
            Some(HistogramSeries::new(o.method.name(), values))
        })
        .collect();
    let m =
        outcomes.iter().filter_map(|o| o.runs.first()).map(|run| run.influence[0].len()).max().unwrap_or(1);
    let chart = Histogram {
        options: ChartOptions {
            guides: vec![Guide::Vertical(1.0 / m as f64)],
            ..ChartOptions::titled("Normalised influence", "NIS of a prototype for a sample", "how many")
        },
        series,
        bins: Bins { count: 40, range: None },
        density: false,
    };
    Ok(chart.render()?)
}

/// 1/(1 + d²) of −d²: from 0 for what is far to 1 for what is equal.
fn likeness(similarity: &f32) -> f32 {
    1.0 / (1.0 - similarity)
}

fn picture_box(window: &Window) -> PictureBox {
    let px = |v: usize| u32::try_from(v).unwrap_or(u32::MAX);
    PictureBox {
        x: px(window.left),
        y: px(window.top),
        width: px(window.width()),
        height: px(window.height()),
    }
}

/// The prototypes of the largest influence on a sample, largest first; the first of equals.
pub fn strongest(influence: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..influence.len()).collect();
    order.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]));
    order.truncate(count);
    order
}

/// The grey picture in the first channel of an image (C, side, side) in [−1, 1].
fn picture(image: &candle_core::Tensor) -> Result<RgbImage, AnyError> {
    let side = image.dim(1)?;
    let values = image.get(0)?.flatten_all()?.to_vec1::<f32>()?;
    grey(&values.iter().map(|v| (v.clamp(-1.0, 1.0) + 1.0) / 2.0).collect::<Vec<_>>(), side)
}

/// The top prototypes of a sample: where each is seen in it, and the training image that each is from.
///
/// # Errors
/// When a source is missing.
pub fn panel(
    title: &str,
    explained: &Explained,
    samples: &Samples,
    index: usize,
    (config, images): (&ProjectionConfig, &Images<'_>),
) -> Result<RgbImage, AnyError> {
    let queries = Queries::new(&samples.images, &samples.embedded, &explained.projected, config)?;
    let influence = &explained.influence[index];
    let lines = strongest(influence, 5)
        .into_iter()
        .map(|j| {
            let from = &explained.projected.projection.sources[j];
            let map = explained.maps.get(index)?.get(j)?;
            let (h, w) = map.dims2()?;
            Ok(Likeness {
                query: picture(&samples.images.get(index)?)?,
                query_box: picture_box(&queries.window(index, j)?),
                map: Plane::new(h, w, map.flatten_all()?.to_vec1::<f32>()?.iter().map(likeness).collect())?,
                caption: format!("NIS {:.3}", influence[j]),
                source: picture(&images.get(&from.image)?)?,
                source_box: picture_box(&from.window),
                source_caption: from.image.clone(),
            })
        })
        .collect::<Result<Vec<_>, AnyError>>()?;
    let options = LikenessOptions {
        title: Some(title.to_owned()),
        measure: "1/(1 + d²)".to_owned(),
        range: Some(ValueRange::new(0.0, 1.0)?),
        panel_size: 128,
        ..Default::default()
    };
    Ok(likeness_panel(&lines, &options)?)
}

/// Influences along a run of sampling, from noise to image, by both looks.
///
/// # Errors
/// When there is no step.
pub fn over_time(watched: &OverTime) -> Result<RgbImage, AnyError> {
    let last = watched.predicted.last().ok_or("no step of sampling was watched")?;
    let shown = strongest(last, 6);
    let mut grid = Grid::new(GridOptions { columns: 2, panel_size: 1, ..Default::default() });
    for (title, influence) in
        [("from the predicted image", &watched.predicted), ("from the running network", &watched.running)]
    {
        let series = shown
            .iter()
            .map(|j| {
                let points = watched.timesteps.iter().zip(influence).map(|(t, row)| (-t, row[*j])).collect();
                LineSeries::new(format!("prototype {j}"), points)
            })
            .collect();
        let options = ChartOptions {
            guides: vec![Guide::Horizontal(1.0 / last.len() as f64)],
            width: 560,
            height: 380,
            ..ChartOptions::titled(title, "−t (noise left, image right)", "NIS")
        };
        grid.push(LineChart { options, series }.render()?, "");
    }
    Ok(grid.render()?)
}
