//! The report on a prototype network beside the same network without prototypes.

use std::path::Path;

use image::RgbImage;
use xdiff::metrics::{BootstrapConfig, ScoreTable, classification_differences};
use xdiff::proto::loss::Term;
use xdiff::proto::stage::Schedule;
use xdiff::vision::train::Measure;
use xdiff::viz::{ChartOptions, LineChart, LineSeries, Report, Table, ValueRange, save_png, write_atomic};

use super::panels::Sources;
use super::training::{ProtoPlan, Trained};
use crate::AnyError;
use crate::classify::judging::Judged;
use crate::classify::report::{CONFUSION, Run, confusion_chart, score_caption, score_table};
use crate::classify::source::ClassData;

/// Both networks after training, judged on the same images.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The plain network.
    pub plain: &'a Run,
    /// How many numbers it learnt.
    pub plain_parameters: usize,
    /// The network with prototypes.
    pub trained: &'a Trained,
    /// Its answers and scores.
    pub judged: &'a Judged,
    /// Seconds that both trainings and all judging took in this run of the program.
    pub seconds: f64,
}

/// Test images that are explained of each class, and prototypes shown for each.
const EXPLAINED: (usize, usize) = (2, 3);

/// Writes `report.html` with its pictures as PNG, its tables as CSV and Markdown, and all numbers as
/// JSON.
///
/// # Errors
/// When a file cannot be written.
pub fn write(out: &Path, data: &ClassData, plan: &ProtoPlan, pair: &Pair<'_>) -> Result<(), AnyError> {
    let title = format!("Prototypes on {}, {}", plan.plain.network, data.about);
    let mut page = Page { out, report: Report::new(title) };
    page.introduction(data, plan, pair);
    let differences = classification_differences(
        &pair.judged.predictions,
        &pair.plain.judged.predictions,
        &bootstrap(pair),
    )?;
    page.scores(data, pair, &differences)?;
    page.report.section("Confusion");
    for (name, judged) in [("plain", &pair.plain.judged), ("prototypes", pair.judged)] {
        page.figure(&format!("confusion-{name}"), &confusion_chart(data, name, judged)?, CONFUSION)?;
    }
    page.panels(data, pair)?;
    page.training(plan, pair)?;
    for (name, value) in [
        ("data", data.about.clone()),
        ("seed", pair.plain.seed.to_string()),
        ("features", pair.trained.projected.projection.extractor.clone()),
        ("hash of the features", pair.trained.projected.projection.extractor_hash.clone()),
        ("hash of the prototypes", pair.trained.projected.projection.prototypes_hash.clone()),
        ("images in a batch", plan.plain.batch.to_string()),
        ("seconds of this run", format!("{:.0}", pair.seconds)),
        ("xdiff", env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        page.report.provenance(name, value);
    }
    let json = serde_json::json!({
        "data": data.about, "classes": data.classes, "network": plan.plain.network.to_string(),
        "seed": pair.plain.seed, "schedule": plan.schedule, "plain": pair.plain.judged,
        "prototypes": pair.judged, "differences": differences, "sources": pair.trained.projected.projection,
    });
    write_atomic(out.join("report.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
    Ok(page.report.save(out.join("report.html"))?)
}

fn bootstrap(pair: &Pair<'_>) -> BootstrapConfig {
    BootstrapConfig { seed: pair.plain.seed, ..Default::default() }
}

/// Epochs that the schedule trains features in.
fn epochs_of_features(schedule: &Schedule) -> usize {
    schedule.stages.iter().filter(|stage| stage.train.features.is_some()).map(|stage| stage.epochs).sum()
}

struct Page<'a> {
    out: &'a Path,
    report: Report,
}

impl Page<'_> {
    fn figure(&mut self, name: &str, image: &RgbImage, caption: &str) -> Result<(), AnyError> {
        save_png(self.out.join(format!("{name}.png")), image)?;
        Ok(self.report.figure(image, caption, name)?)
    }

    fn table(&mut self, name: &str, table: &Table, caption: &str) -> Result<(), AnyError> {
        table.save_csv(self.out.join(format!("{name}.csv")))?;
        table.save_markdown(self.out.join(format!("{name}.md")))?;
        self.report.table(table, caption);
        Ok(())
    }

    fn introduction(&mut self, data: &ClassData, plan: &ProtoPlan, pair: &Pair<'_>) {
        let count = pair.trained.network.prototypes().len();
        self.report.paragraph(format!(
            "A plain {} of {} parameters was trained from random weights ({} epochs at most, the one with the least \
             validation loss was kept). Its features, with those weights, then got {count} prototypes of width {} \
             ({} a class) and were trained on in {} epochs, in {} of which the features moved. Both were judged once \
             on {} test images of other patients, which had no part in any choice. {} images to learn from, {} to \
             choose the plain network's epoch by; the prototype network is the one behind its last stage. Research \
             software, not a medical device.",
            plan.plain.network,
            pair.plain_parameters,
            plan.plain.epochs,
            plan.width,
            plan.each,
            plan.schedule.epochs(),
            epochs_of_features(&plan.schedule),
            data.test.len(),
            data.train.len(),
            data.val.len(),
        ));
        self.report.note(
            "The prototype network has had more epochs than the plain one, and begins where that ended: so does a \
             ProtoPNet that begins with ImageNet weights. The plain network's loss is smoothed by 0.05, that of the \
             prototypes is not.",
        );
    }

    fn scores(
        &mut self,
        data: &ClassData,
        pair: &Pair<'_>,
        differences: &ScoreTable,
    ) -> Result<(), AnyError> {
        self.report.section("Scores");
        let both = [
            ("plain".to_owned(), &pair.plain.judged.scores),
            ("prototypes".to_owned(), &pair.judged.scores),
            ("prototypes − plain".to_owned(), differences),
        ];
        let caption = format!(
            "{} Seed {}. The last two columns are differences on the same images, with intervals of the difference.",
            score_caption(&pair.judged.scores),
            pair.plain.seed
        );
        self.table("scores", &score_table(data, &both)?, &caption)
    }

    fn panels(&mut self, data: &ClassData, pair: &Pair<'_>) -> Result<(), AnyError> {
        let sources = Sources::new(data)?;
        self.report.section("Prototypes");
        let projection = &pair.trained.projected.projection;
        let different: std::collections::BTreeSet<_> =
            projection.sources.iter().map(|s| (&s.image, s.row, s.column)).collect();
        let caption = format!(
            "Every prototype is a patch of a training image, found among {} images: {} different patches. The box is \
             the smallest one around the pixels whose activation by it is at the 95th percentile or above; a patch is \
             one of {} × {} positions and sees more pixels than that. Below each: its weight for its own class.",
            projection.images,
            different.len(),
            projection.map_size.0,
            projection.map_size.1
        );
        self.figure("prototypes", &sources.gallery(pair.trained)?, &caption)?;
        self.report.section("This looks like that");
        let answers = &pair.judged.predictions;
        let (predicted, k) = (answers.predicted(), data.classes.len());
        let mut shown = vec![0; k];
        for (i, label) in answers.labels().iter().enumerate() {
            if shown[*label] == EXPLAINED.0 {
                continue;
            }
            shown[*label] += 1;
            let said = predicted[i];
            let title = format!(
                "{}: {}, taken for {} ({:.2})",
                answers.ids()[i],
                data.classes[*label],
                data.classes[said],
                answers.probabilities()[i * k + said]
            );
            let panel = sources.explain(pair.trained, (i, title), EXPLAINED.1)?;
            let caption = "The prototypes that add most to the class that the image was taken for. Images are the first \
                           test images of each class, not chosen.";
            self.figure(&format!("likeness-{i}"), &panel, caption)?;
        }
        Ok(())
    }

    fn training(&mut self, plan: &ProtoPlan, pair: &Pair<'_>) -> Result<(), AnyError> {
        self.report.section("Training");
        let plain = pair.plain.history.epochs.iter();
        let plain =
            plain.filter_map(|e| Some(((e.epoch + 1) as f64, *e.validation.get(&Measure::Accuracy)?)));
        let epochs = &pair.trained.history.epochs;
        let number = |epoch: usize| (epoch + 1) as f64;
        let learnt = epochs.iter().filter_map(|e| Some((number(e.epoch), e.validation?.accuracy)));
        // The accuracy right behind a push, where the stage's own last value stands before it.
        let pushed = epochs.iter().filter_map(|e| Some((number(e.epoch), e.pushed?.validation?.accuracy)));
        let pushed: Vec<(f64, f64)> = pushed.collect();
        let chart = LineChart {
            options: ChartOptions {
                y_range: Some(ValueRange::new(0.0, 1.0)?),
                ..ChartOptions::titled("Validation", "epoch", "accuracy")
            },
            series: vec![
                LineSeries::new("plain", plain.collect()),
                LineSeries::new("prototypes", learnt.collect()),
                LineSeries::new("behind pushes", pushed),
            ],
        };
        let caption =
            "Accuracy on the validation images; the prototypes' epochs are counted from their own first.";
        self.figure("validation", &chart.render()?, caption)?;
        let of = |term: Term| {
            let points = epochs.iter().filter_map(|e| Some((number(e.epoch), *e.terms.get(&term)?)));
            LineSeries::new(term.name(), points.collect())
        };
        let series = [Term::CrossEntropy, Term::Cluster, Term::Separation].map(of).to_vec();
        let options = ChartOptions::titled("Terms of the loss", "epoch", "without weights");
        let caption = "Means over the training images of each epoch. Stages that train the last layer alone have no \
                       cluster and separation.";
        self.figure("terms", &LineChart { options, series }.render()?, caption)?;
        self.report.preformatted("Stages", serde_json::to_string_pretty(&plan.schedule)?);
        Ok(())
    }
}
