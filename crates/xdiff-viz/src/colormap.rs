//! From values to colours.

use image::{Rgb, RgbImage};

use crate::canvas;
use crate::{Plane, Result, ValueRange};

/// How positions from 0 to 1 become colours.
///
/// Viridis, Magma, Inferno and Cividis rise evenly in lightness, so that equal steps look equal
/// and a grey print stays readable; Cividis looks the same with red–green blindness. Turbo tells
/// more values apart, but its lightness rises and falls. [`Colormap::Diverging`] (blue, white,
/// red) is for signed maps: paint it with [`crate::Window::Symmetric`], and zero is white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Colormap {
    /// Black to white.
    Grey,
    /// Dark blue over green to yellow.
    Viridis,
    /// Black over purple to pale yellow.
    Magma,
    /// Black over red to pale yellow.
    Inferno,
    /// Dark blue over grey to yellow.
    Cividis,
    /// Blue over green and yellow to red.
    Turbo,
    /// Blue over white to red.
    Diverging,
}

impl Colormap {
    /// Every colour map.
    pub const ALL: [Colormap; 7] = [
        Colormap::Grey,
        Colormap::Viridis,
        Colormap::Magma,
        Colormap::Inferno,
        Colormap::Cividis,
        Colormap::Turbo,
        Colormap::Diverging,
    ];

    /// The colour at `position`, from 0 (lowest) to 1 (highest). Positions outside are moved to
    /// the nearer end; NaN gives [`Colormap::nan_color`].
    pub fn color(self, position: f64) -> Rgb<u8> {
        if position.is_nan() {
            return self.nan_color();
        }
        let t = position.clamp(0.0, 1.0);
        let gradient = match self {
            Colormap::Grey => {
                let level = (t * 255.0).round() as u8;
                return Rgb([level; 3]);
            }
            Colormap::Viridis => colorous::VIRIDIS,
            Colormap::Magma => colorous::MAGMA,
            Colormap::Inferno => colorous::INFERNO,
            Colormap::Cividis => colorous::CIVIDIS,
            Colormap::Turbo => colorous::TURBO,
            Colormap::Diverging => {
                let color = colorous::RED_BLUE.eval_continuous(1.0 - t);
                return Rgb([color.r, color.g, color.b]);
            }
        };
        let color = gradient.eval_continuous(t);
        Rgb([color.r, color.g, color.b])
    }

    /// The colour of NaN, far from every colour of the map.
    pub fn nan_color(self) -> Rgb<u8> {
        match self {
            Colormap::Grey | Colormap::Viridis | Colormap::Cividis => Rgb([255, 0, 255]),
            Colormap::Magma | Colormap::Inferno => Rgb([0, 255, 255]),
            Colormap::Turbo => Rgb([150, 150, 150]),
            Colormap::Diverging => Rgb([0, 200, 0]),
        }
    }

    /// A picture of the plane, one pixel per value: `range.lo()` and below take the lowest colour,
    /// `range.hi()` and above the highest, so infinities take an end; NaN takes
    /// [`Colormap::nan_color`].
    ///
    /// # Errors
    ///
    /// [`crate::Error::TooLarge`] for a plane with more than [`crate::MAX_PIXELS`] values.
    ///
    /// ```
    /// use xdiff_viz::{Colormap, Plane, Window};
    ///
    /// let plane = Plane::new(1, 3, vec![0.0, 0.5, f32::NAN])?;
    /// let range = Window::Fixed(0.0, 0.5).over(&[&plane])?;
    /// let picture = Colormap::Grey.paint(&plane, range)?;
    /// assert_eq!(picture.get_pixel(1, 0).0, [255, 255, 255]);
    /// assert_eq!(*picture.get_pixel(2, 0), Colormap::Grey.nan_color());
    /// # Ok::<(), xdiff_viz::Error>(())
    /// ```
    pub fn paint(self, plane: &Plane, range: ValueRange) -> Result<RgbImage> {
        let mut picture = canvas::blank("plane", plane.width() as u64, plane.height() as u64, Rgb([0; 3]))?;
        for (pixel, &value) in picture.pixels_mut().zip(plane.values()) {
            *pixel = self.color(range.position(f64::from(value)));
        }
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Window;

    fn distance(a: Rgb<u8>, b: Rgb<u8>) -> f64 {
        let square: f64 = (0..3).map(|i| (f64::from(a.0[i]) - f64::from(b.0[i])).powi(2)).sum();
        square.sqrt()
    }

    fn lightness(color: Rgb<u8>) -> f64 {
        let [r, g, b] = color.0.map(|c| (f64::from(c) / 255.0).powf(2.2));
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    #[test]
    fn nan_is_far_from_every_colour_of_its_map() {
        let close: Vec<_> = Colormap::ALL
            .iter()
            .filter(|map| {
                (0..=1000).any(|i| distance(map.color(f64::from(i) / 1000.0), map.nan_color()) < 60.0)
            })
            .collect();
        assert!(close.is_empty(), "{close:?}");
    }

    #[test]
    fn perceptual_maps_rise_in_lightness() {
        let maps = [Colormap::Grey, Colormap::Viridis, Colormap::Magma, Colormap::Inferno, Colormap::Cividis];
        let falling: Vec<_> = maps
            .iter()
            .filter(|map| {
                let levels: Vec<_> = (0..=32).map(|i| lightness(map.color(f64::from(i) / 32.0))).collect();
                levels.windows(2).any(|w| w[1] <= w[0])
            })
            .collect();
        assert!(falling.is_empty(), "{falling:?}");
    }

    #[test]
    fn the_diverging_map_is_pale_at_zero_and_blue_below() {
        let map = Colormap::Diverging;
        assert!(map.color(0.5).0.iter().all(|&c| c > 235), "{:?}", map.color(0.5));
        let (low, high) = (map.color(0.1).0, map.color(0.9).0);
        assert!(low[2] > low[0] && high[0] > high[2], "{low:?} {high:?}");
    }

    #[test]
    fn values_outside_the_window_take_the_ends() {
        let values = vec![f32::NEG_INFINITY, -5.0, 5.0, f32::INFINITY];
        let plane = Plane::new(2, 2, values).unwrap();
        let range = Window::Fixed(-1.0, 1.0).over(&[]).unwrap();
        for map in Colormap::ALL {
            let picture = map.paint(&plane, range).unwrap();
            let got: Vec<_> = picture.pixels().copied().collect();
            let (lo, hi) = (map.color(0.0), map.color(1.0));
            assert_eq!(got, [lo, lo, hi, hi], "{map:?}");
        }
    }
}
