//! Pooling over windows, as PyTorch computes it.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::conv::count;
use super::empty::empty;
use super::resample::{AxisMap, collect, image, resample};
use crate::compute::use_kernel;
use crate::kernels::pool::{self as kernel, Even, Windows};
use crate::kernels::slices::{contiguous, tensor, with_slices};
use crate::{Error, Result};

/// The windows of a pooling operation. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2d {
    /// Size of a window.
    pub kernel: (usize, usize),
    /// Steps between neighbouring windows.
    pub stride: (usize, usize),
    /// How far the first windows reach over the edge; at most half a window. Maxima ignore what
    /// lies there, averages count it as zeros if [`count_include_pad`](Self::count_include_pad).
    pub padding: (usize, usize),
    /// Whether a last window that reaches beyond the padded image counts.
    pub ceil_mode: bool,
    /// Whether an average divides by the padded positions too.
    pub count_include_pad: bool,
}

impl Pool2d {
    /// Square windows without padding; the other settings are PyTorch's defaults.
    pub const fn new(kernel: usize, stride: usize) -> Self {
        Self {
            kernel: (kernel, kernel),
            stride: (stride, stride),
            padding: (0, 0),
            ceil_mode: false,
            count_include_pad: true,
        }
    }

    /// Checks that windows and steps are positive and the padding is at most half a window.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (what, size) in [("pooling kernel", self.kernel), ("pooling stride", self.stride)] {
            if size.0 == 0 || size.1 == 0 {
                return Err(Error::argument(what, format!("must be at least (1, 1), got {size:?}")));
            }
        }
        if self.padding.0 > self.kernel.0 / 2 || self.padding.1 > self.kernel.1 / 2 {
            return Err(Error::argument(
                "pooling padding",
                format!("must be at most half of the kernel {:?}, got {:?}", self.kernel, self.padding),
            ));
        }
        Ok(())
    }

    /// The windows along both axes of `x`.
    fn windows(&self, op: &'static str, x: &Tensor) -> Result<(Vec<Window>, Vec<Window>)> {
        self.validate()?;
        let (b, c, h, w) = image(op, x)?;
        let outputs = |size, kernel, stride, padding| {
            outputs(size, kernel, stride, padding, self.ceil_mode).ok_or_else(|| {
                Error::shape(
                    op,
                    format!(
                        "an image that, padded by {:?}, holds a window of {:?}",
                        self.padding, self.kernel
                    ),
                    x.dims(),
                )
            })
        };
        let oh = outputs(h, self.kernel.0, self.stride.0, self.padding.0)?;
        let ow = outputs(w, self.kernel.1, self.stride.1, self.padding.1)?;
        count(op, &[b, c, oh, ow])?;
        let axis = |size, out, kernel, stride, padding| {
            collect(op, out, |i| Window::new(i.saturating_mul(stride), kernel, padding, size))
        };
        Ok((
            axis(h, oh, self.kernel.0, self.stride.0, self.padding.0)?,
            axis(w, ow, self.kernel.1, self.stride.1, self.padding.1)?,
        ))
    }
}

/// The number of windows along an axis; none when there is not one.
fn outputs(size: usize, kernel: usize, stride: usize, padding: usize, ceil_mode: bool) -> Option<usize> {
    let wide = |n: usize| i128::try_from(n).ok();
    let (size, kernel, stride, padding) = (wide(size)?, wide(kernel)?, wide(stride)?, wide(padding)?);
    let room = size + 2 * padding - kernel + if ceil_mode { stride - 1 } else { 0 };
    let mut n = room.div_euclid(stride) + 1;
    // The last window must start inside the image or its first padding.
    if ceil_mode && (n - 1) * stride >= size + padding {
        n -= 1;
    }
    usize::try_from(n).ok().filter(|n| *n > 0)
}

/// One window along one axis.
#[derive(Clone, Debug)]
struct Window {
    /// The pixels inside the image.
    inner: Range<usize>,
    /// The positions, counting the padding but not what lies beyond it.
    padded: usize,
}

