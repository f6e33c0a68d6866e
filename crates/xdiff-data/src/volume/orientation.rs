//! Which way the axes of a volume point in the patient.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::affine::Affine;
use crate::{Error, Result};

/// The side of the patient that an axis points to: indices grow towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The patient's left.
    Left,
    /// The patient's right.
    Right,
    /// The back.
    Posterior,
    /// The front.
    Anterior,
    /// The feet.
    Inferior,
    /// The head.
    Superior,
}

impl Direction {
    /// The other way.
    pub fn opposite(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            Self::Posterior => Self::Anterior,
            Self::Anterior => Self::Posterior,
            Self::Inferior => Self::Superior,
            Self::Superior => Self::Inferior,
        }
    }

    /// L, R, P, A, I or S.
    pub fn letter(self) -> char {
        match self {
            Self::Left => 'L',
            Self::Right => 'R',
            Self::Posterior => 'P',
            Self::Anterior => 'A',
            Self::Inferior => 'I',
            Self::Superior => 'S',
        }
    }

    fn from_letter(letter: char) -> Option<Self> {
        let all = [Self::Left, Self::Right, Self::Posterior, Self::Anterior, Self::Inferior, Self::Superior];
        all.into_iter().find(|d| d.letter() == letter.to_ascii_uppercase())
    }

    /// The direction of growing x, y or z (0, 1 or 2) of RAS space, or of the falling one.
    fn along(world: usize, grows: bool) -> Self {
        let direction = [Self::Right, Self::Anterior, Self::Superior][world.min(2)];
        if grows { direction } else { direction.opposite() }
    }
}

/// The directions of a volume's three axes, in their order: `RAS` for one whose first index grows to the
/// patient's right, whose second to the front and whose third to the head.
///
/// ```
/// use xdiff_data::{Affine, Orientation};
///
/// let affine = Affine::new([[0.0, 0.0, 2.0, 0.0], [-1.0, 0.1, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])?;
/// assert_eq!(Orientation::of(&affine).to_string(), "PSR");
/// assert_eq!("las".parse::<Orientation>()?.to_string(), "LAS");
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Orientation {
    axes: [Direction; 3],
}

impl Orientation {
    /// Right, front, head: NIfTI's own.
    pub const RAS: Self = Self { axes: [Direction::Right, Direction::Anterior, Direction::Superior] };
    /// Left, back, head: DICOM's own, and how axial slices are shown.
    pub const LPS: Self = Self { axes: [Direction::Left, Direction::Posterior, Direction::Superior] };

    /// An orientation of three axes.
    ///
    /// # Errors
    /// When two axes are the same or opposite.
    pub fn new(axes: [Direction; 3]) -> Result<Self> {
        let clash = |a: Direction, b: Direction| a == b || a == b.opposite();
        let [i, j, k] = axes;
        if clash(i, j) || clash(i, k) || clash(j, k) {
            let letters: String = axes.map(Direction::letter).iter().collect();
            return Err(Error::argument(
                "orientation",
                format!("{letters} names an axis twice; give one of L/R, one of P/A and one of I/S"),
            ));
        }
        Ok(Self { axes })
    }

    /// The orientation nearest to an affine map, as nibabel's `aff2axcodes` finds it: shear is taken off
    /// (polar decomposition); then, the strongest column first, each axis gets the world axis that it
    /// follows most among those that are left.
    pub fn of(affine: &Affine) -> Self {
        let mut rotation = affine.rotation();
        let strength = |axis: usize| rotation.iter().map(|row| row[axis] * row[axis]).fold(0.0, f64::max);
        let strengths = [0, 1, 2].map(strength);
        let mut order = [0, 1, 2];
        // A stable sort: equal columns in their own order.
        order.sort_by(|a, b| strengths[*b].total_cmp(&strengths[*a]));
        let mut axes = Self::RAS.axes;
        let mut free = [true; 3];
        for axis in order {
            let mut world = None;
            for (row, values) in rotation.iter().enumerate() {
                let stronger = |w: usize| values[axis].abs() > rotation[w][axis].abs();
                if free[row] && world.is_none_or(stronger) {
                    world = Some(row);
                }
            }
            if let Some(world) = world {
                axes[axis] = Direction::along(world, rotation[world][axis] >= 0.0);
                free[world] = false;
                rotation[world] = [0.0; 3];
            }
        }
        Self { axes }
    }

    /// The directions of the first, second and third axis.
    pub fn axes(&self) -> [Direction; 3] {
        self.axes
    }
}

impl fmt::Display for Orientation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.axes.iter().try_for_each(|d| write!(f, "{}", d.letter()))
    }
}

impl FromStr for Orientation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let axes: Vec<Direction> = text.chars().filter_map(Direction::from_letter).collect();
        match <[Direction; 3]>::try_from(axes) {
            Ok(axes) if text.chars().count() == 3 => Self::new(axes),
            _ => Err(Error::argument(
                "orientation",
                format!("`{text}` is none; three letters of L, R, P, A, I and S, such as RAS"),
            )),
        }
    }
}

impl TryFrom<String> for Orientation {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Orientation> for String {
    fn from(orientation: Orientation) -> Self {
        orientation.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_of_the_axes_is_found() {
        let mut seen = std::collections::BTreeSet::new();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for signs in 0..8u32 {
                let mut steps = [[0.0; 3]; 3];
                for axis in 0..3 {
                    let sign = if signs >> axis & 1 == 1 { -1.0 } else { 1.0 };
                    steps[axis][order[axis]] = sign * (axis as f64 + 0.5);
                    // A slight tilt must not matter.
                    steps[axis][order[(axis + 1) % 3]] += 0.05;
                }
                let found = Orientation::of(&Affine::from_steps(steps, [0.0; 3]).unwrap());
                let want = [0, 1, 2].map(|a| Direction::along(order[a], signs >> a & 1 == 0));
                assert_eq!(found.axes(), want, "{order:?} {signs:03b}");
                assert_eq!(found.to_string().parse::<Orientation>().unwrap(), found);
                seen.insert(found.to_string());
            }
        }
        assert_eq!(seen.len(), 48);
    }

    #[test]
    fn what_is_no_orientation_is_refused() {
        for text in ["", "RA", "RASS", "RAR", "RLS", "XYZ", "R-S", "RA S"] {
            assert!(text.parse::<Orientation>().is_err(), "{text}");
        }
    }
}
