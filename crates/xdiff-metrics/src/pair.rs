//! Metrics over pairs of images: how the pixels are read, and the trait that they share.

use candle_core::{CpuStorage, DType, Device, IndexOp, Storage, Tensor};
use rayon::prelude::*;

use crate::error::FINITE;
use crate::{Error, Result};

/// A number for each pair of images, such as [`Ssim`](crate::Ssim) or [`Psnr`](crate::Psnr).
///
/// [`Running`](crate::Running) gathers the numbers of many batches.
pub trait PairMetric {
    /// The values of a batch, computed in f64 whatever the type of the tensors.
    ///
    /// # Shapes
    /// Two (B, C, H, W) → B numbers.
    ///
    /// # Errors
    /// When shapes differ, a dimension is zero, a pixel is not finite, or an option or a side is
    /// out of the range that the metric states.
    fn values(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>>;

    /// The name with which a number is printed: metric, preset and data range.
    fn name(&self) -> String;
}

/// Finds the first pixel of a plane that a metric is not defined for.
type FirstBad = dyn Fn(&[f64]) -> Option<usize> + Send + Sync;

/// Two batches of images of one shape, read plane by plane.
pub(crate) struct Pair {
    metric: &'static str,
    a: Tensor,
    b: Tensor,
    batch: usize,
    channels: usize,
    height: usize,
    width: usize,
    first_bad: Box<FirstBad>,
    /// What to do about such a pixel.
    hint: &'static str,
}

/// One channel of an image pair and room for what a metric computes on the way.
#[derive(Default)]
struct Scratch<W> {
    a: Vec<f64>,
    b: Vec<f64>,
    work: W,
}

impl Pair {
    /// Takes two tensors (B, C, H, W).
    pub(crate) fn new(metric: &'static str, a: &Tensor, b: &Tensor) -> Result<Self> {
        if a.dims() != b.dims() {
            return Err(Error::Mismatch { metric, a: a.dims().to_vec(), b: b.dims().to_vec() });
        }
        let &[batch, channels, height, width] = a.dims() else {
            return Err(Error::shape(metric, "images (B, C, H, W)", a.dims()));
        };
        if a.elem_count() == 0 {
            return Err(Error::shape(metric, "images (B, C, H, W) without a zero dimension", a.dims()));
        }
        let (a, b) = (a.to_device(&Device::Cpu)?, b.to_device(&Device::Cpu)?);
        let first_bad = Box::new(|plane: &[f64]| plane.iter().position(|v| !v.is_finite()));
        Ok(Self { metric, a, b, batch, channels, height, width, first_bad, hint: FINITE })
    }

    /// Takes two tensors (B, …) of zeros and ones, each mask as one plane.
    pub(crate) fn masks(metric: &'static str, a: &Tensor, b: &Tensor) -> Result<Self> {
        let hint = "masks hold 0 and 1: threshold probabilities, and compare labels one by one";
        Self::flat(metric, a, b, hint, |v| v == 0.0 || v == 1.0)
    }

    /// Takes two tensors (B, …) of class indices, each map as one plane.
    pub(crate) fn labels(metric: &'static str, a: &Tensor, b: &Tensor, classes: usize) -> Result<Self> {
        let hint = "labels are whole numbers from 0 to one less than the number of classes";
        Self::flat(metric, a, b, hint, move |v| v.fract() == 0.0 && (0.0..classes as f64).contains(&v))
    }

    fn flat(
        metric: &'static str,
        a: &Tensor,
        b: &Tensor,
        hint: &'static str,
        good: impl Fn(f64) -> bool + Send + Sync + 'static,
    ) -> Result<Self> {
        if a.dims() != b.dims() {
            return Err(Error::Mismatch { metric, a: a.dims().to_vec(), b: b.dims().to_vec() });
        }
        if a.rank() < 2 {
            return Err(Error::shape(metric, "masks (B, …)", a.dims()));
        }
        let flat = |t: &Tensor| t.flatten_from(1)?.unsqueeze(1)?.unsqueeze(1);
        let pair = Self::new(metric, &flat(a)?, &flat(b)?)?;
        let first_bad = Box::new(move |plane: &[f64]| plane.iter().position(|v| !good(*v)));
        Ok(Self { first_bad, hint, ..pair })
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Maps every plane, in parallel, and gives the results of each image as one slice, in order.
    pub(crate) fn map<W, R>(
        &self,
        plane: impl Fn(&[f64], &[f64], &mut W) -> R + Sync + Send,
        image: impl Fn(&[R]) -> f64,
    ) -> Result<Vec<f64>>
    where
        W: Default,
        R: Send,
    {
        Ok(self.planes(plane)?.chunks(self.channels).map(image).collect())
    }

    /// Maps every plane, in parallel.
    ///
    /// `work` is made once for each run of planes that a thread takes, so a plane allocates nothing.
    pub(crate) fn planes<W, R>(
        &self,
        plane: impl Fn(&[f64], &[f64], &mut W) -> R + Sync + Send,
    ) -> Result<Vec<R>>
    where
        W: Default,
        R: Send,
    {
        let count = self.batch * self.channels;
        (0..count)
            .into_par_iter()
            .with_min_len((count / (4 * rayon::current_num_threads())).max(1))
            .map_init(Scratch::<W>::default, |scratch, i| {
                read_plane(&self.a, i / self.channels, i % self.channels, &mut scratch.a)?;
                read_plane(&self.b, i / self.channels, i % self.channels, &mut scratch.b)?;
                self.check("the first batch", i, &scratch.a)?;
                self.check("the second batch", i, &scratch.b)?;
                Ok(plane(&scratch.a, &scratch.b, &mut scratch.work))
            })
            .collect()
    }

    fn check(&self, what: &'static str, plane: usize, pixels: &[f64]) -> Result<()> {
        match (self.first_bad)(pixels) {
            None => Ok(()),
            Some(at) => Err(Error::Value {
                metric: self.metric,
                what,
                value: pixels[at],
                index: plane * pixels.len() + at,
                hint: self.hint,
            }),
        }
    }
}

/// Copies plane (`b`, `c`) of a host tensor (B, C, H, W) into `out`, in row-major order.
fn read_plane(images: &Tensor, b: usize, c: usize, out: &mut Vec<f64>) -> Result<()> {
    let plane = images.i((b, c))?;
    out.clear();
    {
        let (storage, layout) = plane.storage_and_layout();
        if let (Storage::Cpu(data), Some((from, to))) = (&*storage, layout.contiguous_offsets()) {
            match data {
                CpuStorage::F32(v) => out.extend(v[from..to].iter().map(|x| f64::from(*x))),
                CpuStorage::F64(v) => out.extend_from_slice(&v[from..to]),
                CpuStorage::U8(v) => out.extend(v[from..to].iter().map(|x| f64::from(*x))),
                _ => {}
            }
        }
    }
    if out.is_empty() {
        *out = plane.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    }
    Ok(())
}

/// Fails unless a data range is finite and above zero.
pub(crate) fn check_data_range(data_range: f64) -> Result<()> {
    if data_range.is_finite() && data_range > 0.0 {
        return Ok(());
    }
    Err(Error::config(
        "data_range",
        format!(
            "must be finite and above 0 (1 for images in [0, 1], 2 for [−1, 1], 255 for bytes), \
             got {data_range}"
        ),
    ))
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