impl Window {
    /// The window whose first position is `start` in the padded image.
    fn new(start: usize, kernel: usize, padding: usize, size: usize) -> Self {
        let end = start.saturating_add(kernel).min(size.saturating_add(2 * padding));
        let inner = start.saturating_sub(padding)..end.saturating_sub(padding).min(size);
        Self { inner, padded: end - start }
    }

    /// Window `i` of `n` that together cover an axis (PyTorch's adaptive rule).
    fn adaptive(i: usize, n: usize, size: usize) -> Self {
        // In u128, since size · n may exceed an address.
        let (i, n, size) = (i as u128, n as u128, size as u128);
        let (start, end) = (i * size / n, ((i + 1) * size).div_ceil(n));
        Self { inner: start as usize..end as usize, padded: (end - start) as usize }
    }
}

/// The windows along both axes that divide `x` into `size` parts.
fn adaptive(op: &'static str, x: &Tensor, size: (usize, usize)) -> Result<(Vec<Window>, Vec<Window>)> {
    let (b, c, h, w) = image(op, x)?;
    if size.0 == 0 || size.1 == 0 {
        return Err(Error::argument(op, format!("a size must be at least (1, 1), got {size:?}")));
    }
    count(op, &[b, c, size.0, size.1])?;
    let axis = |n, size| collect(op, n, |i| Window::adaptive(i, n, size));
    Ok((axis(size.0, h)?, axis(size.1, w)?))
}

/// The largest value of each window. Of equal ones the first receives the gradient, as in PyTorch.
///
/// # Shapes
/// (B, C, H, W) → (B, C, H', W') with H' = ⌊(H + 2·padding − kernel)/stride⌋ + 1, the quotient
/// rounded up in ceil mode as long as the last window starts before the end of the image.
///
/// # Errors
/// [`Error::Shape`] when `x` is not a batch of images or no window fits, [`Error::Argument`] when
/// the windows are invalid.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::{Pool2d, max_pool2d};
///
/// let x = Tensor::arange(0f32, 16., &Device::Cpu)?.reshape((1, 1, 4, 4))?;
/// let y = max_pool2d(&x, &Pool2d::new(2, 2))?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [5., 7., 13., 15.]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
pub fn max_pool2d(x: &Tensor, pool: &Pool2d) -> Result<Tensor> {
    let (rows, columns) = pool.windows("max_pool2d", x)?;
    let even = Even { kernel: pool.kernel.1, stride: pool.stride.1, padding: pool.padding.1 };
    maximum(x, rows, columns, Some(even))
}

/// The mean of each window; [`Pool2d`] says what it divides by.
///
/// # Shapes
/// As [`max_pool2d`].
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, pool: &Pool2d) -> Result<Tensor> {
    let op = "avg_pool2d";
    let (rows, columns) = pool.windows(op, x)?;
    average(op, x, &rows, &columns, pool.count_include_pad)
}

/// The mean of each of height × width parts of the image: part i of n covers the pixels from
/// ⌊i·H/n⌋ to ⌈(i+1)·H/n⌉.
///
/// # Shapes
/// (B, C, H, W) → (B, C, height, width).
///
/// # Errors
/// [`Error::Shape`] when `x` is not a batch of images, [`Error::Argument`] when a size is 0.
pub fn adaptive_avg_pool2d(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let op = "adaptive_avg_pool2d";
    let (rows, columns) = adaptive(op, x, size)?;
    average(op, x, &rows, &columns, false)
}

/// The largest value of each of height × width parts, divided as by [`adaptive_avg_pool2d`].
///
/// # Shapes
/// (B, C, H, W) → (B, C, height, width).
///
/// # Errors
/// As [`adaptive_avg_pool2d`].
pub fn adaptive_max_pool2d(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let (rows, columns) = adaptive("adaptive_max_pool2d", x, size)?;
    maximum(x, rows, columns, None)
}

