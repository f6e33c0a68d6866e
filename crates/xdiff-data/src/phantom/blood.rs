//! Single white blood cells in a stained smear, in colour.

use std::f32::consts::TAU;

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use super::field::fractal;
use super::scene::{Phantom, Scanner, Scene, Subject};
use super::shape::{Blob, Ellipse, Grid, between, mix, smooth_min, step};
use crate::Result;
use crate::mask::MaskKind;

/// Which white blood cell a phantom shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellClass {
    /// Small, a round dark nucleus, a thin pale blue rim.
    Lymphocyte,
    /// Large, a kidney-shaped nucleus, grey-blue cytoplasm with vacuoles.
    Monocyte,
    /// Three to five lobes, pale pink cytoplasm.
    Neutrophil,
    /// Two lobes, orange granules.
    Eosinophil,
    /// Large, a nucleus that fills the deep blue cell, with pale nucleoli: leukaemia. Its healthy twin is
    /// a lymphocyte at the same place.
    Blast,
}

impl CellClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [CellClass; 5] =
        [Self::Lymphocyte, Self::Monocyte, Self::Neutrophil, Self::Eosinophil, Self::Blast];
    /// The names of the classes, in the order of their numbers.
    pub const NAMES: [&'static str; 5] = ["lymphocyte", "monocyte", "neutrophil", "eosinophil", "blast"];
}

type Colour = [f32; 3];

/// A cell ready to be drawn.
struct Cell {
    outline: Blob,
    nucleus: Nucleus,
    cytoplasm: Colour,
    chromatin: Colour,
    /// How far granules tint the cytoplasm, and their colour.
    granules: (f32, Colour),
    /// Pale spots: vacuoles in the cytoplasm, nucleoli in the nucleus.
    spots: Vec<Ellipse>,
    clumps: f32,
}

enum Nucleus {
    Round(Blob),
    Kidney(Blob, Ellipse),
    Lobes(Vec<Ellipse>),
}

impl Nucleus {
    fn distance(&self, u: f32, v: f32) -> f32 {
        match self {
            Self::Round(blob) => blob.distance(u, v),
            Self::Kidney(blob, notch) => -smooth_min(-blob.distance(u, v), notch.distance(u, v), 0.08),
            Self::Lobes(lobes) => lobes.iter().fold(1.0f32, |d, l| smooth_min(d, l.distance(u, v), 0.07)),
        }
    }
}

