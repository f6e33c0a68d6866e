//! The plain inputs: a plane of values, a mask, and the window of values that is shown.

use std::fmt;

use crate::{Error, Result};

/// One channel of an image or one attribution map: `height` × `width` values, row by row.
///
/// NaN and infinite values are allowed; see [`crate::Colormap::paint`] for how they look.
///
/// ```
/// use xdiff_viz::Plane;
///
/// let plane = Plane::new(2, 3, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
/// assert_eq!(plane.at(1, 0), Some(3.0));
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Plane {
    /// A plane of `height` rows and `width` columns.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`] if a side is zero, [`Error::Shape`] if `values` does not have
    /// `height * width` entries.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Result<Self> {
        check_area("plane", height, width, values.len())?;
        Ok(Plane { height, width, values })
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The value in row `y` and column `x`, or `None` outside the plane.
    pub fn at(&self, y: usize, x: usize) -> Option<f32> {
        (y < self.height && x < self.width).then(|| self.values[y * self.width + x])
    }

    /// How many values are NaN.
    pub fn nan_count(&self) -> usize {
        self.values.iter().filter(|v| v.is_nan()).count()
    }
}

/// A yes or no per pixel.
///
/// ```
/// use xdiff_viz::{Mask, Plane};
///
/// let plane = Plane::new(1, 3, vec![0.2, 0.7, f32::NAN])?;
/// assert_eq!(Mask::above(&plane, 0.5).values(), [false, true, false]);
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    height: usize,
    width: usize,
    values: Vec<bool>,
}

impl Mask {
    /// A mask of `height` rows and `width` columns.
    ///
    /// # Errors
    ///
    /// As [`Plane::new`].
    pub fn new(height: usize, width: usize, values: Vec<bool>) -> Result<Self> {
        check_area("mask", height, width, values.len())?;
        Ok(Mask { height, width, values })
    }

    /// The pixels whose value is greater than `threshold`; NaN never is.
    pub fn above(plane: &Plane, threshold: f32) -> Self {
        Mask {
            height: plane.height,
            width: plane.width,
            values: plane.values.iter().map(|&v| v > threshold).collect(),
        }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, row by row.
    pub fn values(&self) -> &[bool] {
        &self.values
    }
}

fn check_area(what: &str, height: usize, width: usize, len: usize) -> Result<()> {
    if height == 0 || width == 0 {
        return Err(Error::Empty { what: what.to_owned(), hint: "both sides must be at least 1" });
    }
    if height.checked_mul(width) != Some(len) {
        return Err(Error::shape(what, format!("{height}×{width} values"), format!("{len} values")));
    }
    Ok(())
}

/// Which values are shown from the lowest to the highest colour.
///
/// There is no default: a picture whose window nobody chose cannot be compared with its neighbour.
/// Resolve the window once with [`Window::over`], print the [`ValueRange`], and paint with it.
///
/// ```
/// use xdiff_viz::{Plane, Window};
///
/// let before = Plane::new(1, 2, vec![-0.5, 0.25])?;
/// let after = Plane::new(1, 2, vec![0.0, 2.0])?;
/// assert_eq!(Window::Span.over(&[&before, &after])?.to_string(), "[−0.5, 2]");
/// assert_eq!(Window::Symmetric.over(&[&before, &after])?.to_string(), "[−2, 2]");
/// # Ok::<(), xdiff_viz::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Window {
    /// From the first to the second value, whatever the data are.
    Fixed(f64, f64),
    /// From the smallest to the greatest finite value of the data. Data that are all equal to c
    /// give [c − ½, c + ½], or the least wider range that f64 can hold, so that they take the
    /// middle colour.
    Span,
    /// From −m to m, with m the greatest finite magnitude of the data: for signed maps, so that
    /// zero takes the middle colour. Data that are all zero give [−½, ½].
    Symmetric,
}

impl Window {
    /// The range of values for these planes together.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if a fixed window is not finite or not increasing; [`Error::Empty`] if
    /// no plane has a finite value and the window is not fixed.
    pub fn over(&self, planes: &[&Plane]) -> Result<ValueRange> {
        if let Window::Fixed(lo, hi) = *self {
            return ValueRange::new(lo, hi);
        }
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for &value in planes.iter().flat_map(|p| p.values()).filter(|v| v.is_finite()) {
            lo = lo.min(f64::from(value));
            hi = hi.max(f64::from(value));
        }
        if lo > hi {
            return Err(Error::Empty {
                what: "set of finite values".to_owned(),
                hint: "a window over the data needs one; check the map for NaN, or fix the window",
            });
        }
        if matches!(self, Window::Symmetric) {
            hi = hi.abs().max(lo.abs());
            lo = -hi;
        }
        Ok(ValueRange::widened(lo, hi))
    }
}