fn average(
    op: &'static str,
    x: &Tensor,
    rows: &[Window],
    columns: &[Window],
    include_pad: bool,
) -> Result<Tensor> {
    let (_, _, h, w) = image(op, x)?;
    let map = |size, windows: &[Window]| {
        AxisMap::new(op, size, windows.len(), |i| {
            let window = &windows[i];
            let divisor = if include_pad { window.padded } else { window.inner.len() };
            window.inner.clone().map(|pixel| (pixel, 1.0 / divisor as f64)).collect()
        })
    };
    resample(op, x, &map(h, rows)?, &map(w, columns)?)
}

fn maximum(x: &Tensor, rows: Vec<Window>, columns: Vec<Window>, even: Option<Even>) -> Result<Tensor> {
    let inner = |windows: Vec<Window>| windows.into_iter().map(|w| w.inner).collect::<Vec<_>>();
    let (rows, columns) = (inner(rows), inner(columns));
    if use_kernel(&[x]) {
        Ok(x.contiguous()?.apply_op1(MaxPool(Windows { rows, columns, even }))?)
    } else {
        plain_maximum(x, &rows, &columns)
    }
}

/// Each tap of all windows as one image; the largest is chosen without, and fetched with, gradient.
///
/// A window smaller than the largest one repeats its last pixel, which changes no maximum.
fn plain_maximum(x: &Tensor, rows: &[Range<usize>], columns: &[Range<usize>]) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let dims = Shape::from((b, c, rows.len(), columns.len()));
    if b == 0 {
        return empty(x, &[], dims.dims());
    }
    let longest = |windows: &[Range<usize>]| windows.iter().map(Range::len).max().unwrap_or(0);
    let (kh, kw) = (longest(rows), longest(columns));
    let pixel = |window: &Range<usize>, tap: usize| (window.start + tap).min(window.end - 1);
    let mut ids = Vec::with_capacity(kh * kw * dims.elem_count() / (b * c));
    for u in 0..kh {
        for v in 0..kw {
            for row in rows {
                ids.extend(columns.iter().map(|column| (pixel(row, u) * w + pixel(column, v)) as u32));
            }
        }
    }
    let ids = Tensor::new(ids, x.device())?;
    let taps = x.reshape((b, c, h * w))?.index_select(&ids, 2)?;
    let taps = taps.reshape((b, c, kh * kw, rows.len() * columns.len()))?;
    // A NaN wins: it is the one value that differs from itself.
    let seen = taps.detach();
    let largest = Tensor::full(f64::INFINITY, (), x.device())?.to_dtype(x.dtype())?;
    let keys = seen.ne(&seen)?.where_cond(&largest.broadcast_as(seen.shape())?.contiguous()?, &seen)?;
    Ok(taps.gather(&keys.argmax_keepdim(2)?, 2)?.reshape(&dims)?)
}

