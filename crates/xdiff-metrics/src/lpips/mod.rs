//! Learned perceptual image patch similarity.

mod heads;
mod net;
mod stages;

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use xdiff_core::{Distance, FeatureExtractor, PixelRange};
use xdiff_nn::layers::upsample_bilinear2d;

pub use heads::LpipsHeads;
pub use net::LpipsNet;
use stages::Stages;

use crate::pair::PairMetric;
use crate::{Error, Result};

const METRIC: &str = "LPIPS";

/// What the authors subtract from images in [−1, 1], and divide them by.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// What is added to the length of a feature vector.
const EPS: f64 = 1e-10;

/// What is added to its square, so that the gradient of the root stays finite where every feature
/// is 0, as after a ReLU. PyTorch's is NaN there.
const TINY: f64 = 1e-30;

/// Image pairs that go through the network at a time where no gradient is asked for.
const PAIRS: usize = 8;

/// Learned perceptual image patch similarity, version 0.1 (Zhang, Isola, Efros, Shechtman, Wang
/// 2018, Eq. 1):
///
/// d(a, b) = Σ_l 1/(H_l·W_l) · Σ_hw Σ_c w_lc · (â_lchw − b̂_lchw)²,
///
/// where a_l are the activations of one module of a network that was trained on ImageNet, over all
/// modules of [`LpipsNet::sites`], and â = a/(‖a‖ + 1e-10) has unit length along the channels. Images
/// in [−1, 1] are first shifted and scaled per channel, as the network asks for; those in \[0, 1\]
/// are brought to [−1, 1]; a single channel is repeated. It is zero for equal images, and the
/// larger the less alike they look.
///
/// The network comes from outside: any [`FeatureExtractor`] that offers the module outputs under
/// torchvision's names to its tap and takes images as they leave the scaling. The run ends at the
/// last module that is needed. Only with the ImageNet weights and the published heads the number is
/// called LPIPS; see [`name`](PairMetric::name).
///
/// # Shapes
/// (B, 1 or 3, H, W) twice → B; both sides at least [`LpipsNet::min_side`], and as much as the
/// extractor asks for.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::{FeatureExtractor, PixelRange};
/// use xdiff_metrics::{Lpips, LpipsHeads, LpipsNet, PairMetric};
/// # use xdiff_nn::{Rng, Tap, layers::conv2d, tap::visit};
/// # struct AlexNet;
/// # impl FeatureExtractor for AlexNet {
/// #     fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
/// #         let mut x = images.clone();
/// #         for (site, channels) in LpipsNet::Alex.sites() {
/// #             let weight = Rng::new(1).randn((*channels, x.dim(1)?, 1, 1), x.device())?;
/// #             x = visit(tap, site, conv2d(&x, &weight, None, &Default::default())?)?;
/// #         }
/// #         Ok(x)
/// #     }
/// #     fn identity(&self) -> String {
/// #         "alexnet (random, seed 1)".into()
/// #     }
/// # }
/// # fn heads() -> xdiff_metrics::Result<LpipsHeads> {
/// #     let ones = |c| Tensor::ones((1, c, 1, 1), DType::F32, &Device::Cpu);
/// #     let weights = LpipsNet::Alex.sites().iter().map(|(_, c)| Ok(ones(*c)?));
/// #     LpipsHeads::new(LpipsNet::Alex, weights.collect::<xdiff_metrics::Result<_>>()?)
/// # }
///
/// // The heads of `LpipsHeads::load(LpipsNet::Alex, "alex.pth")?`, a network of xdiff-vision.
/// let lpips = Lpips::new(AlexNet, heads()?, PixelRange::Unit);
/// let a = Tensor::full(0.25f32, (2, 1, 32, 32), &Device::Cpu)?;
/// let b = (&a * 2.0)?;
/// assert_eq!(lpips.values(&a, &a)?, [0.0, 0.0]);
/// assert!(lpips.values(&a, &b)?[0] > 0.0);
/// assert_eq!(lpips.name(), "LPIPS-form distance (alex, other heads; alexnet (random, seed 1))");
/// let bytes = (&a * 255.0)?;
/// assert!(lpips.values(&a, &bytes).unwrap_err().to_string().contains("divide by 255"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Lpips {
    extractor: Arc<dyn FeatureExtractor + Send + Sync>,
    heads: LpipsHeads,
    range: PixelRange,
}

impl fmt::Debug for Lpips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lpips")
            .field("extractor", &self.extractor.identity())
            .field("net", &self.heads.net())
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Two are equal when they give the same numbers: the extractor's identity, heads and range agree.
impl PartialEq for Lpips {
    fn eq(&self, other: &Self) -> bool {
        self.range == other.range
            && self.extractor.identity() == other.extractor.identity()
            && self.heads.same(&other.heads).unwrap_or(false)
    }
}

impl Lpips {
    /// `extractor` is the network that `heads` belong to, `range` the span of the images' values.
    pub fn new(
        extractor: impl FeatureExtractor + Send + Sync + 'static,
        heads: LpipsHeads,
        range: PixelRange,
    ) -> Self {
        Self { extractor: Arc::new(extractor), heads, range }
    }

    /// The network's name in the authors' package.
    pub fn net(&self) -> LpipsNet {
        self.heads.net()
    }

    /// The distances (B), through which gradients flow to both batches of images.
    ///
    /// An image that is being optimised may leave its range a little, so the range is not checked
    /// here.
    ///
    /// # Shapes
    /// (B, 1 or 3, H, W) twice → (B).
    ///
    /// # Errors
    /// Those of [`values`](PairMetric::values), but for the range.
    pub fn loss(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.check_shapes(a, b)?;
        let mut sum: Option<Tensor> = None;
        for map in self.stage_maps(a, b)? {
            let mean = map.flatten_from(1)?.mean(1)?;
            sum = Some(match sum {
                Some(sum) => (sum + mean)?,
                None => mean,
            });
        }
        sum.ok_or_else(no_stage)
    }

