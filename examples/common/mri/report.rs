//! Scores, pictures and the report of a mask-conditioned model.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use rayon::prelude::*;
use serde::Serialize;
use xdiff::data::Dataset;
use xdiff::metrics::{PairMetric, Psnr, Ssim, SsimPreset};
use xdiff::nn::Rng;
use xdiff::viz::{
    Cell, ChartOptions, ColorBar, Colormap, Grid, GridOptions, LineChart, LineSeries, Report, Scale, Table,
    ValueRange, Window, save_png,
};

use super::model::Model;
use super::sampling::{Case, Sampled};
use super::scores::{Masked, Neighbour, contrast, foreground_dice, mean_sd, nearest};
use super::source::MriData;
use crate::AnyError;
use crate::pictures::{grey, outlined, plane};

/// What was measured of one sample.
#[derive(Clone, Debug, Serialize)]
pub struct CaseScores {
    /// The held-out image whose mask was used.
    pub id: String,
    /// Against that image, data range 1.
    pub psnr: f64,
    /// Against that image, preset `wang`, data range 1.
    pub ssim: f64,
    /// Contrast at the mask's edge in the sample.
    pub contrast_sample: Option<f64>,
    /// The same in the real image.
    pub contrast_real: Option<f64>,
    /// The same in the sample under the mask of the next sample: what chance gives.
    pub contrast_other: Option<f64>,
    /// Dice of the sample's bright part with the mask.
    pub dice_sample: f64,
    /// The same of the real image.
    pub dice_real: f64,
    /// The same of the sample with the mask of the next sample.
    pub dice_other: f64,
    /// The training image nearest to the sample.
    pub nearest_sample: Neighbour,
    /// The training image nearest to the real image.
    pub nearest_real: Neighbour,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// One for each sample.
    pub cases: Vec<CaseScores>,
    /// Pixels that the contrast's ring reaches.
    pub reach: usize,
}

/// The training images, in [0, 1].
#[derive(Debug)]
pub struct TrainingImages {
    images: Vec<Vec<f32>>,
    ids: Vec<String>,
}

impl TrainingImages {
    /// Reads all of them.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(data: &dyn Dataset) -> Result<Self, AnyError> {
        let read = |i: usize| -> Result<(Vec<f32>, String), xdiff::data::Error> {
            let sample = data.get(i, &mut Rng::new(0))?;
            Ok((sample.image.into_data(), sample.info.id))
        };
        let (images, ids) =
            (0..data.len()).into_par_iter().map(read).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        Ok(Self { images, ids })
    }
}

/// Measures all samples.
///
/// # Errors
/// When there is no training image to compare with.
pub fn score(sampled: &Sampled, training: &TrainingImages) -> Result<Scores, AnyError> {
    let size = (sampled.size, sampled.size);
    let reach = (sampled.size / 16).max(2);
    let tensor = |pick: fn(&Case) -> &Vec<f32>| {
        let values: Vec<f32> = sampled.cases.iter().flat_map(|c| pick(c).iter().copied()).collect();
        Tensor::from_vec(values, (sampled.cases.len(), 1, size.0, size.1), &Device::Cpu)
    };
    let (real, fake) = (tensor(|c| &c.real)?, tensor(|c| &c.sample)?);
    let psnr = Psnr::new(1.0)?.values(&fake, &real)?;
    let ssim = Ssim::new(SsimPreset::Wang, 1.0)?.values(&fake, &real)?;
    let near = |image: &[f32]| nearest(image, &training.images).ok_or("there is no training image");
    let cases = sampled
        .cases
        .iter()
        .enumerate()
        .map(|(i, case)| {
            let other = &sampled.cases[(i + 1) % sampled.cases.len()].mask;
            let sample = Masked { image: &case.sample, mask: &case.mask, size };
            let real = Masked { image: &case.real, ..sample.clone() };
            let under_other = Masked { mask: other, ..sample.clone() };
            Ok(CaseScores {
                id: case.id.clone(),
                psnr: psnr[i],
                ssim: ssim[i],
                contrast_sample: contrast(&sample, reach),
                contrast_real: contrast(&real, reach),
                contrast_other: contrast(&under_other, reach),
                dice_sample: foreground_dice(&sample),
                dice_real: foreground_dice(&real),
                dice_other: foreground_dice(&under_other),
                nearest_sample: near(&case.sample)?,
                nearest_real: near(&case.real)?,
            })
        })
        .collect::<Result<Vec<_>, AnyError>>()?;
    Ok(Scores { cases, reach })
}

