//! Structural similarity, in one scale and in several.

mod multi_scale;
mod window;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_core::Distance;

pub use multi_scale::{MsSsim, MsSsimReduced, ReducedScores, WEIGHTS as MS_SSIM_WEIGHTS};
use window::{Buffers, Edge, Planes, Row, gaussian, scan};

use crate::error::check_finite;
use crate::pair::{Pair, PairMetric, check_data_range, mean};
use crate::{Error, Result};

/// K₁ and K₂ of the paper, with which C₁ = (K₁L)² and C₂ = (K₂L)².
const K: (f64, f64) = (0.01, 0.03);

/// Which published definition of SSIM is computed; their numbers differ in the third digit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SsimPreset {
    /// Wang et al. 2004, and pytorch-msssim and MONAI: an 11×11 Gaussian window of σ = 1.5, only
    /// windows inside the image, population covariance. Sides of at least 11.
    #[default]
    Wang,
    /// `skimage.metrics.structural_similarity` without options: a uniform 7×7 window, covariance
    /// times 49/48, three pixels cropped from each border of the map. Sides of at least 7.
    SkimageDefault,
    /// `torchmetrics.functional.image.structural_similarity_index_measure` without options: the
    /// window of [`Wang`](SsimPreset::Wang) over the image mirrored by 5 pixels without repeating
    /// the outermost, and the mean over the whole map, which version 1.9 does not crop. Sides of at
    /// least 6.
    Torchmetrics,
}

impl SsimPreset {
    /// The name that configuration files use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wang => "wang",
            Self::SkimageDefault => "skimage_default",
            Self::Torchmetrics => "torchmetrics",
        }
    }

    /// The shortest side that an image may have.
    pub fn min_side(self) -> usize {
        match self {
            Self::Wang => 11,
            Self::SkimageDefault => 7,
            Self::Torchmetrics => 6,
        }
    }
}

/// Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004, Eq. 13), averaged over the map and
/// then over the channels:
///
/// SSIM = (2µₐµ_b + C₁)(2σₐ_b + C₂) / ((µₐ² + µ_b² + C₁)(σₐ² + σ_b² + C₂)), C₁ = (0.01·L)²,
/// C₂ = (0.03·L)².
///
/// The value lies in [−1, 1]; it is 1 for identical images, constant ones too. A σₐ² + σ_b² below
/// zero, which only rounding can give, counts as zero. Everything is computed in f64, so f32
/// references differ by their own rounding.
///
/// As a [`Distance`] it gives 1 − SSIM.
///
/// # Shapes
/// (B, C, H, W) twice → B; both sides at least [`SsimPreset::min_side`].
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_metrics::{PairMetric, Ssim, SsimPreset};
///
/// let a = Tensor::arange(0f32, 256.0, &Device::Cpu)?.reshape((1, 1, 16, 16))?;
/// let b = (&a + 20.0)?;
/// let ssim = Ssim::new(SsimPreset::Wang, 255.0)?;
/// let value = ssim.values(&a, &b)?[0];
/// assert!(value > 0.9 && value < 1.0);
/// assert_eq!(ssim.name(), "SSIM (wang, data range 255)");
/// # Ok::<(), xdiff_metrics::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssim {
    /// The definition.
    #[serde(default)]
    pub preset: SsimPreset,
    /// L, the span of the values that an image can take: 1 for [0, 1], 2 for [−1, 1]. It has no
    /// default, because a wrong one gives a number that looks right.
    pub data_range: f64,
}

impl Ssim {
    /// # Errors
    /// When the data range is not finite and above zero.
    pub fn new(preset: SsimPreset, data_range: f64) -> Result<Self> {
        check_data_range(data_range)?;
        Ok(Self { preset, data_range })
    }

    /// The similarity of two planes in row-major order.
    ///
    /// # Errors
    /// When a slice does not have `height`·`width` values, a value is not finite, a side is below
    /// [`SsimPreset::min_side`] or the data range cannot be used.
    pub fn of_plane(&self, a: &[f64], b: &[f64], height: usize, width: usize) -> Result<f64> {
        check_data_range(self.data_range)?;
        check_side("SSIM", self.preset.min_side(), height, width, SMALL)?;
        for slice in [a, b] {
            if Some(slice.len()) != height.checked_mul(width) {
                return Err(Error::shape("SSIM", format!("{height}×{width} values"), &[slice.len()]));
            }
        }
        check_finite("SSIM", "the first plane", a)?;
        check_finite("SSIM", "the second plane", b)?;
        let planes = Planes { a, b, height, width };
        Ok(self.plane(planes, &mut Work::default()).ssim)
    }

