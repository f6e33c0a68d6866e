//! Resizing, cropping and padding, in f32, the same for an image and its masks.
//!
//! Pixels are areas: pixel i of n covers [i/n, (i+1)/n), so its centre lies at (i + ½)/n. This is
//! PyTorch's `align_corners=False`. Where a filter reaches over the border, its weights are
//! renormalised over the pixels that exist.

use serde::{Deserialize, Serialize};

use crate::image::{Image, Scale};
use crate::mask::Mask;
use crate::{Error, Result};

/// How a resize weighs source pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The source pixel under the target's centre; the only one fit for labels.
    Nearest,
    /// The four nearest, as PyTorch's `interpolate(mode="bilinear", antialias=False)`: aliases when shrinking.
    Bilinear,
    /// The mean over the target pixel's area.
    Area,
    /// A triangle widened by the shrink factor, as Pillow's BILINEAR or PyTorch's with antialiasing.
    #[default]
    Triangle,
    /// A three-lobed windowed sinc widened by the shrink factor, as Pillow's LANCZOS. Overshoots at
    /// edges; unit and signed images are clamped to their range.
    Lanczos3,
}

/// What to do when the target has another aspect ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Stretch: shapes are distorted.
    Stretch,
    /// Cut the largest centred rectangle of the target's ratio.
    #[default]
    Crop,
    /// Pad both sides with a value in the image's units; masks are padded with 0.
    Pad(f32),
}

/// A size to bring images to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Target rows.
    pub height: usize,
    /// Target columns.
    pub width: usize,
    /// What happens to another aspect ratio.
    #[serde(default)]
    pub fit: Fit,
    /// The filter for images; masks always take the nearest.
    #[serde(default)]
    pub filter: Filter,
}

impl Geometry {
    /// A square, cropped at the centre, antialiased.
    pub fn square(side: usize) -> Self {
        Self { height: side, width: side, fit: Fit::default(), filter: Filter::default() }
    }

    /// Brings an image to the size.
    ///
    /// # Errors
    /// When the size is 0 or too large.
    pub fn image(&self, image: Image) -> Result<Image> {
        let (top, left, height, width) = self.frame(image.height(), image.width());
        let fill = if let Fit::Pad(v) = self.fit { v } else { 0.0 };
        let framed = reframe(image, Frame { top, left, height, width }, fill)?;
        resize(framed, self.height, self.width, self.filter)
    }

    /// Brings a mask to the size, exactly where [`Geometry::image`] brings its image.
    ///
    /// # Errors
    /// When the size is 0 or too large.
    pub fn mask(&self, mask: &Mask) -> Result<Mask> {
        let (top, left, height, width) = self.frame(mask.height(), mask.width());
        let framed = reframe_mask(mask, Frame { top, left, height, width })?;
        resize_mask(&framed, self.height, self.width)
    }

    /// The rectangle of the source that becomes the target.
    fn frame(&self, height: usize, width: usize) -> (isize, isize, usize, usize) {
        let (h, w) = (height as f64, width as f64);
        let ratio = self.height as f64 / self.width.max(1) as f64;
        let (fh, fw) = match self.fit {
            Fit::Stretch => (h, w),
            Fit::Crop => (h.min(w * ratio), w.min(h / ratio)),
            Fit::Pad(_) => (h.max(w * ratio), w.max(h / ratio)),
        };
        let (fh, fw) = ((fh.round() as usize).max(1), (fw.round() as usize).max(1));
        ((height as isize - fh as isize).div_euclid(2), (width as isize - fw as isize).div_euclid(2), fh, fw)
    }
}

/// A rectangle in an image, in pixels. It may reach outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// First row; negative above the image.
    pub top: isize,
    /// First column; negative left of the image.
    pub left: isize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Cuts a rectangle out of an image; what lies outside the image is `fill`.
///
/// # Errors
/// When the rectangle is empty or too large, or `fill` is not finite.
pub fn reframe(image: Image, frame: Frame, fill: f32) -> Result<Image> {
    check_size(frame.height, frame.width)?;
    if !fill.is_finite() {
        return Err(Error::argument("fill", format!("{fill} is not finite")));
    }
    let (h, w) = (image.height(), image.width());
    Ok(image.map_planes(frame.height, frame.width, |p| cut(p, (h, w), frame, fill)))
}

/// Cuts a rectangle out of a mask; what lies outside the mask is 0.
///
/// # Errors
/// When the rectangle is empty or too large.
pub fn reframe_mask(mask: &Mask, frame: Frame) -> Result<Mask> {
    check_size(frame.height, frame.width)?;
    let size = (mask.height(), mask.width());
    Ok(mask.map_plane(frame.height, frame.width, |p| cut(p, size, frame, 0)))
}

