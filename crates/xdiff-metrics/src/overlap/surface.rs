//! Distances between the surfaces of two masks.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::distance_transform::squared_distances;
use crate::interval::percentile_of_sorted;
use crate::pair::{Pair, PairMetric, mean};
use crate::{Error, Result};

/// How the distances of the two directions become one number, on which libraries disagree.
///
/// The surface of a mask is, in both, its voxels with a neighbour across a face that is background or
/// lies outside of the image. The distances of the surface voxels of each mask to the nearest surface
/// voxel of the other make two lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SurfacePreset {
    /// As MONAI, and as Maier-Hein, Reinke et al. (Metrics Reloaded, 2024) define HD95: the
    /// percentile of each list, then the larger; the average is over both lists joined.
    #[default]
    Monai,
    /// As medpy: the percentile of both lists joined; the average is the mean of the two means.
    Medpy,
}

/// What a surface distance is when a mask is empty and so has no surface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptySurface {
    /// Two empty masks agree: distance 0, overlap 1. One alone is as wrong as can be: distance +∞,
    /// overlap 0. [`Running`](crate::Running) counts the infinite ones apart.
    #[default]
    Extremes,
    /// NaN as soon as one of the two is empty: the pair is left out of a mean.
    Nan,
}

/// The Hausdorff distance between the surfaces of two masks, in the unit of the spacing: how far the
/// worst surface voxel lies from the other surface, or a percentile of those distances (HD95).
///
/// # Shapes
/// (B, …) twice → B, with one spatial dimension for each entry of `spacing`: (B, H, W) with two,
/// (B, D, H, W) with three.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_metrics::{Hausdorff, PairMetric};
///
/// let a = Tensor::new(&[[[1u8, 0, 0, 0], [0, 0, 0, 0]]], &Device::Cpu)?;
/// let b = Tensor::new(&[[[0u8, 0, 0, 0], [0, 0, 0, 1]]], &Device::Cpu)?;
/// // One row of 4 mm and three columns of 1 mm apart.
/// assert_eq!(Hausdorff::new([4.0, 1.0])?.values(&a, &b)?, [5.0]);
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hausdorff {
    /// The distance between voxels along each spatial dimension, usually in mm.
    pub spacing: Vec<f64>,
    /// The percentile of the distances, above 0 and up to 100 (the largest), interpolated between
    /// its neighbours as NumPy does.
    pub percentile: f64,
    /// How the two directions become one number; without effect at percentile 100.
    pub preset: SurfacePreset,
    /// The value when a mask is empty.
    pub empty: EmptySurface,
}

/// The average symmetric surface distance (ASSD) of two masks, in the unit of the spacing.
///
/// # Shapes
/// As [`Hausdorff`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageSurfaceDistance {
    /// The distance between voxels along each spatial dimension, usually in mm.
    pub spacing: Vec<f64>,
    /// How the two directions become one number.
    pub preset: SurfacePreset,
    /// The value when a mask is empty.
    pub empty: EmptySurface,
}

/// The share of surface voxels of both masks that lie within a tolerance of the other surface (the
/// normalised surface distance of Nikolov et al. 2018, counted in voxels as MONAI does, not weighted
/// by the area of surface elements).
///
/// # Shapes
/// As [`Hausdorff`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurfaceDice {
    /// The distance between voxels along each spatial dimension, usually in mm.
    pub spacing: Vec<f64>,
    /// The largest distance that counts as agreement, in the unit of the spacing.
    pub tolerance: f64,
    /// The value when a mask is empty.
    pub empty: EmptySurface,
}

impl Hausdorff {
    /// The largest distance.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate).
    pub fn new(spacing: impl Into<Vec<f64>>) -> Result<Self> {
        Self::of_percentile(spacing.into(), 100.0)
    }

    /// The 95th percentile, HD95.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate).
    pub fn hd95(spacing: impl Into<Vec<f64>>) -> Result<Self> {
        Self::of_percentile(spacing.into(), 95.0)
    }

    fn of_percentile(spacing: Vec<f64>, percentile: f64) -> Result<Self> {
        let (preset, empty) = (SurfacePreset::default(), EmptySurface::default());
        let metric = Self { spacing, percentile, preset, empty };
        metric.validate()?;
        Ok(metric)
    }