const OUTLINE: Rgb<u8> = Rgb([255, 170, 0]);

/// Mask, real image and sample, one column a case.
fn samples_grid(sampled: &Sampled, count: usize) -> Result<RgbImage, AnyError> {
    let cases = &sampled.cases[..count.min(sampled.cases.len())];
    let mut grid = Grid::new(GridOptions {
        columns: cases.len(),
        panel_size: 128,
        row_labels: ["mask", "real", "sample", "sample + mask"].map(String::from).to_vec(),
        ..Default::default()
    });
    let side = sampled.size;
    for case in cases {
        let mask: Vec<f32> = case.mask.iter().map(|m| f32::from(u8::from(*m != 0))).collect();
        grid.push(grey(&mask, side)?, "");
    }
    for case in cases {
        grid.push(grey(&case.real, side)?, "");
    }
    for case in cases {
        grid.push(grey(&case.sample, side)?, "");
    }
    for case in cases {
        let small =
            image::imageops::thumbnail(&outlined(&case.sample, &[(&case.mask, OUTLINE)], side)?, 128, 128);
        grid.push(small, "");
    }
    Ok(grid.render()?)
}

/// Ten steps in one row and one scale.
fn course_grid(sampled: &Sampled, clean: bool) -> Result<RgbImage, AnyError> {
    let half = if clean { 1.0 } else { 2.0 };
    let range = ValueRange::new(-half, half)?;
    let mut grid = Grid::new(GridOptions {
        columns: sampled.course.len().max(1),
        panel_size: 128,
        row_labels: vec![if clean { "x̂₀".to_owned() } else { "xₜ".to_owned() }],
        color_bar: Some(ColorBar::new(Colormap::Grey, range)),
        ..Default::default()
    });
    for moment in &sampled.course {
        let values = if clean { &moment.pred_x0 } else { &moment.x_t };
        grid.push(
            Colormap::Grey.paint(&plane(values, sampled.size)?, range)?,
            format!("t = {:.0}", moment.t),
        );
    }
    Ok(grid.render()?)
}

