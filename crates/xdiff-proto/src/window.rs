//! The pixels that a patch of a feature map stands for.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_nn::layers::upsample_bicubic2d;

use crate::{Error, Result};

/// A rectangle of pixels: rows `top..bottom`, columns `left..right`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The first row.
    pub top: usize,
    /// The first column.
    pub left: usize,
    /// The row after the last.
    pub bottom: usize,
    /// The column after the last.
    pub right: usize,
}

impl Window {
    /// How many rows it has.
    pub fn height(&self) -> usize {
        self.bottom.saturating_sub(self.top)
    }

    /// How many columns it has.
    pub fn width(&self) -> usize {
        self.right.saturating_sub(self.left)
    }

    /// Its pixels of an image.
    ///
    /// # Shapes
    /// `image` (C, H, W) → (C, height, width).
    ///
    /// # Errors
    /// [`Error::Input`] when the window is empty or leaves the image.
    pub fn crop(&self, image: &Tensor) -> Result<Tensor> {
        let &[_, height, width] = image.dims() else {
            return Err(Error::input("image", format!("has shape {:?}, not (C, H, W)", image.dims())));
        };
        if !self.is_inside((height, width)) {
            return Err(Error::input("window", format!("{self:?} is not inside {height} × {width} pixels")));
        }
        let rows = image.narrow(1, self.top, self.height())?;
        Ok(rows.narrow(2, self.left, self.width())?.force_contiguous()?)
    }

    /// Whether it has pixels, and all of them lie in an image of that height and width.
    pub(crate) fn is_inside(&self, (height, width): (usize, usize)) -> bool {
        self.top < self.bottom && self.bottom <= height && self.left < self.right && self.right <= width
    }
}

/// How a window is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WindowRule {
    /// The nominal cell: position r of h stands for pixels ⌊rH/h⌋ to ⌈(r+1)H/h⌉.
    #[default]
    Cell,
    /// The receptive field, clipped to the image.
    Field(ReceptiveField),
    /// The smallest box around the pixels whose activation is at least this percentile (0 to 100) of
    /// the activation map at the image's size: the box of Chen et al. 2019 with 95. The map is
    /// enlarged by cubic convolution (a = −0.75), and the percentile interpolated linearly between
    /// order statistics. A constant map gives the whole image.
    Percentile(f64),
}

impl WindowRule {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] for a percentile outside [0, 100] or a receptive field without size.
    pub fn validate(&self) -> Result<()> {
        match self {
            WindowRule::Percentile(p) if !(0.0..=100.0).contains(p) => {
                Err(Error::config("percentile", format!("is {p}, must lie between 0 and 100")))
            }
            WindowRule::Field(field) => field.validate(),
            _ => Ok(()),
        }
    }

    /// The window of the patch at (row, column) in an image of (H, W) pixels.
    ///
    /// # Shapes
    /// `activation` (h, w): how active each position is. Only [`Percentile`](Self::Percentile) looks at
    /// its values, and that rule alone does not look at the position.
    ///
    /// # Errors
    /// [`Error::Input`] when the position is not on the map or the image has no pixel,
    /// [`Error::NonFinite`] when the map holds NaN or infinite numbers and the rule looks at them; those
    /// of [`validate`](Self::validate).
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use xdiff_proto::window::{Window, WindowRule};
    ///
    /// let map = Tensor::zeros((7, 7), DType::F32, &Device::Cpu)?;
    /// let window = WindowRule::Cell.window((0, 6), &map, (224, 224))?;
    /// assert_eq!(window, Window { top: 0, left: 192, bottom: 32, right: 224 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn window(
        &self,
        (row, column): (usize, usize),
        activation: &Tensor,
        image: (usize, usize),
    ) -> Result<Window> {
        self.validate()?;
        let (h, w) = activation.dims2()?;
        if row >= h || column >= w {
            return Err(Error::input("position", format!("({row}, {column}) is not on a map of {h} × {w}")));
        }
        if image.0 == 0 || image.1 == 0 {
            return Err(Error::input("image", format!("has {image:?} pixels")));
        }
        let of_axes = |(top, bottom): (usize, usize), (left, right): (usize, usize)| Window {
            top,
            left,
            bottom,
            right,
        };
        match self {
            WindowRule::Cell => Ok(of_axes(cell(row, h, image.0), cell(column, w, image.1))),
            WindowRule::Field(field) => {
                Ok(of_axes(field.pixels(row, image.0), field.pixels(column, image.1)))
            }
            WindowRule::Percentile(p) => most_active(activation, *p, image),
        }
    }
}

