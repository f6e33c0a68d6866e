//! Axial CT of the lungs in a lung window (centre −600, width 1500 HU), with and without fibrosis.

use std::f32::consts::TAU;

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;
use xdiff_nn::rng::splitmix64;

use super::field::{Bend, fractal};
use super::scene::{Phantom, Scanner, Scene, Subject};
use super::shape::{Ellipse, Grid, between, mix, smooth_min, step};
use crate::Result;
use crate::mask::MaskKind;

/// What a lung phantom shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LungClass {
    /// Clear lungs.
    Normal,
    /// Fine lines and honeycombing below the pleura, more of it towards the base and the back.
    Fibrosis,
}

impl LungClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [LungClass; 2] = [Self::Normal, Self::Fibrosis];
    /// The names of the classes, in the order of their numbers.
    pub const NAMES: [&'static str; 2] = ["normal", "fibrosis"];
}

/// The width of a honeycomb cell.
const CELL: f32 = 0.062;

/// Hounsfield units in the window.
fn tone(hu: f32) -> f32 {
    ((hu + 1350.0) / 1500.0).clamp(0.0, 1.0)
}

struct Anatomy {
    body: Ellipse,
    chest: Ellipse,
    lungs: [Ellipse; 2],
    heart: Ellipse,
    liver: Option<Ellipse>,
    middle: Ellipse,
    vertebra: Ellipse,
    canal: Ellipse,
    aorta: Ellipse,
    windpipe: [Ellipse; 2],
    ribs: f32,
}

impl Anatomy {
    /// A slice from the top of the lungs (depth −1) to their base (1).
    fn new(rng: &mut Rng, depth: f32) -> Self {
        let (a, b) = (between(rng, 0.84, 0.94), between(rng, 0.60, 0.70));
        let fat = between(rng, 0.05, 0.12);
        let low = 0.5 * (depth + 1.0);
        let grow = 0.8 + 0.2 * step(low * 1.6);
        let centre = between(rng, 0.40, 0.43) * (a / 0.9);
        let lungs = [-1.0f32, 1.0].map(|s| {
            let (w, h) = ((a - fat) * 0.41 * grow, (b - fat) * 0.84 * grow);
            Ellipse::new((s * centre, 0.0), (w, h), s * 0.14)
        });
        let beat = step((low - 0.25) / 0.35);
        let dome = step((low - 0.62) / 0.4);
        let split = step((low - 0.3) / 0.2);
        let (heart, spread) = (between(rng, 0.24, 0.29), between(rng, 0.05, 0.09));
        Self {
            body: Ellipse::new((0.0, 0.0), (a, b), 0.0),
            chest: Ellipse::new((0.0, 0.0), (a - fat, b - fat), 0.0),
            lungs,
            heart: Ellipse::new((0.1, -0.14), (0.06 + heart * beat, 0.05 + 0.8 * heart * beat), 0.35),
            liver: (dome > 0.05).then(|| Ellipse::new((-centre, -0.02), (0.3 * dome, 0.33 * dome), 0.0)),
            middle: Ellipse::new((0.0, 0.05), (0.12, 0.5), 0.0),
            vertebra: Ellipse::new((0.0, b - fat - 0.16), (0.105, 0.085), 0.0),
            canal: Ellipse::new((0.0, b - fat - 0.045), (0.04, 0.03), 0.0),
            aorta: Ellipse::new((0.1, b - fat - 0.27), (0.065, 0.065), 0.0),
            windpipe: [-1.0f32, 1.0].map(|s| Ellipse::new((s * spread * split, 0.02), (0.042, 0.042), 0.0)),
            ribs: between(rng, 0.0, TAU) + 2.5 * depth,
        }
    }

    /// The outlines of both lungs, with heart, spine, vessels and liver cut out.
    fn lungs(&self, u: f32, v: f32) -> [f32; 2] {
        let solid = smooth_min(self.heart.distance(u, v), self.middle.distance(u, v), 0.08)
            .min(self.liver.map_or(1.0, |l| l.distance(u, v)))
            .min(self.aorta.distance(u, v))
            .min(self.vertebra.distance(u, v) - 0.03);
        self.lungs.map(|lung| -smooth_min(-lung.distance(u, v), solid - 0.015, 0.05))
    }
}

