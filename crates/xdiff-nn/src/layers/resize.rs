//! Images at another size as libraries other than PyTorch's default compute them.

use candle_core::{DType, Tensor};

use super::resample::{AxisMap, image, resample};
use crate::{Error, Result};

/// A way of interpolation beside those of
/// [`upsample_bilinear2d`](super::upsample_bilinear2d) and its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resize {
    /// A triangle as wide as the step between outputs, but two inputs at least: Pillow's `BILINEAR`
    /// and PyTorch's `bilinear` with `antialias=True`. Weights are divided by their sum, which is
    /// taken inside the image.
    AntialiasedBilinear,
    /// Likewise the cubic of Keys (1981) with a = −0.5, as wide as four steps: Pillow's `BICUBIC`
    /// and PyTorch's `bicubic` with `antialias=True`. The result may overshoot the range of the
    /// input.
    AntialiasedBicubic,
    /// Linear interpolation between the two neighbours of i · in/out, which is to say that the image
    /// is moved by half a pixel: TensorFlow 1's `resize_bilinear`.
    Tensorflow1Bilinear,
}

impl Resize {
    /// How much each input counts for output `i`.
    fn taps(self, inputs: usize, outputs: usize, i: usize) -> Vec<(usize, f64)> {
        match self {
            Self::AntialiasedBilinear => antialiased(inputs, outputs, i, 1.0, triangle),
            Self::AntialiasedBicubic => antialiased(inputs, outputs, i, 2.0, cubic),
            Self::Tensorflow1Bilinear => tensorflow1(inputs, outputs, i),
        }
    }
}

