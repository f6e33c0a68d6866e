//! The report on a classifier, one column a seed.

use std::path::Path;

use image::RgbImage;
use xdiff::data::{Dataset, Sample};
use xdiff::metrics::{ScoreTable, roc_curve};
use xdiff::nn::Rng;
use xdiff::vision::train::{FitConfig, History, Measure};
use xdiff::viz::{
    Cell, ChartOptions, Colormap, Grid, GridOptions, Guide, LineChart, LineSeries, MatrixChart, Plane,
    Report, Scale, ScatterChart, ScatterSeries, Table, ValueRange, save_png, write_atomic,
};

use super::judging::Judged;
use super::source::ClassData;
use crate::AnyError;

/// One trained and judged classifier.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where its chance came from.
    pub seed: u64,
    /// What happened in its training.
    pub history: History,
    /// The epoch whose weights it has, from 0.
    pub best_epoch: Option<usize>,
    /// Whether it stopped before the last epoch.
    pub stopped_early: bool,
    /// Its answers and scores.
    pub judged: Judged,
}

/// What is common to all runs.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The network's name.
    pub network: String,
    /// How many numbers it learnt.
    pub parameters: usize,
    /// Images in a batch.
    pub batch: usize,
    /// How it was trained, but for the seed.
    pub fit: FitConfig,
    /// The class that guessing would take, and how often that is right.
    pub majority: (String, f64),
}