/// Resizes an image.
///
/// # Errors
/// When a side is 0 or the result would be too large.
pub fn resize(image: Image, height: usize, width: usize, filter: Filter) -> Result<Image> {
    check_size(height, width)?;
    let (h, w) = (image.height(), image.width());
    if (h, w) == (height, width) {
        return Ok(image);
    }
    let rows = weights(h, height, filter);
    let columns = weights(w, width, filter);
    let scale = image.scale;
    let resized = image.map_planes(height, width, |p| separable(p, w, &rows, &columns));
    Ok(match (filter, scale) {
        (Filter::Lanczos3, Scale::Unit) => resized.map(scale, |v| v.clamp(0.0, 1.0)),
        (Filter::Lanczos3, Scale::Signed) => resized.map(scale, |v| v.clamp(-1.0, 1.0)),
        _ => resized,
    })
}

/// Resizes a mask to the nearest labels.
///
/// # Errors
/// When a side is 0 or the result would be too large.
pub fn resize_mask(mask: &Mask, height: usize, width: usize) -> Result<Mask> {
    check_size(height, width)?;
    let (h, w) = (mask.height(), mask.width());
    let rows: Vec<usize> = (0..height).map(|i| nearest(i, h, height)).collect();
    let columns: Vec<usize> = (0..width).map(|i| nearest(i, w, width)).collect();
    Ok(mask.map_plane(height, width, |p| {
        rows.iter().flat_map(|r| columns.iter().map(move |c| p[r * w + c])).collect()
    }))
}

/// More than any image that [`Limits`](crate::Limits) lets in by default.
const MOST_PIXELS: usize = 1 << 28;

fn check_size(height: usize, width: usize) -> Result<()> {
    match height.checked_mul(width) {
        Some(n) if n > 0 && n <= MOST_PIXELS => Ok(()),
        _ => Err(Error::argument("size", format!("{height}×{width} given; 1 to {MOST_PIXELS} pixels"))),
    }
}

fn cut<T: Copy>(plane: &[T], (height, width): (usize, usize), frame: Frame, fill: T) -> Vec<T> {
    let inside = |i: usize, first: isize, n: usize| {
        usize::try_from(first.saturating_add(i as isize)).ok().filter(|i| *i < n)
    };
    let mut out = Vec::with_capacity(frame.height * frame.width);
    for y in 0..frame.height {
        let row = inside(y, frame.top, height);
        out.extend((0..frame.width).map(|x| match (row, inside(x, frame.left, width)) {
            (Some(r), Some(c)) => plane[r * width + c],
            _ => fill,
        }));
    }
    out
}

fn nearest(i: usize, source: usize, target: usize) -> usize {
    (((i as f64 + 0.5) * source as f64 / target as f64) as usize).min(source - 1)
}

/// One target pixel: the first source pixel and the weights from there.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

fn weights(source: usize, target: usize, filter: Filter) -> Vec<Taps> {
    let ratio = source as f64 / target as f64;
    let widened = ratio.max(1.0);
    (0..target)
        .map(|i| {
            let centre = (i as f64 + 0.5) * ratio;
            let (reach, weight): (f64, Box<dyn Fn(f64) -> f64>) = match filter {
                Filter::Nearest => return Taps { first: nearest(i, source, target), weights: vec![1.0] },
                Filter::Bilinear => (1.0, Box::new(|d| 1.0 - d.abs())),
                Filter::Area => {
                    (0.5 * ratio + 0.5, Box::new(move |d| (0.5 * ratio + 0.5 - d.abs()).min(ratio.min(1.0))))
                }
                Filter::Triangle => (widened, Box::new(move |d| 1.0 - (d / widened).abs())),
                Filter::Lanczos3 => (3.0 * widened, Box::new(move |d| lanczos3(d / widened))),
            };
            let first = (centre - reach).floor().max(0.0) as usize;
            let last = ((centre + reach).ceil() as usize).min(source).max(first + 1);
            let raw: Vec<f64> = (first..last)
                .map(|j| {
                    let d = j as f64 + 0.5 - centre;
                    if d.abs() < reach { weight(d) } else { 0.0 }
                })
                .collect();
            let total: f64 = raw.iter().sum();
            Taps { first, weights: raw.iter().map(|w| (w / total) as f32).collect() }
        })
        .collect()
}

fn lanczos3(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = std::f64::consts::PI * x;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    sinc(x) * sinc(x / 3.0)
}

