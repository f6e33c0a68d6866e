//! The report of a segmentation.

use std::path::Path;

use image::{Rgb, RgbImage};
use xdiff::vision::train::{History, Measure};
use xdiff::viz::{
    Cell, ChartOptions, Grid, GridOptions, LineChart, LineSeries, Report, Table, save_png, write_atomic,
};

use super::model::Trained;
use super::scores::{Case, Scores, score};
use super::settings::Settings;
use crate::AnyError;
use crate::mri::source::MriData;
use crate::pictures::{grey, outlined};

const TRUTH: Rgb<u8> = Rgb([255, 170, 0]);
const FOUND: Rgb<u8> = Rgb([60, 160, 255]);
/// Columns of the pictures.
const SHOWN: usize = 8;

/// Cases from the worst to the best, evenly spaced by rank: those with a mask as long as there are any.
fn shown(scores: &Scores) -> Vec<usize> {
    let mut order: Vec<usize> =
        (0..scores.cases.len()).filter(|i| scores.cases[*i].true_pixels > 0).collect();
    if order.is_empty() {
        order = (0..scores.cases.len()).collect();
    }
    order.sort_by(|a, b| scores.cases[*a].dice.total_cmp(&scores.cases[*b].dice));
    let n = order.len().min(SHOWN);
    (0..n).map(|i| order[i * (order.len() - 1) / (n - 1).max(1)]).collect()
}

fn pictures(cases: &[Case], scores: &Scores, side: usize) -> Result<RgbImage, AnyError> {
    let shown = shown(scores);
    let mut grid = Grid::new(GridOptions {
        columns: shown.len(),
        panel_size: 128,
        row_labels: ["image", "truth", "found", "both"].map(String::from).to_vec(),
        ..Default::default()
    });
    let binary = |mask: &[u8]| mask.iter().map(|v| f32::from(*v)).collect::<Vec<f32>>();
    for i in &shown {
        grid.push(grey(&cases[*i].image, side)?, "");
    }
    for i in &shown {
        grid.push(grey(&binary(&cases[*i].truth), side)?, "");
    }
    for i in &shown {
        grid.push(grey(&binary(&cases[*i].found), side)?, "");
    }
    for i in &shown {
        let case = &cases[*i];
        let both = outlined(&case.image, &[(&case.truth, TRUTH), (&case.found, FOUND)], side)?;
        let small = image::imageops::thumbnail(&both, 128, 128);
        grid.push(small, format!("Dice {:.2}", scores.cases[*i].dice));
    }
    Ok(grid.render()?)
}

fn course(history: &History) -> Result<RgbImage, AnyError> {
    let series = |name: &str, value: &dyn Fn(usize) -> Option<f64>| {
        let points = (0..history.epochs.len()).filter_map(|i| Some(((i + 1) as f64, value(i)?))).collect();
        LineSeries::new(name, points)
    };
    let of = |measure: Measure| move |i: usize| history.epochs[i].validation.get(&measure).copied();
    let series = vec![
        series("loss, training", &|i| Some(history.epochs[i].train_loss)),
        series("loss, validation", &of(Measure::Loss)),
        series("Dice, validation", &of(Measure::Dice)),
    ];
    Ok(LineChart { options: ChartOptions::titled("Training", "epoch", "loss, Dice"), series }.render()?)
}

fn summary(scores: &Scores) -> Result<Table, AnyError> {
    let mut table = Table::new(["measure", "mean", "95 % from", "to", "sd", "n"]);
    let maybe = |v: Option<f64>| v.map_or(Cell::Missing, |v| Cell::number(v, 3));
    for m in &scores.means {
        let (from, to) = (m.interval.map(|i| i.0), m.interval.map(|i| i.1));
        table.push([
            Cell::from(m.name),
            Cell::number(m.mean, 3),
            maybe(from),
            maybe(to),
            maybe(m.sd),
            Cell::from(m.n),
        ])?;
    }
    let pooled = Cell::number(scores.pooled, 3);
    let n = Cell::from(scores.cases.len());
    table.push([
        Cell::from("Dice of all pixels together"),
        pooled,
        Cell::Missing,
        Cell::Missing,
        Cell::Missing,
        n,
    ])?;
    Ok(table)
}

fn each(scores: &Scores) -> Result<Table, AnyError> {
    let mut table = Table::new(["id", "patient", "dice", "dice_other", "true_pixels", "found_pixels"]);
    for c in &scores.cases {
        table.push([
            Cell::from(c.id.as_str()),
            c.group.as_deref().map_or(Cell::Missing, Cell::from),
            Cell::number(c.dice, 3),
            c.dice_other.map_or(Cell::Missing, |v| Cell::number(v, 3)),
            Cell::from(c.true_pixels),
            Cell::from(c.found_pixels),
        ])?;
    }
    Ok(table)
}

/// Writes `report.html` with its pictures as PNG, its tables as CSV and Markdown, and all numbers as
/// JSON.
///
/// # Errors
/// When there is nothing to report or a file cannot be written.
pub fn write(
    out: &Path,
    settings: &Settings,
    data: &MriData,
    trained: &Trained,
    cases: &[Case],
) -> Result<Scores, AnyError> {
    let scores = score(cases)?;
    let (summary, each) = (summary(&scores)?, each(&scores)?);
    let pictures = pictures(cases, &scores, settings.size)?;
    let course = course(&trained.history)?;
    save_png(out.join("cases.png"), &pictures)?;
    save_png(out.join("training.png"), &course)?;

    let mut report = Report::new(format!("segment: finding the {}", data.mask));
    report.paragraph(format!(
        "A U-Net learnt to mark: {}. It is judged on images of patients that it never saw. Research software, not a \
         medical device.",
        data.mask
    ));
    report.section("Scores");
    report.table(&summary, format!("n = {} images held out, seed {}.", cases.len(), settings.fit.seed));
    report.note(
        "Intervals are 95 % BCa bootstrap intervals of the mean (1000 replicates, seed 0); whole patients are drawn, or \
         whole blocks of slices where the data give no patients.",
    );
    report.section("Pictures");
    report.figure(
        &pictures,
        "Images that were held out, from the worst to the best by Dice, evenly spaced by rank. Orange: the truth. Blue: \
         what was found.",
        "Rows of images, true masks, found masks, and both outlines",
    )?;
    report.section("Training");
    report.figure(&course, "Loss and Dice after each epoch.", "Loss and Dice against epochs")?;
    report.preformatted("Settings", serde_json::to_string_pretty(settings)?);
    report.section("Each image");
    report.table(&each, "The same numbers are in cases.csv and report.json.");
    let best = trained.best.map_or_else(String::new, |b| {
        format!(
            "epoch {} of {}, {} {:.4} on the validation part",
            b.epoch + 1,
            trained.history.epochs.len(),
            b.measure,
            b.value
        )
    });
    for (name, value) in [
        ("data", data.about.clone()),
        ("mask", data.mask.to_string()),
        ("weights", best),
        ("training seed", settings.fit.seed.to_string()),
        ("n", cases.len().to_string()),
        ("xdiff", env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        report.provenance(name, value);
    }
    summary.save_csv(out.join("scores.csv"))?;
    summary.save_markdown(out.join("scores.md"))?;
    each.save_csv(out.join("cases.csv"))?;
    let json = serde_json::json!({
        "scores": &scores, "settings": settings, "mask": &data.mask, "data": &data.about,
    });
    write_atomic(out.join("report.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
    report.save(out.join("report.html"))?;
    Ok(scores)
}