impl Cell {
    fn new(class: CellClass, centre: (f32, f32), stain: f32, rng: &mut Rng) -> Self {
        let off_centre = (centre.0 + between(rng, -0.03, 0.03), centre.1 + between(rng, -0.03, 0.03));
        let fill = between(rng, 0.0, 1.0);
        let near =
            |rng: &mut Rng, by: f32| (centre.0 + between(rng, -by, by), centre.1 + between(rng, -by, by));
        let dark = [0.34, 0.17 + 0.04 * stain, 0.5];
        let plain = |outline, nucleus, cytoplasm, chromatin| Self {
            outline,
            nucleus,
            cytoplasm,
            chromatin,
            granules: (0.0, [0.0; 3]),
            spots: Vec::new(),
            clumps: 0.06,
        };
        match class {
            CellClass::Lymphocyte => {
                let radius = between(rng, 0.30, 0.36);
                let nucleus = Blob::new(rng, off_centre, radius * mix(0.78, 0.86, fill), 0.05);
                plain(Blob::new(rng, centre, radius, 0.06), Nucleus::Round(nucleus), [0.64, 0.66, 0.86], dark)
            }
            CellClass::Monocyte => {
                let radius = between(rng, 0.46, 0.54);
                let turn = between(rng, 0.0, TAU);
                let off = 0.62 * radius;
                let notch = (centre.0 + off * turn.cos(), centre.1 + off * turn.sin());
                let notch = Ellipse::new(notch, (0.52 * radius, 0.28 * radius), turn);
                let nucleus = Blob::new(rng, off_centre, radius * 0.72, 0.1);
                let spots = (0..4).map(|_| {
                    let r = between(rng, 0.02, 0.035);
                    Ellipse::new(near(rng, 0.6 * radius), (r, r), 0.0)
                });
                let spots = spots.collect();
                let outline = Blob::new(rng, centre, radius, 0.12);
                let body =
                    plain(outline, Nucleus::Kidney(nucleus, notch), [0.67, 0.64, 0.79], [0.43, 0.25, 0.58]);
                Self { spots, ..body }
            }
            CellClass::Neutrophil | CellClass::Eosinophil => {
                let radius = between(rng, 0.42, 0.48);
                let count = if class == CellClass::Eosinophil { 2 } else { 3 + rng.below(3) };
                let start = between(rng, 0.0, TAU);
                let ring = radius * if count == 2 { 0.36 } else { 0.46 };
                let size = radius * if count == 2 { 0.36 } else { 0.30 };
                let lobes = (0..count).map(|k| {
                    // An open ring: neighbours touch, the ends do not.
                    let angle = start + k as f32 / count as f32 * TAU * if count == 2 { 0.8 } else { 0.85 };
                    let at = (centre.0 + ring * angle.cos(), centre.1 + ring * angle.sin());
                    let long = size * between(rng, 0.95, 1.2);
                    Ellipse::new(at, (size * 0.85, long), angle)
                });
                let lobes = Nucleus::Lobes(lobes.collect());
                let outline = Blob::new(rng, centre, radius, 0.06);
                if class == CellClass::Eosinophil {
                    let granules = (0.85, [0.86, 0.40, 0.33]);
                    Self { granules, ..plain(outline, lobes, [0.92, 0.68, 0.62], [0.42, 0.24, 0.56]) }
                } else {
                    let granules = (0.25, [0.72, 0.52, 0.70]);
                    Self { granules, ..plain(outline, lobes, [0.89, 0.78, 0.84], dark) }
                }
            }
            CellClass::Blast => {
                let radius = between(rng, 0.46, 0.56);
                let nucleus = Blob::new(rng, off_centre, radius * mix(0.84, 0.9, fill), 0.07);
                let spots = (0..2 + rng.below(2)).map(|_| {
                    let r = between(rng, 0.05, 0.08);
                    Ellipse::new(near(rng, 0.5 * radius), (r, r * 0.9), 0.0)
                });
                let spots = spots.collect();
                let outline = Blob::new(rng, centre, radius, 0.1);
                let body = plain(outline, Nucleus::Round(nucleus), [0.38, 0.40, 0.76], [0.54, 0.26, 0.66]);
                Self { spots, clumps: 0.025, ..body }
            }
        }
    }

    /// Draws the cell over `ground`.
    fn paint(&self, ground: Colour, u: f32, v: f32, noise: (f32, f32), grid: Grid) -> Colour {
        let d = self.outline.distance(u, v);
        let share = grid.cover(d, 0.02);
        if share <= 0.0 {
            return ground;
        }
        let (coarse, fine) = noise;
        let (amount, granule) = self.granules;
        let nucleus = self.nucleus.distance(u, v);
        let spot = self.spots.iter().fold(1.0f32, |d, s| d.min(s.distance(u, v)));
        let pale = grid.cover(spot, 0.02);
        let inner = grid.cover(nucleus, 0.015);
        // Cells are a little darker at the rim.
        let rim = 0.06 * step(1.0 + d / 0.05);
        std::array::from_fn(|c| {
            let granules = amount * step(0.5 + 0.6 * fine);
            let cytoplasm = mix(self.cytoplasm[c], granule[c], granules) + 0.015 * coarse - rim;
            let cytoplasm = mix(cytoplasm, 0.93, 0.8 * pale * (1.0 - inner));
            let chromatin = self.chromatin[c] + self.clumps * fine + 0.02 * coarse;
            let chromatin = mix(chromatin, self.chromatin[c] + 0.16, pale);
            mix(ground[c], mix(cytoplasm, chromatin, inner), share)
        })
    }
}