/// A finite range of values, `lo < hi`. It prints as `[lo, hi]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValueRange {
    lo: f64,
    hi: f64,
}

impl ValueRange {
    /// The range from `lo` to `hi`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if an end is not finite, if `lo >= hi`, or if `hi - lo` overflows.
    pub fn new(lo: f64, hi: f64) -> Result<Self> {
        if lo < hi && (hi - lo).is_finite() {
            return Ok(ValueRange { lo, hi });
        }
        Err(Error::argument(
            "range of values",
            format!("[{lo}, {hi}] is not a finite, increasing range; give lo < hi"),
        ))
    }

    /// `[lo, hi]` for finite `lo <= hi`, widened where they are equal.
    pub(crate) fn widened(lo: f64, hi: f64) -> Self {
        if lo < hi {
            return ValueRange { lo, hi };
        }
        let half = 0.5_f64.max(lo.abs() * 1e-9);
        ValueRange { lo: lo - half, hi: lo + half }
    }

    /// The value with the lowest colour.
    pub fn lo(&self) -> f64 {
        self.lo
    }

    /// The value with the highest colour.
    pub fn hi(&self) -> f64 {
        self.hi
    }

    /// Where `value` lies: 0 at `lo`, 1 at `hi`; beyond them it is less than 0 or greater than 1.
    pub fn position(&self, value: f64) -> f64 {
        (value - self.lo) / (self.hi - self.lo)
    }
}

impl fmt::Display for ValueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", crate::ticks::compact(self.lo), crate::ticks::compact(self.hi))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let cases = [(0, 3, 0), (3, 0, 0), (2, 3, 5), (usize::MAX, 2, 4), (usize::MAX, usize::MAX, 1)];
        let accepted: Vec<_> = cases
            .iter()
            .filter(|&&(h, w, n)| {
                Plane::new(h, w, vec![0.0; n]).is_ok() || Mask::new(h, w, vec![true; n]).is_ok()
            })
            .collect();
        assert!(accepted.is_empty(), "accepted {accepted:?}");
    }

    #[test]
    fn windows_resolve_as_documented() {
        let plane = |values: &[f32]| Plane::new(1, values.len(), values.to_vec()).unwrap();
        let cases = [
            ("fixed", Window::Fixed(0.0, 2.0), &[9.0][..], Some((0.0, 2.0))),
            ("fixed, reversed", Window::Fixed(2.0, 0.0), &[9.0], None),
            ("fixed, NaN", Window::Fixed(f64::NAN, 0.0), &[9.0], None),
            ("fixed, overflowing", Window::Fixed(f64::MIN, f64::MAX), &[9.0], None),
            ("span", Window::Span, &[1.0, f32::NAN, 3.0, f32::INFINITY], Some((1.0, 3.0))),
            ("span of one value", Window::Span, &[2.0, 2.0], Some((1.5, 2.5))),
            ("span of nothing", Window::Span, &[f32::NAN], None),
            ("symmetric", Window::Symmetric, &[-3.0, 1.0], Some((-3.0, 3.0))),
            ("symmetric zero", Window::Symmetric, &[0.0], Some((-0.5, 0.5))),
        ];
        let failures: Vec<_> = cases
            .iter()
            .filter_map(|(name, window, values, want)| {
                let got = window.over(&[&plane(values)]).ok().map(|r| (r.lo(), r.hi()));
                (got != *want).then(|| format!("{name}: {got:?}, not {want:?}"))
            })
            .collect();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn a_span_of_huge_values_is_increasing_and_finite() {
        for value in [f32::MAX, f32::MIN, 1e20] {
            let plane = Plane::new(1, 1, vec![value]).unwrap();
            let range = Window::Span.over(&[&plane]).unwrap();
            assert!(range.lo() < range.hi() && range.position(f64::from(value)).is_finite(), "{range:?}");
        }
    }
}
