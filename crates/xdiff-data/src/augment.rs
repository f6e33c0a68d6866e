//! Small changes of geometry and tone, the same geometry for an image and its masks.

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use crate::dataset::{Dataset, Sample, SampleInfo};
use crate::image::{Image, Scale};
use crate::mask::Mask;
use crate::{Error, Result};

/// What a pixel gets whose source lies outside the image. Masks always get 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// A value in [0, 1].
    Constant(f32),
    /// The nearest pixel of the image.
    #[default]
    Edge,
}

/// How far a sample may be changed. Each change is drawn anew for each sample and epoch, from the
/// sample's own generator.
///
/// The geometry is one affine map about the image's centre: flip, scale, rotate, translate. Images are
/// sampled bilinearly, masks at the nearest pixel. The tone becomes
/// clamp((v − ½)·c + ½ + b, 0, 1)^γ, on images in [0, 1].
///
/// ```
/// use xdiff_data::phantom::{PhantomConfig, PhantomDataset};
/// use xdiff_data::{Augment, Augmented, Dataset};
/// use xdiff_nn::Rng;
///
/// let data = PhantomDataset::new(PhantomConfig::default())?;
/// let data = Augmented::new(data, Augment { flip_horizontal: 0.5, rotate: 10.0, ..Default::default() })?;
/// let rng = Rng::new(0).sample(3);
/// assert_eq!(data.get(3, &mut rng.clone())?, data.get(3, &mut rng.clone())?);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// The probability of a flip from left to right; masks of the left and right lung change names.
    pub flip_horizontal: f64,
    /// The probability of a flip from top to bottom.
    pub flip_vertical: f64,
    /// The largest rotation either way, in degrees, 0 to 180.
    pub rotate: f64,
    /// The largest shift either way, as a share of the side, 0 to 1.
    pub translate: f64,
    /// The least and the greatest magnification, 0.1 to 10.
    pub scale: (f64, f64),
    /// The largest change of brightness b either way, 0 to 1.
    pub brightness: f64,
    /// The largest relative change of contrast: c lies in 1 ± this, 0 to 0.99.
    pub contrast: f64,
    /// The largest change of gamma: γ lies in [1/(1 + this), 1 + this], 0 to 9.
    pub gamma: f64,
    /// What comes in from outside the image.
    pub border: Border,
}

impl Default for Augment {
    /// No change at all.
    fn default() -> Self {
        Self {
            flip_horizontal: 0.0,
            flip_vertical: 0.0,
            rotate: 0.0,
            translate: 0.0,
            scale: (1.0, 1.0),
            brightness: 0.0,
            contrast: 0.0,
            gamma: 0.0,
            border: Border::default(),
        }
    }
}

impl Augment {
    /// Checks the values.
    ///
    /// # Errors
    /// When one is out of its range.
    pub fn validate(&self) -> Result<()> {
        let ranges = [
            ("flip_horizontal", self.flip_horizontal, 0.0, 1.0),
            ("flip_vertical", self.flip_vertical, 0.0, 1.0),
            ("rotate", self.rotate, 0.0, 180.0),
            ("translate", self.translate, 0.0, 1.0),
            ("scale", self.scale.0, 0.1, 10.0),
            ("scale", self.scale.1, self.scale.0, 10.0),
            ("brightness", self.brightness, 0.0, 1.0),
            ("contrast", self.contrast, 0.0, 0.99),
            ("gamma", self.gamma, 0.0, 9.0),
        ];
        for (what, value, lo, hi) in ranges {
            if !(lo..=hi).contains(&value) {
                return Err(Error::argument(what, format!("{value} given; {lo} to {hi}")));
            }
        }
        match self.border {
            Border::Constant(v) if !(0.0..=1.0).contains(&v) => {
                Err(Error::argument("border", format!("{v} given; 0 to 1")))
            }
            _ => Ok(()),
        }
    }

    /// Changes a sample by chance.
    ///
    /// # Errors
    /// When the image is not in [0, 1].
    pub fn apply(&self, sample: Sample, rng: &mut Rng) -> Result<Sample> {
        if sample.image.scale != Scale::Unit {
            return Err(Error::argument("image", format!("{} is not in [0, 1]", sample.info.id)));
        }
        let map = Affine::draw(self, rng);
        let spread = |rng: &mut Rng, by: f64| rng.range(-by, by);
        let brightness = spread(rng, self.brightness) as f32;
        let contrast = 1.0 + spread(rng, self.contrast) as f32;
        let gamma = (1.0 + self.gamma).powf(spread(rng, 1.0)) as f32;
        let Sample { info, mut image, mut masks } = sample;
        if !map.is_identity() {
            image = map.image(image, self.border);
            let moved = masks
                .into_iter()
                .map(|(kind, mask)| (if map.mirrors() { kind.mirrored() } else { kind }, map.mask(&mask)));
            masks = moved.collect();
        }
        if (brightness, contrast, gamma) != (0.0, 1.0, 1.0) {
            image = image
                .map(Scale::Unit, |v| ((v - 0.5) * contrast + 0.5 + brightness).clamp(0.0, 1.0).powf(gamma));
        }
        Ok(Sample { info, image, masks })
    }
}

