//! The sections of the report on prototypes.

use std::path::Path;

use xdiff::proto::correlation::Correlation;
use xdiff::proto::faithfulness::{Definition, FaithfulnessReport};
use xdiff::proto::projection::ProjectionConfig;
use xdiff::viz::{Cell, Report, Table, write_atomic};

use super::features::Images;
use super::figures;
use super::figures::interval;
use super::method::Method;
use super::over_time::OverTime;
use super::settings::Settings;
use super::study::{Outcome, Samples};
use super::truth::{Motifs, Truth};
use crate::AnyError;
use crate::mri::report::figure;

/// Everything that was found about prototypes.
#[derive(Clone, Copy, Debug)]
pub struct Findings<'a> {
    /// The name of the features.
    pub features: &'a str,
    /// The training images by name.
    pub images: &'a Images<'a>,
    /// What was explained.
    pub samples: &'a Samples,
    /// By method.
    pub outcomes: &'a [Outcome],
    /// How prototypes became patches.
    pub projection: &'a ProjectionConfig,
    /// Influence along the denoising.
    pub over_time: Option<&'a OverTime>,
    /// Whether the right sources were found, where that is known.
    pub truth: Option<&'a Truth>,
    /// What becomes of patterns that the training had, and of one that it lacked.
    pub motifs: Option<&'a Motifs>,
}

fn cell(value: Option<f64>) -> Cell {
    value.map_or(Cell::Missing, |v| Cell::number(v, 4))
}

fn ends(values: &[f64], report: &FaithfulnessReport) -> Cell {
    match interval(values, report) {
        Ok(interval) => Cell::from(format!("{:.4} to {:.4}", interval.low, interval.high)),
        Err(_) => Cell::Missing,
    }
}

/// One row for each method and definition.
fn faithfulness(outcomes: &[Outcome]) -> Result<Table, AnyError> {
    let mut table = Table::new([
        "method",
        "definition",
        "m",
        "score",
        "95 % interval",
        "sd over seeds",
        "possible",
        "influences permuted",
        "random prototypes",
        "paper",
    ]);
    let rows = |m: usize, name: &str, report: &FaithfulnessReport, paper: Option<f64>, table: &mut Table| {
        for score in &report.scores {
            let matched = score.matched.iter().find(|s| s.prototypes == m);
            let (mean, values, sd, range) = match matched {
                Some(s) => (s.choices.score.mean, s.choices.image_values(), None, s.range),
                None => (score.score.mean, score.image_values(), score.score.deviation, score.range),
            };
            let whole = matched.is_none();
            table.push([
                Cell::from(name),
                Cell::from(score.definition.name()),
                Cell::from(m),
                cell(mean),
                ends(&values, report),
                cell(sd),
                Cell::from(format!("{:.3} to {:.3}", range.0, range.1)),
                cell(score.permuted.score.mean.filter(|_| whole)),
                cell(score.random.as_ref().and_then(|r| r.score.mean).filter(|_| whole)),
                cell(paper.filter(|_| score.definition == Definition::Eq14)),
            ])?;
        }
        Ok::<(), xdiff::viz::Error>(())
    };
    for outcome in outcomes {
        let Some(report) = outcome.report(Correlation::PatchPixel) else { continue };
        let (name, paper) = (outcome.method.name(), outcome.method.paper());
        rows(report.prototypes, name, report, paper, &mut table)?;
        for fewer in report.config.matched.iter().filter(|n| **n != report.prototypes) {
            rows(*fewer, name, report, paper, &mut table)?;
        }
    }
    Ok(table)
}

/// The same score with each reading of corr(p, x), and how many prototypes count.
fn readings(outcomes: &[Outcome]) -> Result<Table, AnyError> {
    let columns = ["method", "1/m", "effective number of prototypes", "largest NIS"];
    let kinds = outcomes.first().map_or(Vec::new(), |o| {
        o.reports.iter().filter_map(|r| r.correlation).map(|c| format!("eq14_sum, corr = {c}")).collect()
    });
    let mut table = Table::new(columns.map(String::from).into_iter().chain(kinds));
    for outcome in outcomes {
        let Some(report) = outcome.reports.first() else { continue };
        let of = |report: &FaithfulnessReport, definition| {
            cell(report.score(definition).and_then(|s| s.score.mean))
        };
        let first = [
            Cell::from(outcome.method.name()),
            cell(Some(report.uniform)),
            cell(report.effective_number.mean),
            of(report, Definition::ReleasedMaxNis),
        ];
        let sums = outcome.reports.iter().map(|report| of(report, Definition::Eq14Sum));
        table.push(first.into_iter().chain(sums).collect::<Vec<_>>())?;
    }
    Ok(table)
}

