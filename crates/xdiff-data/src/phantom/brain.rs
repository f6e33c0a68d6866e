//! Brain MRI, axial, T1-weighted with contrast agent.

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use super::field::{Bend, fractal};
use super::scene::{Phantom, Scanner, Scene, Subject};
use super::shape::{Blob, Ellipse, between, mix, side, step};
use crate::Result;
use crate::mask::MaskKind;

/// What a brain phantom shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrainClass {
    /// An irregular ring that takes up contrast agent, dark inside, with oedema in the white matter around it.
    Glioma,
    /// A round, evenly bright mass on the inside of the skull.
    Meningioma,
    /// A small bright mass on the midline, low in the image.
    Pituitary,
    /// No tumour.
    NoTumor,
}

impl BrainClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [BrainClass; 4] = [Self::Glioma, Self::Meningioma, Self::Pituitary, Self::NoTumor];
    /// The names of the classes, in the order of their numbers.
    pub const NAMES: [&'static str; 4] = ["glioma", "meningioma", "pituitary", "notumor"];
}

const SCALP: f32 = 0.055;
const SKULL: f32 = 0.115;
const CSF: f32 = 0.12;

struct Tumour {
    blob: Blob,
    oedema: Option<Blob>,
}

struct Tones {
    white: f32,
    grey: f32,
    scalp: f32,
}

/// Draws one axial slice. Masks: head, brain (all inside the skull), lesion (without the oedema).
pub(super) fn draw(class: BrainClass, subject: Subject<'_>) -> Result<Phantom> {
    let (grid, depth, patient) = (subject.grid, subject.depth, subject.patient);
    let rng = &mut patient.fork("anatomy");
    let shrink = 1.0 - 0.08 * depth * depth;
    let axes = (between(rng, 0.67, 0.76) * shrink, between(rng, 0.82, 0.92) * shrink);
    let turn = between(rng, -0.12, 0.12);
    let head = Ellipse::new((0.0, 0.0), axes, 0.0);
    let tones = Tones {
        white: between(rng, 0.52, 0.6),
        grey: between(rng, 0.36, 0.42),
        scalp: between(rng, 0.62, 0.85),
    };
    let widen = between(rng, 0.75, 1.5) * (1.0 - 0.3 * depth.abs());
    let ventricles = [-1.0f32, 1.0].map(|s| {
        let front = Ellipse::new((s * 0.085, -0.17), (0.032 * widen, 0.15), s * 0.28);
        let back = Ellipse::new((s * 0.125, 0.17), (0.036 * widen, 0.17), -s * 0.32);
        (front, back)
    });
    let third = Ellipse::new((0.0, 0.05), (0.012 * widen, 0.09), 0.0);
    let nuclei = [-1.0f32, 1.0].map(|s| {
        let thalamus = Ellipse::new((s * 0.1, 0.07), (0.075, 0.1), s * 0.4);
        let putamen = Ellipse::new((s * 0.235, -0.06), (0.055, 0.15), s * 0.2);
        (thalamus, putamen)
    });
    let cistern = Ellipse::new((0.0, 0.335), (0.075, 0.05), 0.0);
    let bend = Bend::new(&mut patient.fork("bend"), grid.size, 4, 0.012);
    let folds = fractal(&mut patient.fork("folds"), grid.size, 14, 2);
    let fine = fractal(&mut patient.fork("fine"), grid.size, 18, 2);
    let tumour = tumour(class, axes, depth, patient);

    let n = grid.size * grid.size;
    let mut healthy = vec![0.0; n];
    let mut ill = tumour.is_some().then(|| vec![0.0; n]);
    let [mut head_mask, mut brain_mask, mut lesion_mask] = [(); 3].map(|()| vec![0u8; n]);
    let (sin, cos) = turn.sin_cos();
    grid.each(|i, u, v| {
        let (u, v) = (u * cos + v * sin, v * cos - u * sin);
        let (u, v) = bend.at(i, u, v);
        let outline = head.distance(u, v);
        let inner = outline + SKULL;
        head_mask[i] = u8::from(outline <= 0.0);
        brain_mask[i] = u8::from(inner <= 0.0);
        if outline > 2.0 * grid.pixel {
            return;
        }
        let depth_in = -inner - 0.02;
        // Sulci: the zero lines of a random field, deep near the surface.
        let reach = 0.42 * step(1.0 - depth_in / 0.26);
        let ridge = folds[i].abs();
        let groove = step((reach - ridge) / 0.22 + 0.3) * step(1.2 - depth_in / 0.2);
        let midline = step(1.2 - u.abs() / 0.014) * step((v.abs() - 0.3) / 0.1);
        let ribbon = step(1.0 - (depth_in - 0.02) / 0.07).max(step((reach + 0.42 - ridge) / 0.3));
        let mut tissue = mix(tones.white, tones.grey, ribbon);
        let [left, right] = &nuclei;
        let nucleus = [left.0, left.1, right.0, right.1].iter().fold(1.0f32, |d, e| d.min(e.distance(u, v)));
        tissue = mix(tissue, mix(tones.white, tones.grey, 0.8), grid.cover(nucleus, 0.03));
        tissue += 0.018 * fine[i];
        let [left, right] = &ventricles;
        let ventricle = [left.0, left.1, right.0, right.1, third, cistern]
            .iter()
            .fold(1.0f32, |d, e| d.min(e.distance(u, v)));
        let fluid = groove.max(0.8 * midline).max(grid.cover(ventricle + 0.006 * folds[i], 0.014));
        tissue = mix(tissue, CSF, fluid);
        tissue = mix(CSF, tissue, grid.cover(-depth_in, 0.02));
        let dura = step(1.0 - (inner + 0.008).abs() / 0.012);
        tissue = mix(tissue, 0.45, 0.7 * dura);
        let mut value = mix(0.05, tissue, grid.cover(inner, 0.01));
        value = mix(tones.scalp + 0.05 * fine[i], value, grid.cover(outline + SCALP, 0.015));
        let inside = grid.cover(outline, 0.01);
        healthy[i] = inside * value;

        if let (Some(tumour), Some(ill)) = (&tumour, ill.as_mut()) {
            let mut changed = healthy[i];
            if let Some(oedema) = &tumour.oedema {
                let white = (1.0 - ribbon) * (1.0 - fluid) * grid.cover(inner, 0.01);
                let share = grid.cover(oedema.distance(u, v) + 0.03 * folds[i], 0.06) * white;
                changed = mix(changed, 0.27 + 0.02 * fine[i], share);
            }
            let d = tumour.blob.distance(u, v);
            lesion_mask[i] = u8::from(d <= 0.0 && inner <= 0.0);
            let share = grid.cover(d, 0.012) * grid.cover(inner, 0.01);
            ill[i] = mix(changed, texture(class, d / tumour.blob.radius, folds[i], fine[i]), share);
        }
    });
    let masks =
        vec![(MaskKind::Head, head_mask), (MaskKind::Brain, brain_mask), (MaskKind::Lesion, lesion_mask)];
    let scene = Scene { size: grid.size, channels: 1, healthy, ill, masks, class: class as u32 };
    scene.scan(Scanner { noise: 0.016, magnitude: true, bias: 0.08 }, subject)
}

