//! From values to places along an axis.

use super::Scale;
use crate::ticks::{self, Tick};
use crate::{Error, Result, ValueRange};

/// One axis of a chart. Places run from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    scale: Scale,
    /// The ends; for a logarithmic axis their decimal logarithms.
    range: ValueRange,
}

impl Axis {
    /// The wanted range, or that of the data with a share `padding` more at both ends. Values
    /// that have no place on the axis are passed over.
    pub(super) fn new(
        what: &'static str,
        scale: Scale,
        wanted: Option<ValueRange>,
        data: impl IntoIterator<Item = f64>,
        padding: f64,
    ) -> Result<Self> {
        let transformed = |value: f64| match scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        };
        if let Some(range) = wanted {
            if scale == Scale::Log && range.lo() <= 0.0 {
                let reason = format!("a logarithmic axis cannot show {range}; give positive ends");
                return Err(Error::argument(what, reason));
            }
            let range = ValueRange::new(transformed(range.lo()), transformed(range.hi()))?;
            return Ok(Axis { scale, range });
        }
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for place in data.into_iter().map(transformed).filter(|p| p.is_finite()) {
            lo = lo.min(place);
            hi = hi.max(place);
        }
        if lo > hi {
            let reason = match scale {
                Scale::Linear => "no value is finite",
                Scale::Log => "a logarithmic axis needs a positive, finite value, and there is none",
            };
            return Err(Error::argument(what, reason));
        }
        if lo == hi {
            let half = match scale {
                Scale::Linear if lo != 0.0 => lo.abs() * 0.1,
                _ => 0.5,
            };
            // A number too small for a tenth of it is as good as zero.
            let half = if lo - half < lo { half } else { 0.5 };
            return Ok(Axis { scale, range: ValueRange::new(lo - half, hi + half)? });
        }
        let room = (hi - lo) * padding;
        Ok(Axis { scale, range: ValueRange::new(lo - room, hi + room)? })
    }

    /// The same axis without room below its least value `floor`.
    pub(super) fn starting_at(self, floor: f64) -> Result<Self> {
        Ok(Axis { range: ValueRange::new(floor, self.range.hi())?, ..self })
    }

    /// The same axis without room above its greatest value `ceiling`.
    pub(super) fn ending_at(self, ceiling: f64) -> Result<Self> {
        Ok(Axis { range: ValueRange::new(self.range.lo(), ceiling)?, ..self })
    }

    /// The place of a value; `None` for NaN, infinities, and on a logarithmic axis for zero and
    /// negative values.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        };
        let place = self.range.position(value);
        (value.is_finite() && place.is_finite()).then_some(place)
    }

    /// The value at a place.
    pub(super) fn value(&self, place: f64) -> f64 {
        let value = self.range.lo() + place * (self.range.hi() - self.range.lo());
        match self.scale {
            Scale::Linear => value,
            Scale::Log => 10f64.powf(value),
        }
    }

    /// About `most` marks.
    pub(super) fn ticks(&self, most: usize) -> Vec<Tick> {
        match self.scale {
            Scale::Linear => ticks::linear(self.range.lo(), self.range.hi(), most),
            Scale::Log => {
                let (lo, hi) = (10f64.powf(self.range.lo()), 10f64.powf(self.range.hi()));
                if lo > 0.0 && lo < hi && hi.is_finite() {
                    ticks::logarithmic(lo, hi, most)
                } else {
                    Vec::new()
                }
            }
        }
    }

    /// The places of unlabelled grid lines: two to nine times each power of ten, on up to six
    /// decades of a logarithmic axis.
    pub(super) fn minor_places(&self) -> Vec<f64> {
        let (lo, hi) = (self.range.lo().floor(), self.range.hi().ceil());
        if self.scale == Scale::Linear || hi - lo > 7.0 {
            return Vec::new();
        }
        (lo as i32..hi as i32)
            .flat_map(|decade| (2..10).map(move |m| f64::from(decade) + f64::from(m).log10()))
            .map(|value| self.range.position(value))
            .filter(|place| (0.0..=1.0).contains(place))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_find_their_places_and_back() {
        let linear = Axis::new("x", Scale::Linear, None, [2.0, f64::NAN, 4.0], 0.0).unwrap();
        let log = Axis::new("x", Scale::Log, None, [0.01, -3.0, 1.0], 0.0).unwrap();
        let cases = [
            (linear, 3.0, Some(0.5)),
            (linear, f64::NAN, None),
            (linear, f64::INFINITY, None),
            (log, 0.1, Some(0.5)),
            (log, 0.0, None),
            (log, -1.0, None),
        ];
        for (axis, value, want) in cases {
            assert_eq!(axis.place(value), want, "{value} on {axis:?}");
            if let Some(place) = want {
                assert!((axis.value(place) / value - 1.0).abs() < 1e-12);
            }
        }
        assert_eq!(log.minor_places().len(), 16);
    }

    #[test]
    fn constant_and_extreme_data_have_a_range_or_an_error() {
        for value in [0.0, 1.0, -1e-300, 5e-324, 1e300, 1e16] {
            let axis = Axis::new("x", Scale::Linear, None, [value; 3], 0.05).unwrap();
            assert!((axis.place(value).unwrap() - 0.5).abs() < 1e-9, "{value}: {axis:?}");
            assert!(axis.ticks(6).len() < 20);
        }
        let refused: [(Scale, &[f64]); 4] = [
            (Scale::Linear, &[f64::MIN, f64::MAX]),
            (Scale::Linear, &[f64::NAN]),
            (Scale::Linear, &[]),
            (Scale::Log, &[0.0, -1.0]),
        ];
        for (scale, data) in refused {
            let result = Axis::new("x", scale, None, data.iter().copied(), 0.05);
            assert!(matches!(result, Err(Error::Argument { .. })), "{data:?}");
        }
        let wanted = ValueRange::new(0.0, 1.0).ok();
        assert!(Axis::new("x", Scale::Log, wanted, [1.0], 0.0).is_err());
    }
}
