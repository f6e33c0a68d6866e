//! How well masks are found.

use serde::Serialize;
use xdiff::core::Metric;
use xdiff::metrics::{BootstrapConfig, Design, Dice, Running, bootstrap_mean};

use crate::AnyError;

/// An image that was held out, its mask, and what was found.
#[derive(Clone, Debug)]
pub struct Case {
    /// The name of the image.
    pub id: String,
    /// The patient.
    pub group: Option<String>,
    /// Row by row, in [0, 1].
    pub image: Vec<f32>,
    /// The true mask, 0 or 1.
    pub truth: Vec<u8>,
    /// The mask that was found, 0 or 1.
    pub found: Vec<u8>,
}

/// What was measured of one image.
#[derive(Clone, Debug, Serialize)]
pub struct CaseScores {
    /// The name of the image.
    pub id: String,
    /// The patient.
    pub group: Option<String>,
    /// Dice of what was found with the truth; 1 when both are empty.
    pub dice: f64,
    /// The same with the truth of the next image that has one: what chance gives. None for an image
    /// without a mask.
    pub dice_other: Option<f64>,
    /// Pixels of the truth.
    pub true_pixels: usize,
    /// Pixels that were found.
    pub found_pixels: usize,
}

/// A mean with its spread.
#[derive(Clone, Debug, Serialize)]
pub struct Mean {
    /// What was measured.
    pub name: &'static str,
    /// The mean over images.
    pub mean: f64,
    /// The standard deviation over images; `None` for fewer than two.
    pub sd: Option<f64>,
    /// The interval that holds the mean with 95 % confidence; `None` for fewer than two patients.
    pub interval: Option<(f64, f64)>,
    /// How many images.
    pub n: usize,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// One for each image.
    pub cases: Vec<CaseScores>,
    /// The means.
    pub means: Vec<Mean>,
    /// Dice of all pixels of all images taken together.
    pub pooled: f64,
}

fn dice(a: &[u8], b: &[u8]) -> Result<f64, AnyError> {
    let inside = |mask: &[u8]| mask.iter().map(|v| *v != 0).collect::<Vec<bool>>();
    Ok(Dice::default().of_slices(&inside(a), &inside(b))?)
}

/// The mean and its bootstrap interval, for which whole patients are drawn where they are known.
fn mean(name: &'static str, values: &[(f64, &CaseScores)]) -> Result<Option<Mean>, AnyError> {
    if values.is_empty() {
        return Ok(None);
    }
    let patients: Option<Vec<&String>> = values.iter().map(|(_, case)| case.group.as_ref()).collect();
    let values: Vec<f64> = values.iter().map(|(value, _)| *value).collect();
    let mut running = Running::new(Dice::default());
    running.push(&values);
    let summary = running.compute()?;
    let design = match patients {
        Some(patients) => Design::groups(&patients),
        None => Design::samples(values.len()),
    };
    // One patient has no interval.
    let interval = design.and_then(|design| bootstrap_mean(&values, &design, &BootstrapConfig::default()));
    let interval = interval.ok().map(|at| (at.low, at.high));
    let sd = (summary.n > 1).then_some(summary.sd);
    Ok(Some(Mean { name, mean: summary.mean, sd, interval, n: summary.n }))
}

/// Measures all cases.
///
/// # Errors
/// When there is none.
pub fn score(all: &[Case]) -> Result<Scores, AnyError> {
    let with_mask: Vec<usize> = (0..all.len()).filter(|i| all[*i].truth.iter().any(|v| *v != 0)).collect();
    let mut cases = Vec::with_capacity(all.len());
    for (i, case) in all.iter().enumerate() {
        // The next image with a mask, if it is another one.
        let place = with_mask.iter().position(|j| *j == i);
        let other = place.map(|place| with_mask[(place + 1) % with_mask.len()]).filter(|j| *j != i);
        let pixels = |mask: &[u8]| mask.iter().filter(|v| **v != 0).count();
        cases.push(CaseScores {
            id: case.id.clone(),
            group: case.group.clone(),
            dice: dice(&case.found, &case.truth)?,
            dice_other: other.map(|j| dice(&case.found, &all[j].truth)).transpose()?,
            true_pixels: pixels(&case.truth),
            found_pixels: pixels(&case.found),
        });
    }
    let present = |c: &CaseScores| c.true_pixels > 0;
    let of = |value: &dyn Fn(&CaseScores) -> Option<f64>| -> Vec<(f64, &CaseScores)> {
        cases.iter().filter_map(|case| Some((value(case)?, case))).collect()
    };
    let left_empty = |c: &CaseScores| (!present(c)).then(|| f64::from(u8::from(c.found_pixels == 0)));
    let means = [
        mean("Dice, images with a mask", &of(&|c| present(c).then_some(c.dice)))?,
        mean("Dice with another image's mask (chance)", &of(&|c| c.dice_other))?,
        mean("Dice, all images (1 where both are empty)", &of(&|c| Some(c.dice)))?,
        mean("images without a mask that were left empty, share", &of(&left_empty))?,
    ];
    let join =
        |pick: fn(&Case) -> &Vec<u8>| all.iter().flat_map(|c| pick(c).iter().copied()).collect::<Vec<u8>>();
    let pooled = dice(&join(|c| &c.found), &join(|c| &c.truth))?;
    if cases.is_empty() {
        return Err("there is no image to score".into());
    }
    Ok(Scores { cases, means: means.into_iter().flatten().collect(), pooled })
}
