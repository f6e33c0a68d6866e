//! Frontal chest radiographs. The image's left is the patient's right.

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use super::field::{Bend, fractal};
use super::marker;
use super::scene::{Phantom, Scanner, Scene, Subject};
use super::shape::{Blob, Ellipse, Grid, between, mix, side, smooth_min, step};
use crate::Result;
use crate::mask::MaskKind;

/// What a chest phantom shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChestClass {
    /// Nothing amiss.
    Normal,
    /// A dense opacity in the upper or lower part of one lung.
    LobarOpacity,
    /// A patchy haze in the outer and lower parts of both lungs.
    GroundGlass,
    /// One to three small round opacities.
    Nodule,
    /// An enlarged heart and clear lungs. The lesion is what the heart has gained.
    Cardiomegaly,
}

impl ChestClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [ChestClass; 5] =
        [Self::Normal, Self::LobarOpacity, Self::GroundGlass, Self::Nodule, Self::Cardiomegaly];
    /// The names of the classes, in the order of their numbers.
    pub const NAMES: [&'static str; 5] =
        ["normal", "lobar_opacity", "ground_glass", "nodule", "cardiomegaly"];
}

const RIB_SPACING: f32 = 0.165;

struct Anatomy {
    shoulders: f32,
    lungs: [Ellipse; 2],
    lung_centre: f32,
    dome: f32,
    heart: Ellipse,
    large_heart: Ellipse,
    rib_phase: f32,
    soft: f32,
    air: f32,
}

impl Anatomy {
    fn new(rng: &mut Rng) -> Self {
        let lung_centre = between(rng, 0.40, 0.45);
        let (width, height) = (between(rng, 0.30, 0.35), between(rng, 0.70, 0.82));
        let middle = between(rng, -0.06, 0.04);
        let heart = (between(rng, 0.08, 0.13), between(rng, 0.27, 0.35));
        let axes = (between(rng, 0.29, 0.34), between(rng, 0.19, 0.23));
        let growth = between(rng, 1.4, 1.65);
        Self {
            shoulders: between(rng, 0.9, 1.1),
            lungs: [-1.0f32, 1.0]
                .map(|s| Ellipse::new((s * lung_centre, middle), (width, height), -s * 0.08)),
            lung_centre,
            dome: between(rng, 0.42, 0.54),
            heart: Ellipse::new(heart, axes, 0.6),
            large_heart: Ellipse::new((heart.0 + 0.06, heart.1), (axes.0 * growth, axes.1 * growth), 0.4),
            rib_phase: between(rng, 0.0, 1.0),
            soft: between(rng, 0.5, 0.58),
            air: between(rng, 0.13, 0.2),
        }
    }

    /// The outline of neck, shoulders and trunk.
    fn body(&self, u: f32, v: f32) -> f32 {
        let width = mix(0.24, self.shoulders, step((v + 0.98) / 0.42)) - 0.05 * step((v + 0.3) / 0.8);
        0.7 * (u.abs() - width)
    }

    /// The outline of one lung, without regard to the heart.
    fn lung(&self, s: usize, u: f32, v: f32) -> f32 {
        let sign = if s == 0 { -1.0 } else { 1.0 };
        // The right dome stands higher, for the liver.
        let dome = self.dome + if s == 0 { -0.05 } else { 0.02 };
        let x = (u * sign - self.lung_centre + 0.06) / 0.3;
        let floor = v - dome - 0.16 * x * x;
        let inner = 0.115 - u * sign;
        let rest = -smooth_min(-floor, -inner, 0.06);
        -smooth_min(-self.lungs[s].distance(u, v), -rest, 0.08)
    }

    /// How bright ribs and collar bones are at a place.
    fn bones(&self, u: f32, v: f32, grid: Grid) -> f32 {
        let s = u.abs();
        let band = |at: f32, half: f32| {
            let off = (at - at.floor() - 0.5).abs() * RIB_SPACING;
            grid.cover(off - half, 0.015) * (0.75 + 0.5 * step(off / half))
        };
        let back = band((v - 0.1 * s - 0.42 * s * s) / RIB_SPACING + self.rib_phase, 0.028);
        let front = band((v + 0.75 * s - 0.35 * s * s) / RIB_SPACING + self.rib_phase, 0.03);
        let cage = grid.cover(Ellipse::new((0.0, 0.0), (0.82, 0.86), 0.0).distance(u, v), 0.06)
            * step((0.75 - v) / 0.3);
        let collar = grid.cover((v + 0.6 + 0.2 * s - 0.04 * (9.0 * s).sin()).abs() - 0.026, 0.02)
            * step((s - 0.07) / 0.05)
            * step((0.85 - s) / 0.1);
        cage * (0.07 * back + 0.05 * front * step((s - 0.2) / 0.2)) + 0.11 * collar
    }
}

