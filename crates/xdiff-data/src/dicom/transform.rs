//! From stored values to what they measure, and from there to what is shown (PS3.3, sections C.11.1 and
//! C.11.2).

use dicom_object::InMemDicomObject;
use serde::{Deserialize, Serialize};

use super::access::{Attribute, attribute};
use super::fault::{DicomFault, Outcome};
use crate::window::Window;
use crate::{Error, Result};

const SLOPE: Attribute = attribute!("RescaleSlope", RESCALE_SLOPE);
const INTERCEPT: Attribute = attribute!("RescaleIntercept", RESCALE_INTERCEPT);
const MODALITY_LUT: Attribute = attribute!("ModalityLUTSequence", MODALITY_LUT_SEQUENCE);
const VOI_LUT: Attribute = attribute!("VOILUTSequence", VOILUT_SEQUENCE);
const CENTRE: Attribute = attribute!("WindowCenter", WINDOW_CENTER);
const WIDTH: Attribute = attribute!("WindowWidth", WINDOW_WIDTH);
const FUNCTION: Attribute = attribute!("VOILUTFunction", VOILUT_FUNCTION);
const DESCRIPTOR: Attribute = attribute!("LUTDescriptor", LUT_DESCRIPTOR);
const DATA: Attribute = attribute!("LUTData", LUT_DATA);

/// Which numbers of a file are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelValues {
    /// As stored: whole numbers in the range of the stored bits.
    Stored,
    /// What the stored numbers measure: Hounsfield units of CT, activity of PET. Where a file says
    /// nothing, these are the stored values.
    #[default]
    Modality,
}

/// A table that replaces values: the first entry is for `first` and all below, the last for all above.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    first: i32,
    bits: u16,
    entries: Vec<u16>,
}

impl Table {
    /// Reads a table from its descriptor (number of entries, first value mapped, bits) and data. `signed`
    /// says whether the values that are looked up are.
    pub(super) fn read(
        object: &InMemDicomObject,
        descriptor: Attribute,
        data: Attribute,
        signed: bool,
    ) -> Outcome<Self> {
        let why = "a table of values cannot be read without it";
        let d = descriptor.numbers(object)?.ok_or(descriptor.missing(why))?;
        let [count, first, bits] = d[..] else {
            return Err(descriptor.value(format!("{d:?}"), "three numbers are expected"));
        };
        let count = if count == 0.0 { 65536 } else { count as usize };
        let first = first as i64 & 0xFFFF;
        let first = if signed && first >= 0x8000 { first - 0x10000 } else { first } as i32;
        let words = data.words(object).ok_or(data.missing(why))?;
        // Entries of 8 bits may stand two to a word.
        let packed = bits as u16 <= 8 && words.len() < count;
        let mut entries: Vec<u16> =
            if packed { words.iter().flat_map(|w| [w & 0xFF, w >> 8]).collect() } else { words };
        if entries.len() < count || !(8.0..=16.0).contains(&bits) {
            let found = format!("{d:?} with {} entries", entries.len());
            return Err(descriptor.value(found, "entries of 8 to 16 bits, as many as said, are expected"));
        }
        entries.truncate(count);
        Ok(Self { first, bits: bits as u16, entries })
    }

    /// The entry for a value.
    pub fn look_up(&self, value: f64) -> u16 {
        let place = (value - f64::from(self.first)).floor().clamp(0.0, (self.entries.len() - 1) as f64);
        self.entries[place as usize]
    }

    /// The greatest value that an entry may have.
    pub fn most(&self) -> u16 {
        ((1u32 << self.bits) - 1) as u16
    }

    /// The bits of an entry.
    pub(super) fn bits(&self) -> u16 {
        self.bits
    }

    /// The least and the greatest value that have entries of their own.
    fn domain(&self) -> (f64, f64) {
        let first = f64::from(self.first);
        (first, first + (self.entries.len() - 1) as f64)
    }
}

/// How stored values become modality values.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ModalityTransform {
    /// They are the same.
    Identity,
    /// slope · value + intercept.
    Rescale {
        /// What a step of the stored value means.
        slope: f64,
        /// What a stored 0 means.
        intercept: f64,
    },
    /// By a table.
    Table(Table),
}

