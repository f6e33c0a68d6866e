//! Structural similarity over several scales.

use std::fmt;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Constants, Edge, Planes, Similarity, Work, check_side};
use crate::pair::{Pair, PairMetric, check_data_range, mean};
use crate::{Error, Result};

/// The weights of the five scales, from the finest to the coarsest (Wang, Simoncelli, Bovik 2003).
pub const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// The side of the Gaussian window.
const WINDOW: usize = 11;

/// Half of pytorch-msssim's Gaussian window of σ = 1.5, from its end to its centre. That library
/// makes the window in f32 whatever the type of the images, and it then sums to 1 − 3e-8.
const HALF_WINDOW: [f32; 6] = [0.0010283804, 0.007598758, 0.036000773, 0.10936069, 0.21300553, 0.26601171];

/// Multi-scale SSIM with the five scales and weights of Wang, Simoncelli and Bovik 2003 (Eq. 7):
///
/// MS-SSIM = l₅^w₅ · Π cs_i^w_i, where cs_i is the mean contrast-structure term at scale i under the
/// window of [`SsimPreset::Wang`](super::SsimPreset::Wang) and scale i+1 is the mean over 2×2 pixels
/// of scale i. As in pytorch-msssim an odd side is padded with a zero before the mean, a negative
/// mean counts as zero, the coarsest scale enters as its mean SSIM, and the product is taken for
/// each channel before the mean over channels. The window has that library's f32 values, which
/// move the result by up to 1e-5. The value lies in [0, 1].
///
/// # Shapes
/// (B, C, H, W) twice → B; both sides at least [`MsSsim::MIN_SIDE`]. Smaller images have
/// [`MsSsimReduced`], whose numbers cannot be compared with these.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsSsim {
    /// L, the span of the values that an image can take.
    pub data_range: f64,
}

impl MsSsim {
    /// The shortest side on which the window fits into all five scales.
    pub const MIN_SIDE: usize = min_side(WEIGHTS.len());

    /// # Errors
    /// When the data range is not finite and above zero.
    pub fn new(data_range: f64) -> Result<Self> {
        check_data_range(data_range)?;
        Ok(Self { data_range })
    }
}

impl PairMetric for MsSsim {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        values("MS-SSIM", a, b, self.data_range, &WEIGHTS)
    }

    fn name(&self) -> String {
        format!("MS-SSIM (data range {})", self.data_range)
    }
}

/// [`MsSsim`] with fewer scales, for images whose shorter side is below [`MsSsim::MIN_SIDE`].
///
/// The first `scales` weights are divided by their sum. The number depends on how many scales there
/// are, so it is always given together with them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsSsimReduced {
    /// L, the span of the values that an image can take.
    pub data_range: f64,
    /// How many scales, 1 to 4.
    pub scales: usize,
}

/// What [`MsSsimReduced`] computes, with what a reader must know to compare it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReducedScores {
    /// A number for each image.
    pub values: Vec<f64>,
    /// How many scales there were.
    pub scales: usize,
    /// Their weights, from the finest to the coarsest; they sum to one.
    pub weights: Vec<f64>,
}

impl fmt::Display for ReducedScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MS-SSIM reduced to {} scales, weights {:.4?}: ", self.scales, self.weights)?;
        f.debug_list().entries(&self.values).finish()
    }
}

impl MsSsimReduced {
    /// # Errors
    /// When the data range is not finite and above zero, or there are not 1 to 4 scales.
    pub fn new(data_range: f64, scales: usize) -> Result<Self> {
        let metric = Self { data_range, scales };
        metric.validate()?;
        Ok(metric)
    }

    /// With as many scales as fit into an image, at most 4.
    ///
    /// # Errors
    /// When the data range cannot be used or the shorter side is below 11.
    pub fn for_size(data_range: f64, height: usize, width: usize) -> Result<Self> {
        check_side("reduced MS-SSIM", WINDOW, height, width, "enlarge the images")?;
        let fits = |scales: &usize| min_side(*scales) <= height.min(width);
        let scales = (1..WEIGHTS.len()).rev().find(fits).unwrap_or(1);
        Self::new(data_range, scales)
    }

    /// The weights of the scales, which sum to one.
    ///
    /// # Errors
    /// When an option is out of its range.
    pub fn weights(&self) -> Result<Vec<f64>> {
        self.validate()?;
        let weights = &WEIGHTS[..self.scales];
        let sum: f64 = weights.iter().sum();
        Ok(weights.iter().map(|w| w / sum).collect())
    }

