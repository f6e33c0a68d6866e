//! Images at another size: nearest, bilinear and bicubic, as PyTorch computes them.
//!
//! Source positions are computed in f32 for all types but f64, as PyTorch does, so that results
//! agree at sizes where rounding decides between two pixels.

use candle_core::{DType, Tensor};

use super::resample::{AxisMap, image, resample};
use crate::{Error, Result};

/// The image at the size (height, width), each pixel a copy of its nearest source pixel: output i
/// copies input min(⌊i · in/out⌋, in − 1), the product in f32 (PyTorch's `nearest`).
///
/// # Shapes
/// (B, C, H, W) → (B, C, height, width).
///
/// # Errors
/// [`Error::Shape`] when `x` is not a batch of images, [`Error::Argument`] when a size is 0.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::upsample_nearest2d;
///
/// let x = Tensor::new(&[[[[1f32, 2., 3.]]]], &Device::Cpu)?;
/// let y = upsample_nearest2d(&x, (1, 5))?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [1., 1., 2., 2., 3.]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
pub fn upsample_nearest2d(x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    let op = "upsample_nearest2d";
    separable(op, x, size, |inputs, outputs, i| vec![(nearest(inputs, outputs, i), 1.0)])
}

fn nearest(inputs: usize, outputs: usize, i: usize) -> usize {
    if outputs == inputs {
        i
    } else if Some(outputs) == inputs.checked_mul(2) {
        i / 2
    } else {
        let scale = inputs as f32 / outputs as f32;
        ((i as f32 * scale).floor() as usize).min(inputs - 1)
    }
}

/// The image at the size (height, width), interpolated linearly along both axes.
///
/// Pixel i of n sits at (i + ½)/n, or, with `align_corners`, at i/(n − 1), so that the corners of
/// both images coincide.
///
/// # Shapes
/// (B, C, H, W) → (B, C, height, width).
///
/// # Errors
/// [`Error::Shape`] when `x` is not a batch of images, [`Error::Argument`] when a size is 0.
pub fn upsample_bilinear2d(x: &Tensor, size: (usize, usize), align_corners: bool) -> Result<Tensor> {
    let round = rounding(x);
    separable("upsample_bilinear2d", x, size, |inputs, outputs, i| {
        let at = source(inputs, outputs, i, align_corners, round).max(0.0);
        let first = (at.floor() as usize).min(inputs - 1);
        let part = round(at - first as f64).clamp(0.0, 1.0);
        vec![(first, round(1.0 - part)), ((first + 1).min(inputs - 1), part)]
    })
}

/// The image at the size (height, width), interpolated along both axes by cubic convolution with
/// a = −0.75 (R. Keys, 1981), as PyTorch's `bicubic`. Beyond the edge the outermost pixel repeats.
/// The result may overshoot the range of the input.
///
/// # Shapes
/// (B, C, H, W) → (B, C, height, width).
///
/// # Errors
/// [`Error::Shape`] when `x` is not a batch of images, [`Error::Argument`] when a size is 0.
pub fn upsample_bicubic2d(x: &Tensor, size: (usize, usize), align_corners: bool) -> Result<Tensor> {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    let round = rounding(x);
    separable("upsample_bicubic2d", x, size, |inputs, outputs, i| {
        let at = source(inputs, outputs, i, align_corners, round);
        let first = at.floor();
        let t = round(at - first);
        let pixel = |offset: f64| (first + offset).clamp(0.0, (inputs - 1) as f64) as usize;
        vec![
            (pixel(-1.0), far(t + 1.0)),
            (pixel(0.0), near(t)),
            (pixel(1.0), near(1.0 - t)),
            (pixel(2.0), far(2.0 - t)),
        ]
    })
}

fn separable(
    op: &'static str,
    x: &Tensor,
    size: (usize, usize),
    taps: impl Fn(usize, usize, usize) -> Vec<(usize, f64)>,
) -> Result<Tensor> {
    let (_, _, h, w) = image(op, x)?;
    if size.0 == 0 || size.1 == 0 {
        return Err(Error::argument(op, format!("a size must be at least (1, 1), got {size:?}")));
    }
    let rows = AxisMap::new(op, h, size.0, |i| taps(h, size.0, i))?;
    let columns = AxisMap::new(op, w, size.1, |i| taps(w, size.1, i))?;
    resample(op, x, &rows, &columns)
}

/// The rounding after each step that the image's type implies.
fn rounding(x: &Tensor) -> fn(f64) -> f64 {
    match x.dtype() {
        DType::F64 => |v| v,
        _ => |v| f64::from(v as f32),
    }
}

