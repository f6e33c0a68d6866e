//! The region of the body in an image that came without a mask.

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use crate::dataset::{Dataset, Sample, SampleInfo};
use crate::image::Image;
use crate::mask::{Mask, MaskKind};
use crate::{Error, Result};

/// Otsu's threshold (1979): the value that parts a histogram of 256 equal bins from the least to the
/// greatest value into the two classes of greatest between-class variance. The upper edge of the last
/// bin of the lower class; the value itself where all are equal; `None` without a finite value.
///
/// ```
/// let t = xdiff_data::otsu(&[0.0, 0.1, 0.1, 0.9, 1.0]).unwrap();
/// assert!(t > 0.1 && t < 0.9);
/// ```
pub fn otsu(values: &[f32]) -> Option<f32> {
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (lo, hi) = finite().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if lo >= hi {
        return finite().next();
    }
    let (lo, width) = (f64::from(lo), (f64::from(hi) - f64::from(lo)) / 256.0);
    let mut bins = [0f64; 256];
    for v in finite() {
        bins[(((f64::from(v) - lo) / width) as usize).min(255)] += 1.0;
    }
    let total: f64 = bins.iter().sum();
    let sum: f64 = bins.iter().enumerate().map(|(i, n)| i as f64 * n).sum();
    let (mut below, mut sum_below, mut best, mut at) = (0.0, 0.0, -1.0, 0);
    for (i, n) in bins.iter().enumerate() {
        below += n;
        sum_below += i as f64 * n;
        let above = total - below;
        if below == 0.0 || above == 0.0 {
            continue;
        }
        let gap = sum_below / below - (sum - sum_below) / above;
        let variance = below * above * gap * gap;
        if variance > best {
            (best, at) = (variance, i);
        }
    }
    Some((lo + (at + 1) as f64 * width) as f32)
}

/// How the region of the body is found: the image is smoothed, ln(1 + v) of its values is parted by
/// [`otsu`], and of the bright part the largest connected piece is kept, its holes filled.
///
/// The logarithm lets dim fat count as body beside bright gland. It needs a dark background, as in MRI
/// or CT; an image whose air is as bright as its tissue gives a wrong region, and nothing says so: look
/// at the masks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegionConfig {
    /// Side of the mean filter that is run twice, in pixels, odd; 1 for none.
    pub smoothing: usize,
    /// What values are multiplied with before the logarithm: 255 for an image in [0, 1], 1 for bytes.
    pub scale: f32,
}

impl Default for RegionConfig {
    /// A filter of 3 pixels and images in [0, 1].
    fn default() -> Self {
        Self { smoothing: 3, scale: 255.0 }
    }
}

impl RegionConfig {
    /// The default with a filter that suits squares of this side: a 36th of it.
    pub fn for_side(side: usize) -> Self {
        Self { smoothing: (side / 72 * 2 + 1).max(3), ..Self::default() }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// When the filter's side is even, or the scale is not positive.
    pub fn validate(&self) -> Result<()> {
        if self.smoothing.is_multiple_of(2) {
            return Err(Error::argument("smoothing", format!("{} pixels; an odd number", self.smoothing)));
        }
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            return Err(Error::argument("scale", format!("{}; a positive number", self.scale)));
        }
        Ok(())
    }
}

/// The region of the body in the first channel of an image; empty where all values are equal.
///
/// ```
/// use xdiff_data::{Image, RegionConfig, Scale, body_region};
///
/// // A dim disc with a bright core on a dark ground.
/// let value = |i: usize| match (i / 16).abs_diff(8).pow(2) + (i % 16).abs_diff(8).pow(2) {
///     0..4 => 0.9,
///     4..25 => 0.2,
///     _ => 0.01,
/// };
/// let image = Image::new(1, 16, 16, (0..256).map(value).collect(), Scale::Unit)?;
/// let region = body_region(&image, &RegionConfig { smoothing: 1, ..Default::default() })?;
/// assert_eq!(region.area(), (0..256).filter(|i| value(*i) > 0.1).count());
/// # Ok::<(), xdiff_data::Error>(())
/// ```
///
/// # Errors
/// When the configuration is wrong.
pub fn body_region(image: &Image, config: &RegionConfig) -> Result<Mask> {
    config.validate()?;
    let size = (image.height(), image.width());
    let mut plane = image.plane(0).to_vec();
    for _ in 0..2 {
        plane = mean_filter(&plane, size, config.smoothing / 2);
    }
    let logs: Vec<f32> = plane.iter().map(|v| (config.scale * v.max(0.0)).ln_1p()).collect();
    let threshold = otsu(&logs).unwrap_or(f32::INFINITY);
    let bright: Vec<bool> = logs.iter().map(|v| *v > threshold).collect();
    let filled = fill_holes(&largest(&bright, size), size);
    Mask::new(size.0, size.1, filled.into_iter().map(u8::from).collect())
}

/// Means over squares of (2·reach + 1)², fewer pixels at the border.
fn mean_filter(plane: &[f32], (h, w): (usize, usize), reach: usize) -> Vec<f32> {
    // Sums over all that lies above and to the left, with a row and a column of zeros.
    let mut sums = vec![0f64; (h + 1) * (w + 1)];
    for y in 0..h {
        let mut row = 0.0;
        for x in 0..w {
            row += f64::from(plane[y * w + x]);
            sums[(y + 1) * (w + 1) + x + 1] = sums[y * (w + 1) + x + 1] + row;
        }
    }
    let at = |y: usize, x: usize| sums[y * (w + 1) + x];
    let mean = |i: usize| {
        let (y, x) = (i / w, i % w);
        let (top, bottom) = (y.saturating_sub(reach), (y + reach + 1).min(h));
        let (left, right) = (x.saturating_sub(reach), (x + reach + 1).min(w));
        let sum = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left);
        (sum / ((bottom - top) * (right - left)) as f64) as f32
    };
    (0..h * w).map(mean).collect()
}