    /// The values of a batch together with the scales and weights.
    ///
    /// # Shapes
    /// (B, C, H, W) twice → B.
    ///
    /// # Errors
    /// Those of [`PairMetric::values`].
    pub fn scores(&self, a: &Tensor, b: &Tensor) -> Result<ReducedScores> {
        let weights = self.weights()?;
        let values = values("reduced MS-SSIM", a, b, self.data_range, &weights)?;
        Ok(ReducedScores { values, scales: self.scales, weights })
    }

    fn validate(&self) -> Result<()> {
        check_data_range(self.data_range)?;
        if (1..WEIGHTS.len()).contains(&self.scales) {
            return Ok(());
        }
        Err(Error::config("scales", format!("must be 1 to 4 (MsSsim has all 5), got {}", self.scales)))
    }
}

impl PairMetric for MsSsimReduced {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        Ok(self.scores(a, b)?.values)
    }

    fn name(&self) -> String {
        format!("MS-SSIM reduced to {} scales (data range {})", self.scales, self.data_range)
    }
}

/// The shortest side on which the window fits into the coarsest of so many scales.
const fn min_side(scales: usize) -> usize {
    (WINDOW - 1) * (1 << (scales - 1)) + 1
}

fn values(
    metric: &'static str,
    a: &Tensor,
    b: &Tensor,
    data_range: f64,
    weights: &[f64],
) -> Result<Vec<f64>> {
    check_data_range(data_range)?;
    let pair = Pair::new(metric, a, b)?;
    let (height, width) = (pair.height(), pair.width());
    let hint = "use MsSsimReduced with fewer scales, or enlarge the images";
    check_side(metric, min_side(weights.len()), height, width, hint)?;
    let constants = Constants::new(data_range, 1.0);
    let taps: [f64; WINDOW] = std::array::from_fn(|t| f64::from(HALF_WINDOW[t.min(WINDOW - 1 - t)]));
    pair.map(
        |a, b, work: &mut Pyramid| {
            work.product(Planes { a, b, height, width }, weights, |planes, work| {
                constants.mean(planes, &taps, Edge::Valid, work)
            })
        },
        mean,
    )
}

/// Buffers of one thread: those of one scale, and the images of this scale and the next.
#[derive(Default)]
struct Pyramid {
    work: Work,
    images: [[Vec<f64>; 2]; 2],
}

impl Pyramid {
    fn product(
        &mut self,
        planes: Planes<'_>,
        weights: &[f64],
        similarity: impl Fn(Planes<'_>, &mut Work) -> Similarity,
    ) -> f64 {
        let Self { work, images: [coarse, next] } = self;
        let coarsest = weights.len() - 1;
        let (mut height, mut width) = (planes.height, planes.width);
        let mut product = 1.0;
        for (scale, weight) in weights.iter().enumerate() {
            let planes = match scale {
                0 => planes,
                _ => Planes { a: &coarse[0], b: &coarse[1], height, width },
            };
            let terms = similarity(planes, work);
            let term = if scale == coarsest { terms.ssim } else { terms.contrast };
            product *= term.max(0.0).powf(*weight);
            if scale < coarsest {
                halve(planes.a, height, width, &mut next[0]);
                halve(planes.b, height, width, &mut next[1]);
                (height, width) = (height.div_ceil(2), width.div_ceil(2));
                std::mem::swap(coarse, next);
            }
        }
        product
    }
}

/// The mean over 2×2 pixels; an odd side gets a line of zeros before its first.
fn halve(plane: &[f64], height: usize, width: usize, out: &mut Vec<f64>) {
    out.clear();
    let pixel = |y: Option<usize>, x: Option<usize>| match (y, x) {
        (Some(y), Some(x)) => plane[y * width + x],
        _ => 0.0,
    };
    for y in 0..height.div_ceil(2) {
        let (top, bottom) = ((2 * y).checked_sub(height % 2), Some(2 * y + 1 - height % 2));
        for x in 0..width.div_ceil(2) {
            let (left, right) = ((2 * x).checked_sub(width % 2), Some(2 * x + 1 - width % 2));
            let sum = pixel(top, left) + pixel(top, right) + pixel(bottom, left) + pixel(bottom, right);
            out.push(0.25 * sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_pads_odd_sides_in_front() {
        let mut out = Vec::new();
        halve(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, &mut out);
        assert_eq!(out, [(1.0 + 4.0) / 4.0, (2.0 + 3.0 + 5.0 + 6.0) / 4.0]);
        halve(&[1.0, 2.0, 3.0], 3, 1, &mut out);
        assert_eq!(out, [0.25, (2.0 + 3.0) / 4.0]);
        halve(&[1.0, 2.0, 3.0, 4.0], 2, 2, &mut out);
        assert_eq!(out, [2.5]);
    }
}