/// Where output `i` sits among the inputs, in pixels.
fn source(inputs: usize, outputs: usize, i: usize, align_corners: bool, round: fn(f64) -> f64) -> f64 {
    let (inputs, outputs, i) = (inputs as f64, outputs as f64, i as f64);
    if align_corners {
        let scale = if outputs > 1.0 { round((inputs - 1.0) / (outputs - 1.0)) } else { 0.0 };
        round(scale * i)
    } else {
        let scale = round(inputs / outputs);
        round(round(scale * round(i + 0.5)) - 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare, randn};

    type Op = fn(&Tensor, (usize, usize)) -> Result<Tensor>;

    const OPS: [(&str, Op); 5] = [
        ("nearest", upsample_nearest2d),
        ("bilinear", |x, s| upsample_bilinear2d(x, s, false)),
        ("bilinear, corners", |x, s| upsample_bilinear2d(x, s, true)),
        ("bicubic", |x, s| upsample_bicubic2d(x, s, false)),
        ("bicubic, corners", |x, s| upsample_bicubic2d(x, s, true)),
    ];

    const SIZES: [((usize, usize), (usize, usize)); 9] = [
        ((1, 1), (3, 5)),
        ((5, 7), (5, 7)),
        ((3, 5), (6, 10)),
        ((3, 5), (7, 4)),
        ((9, 6), (4, 13)),
        ((8, 8), (1, 1)),
        ((2, 3), (150, 5)),
        ((70, 2), (3, 9)),
        ((1, 6), (2, 12)),
    ];

    #[test]
    fn the_kernel_agrees_with_plain_operations() {
        let mut cases = Vec::new();
        for (name, op) in OPS {
            for (from, to) in SIZES {
                for batch in [0, 1, 2] {
                    let x = randn(1, &[batch, 3, from.0, from.1]);
                    let name = format!("{name} {batch}x{from:?} to {to:?}");
                    cases.push(Case::new(name.clone(), vec![x], move |t| op(&t[0], to)));
                }
            }
            let x = randn(1, &[5, 2, 4, 3]);
            cases.push(Case::new(name, vec![x], move |t| op(&t[0].transpose(0, 2)?, (7, 9))));
        }
        compare(&cases, 1e-5);
    }

    #[test]
    fn gradients_match_differences() {
        for (name, op) in OPS {
            for (from, to) in [((3, 5), (7, 4)), ((2, 3), (4, 6)), ((5, 4), (2, 9))] {
                let x = randn(1, &[1, 2, from.0, from.1]);
                check(|t| op(&t[0], to), &[x], Options::default())
                    .unwrap_or_else(|e| panic!("{name} {from:?} to {to:?}: {e}"));
            }
        }
    }

    /// A skip connection beside the interpolated branch: both gradients must add up.
    #[test]
    fn gradients_of_two_branches_add_up() {
        let x = randn(1, &[1, 1, 3, 3]);
        let f = |t: &[Tensor]| Ok((t[0].sum_all()? + upsample_nearest2d(&t[0], (6, 6))?.sum_all()?)?);
        check(f, &[x], Options::default()).unwrap();
    }

    #[test]
    fn values_of_pytorch() {
        // torch.nn.functional.interpolate (PyTorch 2.15) of arange(3), to 5 and to 2.
        let x = Tensor::arange(0f32, 3., &candle_core::Device::Cpu).unwrap().reshape((1, 1, 1, 3)).unwrap();
        let row = |y: Result<Tensor>| y.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let cases: [(Vec<f32>, &[f32]); 7] = [
            (row(upsample_nearest2d(&x, (1, 5))), &[0., 0., 1., 1., 2.]),
            (row(upsample_nearest2d(&x, (1, 2))), &[0., 1.]),
            (row(upsample_bilinear2d(&x, (1, 5), false)), &[0., 0.4, 1., 1.6, 2.]),
            (row(upsample_bilinear2d(&x, (1, 5), true)), &[0., 0.5, 1., 1.5, 2.]),
            (row(upsample_bilinear2d(&x, (1, 2), false)), &[0.25, 1.75]),
            (row(upsample_bicubic2d(&x, (1, 5), true)), &[0., 0.40625, 1., 1.59375, 2.]),
            (row(upsample_bicubic2d(&x, (1, 2), false)), &[0.19140625, 1.8085938]),
        ];
        for (i, (ours, theirs)) in cases.iter().enumerate() {
            let close = ours.iter().zip(*theirs).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close && ours.len() == theirs.len(), "case {i}: {ours:?}, expected {theirs:?}");
        }
    }

    #[test]
    fn half_precision_is_kept() {
        let x = randn(1, &[1, 2, 3, 3]).to_dtype(DType::F16).unwrap();
        for (name, op) in OPS {
            assert_eq!(op(&x, (5, 5)).unwrap().dtype(), DType::F16, "{name}");
        }
    }

    #[test]
    fn misfits_are_typed_errors() {
        for (name, op) in OPS {
            assert!(matches!(op(&randn(1, &[2, 3, 4]), (2, 2)), Err(Error::Shape { .. })), "{name}");
            assert!(matches!(op(&randn(1, &[2, 0, 4, 4]), (2, 2)), Err(Error::Shape { .. })), "{name}");
            assert!(matches!(op(&randn(1, &[1, 1, 4, 4]), (2, 0)), Err(Error::Argument { .. })), "{name}");
            assert!(op(&randn(1, &[1, 1, 4, 4]), (usize::MAX, usize::MAX)).is_err(), "{name}");
        }
    }
}