/// Adds the sections and writes their tables and figures. Returns the main tables as Markdown.
///
/// # Errors
/// When a file cannot be written.
pub fn add(
    report: &mut Report,
    out: &Path,
    found: &Findings<'_>,
    settings: &Settings,
) -> Result<String, AnyError> {
    let Findings { samples, outcomes, .. } = *found;
    report.section("Prototypes: which training images a sample looks like");
    report.paragraph(format!(
        "Features: {}. Each method finds {} prototypes among the patches of {} training images, with {} seeds; a patch is a \
         window of {}×{} cells of the feature map, though the network sees more of the image at each of them. NIS is the softmax over the prototypes of −d² to the nearest patch of the \
         sample (for the soft codebook, the paper's Eq. 9, which it calls ProtoPool, the mean of α). With one class there is \
         nothing to classify: PPNet is trained by alignment (Eq. 6) alone, EPPNet by alignment and diversity (Eq. 8, scaled by the dimension). Prototypes start as \
         patches, where alignment is already at its least over all images, so these trainings move them little.",
        found.features,
        settings.prototypes,
        found.images.len(),
        settings.seeds,
        settings.window,
        settings.window,
    ));
    for method in [Method::EppNet, Method::PpNet] {
        let Some(run) = outcomes.iter().find(|o| o.method == method).and_then(|o| o.runs.first()) else {
            continue;
        };
        for index in 0..samples.names.len().min(2) {
            let title = format!("{}: {}", method.name(), samples.names[index].0);
            let picture = figures::panel(&title, run, samples, index, (found.projection, found.images))?;
            let name = format!("panel_{}_{index}", method.name().to_lowercase());
            let caption = format!(
                "The five prototypes of the largest influence on a sample drawn from the mask of {}: the sample with the \
                 patch that is nearest, the map of 1/(1 + d²) over it, the training image that the \
                 prototype is a patch of, and that patch. Seed {}.",
                samples.names[index].0, run.seed
            );
            figure(
                report,
                out,
                &name,
                &picture,
                (&caption, "Sample, map, training image and patch, five rows"),
            )?;
        }
    }
    report.section("Faithfulness (Fig. 4 of the paper, under every definition)");
    let picture = figures::faithfulness(outcomes)?;
    let n = samples.names.len();
    let caption = format!(
        "Mean over {n} samples and {} seeds with 95 % intervals over samples. Beside each score the same influences dealt \
         out at random, and random patches as prototypes. No ordering of the methods is assumed, and none was tuned for.",
        settings.seeds
    );
    figure(report, out, "faithfulness", &picture, (&caption, "Bars by method for each definition"))?;
    let table = faithfulness(outcomes)?;
    report.table(
        &table,
        "corr(p, x): Pearson's correlation of the pixels of the prototype's window with those of the matched window of the \
         sample. Rows with fewer prototypes are means over random choices among them.",
    );
    report.note(
        "Where the score with influences permuted is above the score itself, prototypes of larger influence resemble the \
         sample less, pixel by pixel: a near patch is found most easily for what looks the same everywhere, such as air, whose \
         pixels are noise. The paper's numbers stand beside Eq. 14 as printed. With weights that sum to 1 and correlations in [−1, 1] that \
         score cannot leave [−1/m, 1/m], so its 0.1534 needs m ≤ 6, while the released code has m = 100 and averages the \
         largest NIS. `released_max_nis` looks at no image. Permuting influences leaves their largest as it is. `intervention` \
         correlates NIS with how much the reconstruction of the features by the prototypes moves when each is removed.",
    );
    let other = readings(outcomes)?;
    report.table(&other, "The mean correlation weighted by influence, for each reading of corr(p, x).");
    report.section("Distribution of influence (Fig. 5 of the paper)");
    let picture = figures::influences(outcomes)?;
    let caption = "Every NIS of every prototype for every sample, first seed; the dashed line is 1/m.";
    figure(report, out, "influence", &picture, (caption, "Histograms of influence by method"))?;
    if let Some(over_time) = found.over_time {
        report.section("Influence along the denoising");
        let picture = figures::over_time(over_time)?;
        let caption = "NIS of EPPNet's prototypes while the first sample is drawn: the six that are strongest in the end. \
                       Left from the clean image that each step predicts, through the features of the prototypes; right \
                       from the features of the running network at the step's own noise, where distances drift with t.";
        figure(report, out, "influence_over_time", &picture, (caption, "NIS against time step, two charts"))?;
        over_time.table()?.save_csv(out.join("influence_over_time.csv"))?;
    }

    let mut markdown = format!("{}\n{}", table.to_markdown(), other.to_markdown());
    table.save_csv(out.join("faithfulness.csv"))?;
    table.save_markdown(out.join("faithfulness.md"))?;
    other.save_csv(out.join("influence.csv"))?;
    if let Some(truth) = found.truth {
        report.section("Does it find the right source?");
        let table = truth.table()?;
        report.paragraph(truth.about.clone());
        report.table(&table, "One row for each method; mean ± standard deviation over seeds.");
        table.save_csv(out.join("truth.csv"))?;
        table.save_markdown(out.join("truth.md"))?;
        markdown = format!("{markdown}\n{}", table.to_markdown());
    }
    if let Some(motifs) = found.motifs {
        report.section("A pattern that the training lacked");
        let table = motifs.table()?;
        report.paragraph(motifs.about.clone());
        report.table(&table, "One row for each method; mean ± standard deviation over seeds.");
        table.save_csv(out.join("motifs.csv"))?;
        table.save_markdown(out.join("motifs.md"))?;
        markdown = format!("{markdown}\n{}", table.to_markdown());
    }
    let reports: Vec<_> = outcomes.iter().flat_map(|o| &o.reports).collect();
    write_atomic(out.join("faithfulness.json"), serde_json::to_string_pretty(&reports)?.as_bytes())?;
    Ok(markdown)
}