/// The tone inside a tumour at a distance relative to its radius, −1 at the centre and 0 at the edge.
fn texture(class: BrainClass, d: f32, folds: f32, fine: f32) -> f32 {
    match class {
        BrainClass::Glioma => {
            let core = step((-d - 0.32 + 0.12 * folds) / 0.16);
            mix(0.9 + 0.08 * fine, 0.2 + 0.05 * fine, core)
        }
        BrainClass::Meningioma => 0.86 + 0.02 * fine,
        BrainClass::Pituitary | BrainClass::NoTumor => 0.8 + 0.03 * fine,
    }
}

fn tumour(class: BrainClass, axes: (f32, f32), depth: f32, patient: &Rng) -> Option<Tumour> {
    let rng = &mut patient.fork("lesion");
    let away = depth - between(rng, -0.3, 0.3);
    let size = 1.0 - 0.3 * (away * away).min(1.0);
    match class {
        BrainClass::NoTumor => None,
        BrainClass::Glioma => {
            let radius = between(rng, 0.14, 0.23) * size;
            let centre = (side(rng) * between(rng, 0.24, 0.34), between(rng, -0.4, 0.34));
            let blob = Blob::new(rng, centre, radius, 0.28);
            let spread = radius * between(rng, 1.5, 1.9);
            Some(Tumour { blob, oedema: Some(Blob::new(rng, centre, spread, 0.3)) })
        }
        BrainClass::Meningioma => {
            let radius = between(rng, 0.12, 0.2) * size;
            let angle = between(rng, 0.0, std::f32::consts::TAU);
            let reach = |axis: f32| axis - SKULL - 0.72 * radius;
            let centre = (reach(axes.0) * angle.cos(), reach(axes.1) * angle.sin());
            Some(Tumour { blob: Blob::new(rng, centre, radius, 0.05), oedema: None })
        }
        BrainClass::Pituitary => {
            let radius = between(rng, 0.085, 0.13) * size;
            let centre = (between(rng, -0.02, 0.02), between(rng, 0.31, 0.36));
            Some(Tumour { blob: Blob::new(rng, centre, radius, 0.08), oedema: None })
        }
    }
}
