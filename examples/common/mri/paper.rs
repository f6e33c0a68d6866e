//! The report of `faithful_mri`: every table and figure of Dey & Saikia 2025, with what it leaves out.

use std::path::Path;

use xdiff::core::cancel::CancelToken;
use xdiff::viz::Report;

use super::explain::explain;
use super::explain::settings::Settings;
use super::model::Model;
use super::quality::{self, Weights};
use super::report;
use super::sampling::Sampled;
use super::source::MriData;
use crate::AnyError;
use crate::segment::settings::Settings as SegmentSettings;

/// What a report is about, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The trained model.
    pub model: &'a Model,
    /// Its images.
    pub data: &'a MriData,
    /// What it drew.
    pub sampled: &'a Sampled,
    /// The folder of the report.
    pub out: &'a Path,
}

/// Measures everything and writes `report.html`, its figures as PNG, its tables as CSV and Markdown.
/// Returns the tables as Markdown; `None` when it was cancelled.
///
/// # Errors
/// When a training fails or a file cannot be written.
pub fn report(
    work: &Work<'_>,
    weights: &Weights,
    settings: &Settings,
    cancel: &CancelToken,
) -> Result<Option<String>, AnyError> {
    let Work { model, data, sampled, out } = *work;
    let mut report =
        Report::new("faithful_mri: images drawn from masks, and which training images they look like");
    let scores = report::add(&mut report, out, model, data, sampled)?;

    let mut segment = if model.preset.name.ends_with("-tiny") {
        SegmentSettings::tiny(settings.seed)
    } else {
        SegmentSettings::normal(data.train.len(), settings.seed)
    };
    segment.size = sampled.size;
    let Some(trained) = quality::segmentation(&segment, data, &out.join("segmentation"), cancel)? else {
        return Ok(None);
    };
    let quality = quality::measure(sampled, &scores, data, &trained, weights)?.table()?;
    report.section("Table 1 of the paper, and its lines on FID and Dice");
    report.table(&quality, "Intervals by bootstrap over samples. Nothing was tuned to come near the paper.");
    quality.save_csv(out.join("table1.csv"))?;
    quality.save_markdown(out.join("table1.md"))?;
    let Some(explained) = explain(&mut report, work, settings, cancel)? else { return Ok(None) };
    report.save(out.join("report.html"))?;
    Ok(Some(format!("{}\n{explained}", quality.to_markdown())))
}