/// The weights of a filter that reaches `support` steps to both sides.
fn antialiased(
    inputs: usize,
    outputs: usize,
    i: usize,
    support: f64,
    filter: fn(f64) -> f64,
) -> Vec<(usize, f64)> {
    let scale = inputs as f64 / outputs as f64;
    let step = scale.max(1.0);
    let center = (i as f64 + 0.5) * scale;
    let pixel = |at: f64| (at + 0.5).max(0.0) as usize;
    let end = pixel(center + support * step).min(inputs);
    let start = pixel(center - support * step).min(end);
    let weights: Vec<f64> = (start..end).map(|pixel| filter((pixel as f64 + 0.5 - center) / step)).collect();
    let sum: f64 = weights.iter().sum();
    (start..end).zip(weights).map(|(pixel, weight)| (pixel, weight / sum)).collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Positions are products in f32, as in TensorFlow.
fn tensorflow1(inputs: usize, outputs: usize, i: usize) -> Vec<(usize, f64)> {
    let at = i as f32 * (inputs as f64 / outputs as f64) as f32;
    let first = (at as usize).min(inputs - 1);
    let part = f64::from(at - first as f32).clamp(0.0, 1.0);
    vec![(first, 1.0 - part), ((first + 1).min(inputs - 1), part)]
}

/// The image at the size (height, width).
///
/// # Shapes
/// (B, C, H, W) → (B, C, height, width).
///
/// # Errors
/// [`Error::Shape`] when `x` is not a batch of images, [`Error::Argument`] when a size is 0 or `x`
/// does not hold floating point numbers.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::{Resize, resize2d};
///
/// let x = Tensor::new(&[[[[0f32, 4., 8., 12.]]]], &Device::Cpu)?;
/// let half = |how| -> xdiff_nn::Result<Vec<f32>> {
///     Ok(resize2d(&x, (1, 2), how)?.flatten_all()?.to_vec1()?)
/// };
/// assert_eq!(half(Resize::Tensorflow1Bilinear)?, [0., 8.]);
/// let smooth = half(Resize::AntialiasedBilinear)?;
/// assert!((smooth[0] - 20. / 7.).abs() < 1e-6 && (smooth[1] - 64. / 7.).abs() < 1e-6);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
pub fn resize2d(x: &Tensor, size: (usize, usize), how: Resize) -> Result<Tensor> {
    let op = "resize2d";
    let (_, _, h, w) = image(op, x)?;
    if size.0 == 0 || size.1 == 0 {
        return Err(Error::argument(op, format!("a size must be at least (1, 1), got {size:?}")));
    }
    if !matches!(x.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
        return Err(Error::argument(op, format!("takes floating point numbers, got {:?}", x.dtype())));
    }
    let rows = AxisMap::new(op, h, size.0, |i| how.taps(h, size.0, i))?;
    let columns = AxisMap::new(op, w, size.1, |i| how.taps(w, size.1, i))?;
    resample(op, x, &rows, &columns)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare, randn};

    const ALL: [Resize; 3] =
        [Resize::AntialiasedBilinear, Resize::AntialiasedBicubic, Resize::Tensorflow1Bilinear];

    /// The picture of the reference numbers: ((7i + 13j + (ij mod 31)) mod 256) / 255.
    fn picture(h: usize, w: usize) -> Tensor {
        let value = |i: usize, j: usize| ((7 * i + 13 * j + (i * j) % 31) % 256) as f32 / 255.0;
        let values: Vec<f32> = (0..h).flat_map(|i| (0..w).map(move |j| value(i, j))).collect();
        Tensor::from_vec(values, (1, 1, h, w), &Device::Cpu).unwrap()
    }

    /// The sum, the sum times cos(0.37 k) over row-major k, the least and the largest value.
    fn summary(y: &Tensor) -> [f64; 4] {
        let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut all = [0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY];
        for (k, v) in y.into_iter().map(f64::from).enumerate() {
            all = [all[0] + v, all[1] + v * (0.37 * k as f64).cos(), all[2].min(v), all[3].max(v)];
        }
        all
    }

    /// Pillow 13.0.0 (mode F) for the first two, torch-fidelity 0.4.0's
    /// `interpolate_bilinear_2d_like_tensorflow1x` for the third. PyTorch 2.15 with `antialias=True`
    /// gives the first two to seven digits.
    #[test]
    fn values_of_the_libraries() {
        use Resize::{
            AntialiasedBicubic as Cubic, AntialiasedBilinear as Linear, Tensorflow1Bilinear as Tf1,
        };
        type Size = (usize, usize);
        let cases: [(Size, Size, Resize, [f64; 4]); 15] = [
            ((7, 11), (5, 4), Linear, [7.540952, 1.031257, 0.06918422, 0.6819656]),
            ((7, 11), (5, 4), Cubic, [7.542869, 1.015511, 0.0552469, 0.698779]),
            ((7, 11), (5, 4), Tf1, [6.369412, 0.8809568, 0.0, 0.6339216]),
            ((5, 4), (9, 13), Linear, [16.74706, -0.4684424, 0.0, 0.3098039]),
            ((5, 4), (9, 13), Cubic, [16.74706, -0.4764789, -0.007677615, 0.3201931]),
            ((5, 4), (9, 13), Tf1, [19.21304, -0.4845947, 0.0, 0.3098039]),
            ((40, 33), (7, 8), Linear, [28.07303, 1.494693, 0.2014229, 0.7819415]),
            ((40, 33), (7, 8), Cubic, [28.0648, 1.500736, 0.1526821, 0.8386885]),
            ((40, 33), (7, 8), Tf1, [26.92738, 1.278345, 0.0, 0.9589636]),
            ((3, 1), (2, 5), Linear, [0.2745098, -0.1319419, 0.01029412, 0.04460784]),
            ((3, 1), (2, 5), Cubic, [0.2745098, -0.1443001, 0.008504076, 0.04639789]),
            ((3, 1), (2, 5), Tf1, [0.2058824, -0.152258, 0.0, 0.04117647]),
            ((320, 301), (299, 299), Linear, [44734.94, -12.16478, 0.0001444926, 0.9985586]),
            ((320, 301), (299, 299), Cubic, [44735.16, -14.23367, -0.1630819, 1.157039]),
            ((320, 301), (299, 299), Tf1, [44735.25, -14.71859, 0.0, 0.9987844]),
        ];
        let mut wrong = Vec::new();
        for (from, to, how, wanted) in cases {
            let got = summary(&resize2d(&picture(from.0, from.1), to, how).unwrap());
            // Seven digits are written; the weighted sum loses some.
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * b.abs().max(0.1) + wanted[0] * 2e-8;
            if !got.iter().zip(&wanted).all(near) {
                wrong.push(format!("{how:?} {from:?} to {to:?}: {got:?}, expected {wanted:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_kernel_agrees_with_plain_operations() {
        let mut cases = Vec::new();
        for how in ALL {
            for (from, to) in [((1, 1), (3, 5)), ((9, 6), (4, 13)), ((8, 8), (1, 1)), ((2, 70), (150, 5))] {
                for batch in [0, 2] {
                    let x = randn(1, &[batch, 3, from.0, from.1]);
                    let run = move |t: &[Tensor]| resize2d(&t[0], to, how);
                    cases.push(Case::new(format!("{how:?} {batch}x{from:?} to {to:?}"), vec![x], run));
                }
            }
        }
        compare(&cases, 1e-5);
    }

    #[test]
    fn gradients_match_differences() {
        for how in ALL {
            for (from, to) in [((3, 5), (7, 4)), ((5, 4), (2, 9))] {
                let x = randn(1, &[1, 2, from.0, from.1]);
                check(|t| resize2d(&t[0], to, how), &[x], Options::default())
                    .unwrap_or_else(|e| panic!("{how:?} {from:?} to {to:?}: {e}"));
            }
        }
    }

    #[test]
    fn a_constant_stays_and_so_does_the_size_itself() {
        let x = randn(1, &[1, 2, 5, 7]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for how in ALL {
            assert_eq!(flat(&resize2d(&x, (5, 7), how).unwrap()), flat(&x), "{how:?}");
            let ones = x.ones_like().unwrap();
            let y = flat(&resize2d(&ones, (3, 50), how).unwrap());
            assert!(y.iter().all(|v| (v - 1.0).abs() < 1e-6), "{how:?}");
        }
    }

    #[test]
    fn misfits_are_typed_errors() {
        for how in ALL {
            let of = |dims: &[usize], size| resize2d(&randn(1, dims), size, how);
            assert!(matches!(of(&[2, 3, 4], (2, 2)), Err(Error::Shape { .. })), "{how:?}");
            assert!(matches!(of(&[2, 0, 4, 4], (2, 2)), Err(Error::Shape { .. })), "{how:?}");
            assert!(matches!(of(&[1, 1, 4, 4], (2, 0)), Err(Error::Argument { .. })), "{how:?}");
            assert!(of(&[1, 1, 4, 4], (usize::MAX, usize::MAX)).is_err(), "{how:?}");
            let bytes = Tensor::zeros((1, 1, 4, 4), DType::U8, &Device::Cpu).unwrap();
            assert!(matches!(resize2d(&bytes, (2, 2), how), Err(Error::Argument { .. })), "{how:?}");
        }
    }
}