impl ModalityTransform {
    /// From the object or functional group that has it; `None` when there is none in it.
    pub(super) fn read(object: &InMemDicomObject, signed: bool) -> Outcome<Option<Self>> {
        if let Some(item) = MODALITY_LUT.item(object) {
            return Ok(Some(Self::Table(Table::read(item, DESCRIPTOR, DATA, signed)?)));
        }
        let (slope, intercept) = (SLOPE.number(object)?, INTERCEPT.number(object)?);
        if slope.is_none() && intercept.is_none() {
            return Ok(None);
        }
        let (slope, intercept) = (slope.unwrap_or(1.0), intercept.unwrap_or(0.0));
        if !slope.is_finite() || slope == 0.0 {
            return Err(SLOPE.value(
                slope,
                "a finite number other than 0 is expected; read `PixelValues::Stored` instead",
            ));
        }
        if !intercept.is_finite() {
            return Err(
                INTERCEPT.value(intercept, "a finite number is expected; read `PixelValues::Stored` instead")
            );
        }
        if (slope, intercept) == (1.0, 0.0) {
            return Ok(Some(Self::Identity));
        }
        Ok(Some(Self::Rescale { slope, intercept }))
    }

    /// The modality value of a stored one, in f64.
    pub fn apply(&self, stored: f64) -> f64 {
        match self {
            Self::Identity => stored,
            Self::Rescale { slope, intercept } => slope * stored + intercept,
            Self::Table(table) => f64::from(table.look_up(stored)),
        }
    }
}

/// The shape of a window (PS3.3, C.11.2.1.2 and C.11.2.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindowFunction {
    /// From c − 0.5 − (w − 1)/2 to c − 0.5 + (w − 1)/2: counts whole grey values, so that a window of
    /// width w has w of them.
    #[default]
    Linear,
    /// From c − w/2 to c + w/2.
    LinearExact,
    /// 1 / (1 + exp(−4 (x − c) / w)).
    Sigmoid,
}

/// A way of showing modality values that the file itself suggests ("value of interest").
///
/// ```
/// use xdiff_data::Window;
/// use xdiff_data::dicom::{Voi, WindowFunction};
///
/// let soft = Voi::Window { centre: 40.0, width: 400.0, function: WindowFunction::Linear };
/// // The standard's window of width 400 has 400 grey values, from −160 to 239.
/// assert_eq!(soft.window()?, Window::Range { lo: -160.0, hi: 239.0 });
/// assert_eq!(soft.apply(39.5), 0.5);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Voi {
    /// A window.
    Window {
        /// The centre, in modality values.
        centre: f64,
        /// The width.
        width: f64,
        /// The shape.
        function: WindowFunction,
    },
    /// A table.
    Table(Table),
}

impl Voi {
    /// All that an object or functional group suggests, tables first.
    pub(super) fn read(object: &InMemDicomObject, signed: bool) -> Outcome<Vec<Self>> {
        let tables = VOI_LUT.items(object).iter();
        let tables = tables.map(|i| Ok(Self::Table(Table::read(i, DESCRIPTOR, DATA, signed)?)));
        let mut all = tables.collect::<Outcome<Vec<_>>>()?;
        let centres = CENTRE.numbers(object)?.unwrap_or_default();
        let widths = WIDTH.numbers(object)?.unwrap_or_default();
        if centres.len() != widths.len() {
            let found = format!("{} values, WindowCenter {}", widths.len(), centres.len());
            return Err(WIDTH.value(found, "as many widths as centres are expected"));
        }
        let function = match FUNCTION.text(object).as_deref() {
            None | Some("LINEAR") => WindowFunction::Linear,
            Some("LINEAR_EXACT") => WindowFunction::LinearExact,
            Some("SIGMOID") => WindowFunction::Sigmoid,
            Some(_) => {
                return Err(DicomFault::Unsupported {
                    what: "a VOILUTFunction other than LINEAR, LINEAR_EXACT and SIGMOID".into(),
                    hint: "give a `Window` of your own",
                });
            }
        };
        all.extend(centres.into_iter().zip(widths).map(|(centre, width)| Self::Window {
            centre,
            width,
            function,
        }));
        Ok(all)
    }

    /// The same as a [`Window`] of this crate, for all files alike.
    ///
    /// # Errors
    /// When it is a sigmoid or a table, which no window of straight edges equals, or its width is not
    /// finite or too small (at most 1 for [`WindowFunction::Linear`], at most 0 otherwise).
    pub fn window(&self) -> Result<Window> {
        let (centre, width) = match self {
            Self::Window { centre, width, function: WindowFunction::Linear } => (centre - 0.5, width - 1.0),
            Self::Window { centre, width, function: WindowFunction::LinearExact } => (*centre, *width),
            Self::Window { .. } => {
                return Err(Error::argument(
                    "voi",
                    "a sigmoid is no window of straight edges; use `Dicom::display`",
                ));
            }
            Self::Table(_) => {
                return Err(Error::argument(
                    "voi",
                    "a table is no window of straight edges; use `Dicom::display`",
                ));
            }
        };
        if !(centre.is_finite() && width.is_finite() && width > 0.0) {
            return Err(Error::argument("voi", format!("the window {self:?} is empty or not finite")));
        }
        Ok(Window::Range { lo: (centre - 0.5 * width) as f32, hi: (centre + 0.5 * width) as f32 })
    }