    /// # Errors
    /// When a spacing is not finite and above 0, there is none, or the percentile is not above 0 and
    /// up to 100.
    pub fn validate(&self) -> Result<()> {
        check_spacing(&self.spacing)?;
        if self.percentile > 0.0 && self.percentile <= 100.0 {
            return Ok(());
        }
        Err(Error::config("percentile", format!("must be above 0 and up to 100, got {}", self.percentile)))
    }
}

impl AverageSurfaceDistance {
    /// With the presets of [`SurfacePreset::Monai`] and [`EmptySurface::Extremes`].
    ///
    /// # Errors
    /// When a spacing is not finite and above 0, or there is none.
    pub fn new(spacing: impl Into<Vec<f64>>) -> Result<Self> {
        let spacing = spacing.into();
        check_spacing(&spacing)?;
        Ok(Self { spacing, preset: SurfacePreset::default(), empty: EmptySurface::default() })
    }
}

impl SurfaceDice {
    /// # Errors
    /// Those of [`validate`](Self::validate).
    pub fn new(spacing: impl Into<Vec<f64>>, tolerance: f64) -> Result<Self> {
        let metric = Self { spacing: spacing.into(), tolerance, empty: EmptySurface::default() };
        metric.validate()?;
        Ok(metric)
    }

    /// # Errors
    /// When a spacing is not finite and above 0, there is none, or the tolerance is below 0 or not
    /// finite.
    pub fn validate(&self) -> Result<()> {
        check_spacing(&self.spacing)?;
        if self.tolerance >= 0.0 && self.tolerance.is_finite() {
            return Ok(());
        }
        Err(Error::config("tolerance", format!("must be finite and 0 or above, got {}", self.tolerance)))
    }
}

impl PairMetric for Hausdorff {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        self.validate()?;
        let distance = |s: Surfaces| {
            let of = |list: &mut Vec<f64>| {
                list.sort_by(f64::total_cmp);
                percentile_of_sorted(list, self.percentile / 100.0)
            };
            let [mut forward, mut backward] = s.distances;
            match self.preset {
                SurfacePreset::Monai => of(&mut forward).max(of(&mut backward)),
                SurfacePreset::Medpy => {
                    forward.append(&mut backward);
                    of(&mut forward)
                }
            }
        };
        compare("Hausdorff distance", a, b, &self.spacing, self.empty.distances(), distance)
    }

    fn name(&self) -> String {
        let metric = match self.percentile {
            100.0 => "Hausdorff distance".to_owned(),
            p => format!("Hausdorff distance, {p}th percentile, {}", self.preset.name()),
        };
        format!("{metric} (spacing {:?}; {})", self.spacing, self.empty.name())
    }
}

impl PairMetric for AverageSurfaceDistance {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        let distance = |Surfaces { distances: [forward, backward] }: Surfaces| match self.preset {
            SurfacePreset::Medpy => 0.5 * (mean(&forward) + mean(&backward)),
            SurfacePreset::Monai => {
                let sum: f64 = forward.iter().chain(&backward).sum();
                sum / (forward.len() + backward.len()) as f64
            }
        };
        compare("average surface distance", a, b, &self.spacing, self.empty.distances(), distance)
    }

    fn name(&self) -> String {
        let (preset, empty) = (self.preset.name(), self.empty.name());
        format!("Average symmetric surface distance, {preset} (spacing {:?}; {empty})", self.spacing)
    }
}

impl PairMetric for SurfaceDice {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        self.validate()?;
        let share = |Surfaces { distances: [forward, backward] }: Surfaces| {
            let near = forward.iter().chain(&backward).filter(|d| **d <= self.tolerance).count();
            near as f64 / (forward.len() + backward.len()) as f64
        };
        compare("surface Dice", a, b, &self.spacing, self.empty.shares(), share)
    }

    fn name(&self) -> String {
        let (tolerance, empty) = (self.tolerance, self.empty.name());
        format!("Surface Dice within {tolerance} (spacing {:?}; {empty})", self.spacing)
    }
}

impl SurfacePreset {
    fn name(self) -> &'static str {
        match self {
            SurfacePreset::Monai => "preset monai",
            SurfacePreset::Medpy => "preset medpy",
        }
    }
}

impl EmptySurface {
    fn name(self) -> &'static str {
        match self {
            EmptySurface::Extremes => "empty masks: extremes",
            EmptySurface::Nan => "empty masks: NaN",
        }
    }

    /// The distance of two empty masks, and of an empty mask from another.
    fn distances(self) -> [f64; 2] {
        match self {
            EmptySurface::Extremes => [0.0, f64::INFINITY],
            EmptySurface::Nan => [f64::NAN; 2],
        }
    }

    /// The same for a share of agreement.
    fn shares(self) -> [f64; 2] {
        match self {
            EmptySurface::Extremes => [1.0, 0.0],
            EmptySurface::Nan => [f64::NAN; 2],
        }
    }
}