struct MaxPool(Windows);

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max pooling"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let y = kernel::max((h, w), &self.0, contiguous(x, layout)?);
        Ok((CpuStorage::F32(y), (b, c, self.0.rows.len(), self.0.columns.len()).into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let (_, _, h, w) = x.dims4()?;
        let dx = with_slices([x, y, grad], |[x, y, dy]| Ok(kernel::max_grad((h, w), &self.0, x, y, dy)))?;
        Ok(Some(tensor(dx, x.shape())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::compute::{Path, with_path};
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare, randn};

    fn pools() -> Vec<Pool2d> {
        let mut pools = Vec::new();
        for (kernel, stride, padding) in [
            ((2, 2), (2, 2), (0, 0)),
            ((3, 3), (2, 2), (1, 1)),
            ((3, 3), (1, 1), (1, 1)),
            ((2, 3), (3, 1), (1, 1)),
            ((1, 1), (2, 3), (0, 0)),
            ((4, 2), (3, 3), (2, 0)),
            ((1, 3), (1, 2), (0, 0)),
            ((9, 2), (1, 1), (4, 1)),
            ((2, 1), (3, 2), (1, 0)),
        ] {
            for ceil_mode in [false, true] {
                for count_include_pad in [false, true] {
                    pools.push(Pool2d { kernel, stride, padding, ceil_mode, count_include_pad });
                }
            }
        }
        pools
    }

    const SIZES: [(usize, usize); 5] = [(4, 4), (5, 7), (6, 37), (11, 4), (9, 16)];

    #[test]
    fn the_kernels_agree_with_plain_operations() {
        let mut cases = Vec::new();
        for (h, w) in SIZES {
            for batch in [0, 1, 2] {
                let x = [randn(1, &[batch, 3, h, w])];
                for pool in pools() {
                    let name = format!("{batch}x{h}x{w} {pool:?}");
                    cases.push(Case::new(format!("max {name}"), x.to_vec(), move |t| {
                        max_pool2d(&t[0], &pool)
                    }));
                    cases.push(Case::new(format!("avg {name}"), x.to_vec(), move |t| {
                        avg_pool2d(&t[0], &pool)
                    }));
                }
                for size in [(1, 1), (2, 3), (7, 7), (4, 1)] {
                    let name = format!("{batch}x{h}x{w} to {size:?}");
                    cases.push(Case::new(format!("max {name}"), x.to_vec(), move |t| {
                        adaptive_max_pool2d(&t[0], size)
                    }));
                    cases.push(Case::new(format!("avg {name}"), x.to_vec(), move |t| {
                        adaptive_avg_pool2d(&t[0], size)
                    }));
                }
            }
        }
        // Equal values, and windows of nothing but −∞.
        let steps = randn(2, &[2, 3, 9, 37]).round().unwrap();
        let nothing = Tensor::full(f32::NEG_INFINITY, (2, 3, 9, 37), &Device::Cpu).unwrap();
        let part = steps.gt(0.0).unwrap().where_cond(&steps, &nothing).unwrap();
        for (name, x) in [("steps", steps), ("nothing", nothing), ("partly nothing", part)] {
            for pool in pools() {
                cases.push(Case::new(format!("max of {name} {pool:?}"), vec![x.clone()], move |t| {
                    max_pool2d(&t[0], &pool)
                }));
            }
        }
        let x = [randn(1, &[5, 7, 3, 2])];
        let pool = Pool2d::new(3, 2);
        cases.push(Case::new("max strided", x.to_vec(), move |t| {
            max_pool2d(&t[0].permute((3, 2, 0, 1))?, &pool)
        }));
        cases.push(Case::new("avg strided", x.to_vec(), move |t| {
            avg_pool2d(&t[0].permute((3, 2, 0, 1))?, &pool)
        }));
        compare(&cases, 1e-5);
    }

    #[test]
    fn gradients_match_differences() {
        // Values far enough apart that no step changes which one is largest.
        let spread: Vec<f32> = (0..70).map(|i| ((i * 37) % 70) as f32 * 0.1).collect();
        let x = Tensor::from_vec(spread, (1, 2, 5, 7), &Device::Cpu).unwrap();
        for path in [Path::Kernels, Path::Plain] {
            with_path(path, || {
                for pool in pools() {
                    for (name, op) in [("max", max_pool2d as fn(&_, &_) -> _), ("avg", avg_pool2d)] {
                        check(|t| op(&t[0], &pool), std::slice::from_ref(&x), Options::default())
                            .unwrap_or_else(|e| panic!("{name} {pool:?} {path:?}: {e}"));
                    }
                }
                for op in [adaptive_max_pool2d, adaptive_avg_pool2d] {
                    check(|t| op(&t[0], (3, 2)), std::slice::from_ref(&x), Options::default()).unwrap();
                }
            });
        }
    }

    #[test]
    fn the_number_of_windows_is_pytorchs() {
        // size, kernel, stride, padding, ceil_mode, outputs of torch.nn.MaxPool1d (0: an error)
        let cases = [
            (5, 2, 2, 0, false, 2),
            (5, 2, 2, 0, true, 3),
            (4, 2, 2, 0, true, 2),
            (4, 3, 2, 1, false, 2),
            (4, 3, 2, 1, true, 3),
            (3, 2, 2, 1, true, 2),
            (1, 3, 5, 0, true, 1),
            (1, 3, 2, 0, true, 0),
            (2, 3, 1, 0, false, 0),
            (3, 1, 4, 0, true, 1),
        ];
        for (size, kernel, stride, padding, ceil, expected) in cases {
            let n = outputs(size, kernel, stride, padding, ceil).unwrap_or(0);
            assert_eq!(n, expected, "size {size}, kernel {kernel}, stride {stride}, {padding}, {ceil}");
        }
    }

    #[test]
    fn averages_divide_as_told() {
        let x = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        let mut pool = Pool2d { padding: (1, 1), ceil_mode: true, ..Pool2d::new(2, 2) };
        let first =
            |pool: &Pool2d| avg_pool2d(&x, pool).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        assert_eq!(first(&pool), 0.25);
        pool.count_include_pad = false;
        assert_eq!(first(&pool), 1.0);
    }

    #[test]
    fn of_equal_values_the_first_gets_the_gradient_and_nan_wins() {
        for path in [Path::Kernels, Path::Plain] {
            with_path(path, || {
                let x = Tensor::new(&[[[[2f32, 2.], [2., 1.]]]], &Device::Cpu).unwrap();
                let x = candle_core::Var::from_tensor(&x).unwrap();
                let y = max_pool2d(&x, &Pool2d::new(2, 2)).unwrap();
                let grads = y.sum_all().unwrap().backward().unwrap();
                let grad = grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(grad, [1., 0., 0., 0.], "{path:?}");
                let x = Tensor::new(&[[[[2f32, f32::NAN], [3., 1.]]]], &Device::Cpu).unwrap();
                let x = candle_core::Var::from_tensor(&x).unwrap();
                let y = max_pool2d(&x, &Pool2d::new(2, 2)).unwrap().sum_all().unwrap();
                assert!(y.to_scalar::<f32>().unwrap().is_nan(), "{path:?}");
                let grad = y.backward().unwrap().get(&x).unwrap().flatten_all().unwrap();
                assert_eq!(grad.to_vec1::<f32>().unwrap(), [0., 1., 0., 0.], "{path:?}");
            });
        }
    }

    #[test]
    fn misfits_are_typed_errors() {
        let x = randn(1, &[1, 1, 4, 4]);
        let fits = Pool2d::new(2, 2);
        for op in [max_pool2d, avg_pool2d] {
            for dims in [&[4usize, 4][..], &[1, 0, 4, 4], &[1, 1, 0, 4], &[1, 1, 1, 4]] {
                assert!(matches!(op(&randn(1, dims), &fits), Err(Error::Shape { .. })), "{dims:?}");
            }
            for pool in [
                Pool2d::new(0, 1),
                Pool2d::new(2, 0),
                Pool2d { padding: (2, 0), ..fits },
                Pool2d { padding: (usize::MAX, 0), ..fits },
            ] {
                assert!(matches!(op(&x, &pool), Err(Error::Argument { .. })), "{pool:?}");
            }
            assert!(op(&x, &Pool2d::new(usize::MAX, usize::MAX)).is_err());
            let wide = Pool2d { padding: (usize::MAX / 2, 0), kernel: (usize::MAX, 1), ..fits };
            assert_eq!(op(&x, &wide).unwrap().dims(), [1, 1, 2, 2]);
        }
        assert!(matches!(adaptive_avg_pool2d(&x, (0, 1)), Err(Error::Argument { .. })));
        assert!(adaptive_max_pool2d(&x, (usize::MAX / 4, 1)).is_err());
    }
}
