//! Metrics over seeded images and features.

use candle_core::{Device, Tensor};
use serde::Serialize;
use xdiff::core::Metric as _;
use xdiff::metrics::{FeatureBatch, FeatureMoments, Features, FrechetDistance, PairMetric, Ssim, SsimPreset};
use xdiff::nn::Rng;
use xdiff_examples::AnyError;

use crate::workload::{Prepared, Runner, timed};

/// Images that are held at once; the others are compared again, so that memory is bounded.
const HELD: usize = 20;

/// A metric, and what it is computed over.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "metric")]
pub enum Metric {
    /// The structural similarity of pairs of grey images.
    Ssim {
        /// Its definition.
        preset: SsimPreset,
        /// How many pairs.
        images: usize,
        /// The side of an image.
        size: usize,
    },
    /// The Fréchet distance between two sets of feature vectors, from their moments: what remains when
    /// the images have passed.
    Frechet {
        /// Vectors in each set.
        vectors: usize,
        /// The length of a vector.
        dim: usize,
    },
    /// Gathering the mean and covariance of feature vectors.
    Moments {
        /// How many vectors.
        vectors: usize,
        /// The length of a vector.
        dim: usize,
    },
}

impl Metric {
    /// The name of the workload.
    pub(crate) fn name(self) -> String {
        match self {
            Metric::Ssim { preset, images, size } => {
                let preset = match preset {
                    SsimPreset::Wang => "wang",
                    SsimPreset::SkimageDefault => "skimage_default",
                    SsimPreset::Torchmetrics => "torchmetrics",
                };
                format!("ssim/{preset}/{images}x{size}²")
            }
            Metric::Frechet { vectors, dim } => format!("frechet/{vectors}x{dim}"),
            Metric::Moments { vectors, dim } => format!("moments/{vectors}x{dim}"),
        }
    }

    /// Floating-point operations that the definition asks for; 0 where memory is the limit.
    pub(crate) fn flops(self) -> u64 {
        match self {
            Metric::Ssim { .. } => 0,
            // Two symmetric eigenproblems and two products, each about 4/3 d³ and 2 d³.
            Metric::Frechet { dim, .. } => 20 * (dim as u64).pow(3) / 3,
            Metric::Moments { vectors, dim } => 2 * vectors as u64 * (dim as u64).pow(2),
        }
    }

    /// Bytes that go through memory at least.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Metric::Ssim { images, size, .. } => 2 * 4 * (images * size * size) as u64,
            Metric::Frechet { dim, .. } => 2 * 8 * (dim * dim) as u64,
            Metric::Moments { vectors, dim } => 8 * (vectors * dim) as u64,
        }
    }

    /// Draws its inputs.
    ///
    /// # Errors
    /// When the memory does not suffice.
    pub(crate) fn prepare(self) -> Result<Prepared, AnyError> {
        let run = match self {
            Metric::Ssim { preset, images, size } => ssim(preset, images, size)?,
            Metric::Frechet { vectors, dim } => {
                let mut distance = FrechetDistance::new(dim, "drawn")?;
                let mut rng = Rng::new(3);
                for _ in 0..vectors.div_ceil(dim) {
                    distance.update(FeatureBatch::Reference(&features(dim, dim, &mut rng)?))?;
                    distance.update(FeatureBatch::Generated(&features(dim, dim, &mut rng)?))?;
                }
                let run: Runner = Box::new(move || timed(|| Ok(distance.compute()?)));
                run
            }
            Metric::Moments { vectors, dim } => {
                let features = features(vectors, dim, &mut Rng::new(3))?;
                let run: Runner = Box::new(move || {
                    timed(|| {
                        let mut moments = FeatureMoments::new(dim, "drawn")?;
                        moments.push(&features)?;
                        Ok(moments.mean_and_covariance()?)
                    })
                });
                run
            }
        };
        Ok(Prepared { run, parameters: 0 })
    }
}

fn ssim(preset: SsimPreset, images: usize, size: usize) -> Result<Runner, AnyError> {
    let mut rng = Rng::new(3);
    let count = images.min(HELD);
    let values: Vec<f32> = (0..count * size * size).map(|_| rng.uniform() as f32).collect();
    let noise: Vec<f32> = values.iter().map(|v| (v + 0.1 * rng.normal() as f32).clamp(0.0, 1.0)).collect();
    let tensor = |values| Tensor::from_vec(values, (count, 1, size, size), &Device::Cpu);
    let (a, b, ssim) = (tensor(values)?, tensor(noise)?, Ssim::new(preset, 1.0)?);
    Ok(Box::new(move || {
        timed(|| {
            let mut sum = 0.0;
            for first in (0..images).step_by(count) {
                let now = count.min(images - first);
                sum += ssim.values(&a.narrow(0, 0, now)?, &b.narrow(0, 0, now)?)?.iter().sum::<f64>();
            }
            Ok(sum / images as f64)
        })
    }))
}

/// Normal vectors, so many of such a length.
fn features(count: usize, dim: usize, rng: &mut Rng) -> Result<Features, AnyError> {
    Ok(Features::new((0..count * dim).map(|_| rng.normal()).collect(), dim, "drawn")?)
}