/// The pixels of cell `i` of `cells` along an axis.
fn cell(i: usize, cells: usize, pixels: usize) -> (usize, usize) {
    let (i, n, pixels) = (i as u128, cells as u128, pixels as u128);
    ((i * pixels / n) as usize, ((i + 1) * pixels).div_ceil(n) as usize)
}

fn most_active(activation: &Tensor, percentile: f64, image: (usize, usize)) -> Result<Window> {
    let (h, w) = activation.dims2()?;
    let map = activation.detach().to_dtype(DType::F32)?;
    let values = map.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().any(|v| !v.is_finite()) {
        return Err(Error::NonFinite {
            what: "the activation map",
            of: "a patch".to_owned(),
            hint: "look at the features for NaN",
        });
    }
    if values.iter().all(|v| *v == values[0]) {
        return Ok(Window { top: 0, left: 0, bottom: image.0, right: image.1 });
    }
    let large = upsample_bicubic2d(&map.reshape((1, 1, h, w))?, image, false)?;
    let large = large.flatten_all()?.to_vec1::<f32>()?;
    let threshold = percentile_of(&mut large.clone(), percentile);
    let mut window = Window { top: usize::MAX, left: usize::MAX, bottom: 0, right: 0 };
    for (i, value) in large.iter().enumerate() {
        if f64::from(*value) >= threshold {
            let (y, x) = (i / image.1, i % image.1);
            window.top = window.top.min(y);
            window.left = window.left.min(x);
            window.bottom = window.bottom.max(y + 1);
            window.right = window.right.max(x + 1);
        }
    }
    Ok(window)
}

/// The percentile, linear between order statistics, of numbers that are put into another order.
fn percentile_of(values: &mut [f32], percentile: f64) -> f64 {
    let at = percentile / 100.0 * (values.len() - 1) as f64;
    let (_, low, above) = values.select_nth_unstable_by(at.floor() as usize, f32::total_cmp);
    let low = f64::from(*low);
    let high = above.iter().copied().min_by(f32::total_cmp).map_or(low, f64::from);
    low + (high - low) * at.fract()
}

/// The pixels that can influence a position of a feature map, along either axis (Chen et al. 2019 use
/// it in the same form): position i sees `size` pixels around the point `start` + i · `jump`, where the
/// first pixel lies between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceptiveField {
    /// Pixels from one position to the next.
    pub jump: f64,
    /// How many pixels a position sees.
    pub size: f64,
    /// The centre of what position 0 sees.
    pub start: f64,
}

impl ReceptiveField {
    /// The field behind a chain of square windows (convolutions and pooling): each layer's kernel,
    /// stride and padding on either side, as r ← r + (k − 1)j, start ← start + ((k − 1)/2 − p)j, j ← js
    /// from r = 1, start = ½, j = 1.
    ///
    /// ```
    /// use xdiff_proto::window::ReceptiveField;
    ///
    /// // Two 3×3 convolutions and a 2×2 pooling.
    /// let field = ReceptiveField::of(&[3, 3, 2], &[1, 1, 2], &[1, 1, 0])?;
    /// assert_eq!((field.jump, field.size, field.start), (2.0, 6.0, 1.0));
    /// # Ok::<(), xdiff_proto::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] when the lists differ in length, or a kernel or stride is 0.
    pub fn of(kernels: &[usize], strides: &[usize], paddings: &[usize]) -> Result<Self> {
        let lengths = [kernels.len(), strides.len(), paddings.len()];
        if lengths.iter().any(|n| *n != lengths[0]) {
            let reason = format!("kernels, strides and paddings of {lengths:?} layers were given");
            return Err(Error::config("receptive field", reason));
        }
        let mut field = Self { jump: 1.0, size: 1.0, start: 0.5 };
        for ((kernel, stride), padding) in kernels.iter().zip(strides).zip(paddings) {
            if *kernel == 0 || *stride == 0 {
                let reason = format!("a layer has kernel {kernel} and stride {stride}, at least 1");
                return Err(Error::config("receptive field", reason));
            }
            let reach = (*kernel - 1) as f64;
            field.size += reach * field.jump;
            field.start += (reach / 2.0 - *padding as f64) * field.jump;
            field.jump *= *stride as f64;
        }
        field.validate()?;
        Ok(field)
    }