/// How much the predicted clean image changed from one shown step to the next, in one scale.
fn change_grid(sampled: &Sampled) -> Result<RgbImage, AnyError> {
    let changes = sampled
        .course
        .windows(2)
        .map(|w| {
            plane(
                &w[0].pred_x0.iter().zip(&w[1].pred_x0).map(|(a, b)| (b - a).abs()).collect::<Vec<_>>(),
                sampled.size,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    let span = Window::Span.over(&changes.iter().collect::<Vec<_>>())?;
    let range = ValueRange::new(0.0, span.hi())?;
    let mut grid = Grid::new(GridOptions {
        columns: changes.len().max(1),
        panel_size: 128,
        row_labels: vec!["|Δx̂₀|".to_owned()],
        color_bar: Some(ColorBar::new(Colormap::Magma, range)),
        ..Default::default()
    });
    for (change, w) in changes.iter().zip(sampled.course.windows(2)) {
        grid.push(Colormap::Magma.paint(change, range)?, format!("{:.0} → {:.0}", w[0].t, w[1].t));
    }
    Ok(grid.render()?)
}

/// Each sample beside the training image nearest to it.
fn neighbours_grid(
    sampled: &Sampled,
    scores: &Scores,
    training: &TrainingImages,
    count: usize,
) -> Result<RgbImage, AnyError> {
    let n = count.min(sampled.cases.len());
    let mut grid = Grid::new(GridOptions {
        columns: n,
        panel_size: 128,
        row_labels: ["sample", "nearest in training"].map(String::from).to_vec(),
        ..Default::default()
    });
    for case in &sampled.cases[..n] {
        grid.push(grey(&case.sample, sampled.size)?, "");
    }
    for s in &scores.cases[..n] {
        let image = grey(&training.images[s.nearest_sample.index], sampled.size)?;
        grid.push(image, format!("RMSE {:.3}", s.nearest_sample.rmse));
    }
    Ok(grid.render()?)
}

/// The loss, averaged over a moving window of 2 % of the training.
fn loss_chart(history: &[f32]) -> Result<RgbImage, AnyError> {
    let window = (history.len() / 50).max(1);
    let points = history
        .chunks(window)
        .enumerate()
        .map(|(i, c)| {
            ((i * window + c.len()) as f64, c.iter().map(|v| f64::from(*v)).sum::<f64>() / c.len() as f64)
        })
        .collect();
    let options = ChartOptions { y_scale: Scale::Log, ..ChartOptions::titled("Training", "step", "loss") };
    Ok(LineChart { options, series: vec![LineSeries::new(format!("mean of {window} steps"), points)] }
        .render()?)
}

fn summary_table(scores: &Scores) -> Result<Table, AnyError> {
    let mut table = Table::new(["measure", "mean", "sd", "n"]);
    let mut row = |name: &str, values: Vec<f64>| -> Result<(), AnyError> {
        let (mean, sd) = mean_sd(&values);
        table.push([
            Cell::from(name),
            Cell::number(mean, 3),
            Cell::number(sd, 3),
            Cell::from(values.len()),
        ])?;
        Ok(())
    };
    let of = |pick: fn(&CaseScores) -> f64| scores.cases.iter().map(pick).collect::<Vec<_>>();
    let some =
        |pick: fn(&CaseScores) -> Option<f64>| scores.cases.iter().filter_map(pick).collect::<Vec<_>>();
    row("PSNR to the mask's own image (dB, range 1)", of(|c| c.psnr))?;
    row("SSIM to the mask's own image (wang, range 1)", of(|c| c.ssim))?;
    row("edge contrast: real image, own mask", some(|c| c.contrast_real))?;
    row("edge contrast: sample, own mask", some(|c| c.contrast_sample))?;
    row("edge contrast: sample, another's mask (chance)", some(|c| c.contrast_other))?;
    row("Dice of bright part: real image, own mask", of(|c| c.dice_real))?;
    row("Dice of bright part: sample, own mask", of(|c| c.dice_sample))?;
    row("Dice of bright part: sample, another's mask (chance)", of(|c| c.dice_other))?;
    row("RMSE to nearest training image: samples", of(|c| c.nearest_sample.rmse))?;
    row("RMSE to nearest training image: held-out images", of(|c| c.nearest_real.rmse))?;
    Ok(table)
}

fn case_table(scores: &Scores, training: &TrainingImages) -> Result<Table, AnyError> {
    let mut table = Table::new([
        "id",
        "psnr",
        "ssim",
        "contrast_sample",
        "contrast_real",
        "contrast_other",
        "dice_sample",
        "dice_real",
        "dice_other",
        "nearest_training_image",
        "nearest_rmse",
    ]);
    let maybe = |v: Option<f64>| v.map_or(Cell::Missing, |v| Cell::number(v, 3));
    for c in &scores.cases {
        table.push([
            Cell::from(c.id.as_str()),
            Cell::number(c.psnr, 2),
            Cell::number(c.ssim, 3),
            maybe(c.contrast_sample),
            maybe(c.contrast_real),
            maybe(c.contrast_other),
            Cell::number(c.dice_sample, 3),
            Cell::number(c.dice_real, 3),
            Cell::number(c.dice_other, 3),
            Cell::from(training.ids[c.nearest_sample.index].as_str()),
            Cell::number(c.nearest_sample.rmse, 4),
        ])?;
    }
    Ok(table)
}

/// Saves a picture as `name.png` in the folder and shows it in the report.
///
/// # Errors
/// When the file cannot be written.
pub fn figure(
    report: &mut Report,
    out: &Path,
    name: &str,
    image: &RgbImage,
    (caption, alt): (&str, &str),
) -> Result<(), AnyError> {
    save_png(out.join(format!("{name}.png")), image)?;
    report.figure(image, caption, alt)?;
    Ok(())
}

/// Writes `report.html` with its pictures as PNG, its tables as CSV and Markdown, and all numbers
/// as JSON.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    out: &Path,
    title: &str,
    model: &Model,
    data: &MriData,
    sampled: &Sampled,
) -> Result<Scores, AnyError> {
    let mut report = Report::new(title);
    let scores = add(&mut report, out, model, data, sampled)?;
    report.save(out.join("report.html"))?;
    Ok(scores)
}

/// Adds everything about the samples to a report: pictures, scores, course, neighbours, training.
///
/// # Errors
/// When a file cannot be written.
pub fn add(
    report: &mut Report,
    out: &Path,
    model: &Model,
    data: &MriData,
    sampled: &Sampled,
) -> Result<Scores, AnyError> {
    std::fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    let training = TrainingImages::read(&*data.train)?;
    let scores = score(sampled, &training)?;
    let (summary, per_case) = (summary_table(&scores)?, case_table(&scores, &training)?);
    report.paragraph(format!(
        "A diffusion model was trained to draw images from masks, and then given masks of images that it never saw. The \
         masks here mark: {}. Research software, not a medical device.",
        data.mask
    ));
    let n = sampled.cases.len();
    report.section("Samples");
    let caption = format!(
        "Held-out masks, the real images that they belong to, and what the model drew from the mask alone. Values 0 to 1, \
         no further scaling. {n} masks were sampled; the first {} are shown.",
        n.min(8)
    );
    figure(
        report,
        out,
        "samples",
        &samples_grid(sampled, 8)?,
        (&caption, "Rows of masks, real images and samples"),
    )?;
    report.section("Scores");
    report.table(&summary, format!("n = {n} samples, seed {}. sd is over samples.", sampled.seed));
    report.note(format!(
        "Edge contrast is the mean intensity inside the mask less that in a ring of {} pixels around it. The bright part \
         is what lies above Otsu's threshold, holes filled. A sample that follows its mask comes near the real image's \
         value and stays away from that under another's mask. A mask does not determine an image, so PSNR and SSIM to the \
         mask's own image have a ceiling well below that of a reconstruction.",
        scores.reach
    ));
    report.section("Denoising");
    figure(
        report,
        out,
        "trajectory",
        &course_grid(sampled, false)?,
        (
            "Ten steps of the first sample, from noise to image, all on one scale.",
            "Ten pictures from noise to image",
        ),
    )?;
    figure(
        report,
        out,
        "predicted_x0",
        &course_grid(sampled, true)?,
        (
            "The clean image that the model predicts at each of these steps, all on one scale.",
            "Ten predicted clean images",
        ),
    )?;
    figure(
        report,
        out,
        "predicted_x0_change",
        &change_grid(sampled)?,
        (
            "Where the prediction changed from one of these steps to the next, all on one scale.",
            "Nine maps of absolute change",
        ),
    )?;
    report.section("Memorisation");
    figure(
        report,
        out,
        "neighbours",
        &neighbours_grid(sampled, &scores, &training, 8)?,
        (
            "Each sample above the training image nearest to it by root mean square difference. A copy would have an RMSE \
         near 0; the table above gives the distance of real held-out images for comparison.",
            "Samples and their nearest training images",
        ),
    )?;
    report.section("Training");
    figure(report, out, "loss", &loss_chart(&model.history)?, ("The training loss.", "Loss against steps"))?;
    report.preformatted("Preset", serde_json::to_string_pretty(&model.preset)?);
    report.section("Each sample");
    report.table(&per_case, "The same numbers are in samples.csv and report.json.");
    for (name, value) in [
        ("data", data.about.clone()),
        ("images trained on", data.train.len().to_string()),
        ("mask", data.mask.to_string()),
        ("preset", model.preset.name.clone()),
        ("optimiser steps", model.steps.to_string()),
        ("training seed", model.preset.train.seed.to_string()),
        ("sampler", format!("DDIM, {} steps, η = 0", sampled.steps)),
        ("sampling seed", sampled.seed.to_string()),
        ("n", n.to_string()),
        ("pixels cut off at [−1, 1]", format!("{:.2} %", 100.0 * sampled.clipped)),
        ("xdiff", env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        report.provenance(name, value);
    }
    summary.save_csv(out.join("scores.csv"))?;
    summary.save_markdown(out.join("scores.md"))?;
    per_case.save_csv(out.join("samples.csv"))?;
    let json = serde_json::json!({
        "scores": &scores, "preset": &model.preset, "mask": &data.mask, "data": &data.about, "steps": model.steps,
        "seed": sampled.seed, "clipped": sampled.clipped,
    });
    xdiff::viz::write_atomic(out.join("report.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
    Ok(scores)
}
