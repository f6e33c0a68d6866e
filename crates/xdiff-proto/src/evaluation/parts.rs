//! Annotated parts of an image.

use candle_core::Tensor;

use crate::host::host;
use crate::window::Window;
use crate::{Error, Result};

/// Where the parts of one image are. Part k is the same thing in every image; left and right twins that
/// should count as one part are one part to begin with.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageParts {
    size: (usize, usize),
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// Not to be seen in this image.
    Hidden,
    /// In pixels from the top left corner: the first pixel's centre is (0.5, 0.5), or (0, 0) where
    /// annotations count pixels.
    Point { row: f64, column: f64 },
    /// Sums over all pixels above and to the left: (H + 1) rows of W + 1.
    Region(Vec<u32>),
}

impl ImageParts {
    /// Parts given by a point (row, column) in pixels each; `None` for a part that is not to be seen.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no part, the image has no pixel, or a point lies outside.
    pub fn from_points(size: (usize, usize), points: &[Option<(f64, f64)>]) -> Result<Self> {
        if points.is_empty() || size.0 == 0 || size.1 == 0 {
            return Err(Error::input("parts", format!("are {} in {size:?} pixels", points.len())));
        }
        let part = |(k, point): (usize, &Option<(f64, f64)>)| match *point {
            None => Ok(Part::Hidden),
            Some((row, column))
                if (0.0..=size.0 as f64).contains(&row) && (0.0..=size.1 as f64).contains(&column) =>
            {
                Ok(Part::Point { row, column })
            }
            Some(point) => Err(Error::input("parts", format!("part {k} is at {point:?} of {size:?} pixels"))),
        };
        Ok(Self { size, parts: points.iter().enumerate().map(part).collect::<Result<_>>()? })
    }

    /// Parts given by a mask each; one without a pixel is not to be seen.
    ///
    /// # Shapes
    /// `masks` (K, H, W); a part is where its mask is not 0.
    ///
    /// # Errors
    /// [`Error::Input`] for another shape, [`Error::NonFinite`] when a mask holds NaN.
    pub fn from_masks(masks: &Tensor) -> Result<Self> {
        let &[parts, height, width] = masks.dims() else {
            return Err(Error::input("masks", format!("have shape {:?}, not (K, H, W)", masks.dims())));
        };
        if masks.elem_count() == 0 {
            return Err(Error::input("masks", format!("have shape {:?}: there is none", masks.dims())));
        }
        let masks = host(masks)?.reshape((parts, height * width))?.to_vec2::<f32>()?;
        let part = |(k, mask): (usize, &Vec<f32>)| {
            if mask.iter().any(|v| v.is_nan()) {
                let hint = "give 0 outside and 1 inside";
                return Err(Error::NonFinite { what: "the mask", of: format!("part {k}"), hint });
            }
            let table = area_table(mask, width);
            Ok(if table.last() == Some(&0) { Part::Hidden } else { Part::Region(table) })
        };
        let parts = masks.iter().enumerate().map(part).collect::<Result<_>>()?;
        Ok(Self { size: (height, width), parts })
    }

    /// Height and width of the image.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// How many parts there are, seen or not; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether part k is to be seen; false when there is no such part.
    pub fn visible(&self, k: usize) -> bool {
        self.parts.get(k).is_some_and(|part| *part != Part::Hidden)
    }

    /// Whether a window shows part k: a point on or inside its border; a region that shares at least one
    /// pixel with it and at least `overlap` of the smaller of the two areas.
    pub fn shown(&self, k: usize, window: &Window, overlap: f64) -> bool {
        let within = |v: f64, low: usize, high: usize| v >= low as f64 && v <= high as f64;
        match self.parts.get(k) {
            None | Some(Part::Hidden) => false,
            Some(Part::Point { row, column }) => {
                within(*row, window.top, window.bottom) && within(*column, window.left, window.right)
            }
            Some(Part::Region(table)) => {
                let stride = self.size.1 + 1;
                let (top, bottom) = (window.top.min(self.size.0), window.bottom.min(self.size.0));
                let (left, right) = (window.left.min(self.size.1), window.right.min(self.size.1));
                let at = |row: usize, column: usize| i64::from(table[row * stride + column]);
                let shared = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left);
                let area = i64::from(table.last().copied().unwrap_or(0));
                let smaller = area.min((window.height() * window.width()) as i64);
                shared > 0 && shared as f64 >= overlap * smaller as f64
            }
        }
    }
}

/// The numbers of set pixels above and to the left of each corner.
fn area_table(mask: &[f32], width: usize) -> Vec<u32> {
    let stride = width + 1;
    let mut table = vec![0u32; stride * (mask.len() / width + 1)];
    for (row, values) in mask.chunks_exact(width).enumerate() {
        let mut sum = 0;
        for (column, value) in values.iter().enumerate() {
            sum += u32::from(*value != 0.0);
            table[(row + 1) * stride + column + 1] = table[row * stride + column + 1] + sum;
        }
    }
    table
}