/// Draws one radiograph. Masks: body, lungs, lung_image_left, lung_image_right, heart, lesion, marker.
pub(super) fn draw(class: ChestClass, subject: Subject<'_>) -> Result<Phantom> {
    let (grid, patient) = (subject.grid, subject.patient);
    let anatomy = Anatomy::new(&mut patient.fork("anatomy"));
    let disease = Disease::new(class, &anatomy, &mut patient.fork("lesion"));
    let bend = Bend::new(&mut patient.fork("bend"), grid.size, 3, 0.02);
    let haze = fractal(&mut patient.fork("haze"), grid.size, 6, 3);
    let fine = fractal(&mut patient.fork("fine"), grid.size, 22, 2);
    let letters = marker::draw(&mut patient.fork("marker"), grid, subject.marker);

    let n = grid.size * grid.size;
    let mut healthy = vec![0.0; n];
    let mut ill = (class != ChestClass::Normal).then(|| vec![0.0; n]);
    let [mut body, mut lungs, mut left, mut right, mut heart_mask, mut lesion, mut marked] =
        [(); 7].map(|()| vec![0u8; n]);
    let knob = Ellipse::new((0.075, -0.33), (0.085, 0.12), 0.0);
    grid.each(|i, u, v| {
        let (u, v) = bend.at(i, u, v);
        let outline = anatomy.body(u, v);
        let air = [anatomy.lung(0, u, v), anatomy.lung(1, u, v)];
        let inside = grid.cover(outline, 0.02);
        let abdomen = step((v - anatomy.dome - 0.02) / 0.3);
        let mut value = anatomy.soft + 0.2 * abdomen + 0.1 * step(1.0 - u.abs() / 0.9) + 0.02 * haze[i];
        // Markings radiate from the roots of the lungs.
        let lung = air[0].min(air[1]);
        let root = ((u.abs() - 0.16).powi(2) + (v + 0.02).powi(2)).sqrt();
        let vessels = (0.16 * step(1.0 - root / 0.3)
            + 0.11 * step(1.0 - root / 0.75) * step(1.0 - fine[i].abs() * 1.6))
        .min(0.3)
            + 0.015 * fine[i];
        value = mix(value, anatomy.air + vessels + 0.05 * step((v + 0.9) / 1.6), grid.cover(lung, 0.03));
        value -= 0.12 * grid.cover(u.abs() - 0.028, 0.03) * step((-0.18 - v) / 0.1);

        // Spine, vessels and heart cast one shadow.
        let column = smooth_min(u.abs() - 0.1, knob.distance(u, v), 0.07);
        let disc = 0.03 * (v * 38.0).cos() * grid.cover(u.abs() - 0.075, 0.04);
        let bones = anatomy.bones(u, v, grid);
        let with_heart = |base: f32, heart: f32| {
            let share = grid.cover(smooth_min(column, heart, 0.1), 0.035) * step((v + 1.2) / 0.5);
            let above = step((anatomy.dome + 0.25 - v) / 0.2);
            mix(base, base.max(anatomy.soft + 0.12 + 0.015 * haze[i] + disc), share * above) + bones
        };
        let heart = anatomy.heart.distance(u, v);
        healthy[i] = inside * with_heart(value, heart);
        let mut shown = heart;
        if let Some(ill) = ill.as_mut() {
            let (changed, marks) = match &disease {
                Disease::Heart => {
                    shown = heart.min(anatomy.large_heart.distance(u, v));
                    (with_heart(value, shown), shown <= 0.0 && heart > 0.0)
                }
                other => {
                    let share = other.share(u, v, air, haze[i], fine[i], grid);
                    (with_heart(mix(value, value.max(0.68), share.0), heart), share.1)
                }
            };
            ill[i] = inside * changed;
            lesion[i] = u8::from(marks && outline <= 0.0 && v < anatomy.dome + 0.12);
            if ill[i] == healthy[i] {
                lesion[i] = 0;
            }
        }
        let beats = shown <= 0.0 && v < anatomy.dome + 0.12;
        body[i] = u8::from(outline <= 0.0);
        heart_mask[i] = u8::from(beats);
        left[i] = u8::from(air[0] <= 0.0 && !beats && outline <= 0.0);
        right[i] = u8::from(air[1] <= 0.0 && !beats && outline <= 0.0);
        lungs[i] = left[i] | right[i];
        marked[i] = u8::from(letters[i] >= 0.5);
    });
    // Letters are burnt in last, over whatever is there.
    for picture in std::iter::once(&mut healthy).chain(ill.as_mut()) {
        picture.iter_mut().zip(&letters).for_each(|(v, l)| *v = mix(*v, 0.97, *l));
    }
    let masks = vec![
        (MaskKind::Body, body),
        (MaskKind::Lungs, lungs),
        (MaskKind::LungImageLeft, left),
        (MaskKind::LungImageRight, right),
        (MaskKind::Heart, heart_mask),
        (MaskKind::Lesion, lesion),
        (MaskKind::Marker, marked),
    ];
    let scene = Scene { size: grid.size, channels: 1, healthy, ill, masks, class: class as u32 };
    scene.scan(Scanner { noise: 0.014, magnitude: false, bias: 0.04 }, subject)
}