    fn plane(&self, planes: Planes<'_>, work: &mut Work) -> Similarity {
        let similarity = |sample| Constants::new(self.data_range, sample);
        match self.preset {
            SsimPreset::Wang => similarity(1.0).mean(planes, &gaussian::<11>(1.5), Edge::Valid, work),
            SsimPreset::SkimageDefault => {
                similarity(49.0 / 48.0).mean(planes, &[1.0 / 7.0; 7], Edge::Valid, work)
            }
            SsimPreset::Torchmetrics => {
                similarity(1.0).mean(planes, &gaussian::<11>(1.5), Edge::Mirror, work)
            }
        }
    }
}

const SMALL: &str = "enlarge the images or use a preset with a smaller window";

impl PairMetric for Ssim {
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        check_data_range(self.data_range)?;
        let pair = Pair::new("SSIM", a, b)?;
        let (height, width) = (pair.height(), pair.width());
        check_side("SSIM", self.preset.min_side(), height, width, SMALL)?;
        pair.map(|a, b, work| self.plane(Planes { a, b, height, width }, work).ssim, mean)
    }

    fn name(&self) -> String {
        format!("SSIM ({}, data range {})", self.preset.name(), self.data_range)
    }
}

impl Distance for Ssim {
    fn distance(&self, a: &Tensor, b: &Tensor) -> xdiff_core::Result<Vec<f64>> {
        Ok(self.values(a, b)?.into_iter().map(|s| 1.0 - s).collect())
    }
}

fn check_side(
    metric: &'static str,
    min: usize,
    height: usize,
    width: usize,
    hint: &'static str,
) -> Result<()> {
    if height.min(width) < min {
        return Err(Error::TooSmall { metric, min, height, width, hint });
    }
    Ok(())
}

/// The means over a map.
#[derive(Clone, Copy, Debug)]
struct Similarity {
    /// Of luminance · contrast · structure.
    ssim: f64,
    /// Of contrast · structure.
    contrast: f64,
}

/// Buffers of one thread.
#[derive(Default)]
struct Work {
    buffers: Buffers,
    /// Column sums of the two maps.
    ssim: Vec<f64>,
    contrast: Vec<f64>,
}

/// C₁, C₂ and the factor from population to sample covariance.
#[derive(Clone, Copy)]
struct Constants {
    c1: f64,
    c2: f64,
    sample: f64,
}

impl Constants {
    fn new(data_range: f64, sample: f64) -> Self {
        Self { c1: (K.0 * data_range).powi(2), c2: (K.1 * data_range).powi(2), sample }
    }

    fn mean<const N: usize>(
        self,
        planes: Planes<'_>,
        taps: &[f64; N],
        edge: Edge,
        work: &mut Work,
    ) -> Similarity {
        let Work { buffers, ssim, contrast } = work;
        ssim.clear();
        contrast.clear();
        let mut count = 0;
        scan(planes, taps, edge, buffers, |row| {
            ssim.resize(row.a.len(), 0.0);
            contrast.resize(row.a.len(), 0.0);
            count += row.a.len();
            self.add_row(row, ssim, contrast);
        });
        let mean = |sums: &[f64]| sums.iter().sum::<f64>() / count as f64;
        Similarity { ssim: mean(ssim), contrast: mean(contrast) }
    }

    /// Adds the two maps of a row to sums by column.
    fn add_row(self, row: Row<'_>, ssim: &mut [f64], contrast: &mut [f64]) {
        let moments = row.a.iter().zip(row.b).zip(row.squares).zip(row.product);
        for ((((mu_a, mu_b), squares), product), (ssim, contrast)) in
            moments.zip(ssim.iter_mut().zip(contrast))
        {
            let (mu_ab, mu_squares) = (mu_a * mu_b, mu_a * mu_a + mu_b * mu_b);
            let variances = self.sample * (squares - mu_squares).max(0.0);
            let covariance = self.sample * (product - mu_ab);
            let cs = (2.0 * covariance + self.c2) / (variances + self.c2);
            *contrast += cs;
            *ssim += cs * (2.0 * mu_ab + self.c1) / (mu_squares + self.c1);
        }
    }
}

#[cfg(test)]
mod tests;