fn separable(plane: &[f32], width: usize, rows: &[Taps], columns: &[Taps]) -> Vec<f32> {
    let mut line = vec![0.0f32; width];
    let mut out = Vec::with_capacity(rows.len() * columns.len());
    for row in rows {
        line.fill(0.0);
        for (source, weight) in plane[row.first * width..].chunks_exact(width).zip(&row.weights) {
            line.iter_mut().zip(source).for_each(|(l, s)| *l += weight * s);
        }
        out.extend(
            columns.iter().map(|c| line[c.first..].iter().zip(&c.weights).map(|(s, w)| s * w).sum::<f32>()),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> Image {
        let data = (0..height * width).map(|i| ((i * 7) % 11) as f32 / 11.0).collect();
        Image::new(1, height, width, data, Scale::Unit).unwrap()
    }

    /// Values from `torch.nn.functional.interpolate` (Lanczos: Pillow) on x = [0, 1, 4, 9, 16].
    #[test]
    fn filters_agree_with_pytorch_and_pillow() {
        let x = Image::new(1, 1, 5, vec![0.0, 1.0, 4.0, 9.0, 16.0], Scale::Stored).unwrap();
        let cases: [(Filter, usize, &[f32]); 8] = [
            (Filter::Bilinear, 3, &[0.333_333_34, 4.0, 13.666_667]),
            (Filter::Bilinear, 7, &[0.0, 0.571_428_6, 1.857_142_8, 4.0, 7.571_429, 12.0, 16.0]),
            (Filter::Triangle, 3, &[0.428_571_4, 4.444_444_7, 13.0]),
            (Filter::Lanczos3, 3, &[0.103_287_97, 4.0, 13.530_499]),
            (
                Filter::Lanczos3,
                7,
                &[-0.004_679_8, 0.343_051, 1.624_102_4, 4.0, 6.907_582, 12.723_362, 16.435_715],
            ),
            (Filter::Area, 5, &[0.0, 1.0, 4.0, 9.0, 16.0]),
            (Filter::Area, 1, &[6.0]),
            (Filter::Nearest, 3, &[0.0, 4.0, 16.0]),
        ];
        let mut failed = Vec::new();
        for (filter, n, want) in cases {
            let got = resize(x.clone(), 1, n, filter).unwrap().into_data();
            if got.iter().zip(want).any(|(a, b)| (a - b).abs() > 1e-5) {
                failed.push(format!("{filter:?} to {n}: {got:?}, not {want:?}"));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    #[test]
    fn area_is_the_mean_over_the_footprint() {
        let x = Image::new(1, 1, 4, vec![1.0, 2.0, 3.0, 4.0], Scale::Stored).unwrap();
        assert_eq!(resize(x.clone(), 1, 2, Filter::Area).unwrap().data(), [1.5, 3.5]);
        // Target pixel 0 of 3 covers source 0 and a third of source 1.
        let third = resize(x, 1, 3, Filter::Area).unwrap().into_data();
        assert!((third[0] - (1.0 + 2.0 / 3.0) / (4.0 / 3.0)).abs() < 1e-6, "{third:?}");
    }

    #[test]
    fn every_filter_keeps_a_constant_and_its_range() {
        let flat = Image::new(3, 5, 9, vec![0.3; 135], Scale::Unit).unwrap();
        for filter in [Filter::Nearest, Filter::Bilinear, Filter::Area, Filter::Triangle, Filter::Lanczos3] {
            for (h, w) in [(1, 1), (3, 4), (5, 9), (17, 20)] {
                let out = resize(flat.clone(), h, w, filter).unwrap();
                assert!(out.data().iter().all(|v| (v - 0.3).abs() < 1e-6), "{filter:?} {h}×{w}");
                let (lo, hi) = resize(ramp(6, 6), h, w, filter).unwrap().extent();
                assert!(lo >= 0.0 && hi <= 1.0, "{filter:?} {h}×{w}: {lo} to {hi}");
            }
        }
    }

    #[test]
    fn image_and_mask_move_together() {
        let mut data = vec![0u8; 40 * 24];
        (10..20).for_each(|y| data[y * 24 + 5..y * 24 + 15].fill(1));
        let mask = Mask::new(40, 24, data).unwrap();
        let image =
            Image::new(1, 40, 24, mask.data().iter().map(|v| f32::from(*v)).collect(), Scale::Unit).unwrap();
        for fit in [Fit::Stretch, Fit::Crop, Fit::Pad(0.0)] {
            let geometry = Geometry { height: 12, width: 12, fit, filter: Filter::Nearest };
            let (i, m) = (geometry.image(image.clone()).unwrap(), geometry.mask(&mask).unwrap());
            let as_mask: Vec<u8> = i.data().iter().map(|v| *v as u8).collect();
            assert_eq!(as_mask, m.data(), "{fit:?}");
        }
    }

    #[test]
    fn crop_and_pad_are_centred() {
        let image = ramp(4, 6);
        let crop = Geometry { height: 4, width: 4, fit: Fit::Crop, filter: Filter::Area }
            .image(image.clone())
            .unwrap();
        assert_eq!(crop.data()[..4], image.data()[1..5]);
        let pad = Geometry { height: 6, width: 6, fit: Fit::Pad(0.5), filter: Filter::Area }
            .image(image.clone())
            .unwrap();
        assert_eq!(pad.data()[..6], [0.5; 6]);
        assert_eq!(pad.data()[6..12], image.data()[..6]);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for (h, w) in [(0, 4), (4, 0), (usize::MAX, 2), (1 << 20, 1 << 20)] {
            assert!(matches!(resize(ramp(2, 2), h, w, Filter::Area), Err(Error::Argument { .. })), "{h}×{w}");
        }
    }
}