/// Draws one slice. Masks: body, lungs, lung_image_left, lung_image_right, lesion.
pub(super) fn draw(class: LungClass, subject: Subject<'_>) -> Result<Phantom> {
    let (grid, patient, depth) = (subject.grid, subject.patient, subject.depth);
    let anatomy = Anatomy::new(&mut patient.fork("anatomy"), depth);
    let bend = Bend::new(&mut patient.fork("bend"), grid.size, 4, 0.015);
    let patches = fractal(&mut patient.fork("patches"), grid.size, 7, 2);
    let fine = fractal(&mut patient.fork("fine"), grid.size, 20, 2);
    let vessels = vessels(&mut patient.fork("vessels"), grid, depth);
    let rng = &mut patient.fork("lesion");
    let fibrosis =
        Fibrosis { reach: between(rng, 0.11, 0.19), level: between(rng, 0.1, 0.45), seed: rng.next_seed() };

    let n = grid.size * grid.size;
    let mut healthy = vec![0.0; n];
    let mut ill = (class == LungClass::Fibrosis).then(|| vec![0.0; n]);
    let [mut body, mut lungs, mut left, mut right, mut lesion] = [(); 5].map(|()| vec![0u8; n]);
    grid.each(|i, u, v| {
        let (u, v) = bend.at(i, u, v);
        let outline = anatomy.body.distance(u, v);
        let chest = anatomy.chest.distance(u, v);
        let mut value =
            mix(tone(-100.0) + 0.01 * fine[i], tone(45.0) + 0.01 * fine[i], grid.cover(chest, 0.015));
        value = mix(value, tone(60.0), 0.8 * step(1.0 - (outline + 0.012).abs() / 0.014));
        // Ribs: bright arcs where a wave runs round the chest wall.
        let wall = (chest + 0.035).abs() / 0.03;
        if wall < 1.0 {
            let round = step(((v * 1.3).atan2(u) * 5.0 + anatomy.ribs).cos() * 2.0 - 0.2);
            value = mix(value, 1.0, round * step(1.0 - wall));
        }
        let bone = grid.cover(anatomy.vertebra.distance(u, v), 0.015)
            * (1.0 - grid.cover(anatomy.canal.distance(u, v), 0.01));
        value = mix(value, 1.0, bone);
        let air = anatomy.lungs(u, v);
        let lung = air[0].min(air[1]);
        let within = grid.cover(lung, 0.012);
        let tissue = tone(-850.0) + 0.05 * step((v + 0.3) / 0.9) + 0.012 * fine[i];
        let tissue = mix(tissue, tone(20.0), vessels[i]);
        value = mix(value, tissue, within);
        let pipe = anatomy.windpipe[0].distance(u, v).min(anatomy.windpipe[1].distance(u, v));
        value = mix(value, tone(-1000.0), grid.cover(pipe, 0.01));
        healthy[i] = mix(tone(-1000.0), value, grid.cover(outline, 0.01));

        body[i] = u8::from(outline <= 0.0);
        left[i] = u8::from(air[0] <= 0.0);
        right[i] = u8::from(air[1] <= 0.0);
        lungs[i] = left[i] | right[i];
        if let Some(ill) = ill.as_mut() {
            let share = if lung < 0.02 { fibrosis.share(lung, v, depth, patches[i]) } else { 0.0 };
            ill[i] = healthy[i];
            if share > 0.0 {
                let changed = mix(tissue, fibrosis.texture(u, v, fine[i]), share);
                ill[i] = mix(healthy[i], changed, within);
                lesion[i] = u8::from(share > 0.35 && lung <= 0.0);
            }
        }
    });
    let masks = vec![
        (MaskKind::Body, body),
        (MaskKind::Lungs, lungs),
        (MaskKind::LungImageLeft, left),
        (MaskKind::LungImageRight, right),
        (MaskKind::Lesion, lesion),
    ];
    let scene = Scene { size: grid.size, channels: 1, healthy, ill, masks, class: class as u32 };
    scene.scan(Scanner { noise: 0.018, magnitude: false, bias: 0.0 }, subject)
}

struct Fibrosis {
    /// How deep below the pleura it goes.
    reach: f32,
    level: f32,
    seed: u64,
}