    /// Whether it can be applied.
    pub(super) fn check(&self) -> Outcome<()> {
        let Self::Window { centre, width, function } = self else { return Ok(()) };
        let least = if *function == WindowFunction::Linear { *width >= 1.0 } else { *width > 0.0 };
        if least && width.is_finite() && centre.is_finite() {
            return Ok(());
        }
        Err(WIDTH
            .value(format!("{width} at centre {centre}"), "at least 1 (LINEAR) or more than 0 is expected"))
    }

    /// What is shown for a modality value, 0 to 1.
    pub fn apply(&self, value: f64) -> f64 {
        match self {
            Self::Window { centre, width, function: WindowFunction::Linear } => {
                let (middle, span) = (centre - 0.5, width - 1.0);
                if value <= middle - 0.5 * span {
                    0.0
                } else if value > middle + 0.5 * span {
                    1.0
                } else {
                    (value - middle) / span + 0.5
                }
            }
            Self::Window { centre, width, function: WindowFunction::LinearExact } => {
                ((value - centre) / width + 0.5).clamp(0.0, 1.0)
            }
            Self::Window { centre, width, function: WindowFunction::Sigmoid } => {
                1.0 / (1.0 + (-4.0 * (value - centre) / width).exp())
            }
            Self::Table(table) => f64::from(table.look_up(value)) / f64::from(table.most()),
        }
    }

    /// Between which values it is neither 0 nor 1 everywhere.
    pub(super) fn bounds(&self) -> (f64, f64) {
        match self {
            Self::Window { centre, width, function: WindowFunction::Linear } => {
                (centre - 0.5 - 0.5 * (width - 1.0), centre - 0.5 + 0.5 * (width - 1.0))
            }
            Self::Window { centre, width, .. } => (centre - 0.5 * width, centre + 0.5 * width),
            Self::Table(table) => table.domain(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(centre: f64, width: f64, function: WindowFunction) -> Voi {
        Voi::Window { centre, width, function }
    }

    #[test]
    fn windows_follow_the_equations_of_the_standard() {
        use WindowFunction::{Linear, LinearExact, Sigmoid};
        // The examples in C.11.2.1.2.1: c = 2048, w = 4096 and c = 2048, w = 1.
        let cases = [
            (window(2048.0, 4096.0, Linear), 0.0, 0.0),
            (window(2048.0, 4096.0, Linear), 4095.0, 1.0),
            (window(2048.0, 4096.0, Linear), 2047.5, 0.5),
            (window(2048.0, 1.0, Linear), 2047.0, 0.0),
            (window(2048.0, 1.0, Linear), 2048.0, 1.0),
            (window(2048.0, 4096.0, LinearExact), 0.0, 0.0),
            (window(2048.0, 4096.0, LinearExact), 1024.0, 0.25),
            (window(0.0, 100.0, LinearExact), 51.0, 1.0),
            (window(10.0, 4.0, Sigmoid), 10.0, 0.5),
            (window(0.0, 4.0, Sigmoid), 1.0, 1.0 / (1.0 + (-1.0f64).exp())),
        ];
        for (voi, value, want) in cases {
            assert!((voi.apply(value) - want).abs() < 1e-12, "{voi:?} of {value}: {}", voi.apply(value));
        }
    }

    #[test]
    fn a_window_of_this_crate_is_the_same_line() {
        for function in [WindowFunction::Linear, WindowFunction::LinearExact] {
            let voi = window(40.0, 400.0, function);
            let Window::Range { lo, hi } = voi.window().unwrap() else { panic!() };
            for value in [-300.0, -160.0, -0.5, 39.5, 100.0, 240.0, 900.0] {
                let ours = ((value - f64::from(lo)) / f64::from(hi - lo)).clamp(0.0, 1.0);
                assert!((ours - voi.apply(value)).abs() < 1e-6, "{function:?} {value}");
            }
        }
        assert!(window(40.0, 1.0, WindowFunction::Linear).window().is_err());
        assert!(window(40.0, f64::NAN, WindowFunction::LinearExact).window().is_err());
        assert!(window(40.0, 4.0, WindowFunction::Sigmoid).window().is_err());
    }

    #[test]
    fn tables_hold_their_ends() {
        let table = Table { first: -2, bits: 12, entries: vec![0, 10, 4095] };
        let looked: Vec<u16> = [-9.0, -2.0, -1.0, 0.0, 77.0].map(|v| table.look_up(v)).to_vec();
        assert_eq!(looked, [0, 0, 10, 4095, 4095]);
        assert_eq!(Voi::Table(table).apply(0.0), 1.0);
    }
}