/// Writes `report.html` with its pictures as PNG, its tables as CSV and Markdown, and all numbers
/// as JSON.
///
/// # Errors
/// When a file cannot be written.
pub fn write(out: &Path, data: &ClassData, setting: &Setting, runs: &[Run]) -> Result<(), AnyError> {
    let mut page = Page { out, report: Report::new(format!("{} on {}", setting.network, data.about)) };
    let seeds: Vec<String> = runs.iter().map(|run| run.seed.to_string()).collect();
    let (major, chance) = &setting.majority;
    page.report.paragraph(format!(
        "A network of {} parameters was trained from random weights on {} images of {} classes, its epoch was chosen \
         on {} others, and it was judged once on {} images of other patients (seeds {}). Research software, not a \
         medical device.",
        setting.parameters,
        data.train.len(),
        data.classes.len(),
        data.val.len(),
        data.test.len(),
        seeds.join(", "),
    ));
    page.report.note(format!(
        "Always saying `{major}`, the most frequent class of the training images, would be right {chance:.3} of the time."
    ));
    page.report.warning(
        "Where classes come from different hospitals, devices or ages, a network can tell them apart by that. A score \
         here says how well these images are sorted, not how well a disease is found.",
    );
    page.scores(data, runs)?;
    page.confusion(data, runs)?;
    page.calibration(runs)?;
    page.curves(data, runs)?;
    page.mistakes(data, runs)?;
    page.training(setting, runs)?;
    for (name, value) in [
        ("data", data.about.clone()),
        ("images to learn from, to choose by, to judge by", parts(data)),
        ("network", format!("{}, {} parameters, from random weights", setting.network, setting.parameters)),
        ("images in a batch", setting.batch.to_string()),
        ("seeds", seeds.join(", ")),
        ("xdiff", env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        page.report.provenance(name, value);
    }
    let json = serde_json::json!({
        "data": &data.about, "classes": &data.classes, "network": &setting.network,
        "parameters": setting.parameters, "fit": &setting.fit, "majority": &setting.majority,
        "runs": runs.iter().map(|run| serde_json::json!({
            "seed": run.seed, "best_epoch": run.best_epoch, "judged": &run.judged,
        })).collect::<Vec<_>>(),
    });
    write_atomic(out.join("report.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
    Ok(page.report.save(out.join("report.html"))?)
}

fn parts(data: &ClassData) -> String {
    format!("{}, {}, {}", data.train.len(), data.val.len(), data.test.len())
}

/// A report under way.
struct Page<'a> {
    out: &'a Path,
    report: Report,
}

impl Page<'_> {
    fn figure(&mut self, name: &str, image: &RgbImage, caption: &str, alt: &str) -> Result<(), AnyError> {
        save_png(self.out.join(format!("{name}.png")), image)?;
        Ok(self.report.figure(image, caption, alt)?)
    }

    fn table(&mut self, name: &str, table: &Table, caption: &str) -> Result<(), AnyError> {
        table.save_csv(self.out.join(format!("{name}.csv")))?;
        table.save_markdown(self.out.join(format!("{name}.md")))?;
        self.report.table(table, caption);
        Ok(())
    }

    fn scores(&mut self, data: &ClassData, runs: &[Run]) -> Result<(), AnyError> {
        self.report.section("Scores");
        let Some(first) = runs.first() else { return Ok(()) };
        let scores: Vec<_> =
            runs.iter().map(|run| (format!("seed {}", run.seed), &run.judged.scores)).collect();
        let table = score_table(data, &scores)?;
        self.table("scores", &table, &score_caption(&first.judged.scores))?;
        for run in runs {
            let mut table = Table::new(["class", "precision", "recall", "specificity", "F1", "images"]);
            for row in &run.judged.classes.rows {
                let rates = [row.precision, row.recall, row.specificity, row.f1];
                let cells = rates.map(|rate| Cell::number(rate, 3));
                let name = Cell::from(row.class.as_str());
                table.push([vec![name], cells.to_vec(), vec![Cell::from(row.support as usize)]].concat())?;
            }
            let caption = format!("Each class against all others, seed {}.", run.seed);
            self.table(&format!("classes-{}", run.seed), &table, &caption)?;
        }
        Ok(())
    }

    fn confusion(&mut self, data: &ClassData, runs: &[Run]) -> Result<(), AnyError> {
        self.report.section("Confusion");
        for run in runs {
            let chart = confusion_chart(data, &format!("Seed {}", run.seed), &run.judged)?;
            self.figure(&format!("confusion-{}", run.seed), &chart, CONFUSION, "Confusion matrix")?;
        }
        Ok(())
    }

    fn calibration(&mut self, runs: &[Run]) -> Result<(), AnyError> {
        self.report.section("Calibration");
        let mut series = Vec::new();
        for run in runs {
            let found = &run.judged.calibration;
            let name = format!("seed {}, ECE {:.3} (10 bins)", run.seed, found.expected);
            let filled = found.bins.iter().filter(|bin| bin.count > 0);
            series.push(ScatterSeries::new(name, filled.map(|bin| (bin.confidence, bin.accuracy)).collect()));
        }
        let unit = Some(ValueRange::new(0.0, 1.0)?);
        let chart = ScatterChart {
            options: ChartOptions {
                width: 560,
                x_range: unit,
                y_range: unit,
                guides: vec![Guide::Diagonal],
                ..ChartOptions::titled(
                    "Confidence and truth",
                    "mean confidence of a bin",
                    "share that is right",
                )
            },
            series,
            radius: 6.0,
        };
        let caption = "Test images by the probability of their predicted class, in ten bins of equal width. On the \
                       dashed line a network is as often right as it says; below it, it is too sure of itself. Bins \
                       with few images scatter.";
        self.figure("calibration", &chart.render()?, caption, "Points beside the diagonal")
    }

    fn curves(&mut self, data: &ClassData, runs: &[Run]) -> Result<(), AnyError> {
        self.report.section("ROC");
        for run in runs {
            let mut series = Vec::new();
            for (class, name) in data.classes.iter().enumerate() {
                let (labels, scores) = run.judged.predictions.one_against_rest(class)?;
                if labels.iter().all(|l| *l) || !labels.contains(&true) {
                    continue;
                }
                let points = roc_curve(&labels, &scores)?;
                let points = points.iter().map(|p| (p.false_positive_rate, p.true_positive_rate));
                series.push(LineSeries::new(name.clone(), points.collect()));
            }
            let unit = Some(ValueRange::new(0.0, 1.0)?);
            let title = format!("Each class against the rest, seed {}", run.seed);
            let options = ChartOptions {
                width: 560,
                x_range: unit,
                y_range: unit,
                guides: vec![Guide::Diagonal],
                ..ChartOptions::titled(title, "1 − specificity", "sensitivity")
            };
            let picture = LineChart { options, series }.render()?;
            let caption = "Sensitivity against false alarms over all thresholds; dashed: chance.";
            self.figure(&format!("roc-{}", run.seed), &picture, caption, "ROC curves of the classes")?;
        }
        Ok(())
    }

    /// The images that were mistaken with the greatest confidence, in the first run.
    fn mistakes(&mut self, data: &ClassData, runs: &[Run]) -> Result<(), AnyError> {
        const SHOWN: usize = 12;
        self.report.section("Mistakes");
        let Some(run) = runs.first() else { return Ok(()) };
        let (answers, k) = (&run.judged.predictions, data.classes.len());
        let confidence = |i: usize, class: usize| answers.probabilities()[i * k + class];
        let mut wrong: Vec<(usize, usize)> = (answers.predicted().into_iter().enumerate())
            .filter(|(i, class)| *class != answers.labels()[*i])
            .collect();
        wrong.sort_by(|a, b| confidence(b.0, b.1).total_cmp(&confidence(a.0, a.1)));
        if wrong.is_empty() {
            self.report.paragraph(format!("Seed {} mistook none of {} images.", run.seed, answers.n()));
            return Ok(());
        }
        let mut grid = Grid::new(GridOptions { columns: 6, panel_size: 144, ..Default::default() });
        for (i, class) in wrong.iter().take(SHOWN) {
            let caption = format!(
                "{}, taken for {} ({:.2})",
                data.classes[answers.labels()[*i]],
                data.classes[*class],
                confidence(*i, *class)
            );
            grid.push(picture(&data.test.get(*i, &mut Rng::new(0))?)?, caption);
        }
        let caption = format!(
            "The mistakes of seed {} with the greatest confidence, {} of {}: true class, predicted class and its \
             probability.",
            run.seed,
            wrong.len().min(SHOWN),
            wrong.len()
        );
        self.figure("mistakes", &grid.render()?, &caption, "Images with their true and predicted class")
    }

    fn training(&mut self, setting: &Setting, runs: &[Run]) -> Result<(), AnyError> {
        self.report.section("Training");
        let points = |run: &Run, value: fn(&xdiff::vision::train::EpochReport) -> Option<f64>| {
            let epochs = run.history.epochs.iter();
            epochs.filter_map(|e| Some(((e.epoch + 1) as f64, value(e)?))).collect::<Vec<_>>()
        };
        let mut series = Vec::new();
        for run in runs {
            let learnt = points(run, |e| Some(e.train_loss));
            series.push(LineSeries::new(format!("training, seed {}", run.seed), learnt));
            let validated = points(run, |e| e.validation.get(&Measure::Loss).copied());
            series.push(LineSeries::new(format!("validation, seed {}", run.seed), validated));
        }
        let options =
            ChartOptions { y_scale: Scale::Log, ..ChartOptions::titled("Loss", "epoch", "cross-entropy") };
        let picture = LineChart { options, series }.render()?;
        let ends: Vec<String> = runs
            .iter()
            .map(|run| {
                let best = run.best_epoch.map_or("the last".to_owned(), |e| (e + 1).to_string());
                let how = if run.stopped_early { "stopped early" } else { "ran to its end" };
                format!("seed {}: epoch {best} of {}, {how}", run.seed, run.history.epochs.len())
            })
            .collect();
        let caption = format!(
            "Training images are turned, shifted and toned at random and their labels smoothed, so the two losses do \
             not compare. The weights of the epoch with the least validation loss were judged: {}.",
            ends.join("; ")
        );
        self.figure("training", &picture, &caption, "Losses against epochs")?;
        self.report.preformatted("Training", serde_json::to_string_pretty(&setting.fit)?);
        Ok(())
    }
}

/// What stands below a [`confusion_chart`].
pub const CONFUSION: &str =
    "Images by true and predicted class; the darker, the larger the share of the row.";

/// Counts by true and predicted class.
///
/// # Errors
/// When there are no answers.
pub fn confusion_chart(data: &ClassData, name: &str, judged: &Judged) -> Result<RgbImage, AnyError> {
    let matrix = judged.predictions.confusion()?;
    let chart = MatrixChart {
        title: format!("{name}, n = {}", matrix.n()),
        row_title: "true class".into(),
        column_title: "predicted class".into(),
        rows: data.classes.clone(),
        columns: data.classes.clone(),
        values: (0..data.classes.len())
            .flat_map(|label| matrix.row(label).iter().map(|n| *n as f64))
            .collect(),
        cell: 104,
        ..Default::default()
    };
    Ok(chart.render()?)
}

/// One row a score, two columns for each named set of scores.
///
/// # Errors
/// When the sets have other rows.
pub fn score_table(data: &ClassData, sets: &[(String, &ScoreTable)]) -> Result<Table, AnyError> {
    let columns = sets.iter().flat_map(|(name, _)| [name.clone(), "95 % interval".to_owned()]);
    let mut table = Table::new(std::iter::once("score".to_owned()).chain(columns));
    let Some((_, first)) = sets.first() else { return Ok(table) };
    for (i, row) in first.rows.iter().enumerate() {
        let name = match row.class {
            Some(class) => format!("{}: {}", data.classes[class], row.name),
            None => row.name.clone(),
        };
        let mut cells = vec![Cell::from(name)];
        for (_, scores) in sets {
            let row = scores.rows.get(i).ok_or("sets of scores differ in length")?;
            cells.push(row.value.map_or(Cell::Missing, |value| Cell::number(value, 3)));
            let interval = row.interval.map(|at| Cell::from(format!("{:.3} to {:.3}", at.low, at.high)));
            cells.push(interval.unwrap_or(Cell::Missing));
        }
        table.push(cells)?;
    }
    Ok(table)
}

/// What stands below a table of scores.
pub fn score_caption(scores: &ScoreTable) -> String {
    let config = &scores.config;
    let units =
        scores.groups.map_or(String::new(), |groups| format!(" in {groups} groups of patients or blocks"));
    format!(
        "n = {} test images{units}; {:.0} % bootstrap intervals ({}, {} replicates, whole groups drawn). They tell how \
         far the test images determine a score; how far it depends on the training's chance, the seeds tell.",
        scores.n,
        100.0 * config.level,
        config.method,
        config.replicates
    )
}

/// An image as it is seen.
///
/// # Errors
/// When it has another number of channels than 1 or 3.
pub fn picture(sample: &Sample) -> Result<RgbImage, AnyError> {
    let image = sample.image.clone().to_unit()?;
    let (h, w) = (image.height(), image.width());
    if image.channels() == 1 {
        let plane = Plane::new(h, w, image.into_data())?;
        return Ok(Colormap::Grey.paint(&plane, ValueRange::new(0.0, 1.0)?)?);
    }
    let byte = |channel: usize, i: usize| (image.plane(channel)[i].clamp(0.0, 1.0) * 255.0).round() as u8;
    let pixels = (0..h * w).flat_map(|i| [byte(0, i), byte(1, i), byte(2, i)]).collect();
    RgbImage::from_raw(w as u32, h as u32, pixels).ok_or_else(|| "an image has the wrong size".into())
}
