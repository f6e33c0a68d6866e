//! Breast MRI, axial, fat-suppressed and with contrast agent: dark fat, grey gland, bright tumours.

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use super::field::{Bend, fractal};
use super::scene::{Phantom, Scanner, Scene, Subject};
use super::shape::{Blob, Ellipse, between, mix, side, smooth_min, step};
use crate::Result;
use crate::mask::MaskKind;

/// What a breast phantom shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreastClass {
    /// No lesion.
    Healthy,
    /// A bright, irregular mass in the gland of one breast.
    Lesion,
}

impl BreastClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [BreastClass; 2] = [Self::Healthy, Self::Lesion];
    /// The names of the classes, in the order of their numbers.
    pub const NAMES: [&'static str; 2] = ["healthy", "lesion"];
}

struct Anatomy {
    half_width: f32,
    height: f32,
    apart: f32,
    wall: f32,
    density: f32,
    gland: f32,
    fat: f32,
}

/// Draws one axial slice: the breasts point up, the chest wall lies below. Masks: body, breast, gland,
/// lesion.
pub(super) fn draw(class: BreastClass, subject: Subject<'_>) -> Result<Phantom> {
    let (grid, depth, patient) = (subject.grid, subject.depth, subject.patient);
    let rng = &mut patient.fork("anatomy");
    let bulge = (1.0 - 0.35 * depth * depth).sqrt();
    let anatomy = Anatomy {
        half_width: between(rng, 0.36, 0.43) * bulge,
        height: between(rng, 0.78, 1.1) * bulge,
        apart: between(rng, 0.44, 0.48),
        wall: between(rng, 0.36, 0.46),
        density: between(rng, -0.5, 0.9),
        gland: between(rng, 0.42, 0.56),
        fat: between(rng, 0.17, 0.24),
    };
    let uneven = between(rng, 0.94, 1.06);
    let lobe = |s: f32, grow: f32| {
        let (w, h) = (anatomy.half_width * grow, anatomy.height * grow);
        Ellipse::new((s * anatomy.apart, anatomy.wall + 0.12), (w, h), -s * 0.06)
    };
    let lobes = [lobe(-1.0, uneven), lobe(1.0, 1.0 / uneven)];
    let cone = |s: f32| {
        let centre = (s * anatomy.apart * 1.02, anatomy.wall - 0.36 * anatomy.height);
        Ellipse::new(centre, (anatomy.half_width * 0.72, anatomy.height * 0.5), -s * 0.1)
    };
    let cones = [cone(-1.0), cone(1.0)];
    let torso = Ellipse::new((0.0, anatomy.wall + 0.86), (1.06, 0.84), 0.0);
    let muscle = Ellipse::new((0.0, anatomy.wall + 0.92), (1.0, 0.80), 0.0);
    let cavity = Ellipse::new((0.0, anatomy.wall + 0.94), (0.92, 0.68), 0.0);
    let heart = Ellipse::new((between(rng, 0.08, 0.2), anatomy.wall + 0.62), (0.36, 0.34), 0.4);

    let bend = Bend::new(&mut patient.fork("bend"), grid.size, 3, 0.018);
    let tissue = fractal(&mut patient.fork("tissue"), grid.size, 7, 3);
    let fine = fractal(&mut patient.fork("fine"), grid.size, 20, 2);
    let lesion = (class == BreastClass::Lesion).then(|| tumour(patient, &anatomy, depth));

    let n = grid.size * grid.size;
    let mut healthy = vec![0.0; n];
    let mut ill = lesion.is_some().then(|| vec![0.0; n]);
    let [mut body, mut breast, mut gland_mask, mut lesion_mask] = [(); 4].map(|()| vec![0u8; n]);
    grid.each(|i, u, v| {
        let (u, v) = bend.at(i, u, v);
        let lobes = lobes[0].distance(u, v).min(lobes[1].distance(u, v));
        let outline = smooth_min(lobes, torso.distance(u, v), 0.12);
        let wall = muscle.distance(u, v);
        let inside = grid.cover(outline, 0.01);
        body[i] = u8::from(outline <= 0.0);
        breast[i] = u8::from(outline <= 0.0 && wall > 0.0);

        let strands = step(1.0 - tissue[i].abs() * 3.0) * 0.05;
        let mut value = anatomy.fat + 0.02 * fine[i] + strands;
        let cone = cones[0].distance(u, v).min(cones[1].distance(u, v));
        let dense = step(0.5 + 0.8 * (tissue[i] + 0.35 * fine[i] + anatomy.density))
            * grid.cover(cone + 0.05 * tissue[i], 0.12)
            * step(0.5 + wall * 12.0)
            * step(-outline * 14.0 - 0.4);
        value = mix(value, anatomy.gland + 0.06 * fine[i], dense);
        gland_mask[i] = u8::from(dense > 0.5 && outline <= 0.0);
        let skin = step(1.0 - (outline + 0.016).abs() / 0.022);
        value = mix(value, 0.42, 0.8 * skin);
        value = mix(value, 0.34 + 0.03 * tissue[i], grid.cover(wall, 0.02));
        let chest = cavity.distance(u, v);
        let lung = mix(0.05, 0.6 + 0.03 * fine[i], grid.cover(heart.distance(u, v) + 0.02 * tissue[i], 0.05));
        value = mix(value, lung, grid.cover(chest, 0.03));
        healthy[i] = inside * value;

        if let (Some(lesion), Some(ill)) = (&lesion, ill.as_mut()) {
            let d = lesion.distance(u, v);
            lesion_mask[i] = u8::from(d <= 0.0 && outline <= 0.0);
            let rim = step(1.0 + d / (0.5 * lesion.radius));
            let bright = (0.78 + 0.14 * rim + 0.05 * fine[i]) * inside;
            ill[i] = mix(healthy[i], bright, grid.cover(d, 0.02));
        }
    });
    let masks = vec![
        (MaskKind::Body, body),
        (MaskKind::Breast, breast),
        (MaskKind::Gland, gland_mask),
        (MaskKind::Lesion, lesion_mask),
    ];
    let scene = Scene { size: grid.size, channels: 1, healthy, ill, masks, class: class as u32 };
    scene.scan(Scanner { noise: 0.02, magnitude: true, bias: 0.1 }, subject)
}

fn tumour(patient: &Rng, anatomy: &Anatomy, depth: f32) -> Blob {
    let rng = &mut patient.fork("lesion");
    let centre = (
        side(rng) * (anatomy.apart + between(rng, -0.3, 0.3) * anatomy.half_width),
        anatomy.wall - between(rng, 0.2, 0.55) * anatomy.height,
    );
    let away = depth - between(rng, -0.3, 0.3);
    let radius = between(rng, 0.08, 0.16) * (1.0 - 0.35 * (away * away).min(1.0));
    let roughness = between(rng, 0.12, 0.35);
    Blob::new(rng, centre, radius, roughness)
}
