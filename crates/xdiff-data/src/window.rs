//! Explicit intensity windows: from stored numbers to [0, 1].

use serde::{Deserialize, Serialize};

use crate::image::{Image, Scale};
use crate::volume::Volume;
use crate::{Error, Result};

/// The stored values that become 0 and 1. There is no window that looks at the image it is applied to:
/// two images through one window stay comparable.
///
/// A value v becomes clamp((v − lo) / (hi − lo), 0, 1); in an image whose least value is to be seen
/// brightest ([`Origin::inverted`](crate::Origin), DICOM's MONOCHROME1), 1 minus that.
///
/// ```
/// use xdiff_data::{Image, Scale, Window};
///
/// let ct = Image::new(1, 1, 3, vec![-2000.0, -600.0, 150.0], Scale::Stored)?;
/// let seen = Window::centred(-600.0, 1500.0).apply(ct)?;
/// assert_eq!(seen.data(), [0.0, 0.5, 1.0]);
/// // One value of three lay outside.
/// assert_eq!(seen.origin.windowed.map(|w| w.clipped), Some(1.0 / 3.0));
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// The whole range of the stored type: 255 or 65535. Right for 8-bit files; for 16 bits seldom
    /// what is meant, since few scanners use the range. Floats have none.
    Full,
    /// From `lo` to `hi` in stored units.
    Range {
        /// What becomes 0.
        lo: f32,
        /// What becomes 1.
        hi: f32,
    },
    /// The least and the greatest value over a whole dataset, from [`Span::window`].
    Span(Span),
}

/// The window that an image went through, and what that cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windowed {
    /// What became 0.
    pub lo: f32,
    /// What became 1.
    pub hi: f32,
    /// The share of values that lay outside, 0 to 1.
    pub clipped: f64,
}

impl Window {
    /// A window by its centre and width, as radiologists give it: from centre − width/2 to centre + width/2.
    pub fn centred(centre: f32, width: f32) -> Self {
        Window::Range { lo: centre - 0.5 * width, hi: centre + 0.5 * width }
    }

    /// Brings stored values to [0, 1] and notes the clipped share in the image's origin.
    ///
    /// # Errors
    /// When the image is not in stored values, the window is empty or not finite, or it is
    /// [`Window::Full`] and the image of floats.
    pub fn apply(&self, mut image: Image) -> Result<Image> {
        if image.scale != Scale::Stored {
            return Err(Error::argument("window", format!("{} is already scaled", image.name())));
        }
        let (lo, hi) = self.bounds(&image)?;
        let outside = image.data().iter().filter(|v| **v < lo || **v > hi).count();
        let clipped = outside as f64 / image.data().len() as f64;
        let width = hi - lo;
        image.origin.windowed = Some(Windowed { lo, hi, clipped });
        let inverted = image.origin.inverted;
        Ok(image.map(Scale::Unit, |v| {
            let shown = ((v - lo) / width).clamp(0.0, 1.0);
            if inverted { 1.0 - shown } else { shown }
        }))
    }

    fn bounds(&self, image: &Image) -> Result<(f32, f32)> {
        let (lo, hi) = match self {
            Window::Full => image.origin.depth.range().ok_or_else(|| {
                Error::argument(
                    "window",
                    format!("{} holds floats, which have no full range; give `Window::Range`", image.name()),
                )
            })?,
            Window::Range { lo, hi } => (*lo, *hi),
            Window::Span(span) => (span.lo, span.hi),
        };
        if !(hi - lo).is_finite() || hi <= lo {
            return Err(Error::argument("window", format!("{lo} to {hi} is empty or not finite; lo < hi")));
        }
        Ok((lo, hi))
    }
}

/// The extent of the stored values of several images, and how many they were.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    lo: f32,
    hi: f32,
    images: usize,
}

impl Span {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self { lo: f32::INFINITY, hi: f32::NEG_INFINITY, images: 0 }
    }

    /// Adds an image.
    ///
    /// # Errors
    /// When the image is not in stored values.
    pub fn include(&mut self, image: &Image) -> Result<()> {
        if image.scale != Scale::Stored {
            return Err(Error::argument("span", format!("{} is already scaled", image.name())));
        }
        let (lo, hi) = image.extent();
        self.lo = self.lo.min(lo);
        self.hi = self.hi.max(hi);
        self.images += 1;
        Ok(())
    }

    /// Adds a volume, over all its frames; NaN and infinite values do not count.
    ///
    /// # Errors
    /// When no value is finite.
    pub fn include_volume(&mut self, volume: &Volume) -> Result<()> {
        let Some((lo, hi)) = volume.extent() else {
            return Err(Error::argument("span", format!("{} has no finite value", volume.name())));
        };
        self.lo = self.lo.min(lo);
        self.hi = self.hi.max(hi);
        self.images += 1;
        Ok(())
    }

    /// The window from the least to the greatest value seen.
    ///
    /// # Errors
    /// When no image was seen, or all values are the same.
    pub fn window(self) -> Result<Window> {
        if self.images == 0 || self.hi <= self.lo {
            return Err(Error::argument(
                "span",
                format!("{} images seen, with no two different values: they give no window", self.images),
            ));
        }
        Ok(Window::Span(self))
    }

    /// The least and the greatest value, and how many images were seen.
    pub fn seen(&self) -> (f32, f32, usize) {
        (self.lo, self.hi, self.images)
    }
}

impl Default for Span {
    fn default() -> Self {
        Self::new()
    }
}