    /// Where two images differ: the sum over the modules of Σ_c w_lc·(â − b̂)², each map enlarged
    /// bilinearly to the size of the images. Gradients flow through it.
    ///
    /// # Shapes
    /// (B, 1 or 3, H, W) twice → (B, 1, H, W).
    ///
    /// # Errors
    /// Those of [`values`](PairMetric::values).
    pub fn spatial(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.check(a, b)?;
        let size = (a.dim(2)?, a.dim(3)?);
        let mut sum: Option<Tensor> = None;
        for map in self.stage_maps(a, b)? {
            let map = upsample_bilinear2d(&map, size, false)?;
            sum = Some(match sum {
                Some(sum) => (sum + map)?,
                None => map,
            });
        }
        sum.ok_or_else(no_stage)
    }

    /// Σ_c w_lc·(â − b̂)² of each module, (B, 1, h, w).
    fn stage_maps(&self, a: &Tensor, b: &Tensor) -> Result<Vec<Tensor>> {
        let batch = a.dim(0)?;
        let images = self.prepare(&Tensor::cat(&[a, b], 0)?)?;
        let sites = self.net().sites();
        let features = Stages::new(sites).run(self.extractor.as_ref(), &images)?;
        let mut maps = Vec::with_capacity(sites.len());
        for (feature, weight) in features.iter().zip(self.heads.weights()) {
            let length = feature.sqr()?.sum_keepdim(1)?.affine(1.0, TINY)?.sqrt()?;
            let unit = feature.broadcast_div(&length.affine(1.0, EPS)?)?;
            let squares = (unit.narrow(0, 0, batch)? - unit.narrow(0, batch, batch)?)?.sqr()?;
            let weight = weight.to_device(feature.device())?;
            maps.push(squares.broadcast_mul(&weight)?.sum_keepdim(1)?);
        }
        Ok(maps)
    }

    /// Images as the network takes them.
    fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let signed = self.range.convert(&images.to_dtype(DType::F32)?, PixelRange::Signed)?;
        let colour = if signed.dim(1)? == 1 { signed.repeat((1, 3, 1, 1))? } else { signed };
        let by_channel = |values| Tensor::new(values, images.device())?.reshape((1, 3, 1, 1));
        Ok(colour.broadcast_sub(&by_channel(&SHIFT)?)?.broadcast_div(&by_channel(&SCALE)?)?)
    }

    fn check(&self, a: &Tensor, b: &Tensor) -> Result<()> {
        self.check_shapes(a, b)?;
        self.range.check("the first batch of LPIPS", a)?;
        Ok(self.range.check("the second batch of LPIPS", b)?)
    }

    fn check_shapes(&self, a: &Tensor, b: &Tensor) -> Result<()> {
        if a.dims() != b.dims() {
            return Err(Error::Mismatch { metric: METRIC, a: a.dims().to_vec(), b: b.dims().to_vec() });
        }
        let &[batch, 1 | 3, height, width] = a.dims() else {
            return Err(Error::shape(METRIC, "images (B, C, H, W) with 1 or 3 channels", a.dims()));
        };
        if batch == 0 {
            return Err(Error::shape(METRIC, "at least one image", a.dims()));
        }
        let min = self.net().min_side();
        if height.min(width) < min {
            let hint = "enlarge the images, or use a network with a smaller least side (vgg: 16)";
            return Err(Error::TooSmall { metric: METRIC, min, height, width, hint });
        }
        Ok(())
    }
}

fn no_stage() -> Error {
    Error::Undefined { metric: METRIC, reason: "the network has no module to compare" }
}

impl PairMetric for Lpips {
    /// The distances.
    ///
    /// # Errors
    /// When shapes differ, there are not 1 or 3 channels, a side is too short, a value is not finite
    /// or lies outside the stated range, or the extractor refuses the images, does not offer a
    /// module of [`LpipsNet::sites`] or has other channels there.
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        self.check(a, b)?;
        let (a, b) = (a.detach(), b.detach());
        let batch = a.dim(0)?;
        let mut values = Vec::with_capacity(batch);
        for from in (0..batch).step_by(PAIRS) {
            let n = PAIRS.min(batch - from);
            let mut sums = vec![0.0; n];
            for map in self.stage_maps(&a.narrow(0, from, n)?, &b.narrow(0, from, n)?)? {
                let map = map.flatten_from(1)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
                let means = map.mean(1)?.to_vec1::<f64>()?;
                sums.iter_mut().zip(means).for_each(|(sum, mean)| *sum += mean);
            }
            values.append(&mut sums);
        }
        Ok(values)
    }

    /// `LPIPS v0.1 (alex; …)` when the extractor says that it is the network with torchvision's
    /// ImageNet weights ([`LpipsNet::is_imagenet`]) and the heads are the published ones
    /// ([`LpipsHeads::are_published`]); `LPIPS-form distance (…)` otherwise.
    fn name(&self) -> String {
        let (net, identity) = (self.net(), self.extractor.identity());
        if net.is_imagenet(&identity) && self.heads.are_published() {
            format!("LPIPS v0.1 ({net}; {identity})")
        } else {
            let heads = if self.heads.are_published() { "published" } else { "other" };
            format!("LPIPS-form distance ({net}, {heads} heads; {identity})")
        }
    }
}

impl Distance for Lpips {
    fn distance(&self, a: &Tensor, b: &Tensor) -> xdiff_core::Result<Vec<f64>> {
        Ok(self.values(a, b)?)
    }
}

#[cfg(test)]
mod tests;
