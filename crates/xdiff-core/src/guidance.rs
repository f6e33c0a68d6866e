//! Wrappers of a network that say how a condition enters.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_nn::Tap;

use crate::{
    Cond, Denoiser, Error, Prediction, Result,
    schedule::{same_shape, weighted_sum},
};

/// How far a prediction is pushed towards its condition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guidance {
    /// g: 1 is the condition alone, above 1 exaggerates it.
    pub scale: f64,
    /// φ in [0, 1]: how far the guided prediction is brought back to the standard deviation of the
    /// conditional one, against images that are too bright.
    pub rescale: f64,
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 7.5, rescale: 0. }
    }
}

impl Guidance {
    /// Checks both numbers.
    ///
    /// # Errors
    /// [`Error::Config`] that names the one that cannot be used.
    pub fn validate(&self) -> Result<()> {
        if !self.scale.is_finite() {
            return Err(Error::config("guidance.scale", format!("is {}; it must be finite", self.scale)));
        }
        if !(0. ..=1.).contains(&self.rescale) {
            let reason = format!("is {}; it must lie in [0, 1]", self.rescale);
            return Err(Error::config("guidance.rescale", reason));
        }
        Ok(())
    }

    /// Classifier-free guidance (Ho and Salimans 2022): out = u + g·(c − u); then, with φ > 0 (Lin
    /// et al. 2023, Sec. 3.4), φ·out·sd(c)/sd(out) + (1−φ)·out, the standard deviations (n − 1) over
    /// all but the batch.
    ///
    /// # Shapes
    /// `uncond` and `cond` (B, …), two elements a sample at least where φ > 0; the result is the
    /// same.
    ///
    /// # Errors
    /// When a number cannot be used or shapes differ.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use xdiff_core::guidance::Guidance;
    ///
    /// let uncond = Tensor::new(&[[0f32, 1.]], &Device::Cpu)?;
    /// let cond = Tensor::new(&[[1f32, 1.]], &Device::Cpu)?;
    /// let out = Guidance { scale: 3., rescale: 0. }.combine(&uncond, &cond)?;
    /// assert_eq!(out.to_vec2::<f32>()?, [[3., 1.]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn combine(&self, uncond: &Tensor, cond: &Tensor) -> Result<Tensor> {
        self.validate()?;
        same_shape(("uncond", uncond), ("cond", cond))?;
        let out = (uncond + ((cond - uncond)? * self.scale)?)?;
        if self.rescale == 0. {
            return Ok(out);
        }
        if out.rank() < 2 {
            let reason =
                format!("has shape {:?}; rescaling needs (B, …) with two elements a sample", out.dims());
            return Err(Error::input("cond", reason));
        }
        let ratio = (deviation(cond)? / deviation(&out)?)?;
        weighted_sum(&[(self.rescale, &out.broadcast_mul(&ratio)?), (1. - self.rescale, &out)])
    }
}

/// The standard deviation (n − 1) of each sample, shaped to broadcast.
fn deviation(x: &Tensor) -> Result<Tensor> {
    let flat = x.flatten_from(1)?;
    let mut shape = vec![1; x.rank()];
    shape[0] = flat.dim(0)?;
    Ok(flat.var_keepdim(1)?.sqrt()?.reshape(shape)?)
}

/// A network under classifier-free guidance.
///
/// The network runs once on a batch of twice the size, the samples without the condition first,
/// and only where the scale is above 1; otherwise it runs on the condition alone. A tap sees the
/// double batch.
#[derive(Clone)]
pub struct Guided<'a> {
    inner: &'a dyn Denoiser,
    uncond: Cond,
    guidance: Guidance,
}

impl std::fmt::Debug for Guided<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guided").field("uncond", &self.uncond).field("guidance", &self.guidance).finish()
    }
}

impl<'a> Guided<'a> {
    /// Guides a network away from `uncond`: the text states of an empty or negative prompt, or the
    /// class that stands for none. Its fields are best for one sample, which then serves any
    /// batch; a field that it lacks, such as a mask, is the condition's own in both halves.
    ///
    /// # Errors
    /// As [`Guidance::validate`].
    pub fn new(inner: &'a dyn Denoiser, uncond: Cond, guidance: Guidance) -> Result<Self> {
        guidance.validate()?;
        Ok(Self { inner, uncond, guidance })
    }
}

impl Denoiser for Guided<'_> {
    fn predict(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, tap: &mut dyn Tap) -> Result<Tensor> {
        if self.guidance.scale <= 1. {
            return self.inner.predict(x_t, t, cond, tap);
        }
        let batch = x_t.dim(0)?;
        let both = cond.after(&self.uncond, batch)?;
        let x = Tensor::cat(&[x_t, x_t], 0)?;
        let out = self.inner.predict(&x, &Tensor::cat(&[t, t], 0)?, &both, tap)?;
        self.guidance.combine(&out.narrow(0, 0, batch)?, &out.narrow(0, batch, batch)?)
    }

    fn prediction(&self) -> Prediction {
        self.inner.prediction()
    }
}

/// A network that is given a clean image, such as a segmentation mask, as further channels (Konz et
/// al. 2024).
///
/// At every step the network sees the noisy image with [`Cond::image`] behind it along the
/// channels. The mask is never noised and never denoised: it is joined anew to each x_t, and the
/// network returns the channels of the image alone.
#[derive(Clone)]
pub struct ConcatConditioned<'a> {
    inner: &'a dyn Denoiser,
}