/// From a target pixel to its source, both relative to the image's centre.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine {
    xx: f64,
    xy: f64,
    yx: f64,
    yy: f64,
    /// The shift of the target, as a share of the sides.
    shift: (f64, f64),
}

impl Affine {
    fn draw(augment: &Augment, rng: &mut Rng) -> Self {
        let flip = |rng: &mut Rng, p: f64| if rng.chance(p) { -1.0 } else { 1.0 };
        let (fx, fy) = (flip(rng, augment.flip_horizontal), flip(rng, augment.flip_vertical));
        let (sin, cos) = rng.range(-augment.rotate, augment.rotate).to_radians().sin_cos();
        let scale = rng.range(augment.scale.0, augment.scale.1);
        let by = augment.translate;
        let shift = (rng.range(-by, by), rng.range(-by, by));
        Self {
            xx: fx * cos / scale,
            xy: fx * sin / scale,
            yx: -fy * sin / scale,
            yy: fy * cos / scale,
            shift,
        }
    }

    fn is_identity(&self) -> bool {
        *self == Self { xx: 1.0, xy: 0.0, yx: 0.0, yy: 1.0, shift: (0.0, 0.0) }
    }

    fn mirrors(&self) -> bool {
        self.xx * self.yy - self.xy * self.yx < 0.0
    }