    fn validate(&self) -> Result<()> {
        let finite = [self.jump, self.size, self.start].iter().all(|v| v.is_finite());
        if finite && self.jump >= 1.0 && self.size >= 1.0 {
            return Ok(());
        }
        Err(Error::config("receptive field", format!("{self:?} is not one: jump and size are at least 1")))
    }

    /// What position `i` sees of `pixels` pixels; one pixel at the edge if it sees none.
    fn pixels(&self, i: usize, pixels: usize) -> (usize, usize) {
        let center = self.start + i as f64 * self.jump;
        // The conversion cuts fractions off and saturates.
        let first = ((center - self.size / 2.0).max(0.0) as usize).min(pixels - 1);
        let end = ((center + self.size / 2.0).max(0.0) as usize).min(pixels);
        (first, end.max(first + 1))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn map(values: &[f32], (h, w): (usize, usize)) -> Tensor {
        Tensor::from_slice(values, (h, w), &Device::Cpu).unwrap()
    }

    /// Kernel, stride and padding of each layer along the main path of torchvision's ResNet-18 and
    /// VGG-16; sizes and jumps are those that the literature gives.
    #[test]
    fn known_receptive_fields() {
        let mut resnet18 = (vec![7, 3], vec![2, 2], vec![3, 1]);
        for stage in 0..4 {
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                resnet18.0.extend([3, 3]);
                resnet18.1.extend([stride, 1]);
                resnet18.2.extend([1, 1]);
            }
        }
        let mut vgg16 = (vec![], vec![], vec![]);
        for convolutions in [2, 2, 3, 3, 3] {
            vgg16.0.extend(std::iter::repeat_n(3, convolutions).chain([2]));
            vgg16.1.extend(std::iter::repeat_n(1, convolutions).chain([2]));
            vgg16.2.extend(std::iter::repeat_n(1, convolutions).chain([0]));
        }
        for (name, (k, s, p), jump, size) in [("resnet18", resnet18, 32., 435.), ("vgg16", vgg16, 32., 212.)]
        {
            let field = ReceptiveField::of(&k, &s, &p).unwrap();
            assert_eq!((field.jump, field.size), (jump, size), "{name}");
        }
    }

    #[test]
    fn a_field_is_clipped_to_the_image() {
        let field = ReceptiveField::of(&[3, 2, 3], &[1, 2, 1], &[1, 0, 1]).unwrap();
        assert_eq!((field.jump, field.size, field.start), (2.0, 8.0, 1.0));
        let rule = WindowRule::Field(field);
        let activation = map(&[0.0; 30], (5, 6));
        let seen = |row, column| rule.window((row, column), &activation, (10, 12)).unwrap();
        assert_eq!(seen(0, 2), Window { top: 0, left: 1, bottom: 5, right: 9 });
        assert_eq!(seen(4, 5), Window { top: 5, left: 7, bottom: 10, right: 12 });
        let beside = ReceptiveField { jump: 1.0, size: 1.0, start: -40.0 };
        let window = WindowRule::Field(beside).window((0, 0), &activation, (10, 12)).unwrap();
        assert_eq!(window, Window { top: 0, left: 0, bottom: 1, right: 1 });
    }