impl std::fmt::Debug for ConcatConditioned<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConcatConditioned").finish_non_exhaustive()
    }
}

impl<'a> ConcatConditioned<'a> {
    /// Wraps a network whose input has the channels of the image and of the mask.
    pub fn new(inner: &'a dyn Denoiser) -> Self {
        Self { inner }
    }
}

impl Denoiser for ConcatConditioned<'_> {
    fn predict(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, tap: &mut dyn Tap) -> Result<Tensor> {
        let Some(image) = &cond.image else {
            return Err(Error::input("cond.image", "is missing; this network is conditioned on an image"));
        };
        let ([b, _, h, w], [ib, _, ih, iw]) = (x_t.dims(), image.dims()) else {
            let reason =
                format!("has shape {:?} for x_t of {:?}; both are (B, C, H, W)", image.dims(), x_t.dims());
            return Err(Error::input("cond.image", reason));
        };
        if (b, h, w) != (ib, ih, iw) {
            let reason =
                format!("has shape {:?}, which cannot be joined to x_t of {:?}", image.dims(), x_t.dims());
            return Err(Error::input("cond.image", reason));
        }
        let image = image.to_dtype(x_t.dtype())?;
        let rest = Cond { image: None, ..cond.clone() };
        self.inner.predict(&Tensor::cat(&[x_t, &image], 1)?, t, &rest, tap)
    }

    fn prediction(&self) -> Prediction {
        self.inner.prediction()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use candle_core::{DType, Device};

    use super::*;

    /// Returns the first channel plus the class, and remembers the shapes it saw.
    #[derive(Default)]
    struct Probe(RefCell<Vec<Vec<usize>>>);

    impl Denoiser for Probe {
        fn predict(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, _: &mut dyn Tap) -> Result<Tensor> {
            self.0.borrow_mut().push(x_t.dims().to_vec());
            assert_eq!(t.dims(), [x_t.dim(0)?]);
            let x = x_t.narrow(1, 0, 1)?;
            let Some(class) = &cond.class else { return Ok(x) };
            Ok(x.broadcast_add(&class.to_dtype(DType::F32)?.reshape(((), 1, 1, 1))?)?)
        }
    }

    fn input(batch: usize) -> (Tensor, Tensor) {
        let x = Tensor::zeros((batch, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
        (x, Tensor::full(5f32, batch, &Device::Cpu).unwrap())
    }

    fn class(values: &[u32]) -> Cond {
        Cond { class: Some(Tensor::new(values, &Device::Cpu).unwrap()), ..Default::default() }
    }

    fn first_values(x: &Tensor) -> Vec<f32> {
        x.flatten_from(1).unwrap().narrow(1, 0, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_batch_is_doubled_only_above_one() {
        let (x, t) = input(2);
        for (scale, want, batch) in [(1., [3., 5.], 2), (0.5, [3., 5.], 2), (2., [5., 9.], 4)] {
            let probe = Probe::default();
            let guidance = Guidance { scale, rescale: 0. };
            let guided = Guided::new(&probe, class(&[1]), guidance).unwrap();
            let out = guided.predict(&x, &t, &class(&[3, 5]), &mut ()).unwrap();
            assert_eq!(first_values(&out), want, "{scale}");
            assert_eq!(probe.0.borrow()[0][0], batch, "{scale}");
        }
    }

    #[test]
    fn rescaling_brings_the_deviation_back() {
        let mut rng = xdiff_nn::Rng::new(2);
        let uncond = rng.randn((2, 3, 4, 5), &Device::Cpu).unwrap();
        let cond = rng.randn((2, 3, 4, 5), &Device::Cpu).unwrap();
        let out = Guidance { scale: 9., rescale: 1. }.combine(&uncond, &cond).unwrap();
        let (got, want) = (first_values(&deviation(&out).unwrap()), first_values(&deviation(&cond).unwrap()));
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }

    #[test]
    fn bad_numbers_and_shapes_are_errors() {
        let (a, _) = input(1);
        let (b, _) = input(2);
        assert!(Guidance { scale: f64::NAN, rescale: 0. }.combine(&a, &a).is_err());
        assert!(Guidance { scale: 2., rescale: 1.5 }.combine(&a, &a).is_err());
        assert!(Guidance { scale: 2., rescale: 0. }.combine(&a, &b).is_err());
        let scalar = Tensor::new(1f32, &Device::Cpu).unwrap();
        assert!(Guidance { scale: 2., rescale: 0.5 }.combine(&scalar, &scalar).is_err());
    }

    #[test]
    fn the_mask_is_joined_behind_the_image() {
        let (x, t) = input(2);
        let probe = Probe::default();
        let joined = ConcatConditioned::new(&probe);
        let mask = Tensor::ones((2, 3, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let cond = Cond { image: Some(mask.clone()), ..Default::default() };
        let out = joined.predict(&x, &t, &cond, &mut ()).unwrap();
        assert_eq!(first_values(&out), [0., 0.]);
        assert_eq!(probe.0.borrow()[0], [2, 4, 2, 2]);
        let small = Cond { image: Some(mask.narrow(2, 0, 1).unwrap()), ..Default::default() };
        for cond in [Cond::default(), small] {
            let result = joined.predict(&x, &t, &cond, &mut ());
            assert!(matches!(result, Err(Error::Input { what: "cond.image", .. })));
        }
    }
}