    /// The source of each target pixel, row by row, in pixel units with centres at whole numbers.
    fn sources(&self, height: usize, width: usize) -> impl Iterator<Item = (f64, f64)> {
        let (map, cx, cy) = (*self, (width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0);
        let (dx, dy) = (cx + map.shift.0 * width as f64, cy + map.shift.1 * height as f64);
        (0..height).flat_map(move |y| {
            (0..width).map(move |x| {
                let (u, v) = (x as f64 - dx, y as f64 - dy);
                (map.xx * u + map.xy * v + cx, map.yx * u + map.yy * v + cy)
            })
        })
    }

    fn image(&self, image: Image, border: Border) -> Image {
        let (h, w) = (image.height(), image.width());
        image.map_planes(h, w, |plane| {
            let value = |x: f64, y: f64| match border {
                Border::Constant(v) if x < 0.0 || y < 0.0 || x >= w as f64 || y >= h as f64 => v,
                _ => plane[(y.max(0.0) as usize).min(h - 1) * w + (x.max(0.0) as usize).min(w - 1)],
            };
            let at = |(x, y): (f64, f64)| {
                let (x0, y0) = (x.floor(), y.floor());
                let (fx, fy) = ((x - x0) as f32, (y - y0) as f32);
                let row = |y: f64| value(x0, y) * (1.0 - fx) + value(x0 + 1.0, y) * fx;
                row(y0) * (1.0 - fy) + row(y0 + 1.0) * fy
            };
            self.sources(h, w).map(at).collect()
        })
    }

    fn mask(&self, mask: &Mask) -> Mask {
        let (h, w) = (mask.height(), mask.width());
        mask.map_plane(h, w, |plane| {
            let at = |(x, y): (f64, f64)| {
                let (x, y) = (x.round(), y.round());
                let inside = x >= 0.0 && y >= 0.0 && x < w as f64 && y < h as f64;
                if inside { plane[y as usize * w + x as usize] } else { 0 }
            };
            self.sources(h, w).map(at).collect()
        })
    }
}

/// A dataset whose samples are changed by chance each time they are asked for.
#[derive(Clone, Debug)]
pub struct Augmented<D> {
    inner: D,
    augment: Augment,
}

impl<D: Dataset> Augmented<D> {
    /// Augments a dataset.
    ///
    /// # Errors
    /// When a value of `augment` is out of its range.
    pub fn new(inner: D, augment: Augment) -> Result<Self> {
        augment.validate()?;
        Ok(Self { inner, augment })
    }
}

impl<D: Dataset> Dataset for Augmented<D> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    fn classes(&self) -> &[String] {
        self.inner.classes()
    }
    fn info(&self, index: usize) -> Result<SampleInfo> {
        self.inner.info(index)
    }
    fn get(&self, index: usize, rng: &mut Rng) -> Result<Sample> {
        let sample = self.inner.get(index, &mut rng.fork("inner"))?;
        self.augment.apply(sample, &mut rng.fork("augment"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::mask::MaskKind;

    fn sample(height: usize, width: usize) -> Sample {
        let data: Vec<f32> = (0..height * width).map(|i| ((i * 37) % 101) as f32 / 100.0).collect();
        let labels = data.iter().map(|v| (v * 100.0) as u8 % 4).collect();
        Sample {
            info: SampleInfo::default(),
            image: Image::new(1, height, width, data, Scale::Unit).unwrap(),
            masks: BTreeMap::from([(MaskKind::LungImageLeft, Mask::new(height, width, labels).unwrap())]),
        }
    }

    #[test]
    fn no_change_is_the_default() {
        let s = sample(5, 7);
        assert_eq!(Augment::default().apply(s.clone(), &mut Rng::new(1)).unwrap(), s);
    }

    #[test]
    fn flips_are_exact_and_lungs_change_sides() {
        let s = sample(4, 6);
        let flip = Augment { flip_horizontal: 1.0, ..Default::default() };
        let flipped = flip.apply(s.clone(), &mut Rng::new(1)).unwrap();
        for (row, source) in flipped.image.data().chunks(6).zip(s.image.data().chunks(6)) {
            assert!(row.iter().zip(source.iter().rev()).all(|(a, b)| a == b));
        }
        let (was, is) = (&s.masks[&MaskKind::LungImageLeft], &flipped.masks[&MaskKind::LungImageRight]);
        assert!(is.data().chunks(6).zip(was.data().chunks(6)).all(|(a, b)| a.iter().eq(b.iter().rev())));
        let twice = flip.apply(flipped, &mut Rng::new(1)).unwrap();
        assert_eq!(twice, s);
        let half_turn = Augment { flip_horizontal: 1.0, flip_vertical: 1.0, ..Default::default() };
        let turned = half_turn.apply(s.clone(), &mut Rng::new(1)).unwrap();
        assert!(turned.image.data().iter().eq(s.image.data().iter().rev()));
        assert!(turned.masks.contains_key(&MaskKind::LungImageLeft), "a half turn mirrors nothing");
    }

    #[test]
    fn image_and_mask_are_moved_alike() {
        let side = 41;
        let disc: Vec<u8> = (0..side * side)
            .map(|i| {
                let (x, y) = ((i % side) as f32 - 26.0, (i / side) as f32 - 17.0);
                u8::from(x * x + y * y < 64.0)
            })
            .collect();
        let image = disc.iter().map(|v| f32::from(*v)).collect();
        let s = Sample {
            info: SampleInfo::default(),
            image: Image::new(1, side, side, image, Scale::Unit).unwrap(),
            masks: BTreeMap::from([(MaskKind::Lesion, Mask::new(side, side, disc).unwrap())]),
        };
        let augment = Augment {
            flip_horizontal: 0.5,
            flip_vertical: 0.5,
            rotate: 25.0,
            translate: 0.1,
            scale: (0.8, 1.2),
            border: Border::Constant(0.0),
            ..Default::default()
        };
        for seed in 0..20 {
            let out = augment.apply(s.clone(), &mut Rng::new(seed)).unwrap();
            let mask = &out.masks[&MaskKind::Lesion];
            assert!(mask.area() > 80, "seed {seed}: {}", mask.area());
            // The bilinear image passes one half at the edge of the nearest mask, to within a pixel's corner.
            let apart = (out.image.data().iter().zip(mask.data()))
                .filter(|(v, m)| (**v - f32::from(**m)).abs() > 0.75)
                .count();
            assert_eq!(apart, 0, "seed {seed}");
        }
    }

    #[test]
    fn tones_stay_in_range_and_borders_are_as_asked() {
        let tone = Augment { brightness: 0.5, contrast: 0.5, gamma: 1.0, ..Default::default() };
        for seed in 0..20 {
            let (lo, hi) = tone.apply(sample(6, 6), &mut Rng::new(seed)).unwrap().image.extent();
            assert!((0.0..=1.0).contains(&lo) && (0.0..=1.0).contains(&hi), "seed {seed}: {lo} to {hi}");
        }
        let flat = Sample { image: Image::new(1, 9, 9, vec![0.5; 81], Scale::Unit).unwrap(), ..sample(9, 9) };
        let shift = Augment { translate: 0.4, ..Default::default() };
        let edge = shift.apply(flat.clone(), &mut Rng::new(2)).unwrap();
        assert!(edge.image.data().iter().all(|v| (v - 0.5).abs() < 1e-6));
        let dark = Augment { border: Border::Constant(0.0), ..shift };
        assert_eq!(dark.apply(flat, &mut Rng::new(2)).unwrap().image.extent().0, 0.0);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let default = Augment::default();
        let cases = [
            Augment { flip_vertical: 1.5, ..default },
            Augment { rotate: f64::NAN, ..default },
            Augment { scale: (1.2, 0.8), ..default },
            Augment { scale: (0.0, 1.0), ..default },
            Augment { contrast: 1.0, ..default },
            Augment { border: Border::Constant(f32::NAN), ..default },
        ];
        assert!(cases.iter().all(|c| c.validate().is_err()));
        let signed = Sample { image: sample(2, 2).image.to_signed().unwrap(), ..sample(2, 2) };
        assert!(default.apply(signed, &mut Rng::new(0)).is_err());
    }
}