    /// `cv2.resize(map, (12, 10), interpolation=cv2.INTER_CUBIC)` is PyTorch's `bicubic`; threshold by
    /// `numpy.percentile`, box from the first row and column at or above it to the last.
    #[test]
    fn the_box_of_the_most_active_pixels() {
        let mut values = [0.0f32; 20];
        values[7] = 3.0;
        values[8] = 2.0;
        let activation = map(&values, (4, 5));
        let window = |p| WindowRule::Percentile(p).window((0, 0), &activation, (10, 12)).unwrap();
        let whole = Window { top: 0, left: 0, bottom: 10, right: 12 };
        assert_eq!(window(0.0), whole);
        assert_eq!(window(95.0), Window { top: 3, left: 5, bottom: 5, right: 8 });
        assert_eq!(window(80.0), Window { top: 2, left: 4, bottom: 6, right: 10 });
        assert_eq!(window(60.0), Window { top: 0, left: 1, bottom: 9, right: 12 });
        let peak = window(100.0);
        assert_eq!((peak.height(), peak.width()), (1, 1));
        let flat = map(&[0.3; 20], (4, 5));
        assert_eq!(WindowRule::Percentile(95.0).window((0, 0), &flat, (10, 12)).unwrap(), whole);
    }

    #[test]
    fn percentiles_are_linear_between_order_statistics() {
        let of = |p| percentile_of(&mut [4.0, 1.0, 3.0, 2.0], p);
        assert_eq!([of(0.0), of(50.0), of(100.0)], [1.0, 2.5, 4.0]);
        assert!((of(95.0) - 3.85).abs() < 1e-12);
        assert_eq!(percentile_of(&mut [7.0], 33.0), 7.0);
    }

    #[test]
    fn misfits_are_typed_errors() {
        let (activation, image) = (map(&[0.0; 6], (2, 3)), (8, 8));
        for position in [(2, 0), (0, 3)] {
            let refused = WindowRule::Cell.window(position, &activation, image);
            assert!(matches!(refused, Err(Error::Input { .. })), "{position:?}");
        }
        assert!(matches!(WindowRule::Cell.window((0, 0), &activation, (0, 8)), Err(Error::Input { .. })));
        for rule in [
            WindowRule::Percentile(f64::NAN),
            WindowRule::Percentile(100.5),
            WindowRule::Field(ReceptiveField { jump: 0.0, size: 1.0, start: 0.5 }),
            WindowRule::Field(ReceptiveField { jump: 1.0, size: f64::NAN, start: 0.5 }),
        ] {
            let refused = rule.window((0, 0), &activation, image);
            assert!(matches!(refused, Err(Error::Config { .. })), "{rule:?}");
        }
        assert!(ReceptiveField::of(&[3], &[1, 1], &[1]).is_err());
        assert!(ReceptiveField::of(&[0], &[1], &[0]).is_err());
        assert!(ReceptiveField::of(&[usize::MAX; 40], &[usize::MAX; 40], &[0; 40]).is_err());
        let nan = map(&[0.0, f32::NAN], (1, 2));
        let refused = WindowRule::Percentile(95.0).window((0, 0), &nan, image);
        assert!(matches!(refused, Err(Error::NonFinite { .. })));
        let image = Tensor::zeros((1, 4, 4), DType::F32, &Device::Cpu).unwrap();
        let empty = Window { top: 2, left: 0, bottom: 2, right: 4 };
        let outside = Window { top: 0, left: 0, bottom: 5, right: 4 };
        for window in [empty, outside] {
            assert!(matches!(window.crop(&image), Err(Error::Input { .. })), "{window:?}");
        }
    }

    proptest! {
        #[test]
        fn cells_cover_the_image(pixels in 1usize..70, cells in 1usize..70) {
            let mut end = 0;
            for i in 0..cells {
                let (first, after) = cell(i, cells, pixels);
                prop_assert!(first <= end && first < after && after <= pixels);
                end = after;
            }
            prop_assert_eq!(end, pixels);
        }
    }
}