impl Fibrosis {
    /// How far a place is diseased.
    fn share(&self, lung: f32, v: f32, depth: f32, patch: f32) -> f32 {
        let low = 0.55 + 0.45 * step(0.5 * (depth + 1.0));
        let back = 0.3 + 0.7 * step((v + 0.45) / 0.6);
        let rim = step(1.2 + (lung - 0.04 * patch) / (self.reach * low));
        rim * step(0.65 + self.level + 0.5 * patch) * back
    }

    /// Honeycomb walls around air, lines between, and a haze under both.
    fn texture(&self, u: f32, v: f32, fine: f32) -> f32 {
        let (wall, size) = self.cell(u / CELL, v / CELL);
        let lines = step(1.0 - fine.abs() * 2.2);
        let haze = mix(tone(-560.0), tone(-80.0), lines);
        let comb = mix(tone(-960.0), tone(-20.0), step(1.15 - wall / 0.28));
        mix(haze, comb, step(size * 1.8 - 0.4))
    }

    /// The distance to the wall between random cells, and a random number of the cell.
    fn cell(&self, x: f32, y: f32) -> (f32, f32) {
        let (cx, cy) = (x.floor(), y.floor());
        let (mut first, mut second, mut number) = (9.0f32, 9.0f32, 0.0);
        for dy in -1..=1 {
            for dx in -1..=1 {
                let (gx, gy) = (cx + dx as f32, cy + dy as f32);
                let key = (gx as i32 as u32 as u64) << 32 | u64::from(gy as i32 as u32);
                let bits = splitmix64(self.seed ^ key);
                let part = |shift: u32| (bits >> shift & 0xFFFF) as f32 / 65536.0;
                let d = ((gx + part(0) - x).powi(2) + (gy + part(16) - y).powi(2)).sqrt();
                if d < first {
                    (second, first, number) = (first, d, part(32));
                } else {
                    second = second.min(d);
                }
            }
        }
        (second - first, number)
    }
}

/// Shares of each pixel covered by vessels: branches from the roots of the lungs, and cross-sections.
fn vessels(rng: &mut Rng, grid: Grid, depth: f32) -> Vec<f32> {
    let mut out = vec![0.0f32; grid.size * grid.size];
    let mut paint = |from: (f32, f32), to: (f32, f32), radius: f32| {
        let reach = radius + grid.pixel;
        let low = (from.0.min(to.0) - reach, from.1.min(to.1) - reach);
        let high = (from.0.max(to.0) + reach, from.1.max(to.1) + reach);
        let along = (to.0 - from.0, to.1 - from.1);
        let length = (along.0 * along.0 + along.1 * along.1).max(1e-9);
        // What is thinner than a pixel is fainter.
        let strength = (2.0 * radius / grid.pixel).min(1.0);
        grid.each_within(low, high, |i, u, v| {
            let t = (((u - from.0) * along.0 + (v - from.1) * along.1) / length).clamp(0.0, 1.0);
            let d = ((u - from.0 - t * along.0).powi(2) + (v - from.1 - t * along.1).powi(2)).sqrt() - radius;
            out[i] = out[i].max(strength * grid.cover(d, 0.006));
        });
    };
    for s in [-1.0f32, 1.0] {
        for _ in 0..9 {
            let mut at = (s * 0.2, between(rng, -0.06, 0.1));
            let mut heading = between(rng, -1.3, 1.3) + 0.5 * depth * between(rng, -1.0, 1.0);
            let mut radius = between(rng, 0.012, 0.02);
            for _ in 0..4 {
                let reach = between(rng, 0.06, 0.12);
                let to = (at.0 + s * reach * heading.cos(), at.1 + reach * heading.sin());
                paint(at, to, radius);
                at = to;
                heading += between(rng, -0.5, 0.5);
                radius *= 0.72;
            }
        }
        for _ in 0..22 {
            let at = (s * between(rng, 0.2, 0.68), between(rng, -0.42, 0.42) + 0.08 * depth);
            let away = (at.0.abs() - 0.2).hypot(at.1);
            paint(at, at, between(rng, 0.006, 0.02) * (1.0 - 0.9 * away).max(0.35));
        }
    }
    out
}