/// The distances of each surface voxel to the other surface: first to second, second to first. No
/// list is empty.
struct Surfaces {
    distances: [Vec<f64>; 2],
}

/// Where both masks lie, and the voxels of that box.
struct Cropped {
    shape: Vec<usize>,
    masks: [Vec<bool>; 2],
}

fn check_spacing(spacing: &[f64]) -> Result<()> {
    if spacing.is_empty() {
        return Err(Error::config("spacing", "needs one distance for each spatial dimension"));
    }
    match spacing.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        None => Ok(()),
        Some(bad) => Err(Error::config("spacing", format!("must be finite and above 0, got {bad}"))),
    }
}

/// Compares each pair of masks: `[both, one]` are the values when both or one of them are empty.
fn compare(
    metric: &'static str,
    a: &Tensor,
    b: &Tensor,
    spacing: &[f64],
    [both, one]: [f64; 2],
    value: impl Fn(Surfaces) -> f64 + Send + Sync,
) -> Result<Vec<f64>> {
    check_spacing(spacing)?;
    let shape = match a.dims() {
        [_, shape @ ..] if shape.len() == spacing.len() => shape,
        dims => {
            let n = spacing.len();
            let expected = format!("masks (B, …) with {n} spatial dimensions, one for each spacing");
            return Err(Error::shape(metric, expected, dims));
        }
    };
    Pair::masks(metric, a, b)?.planes(|a, b, _: &mut ()| {
        let empty = |mask: &[f64]| mask.iter().all(|v| *v == 0.0);
        match (empty(a), empty(b)) {
            (true, true) => both,
            (false, false) => value(surfaces(a, b, shape, spacing)),
            _ => one,
        }
    })
}

fn surfaces(a: &[f64], b: &[f64], shape: &[usize], spacing: &[f64]) -> Surfaces {
    let Cropped { shape, masks } = crop(a, b, shape);
    let borders = masks.map(|mask| border(&mask, &shape));
    let squared = |from: &[bool], to: &[bool]| {
        let field = squared_distances(to, &shape, spacing);
        from.iter().zip(field).filter(|(on, _)| **on).map(|(_, d)| d.sqrt()).collect()
    };
    Surfaces { distances: [squared(&borders[0], &borders[1]), squared(&borders[1], &borders[0])] }
}

/// Cuts both masks to the smallest box that holds both, which changes no distance: what lies outside
/// is background or outside of the image.
fn crop(a: &[f64], b: &[f64], shape: &[usize]) -> Cropped {
    let (mut low, mut high) = (shape.to_vec(), vec![0; shape.len()]);
    let mut at = vec![0; shape.len()];
    for (a, b) in a.iter().zip(b) {
        if *a == 1.0 || *b == 1.0 {
            for axis in 0..shape.len() {
                low[axis] = low[axis].min(at[axis]);
                high[axis] = high[axis].max(at[axis] + 1);
            }
        }
        advance(&mut at, shape);
    }
    let mut masks = [Vec::new(), Vec::new()];
    for (a, b) in a.iter().zip(b) {
        if at.iter().zip(low.iter().zip(&high)).all(|(at, (low, high))| (low..high).contains(&at)) {
            masks[0].push(*a == 1.0);
            masks[1].push(*b == 1.0);
        }
        advance(&mut at, shape);
    }
    Cropped { shape: high.iter().zip(&low).map(|(high, low)| high - low).collect(), masks }
}

/// The next place in row-major order, and the first after the last.
fn advance(at: &mut [usize], shape: &[usize]) {
    for (at, length) in at.iter_mut().zip(shape).rev() {
        *at += 1;
        if *at < *length {
            return;
        }
        *at = 0;
    }
}

/// The voxels of a mask of which a neighbour across a face is background or outside.
fn border(mask: &[bool], shape: &[usize]) -> Vec<bool> {
    let mut border = vec![false; mask.len()];
    let mut stride = mask.len();
    for length in shape {
        stride /= length;
        for (i, on) in mask.iter().enumerate().filter(|(_, on)| **on) {
            let at = i / stride % length;
            border[i] |= *on && (at == 0 || at + 1 == *length || !mask[i - stride] || !mask[i + stride]);
        }
    }
    border
}

#[cfg(test)]
mod tests;