/// The pieces of a mask that hang together over edges, each by its pixels, in order of their first.
fn pieces(mask: &[bool], (h, w): (usize, usize)) -> Vec<Vec<usize>> {
    let mut seen = vec![false; h * w];
    let mut found = Vec::new();
    for start in 0..h * w {
        if !mask[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let (mut piece, mut next) = (vec![start], 0);
        while next < piece.len() {
            let (y, x) = (piece[next] / w, piece[next] % w);
            next += 1;
            let beside = [
                (y > 0).then(|| (y - 1) * w + x),
                (y + 1 < h).then(|| (y + 1) * w + x),
                (x > 0).then(|| y * w + x - 1),
                (x + 1 < w).then(|| y * w + x + 1),
            ];
            for i in beside.into_iter().flatten() {
                if mask[i] && !seen[i] {
                    seen[i] = true;
                    piece.push(i);
                }
            }
        }
        found.push(piece);
    }
    found
}

/// The largest piece, the first of equals.
fn largest(mask: &[bool], size: (usize, usize)) -> Vec<bool> {
    let mut kept = vec![false; mask.len()];
    let pieces = pieces(mask, size);
    if let Some(most) = pieces.iter().map(Vec::len).max()
        && let Some(piece) = pieces.iter().find(|p| p.len() == most)
    {
        piece.iter().for_each(|i| kept[*i] = true);
    }
    kept
}

/// Fills what does not hang together with the border outside.
fn fill_holes(mask: &[bool], (h, w): (usize, usize)) -> Vec<bool> {
    let outside: Vec<bool> = mask.iter().map(|m| !m).collect();
    let on_border = |i: &usize| i / w == 0 || i / w + 1 == h || i.is_multiple_of(w) || i % w + 1 == w;
    let mut filled = vec![true; mask.len()];
    for piece in pieces(&outside, (h, w)).iter().filter(|p| p.iter().any(on_border)) {
        piece.iter().for_each(|i| filled[*i] = false);
    }
    filled
}

/// A dataset whose samples get the region of the body as a further mask.
#[derive(Clone, Debug)]
pub struct WithRegion<D> {
    inner: D,
    kind: MaskKind,
    config: RegionConfig,
}

impl<D: Dataset> WithRegion<D> {
    /// Adds [`body_region`] as a mask of this kind, in place of one that is there.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(inner: D, kind: MaskKind, config: RegionConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { inner, kind, config })
    }
}

impl<D: Dataset> Dataset for WithRegion<D> {
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
        let mut sample = self.inner.get(index, rng)?;
        let region = body_region(&sample.image, &self.config)?;
        sample.masks.insert(self.kind.clone(), region);
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scale;
    use crate::phantom::{PhantomConfig, PhantomDataset, PhantomKind};

    #[test]
    fn known_thresholds() {
        let table: [(&str, Vec<f32>, Option<f32>); 5] = [
            ("empty", vec![], None),
            ("nothing finite", vec![f32::NAN, f32::INFINITY], None),
            ("one value", vec![0.3, 0.3], Some(0.3)),
            ("two values", vec![0.0, 0.0, 256.0], Some(1.0)),
            ("NaN is left out", vec![0.0, f32::NAN, 256.0], Some(1.0)),
        ];
        let wrong: Vec<_> = table.iter().filter(|(_, values, want)| otsu(values) != *want).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn the_region_of_a_breast_phantom_is_its_body() {
        let config = PhantomConfig { kind: PhantomKind::BreastMri, patients: 12, ..Default::default() };
        let phantoms = PhantomDataset::new(config).unwrap();
        for i in 0..phantoms.len() {
            let phantom = phantoms.phantom(i).unwrap();
            let region = body_region(&phantom.image, &RegionConfig::default()).unwrap();
            let body = &phantom.masks[&MaskKind::Body];
            let both = region.data().iter().zip(body.data()).filter(|(a, b)| **a != 0 && **b != 0).count();
            let dice = 2.0 * both as f64 / (region.area() + body.area()) as f64;
            assert!(dice > 0.9, "phantom {i}: Dice {dice:.3}");
        }
    }

    #[test]
    fn one_piece_without_holes_is_left() {
        let (h, w) = (7, 9);
        let drawn = [
            "#........", //
            ".#####...",
            ".#...#..#",
            ".#.#.#..#",
            ".#...#...",
            ".#####...",
            ".........",
        ];
        let mask: Vec<bool> = drawn.concat().chars().map(|c| c == '#').collect();
        let filled = fill_holes(&largest(&mask, (h, w)), (h, w));
        for (i, inside) in filled.iter().enumerate() {
            assert_eq!(*inside, (1..6).contains(&(i / w)) && (1..6).contains(&(i % w)), "pixel {i}");
        }
        assert_eq!(mean_filter(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (2, 3), 1), [3.0, 3.5, 4.0, 3.0, 3.5, 4.0]);
    }

    #[test]
    fn what_cannot_be_parted_is_empty_and_what_cannot_be_used_is_an_error() {
        let flat = Image::new(1, 4, 4, vec![0.5; 16], Scale::Unit).unwrap();
        assert_eq!(body_region(&flat, &RegionConfig::default()).unwrap().area(), 0);
        for config in [
            RegionConfig { smoothing: 2, ..Default::default() },
            RegionConfig { smoothing: 0, ..Default::default() },
            RegionConfig { scale: f32::NAN, ..Default::default() },
            RegionConfig { scale: 0.0, ..Default::default() },
        ] {
            assert!(matches!(body_region(&flat, &config), Err(Error::Argument { .. })), "{config:?}");
        }
    }
}