enum Disease {
    None,
    Lobe { lung: usize, blob: Blob },
    Haze { level: f32 },
    Nodules(Vec<Ellipse>),
    Heart,
}

impl Disease {
    fn new(class: ChestClass, anatomy: &Anatomy, rng: &mut Rng) -> Self {
        match class {
            ChestClass::Normal => Self::None,
            ChestClass::Cardiomegaly => Self::Heart,
            ChestClass::GroundGlass => Self::Haze { level: between(rng, -0.1, 0.35) },
            ChestClass::LobarOpacity => {
                let s = side(rng);
                let v = if rng.chance(0.5) { between(rng, -0.5, -0.38) } else { between(rng, 0.14, 0.28) };
                let u = s * (anatomy.lung_centre + between(rng, -0.04, 0.06));
                let radius = between(rng, 0.24, 0.32);
                Self::Lobe { lung: usize::from(s > 0.0), blob: Blob::new(rng, (u, v), radius, 0.22) }
            }
            ChestClass::Nodule => {
                let nodules = (0..1 + rng.below(3)).map(|_| {
                    let radius = between(rng, 0.055, 0.085);
                    let u = side(rng) * (anatomy.lung_centre + between(rng, -0.08, 0.12));
                    let v = between(rng, -0.5, 0.12);
                    Ellipse::new((u, v), (radius, radius * between(rng, 0.85, 1.15)), 0.0)
                });
                Self::Nodules(nodules.collect())
            }
        }
    }

    /// How opaque a place is made, and whether it belongs to the lesion.
    fn share(&self, u: f32, v: f32, air: [f32; 2], haze: f32, fine: f32, grid: Grid) -> (f32, bool) {
        let lung = air[0].min(air[1]);
        let within = grid.cover(lung, 0.03);
        match self {
            Self::None | Self::Heart => (0.0, false),
            // Reaches over the lung's soft edge, or a dark rim would show around it.
            Self::Lobe { lung, blob } => {
                let d = blob.distance(u, v) + 0.04 * haze;
                let share = grid.cover(air[*lung] - 0.02, 0.02)
                    * grid.cover(d, 0.12)
                    * (0.85 + 0.08 * fine).clamp(0.5, 1.0);
                (share, d <= 0.0 && air[*lung] <= 0.0)
            }
            Self::Haze { level } => {
                let outer = step(1.0 + (lung + 0.05) / 0.22);
                let low = step((v + 0.75) / 0.8);
                let patch = step(0.5 + 0.9 * (haze + level)) * (0.35 + 0.65 * outer) * (0.3 + 0.7 * low);
                (within * patch * (0.62 + 0.12 * fine).clamp(0.3, 0.9), patch > 0.4 && lung <= 0.0)
            }
            Self::Nodules(nodules) => {
                let d = nodules.iter().fold(1.0f32, |d, e| d.min(e.distance(u, v)));
                (within * grid.cover(d, 0.035) * 0.75, d <= 0.0 && lung <= 0.0)
            }
        }
    }
}