/// Draws one cell. Masks: cell, nucleus, lesion (the whole cell, of a blast). The slices of a patient are
/// different cells in the same stain.
pub(super) fn draw(class: CellClass, subject: Subject<'_>) -> Result<Phantom> {
    let grid = subject.grid;
    let rng = &mut subject.patient.fork("stain");
    let (stain, warm) = (between(rng, -1.0, 1.0), rng.chance(0.7));
    let plasma = if warm { [0.98, 0.89 + 0.02 * stain, 0.79] } else { [0.86, 0.84, 0.93 + 0.02 * stain] };
    let red = if warm { [0.83, 0.68, 0.66 + 0.03 * stain] } else { [0.77, 0.66, 0.76 + 0.03 * stain] };
    let slice = subject.slice_rng();
    let rng = &mut slice.fork("cell");
    let centre = (between(rng, -0.08, 0.08), between(rng, -0.08, 0.08));
    let cell = Cell::new(class, centre, stain, &mut slice.fork("ill"));
    let twin = (class == CellClass::Blast)
        .then(|| Cell::new(CellClass::Lymphocyte, centre, stain, &mut slice.fork("well")));
    let coarse = fractal(&mut slice.fork("coarse"), grid.size, 8, 2);
    let fine = fractal(&mut slice.fork("fine"), grid.size, 26, 2);

    let n = grid.size * grid.size;
    let mut ground = vec![plasma; n];
    for place in red_cells(&mut slice.fork("red"), centre) {
        red_cell(&mut ground, red, place, grid);
    }
    let mut healthy = vec![0.0; 3 * n];
    let mut ill = twin.is_some().then(|| vec![0.0; 3 * n]);
    let [mut cell_mask, mut nucleus, mut lesion] = [(); 3].map(|()| vec![0u8; n]);
    grid.each(|i, u, v| {
        let noise = (coarse[i], fine[i]);
        let shown = cell.paint(ground[i], u, v, noise, grid);
        let well = twin.as_ref().map_or(shown, |t| t.paint(ground[i], u, v, noise, grid));
        for c in 0..3 {
            healthy[c * n + i] = well[c];
            if let Some(ill) = ill.as_mut() {
                ill[c * n + i] = shown[c];
            }
        }
        let inside = cell.outline.distance(u, v) <= 0.0;
        cell_mask[i] = u8::from(inside);
        nucleus[i] = u8::from(inside && cell.nucleus.distance(u, v) <= 0.0);
        lesion[i] = u8::from(inside && shown != well);
    });
    if twin.is_none() {
        lesion.fill(0);
    }
    let masks = vec![(MaskKind::Cell, cell_mask), (MaskKind::Nucleus, nucleus), (MaskKind::Lesion, lesion)];
    let scene = Scene { size: grid.size, channels: 3, healthy, ill, masks, class: class as u32 };
    scene.scan(Scanner { noise: 0.012, magnitude: false, bias: 0.015 }, subject)
}

/// A red cell: centre, radius, turn.
type RedCell = ((f32, f32), f32, f32);

/// Red cells around the white one, few of them overlapping.
fn red_cells(rng: &mut Rng, centre: (f32, f32)) -> Vec<RedCell> {
    let mut placed: Vec<RedCell> = Vec::new();
    let wanted = 8 + rng.below(8);
    for _ in 0..60 {
        if placed.len() == wanted {
            break;
        }
        let at = (between(rng, -1.15, 1.15), between(rng, -1.15, 1.15));
        let radius = between(rng, 0.2, 0.25);
        let clear = |to: (f32, f32), room: f32| (at.0 - to.0).hypot(at.1 - to.1) > room;
        if clear(centre, 0.56 + radius) && placed.iter().all(|(p, r, _)| clear(*p, 0.75 * (r + radius))) {
            placed.push((at, radius, between(rng, 0.0, TAU)));
        }
    }
    placed
}

fn red_cell(ground: &mut [Colour], red: Colour, (at, radius, turn): RedCell, grid: Grid) {
    let disc = Ellipse::new(at, (radius, radius * 0.92), turn);
    let dip = Ellipse::new(at, (radius * 0.48, radius * 0.44), turn);
    let reach = radius + 0.05;
    grid.each_within((at.0 - reach, at.1 - reach), (at.0 + reach, at.1 + reach), |i, u, v| {
        let d = disc.distance(u, v);
        let share = 0.85 * grid.cover(d, 0.02);
        let pale = 0.85 * grid.cover(dip.distance(u, v), 0.1);
        let rim = 0.05 * step(1.0 + d / 0.05);
        let under = ground[i];
        ground[i] = std::array::from_fn(|c| mix(under[c], mix(red[c] - rim, under[c], pale), share));
    });
}
