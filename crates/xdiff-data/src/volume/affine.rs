//! Where voxels lie in space: a map from voxel indices to millimetres.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A 4×4 matrix, kept without its last row (0, 0, 0, 1), that takes the indices (i, j, k) of a voxel's
/// centre to millimetres: x to the patient's right, y to the front, z to the top (RAS+, as NIfTI and
/// nibabel have it). DICOM counts x to the left and y to the back: see [`Affine::lps_to_ras`].
///
/// It can always be inverted: a matrix that maps two voxels to one place is refused when it is made.
///
/// ```
/// use xdiff_data::Affine;
///
/// let affine = Affine::new([[-0.5, 0.0, 0.0, 90.0], [0.0, 0.5, 0.0, -126.0], [0.0, 0.0, 2.0, -72.0]])?;
/// assert_eq!(affine.spacing(), [0.5, 0.5, 2.0]);
/// assert_eq!(affine.apply([10.0, 0.0, 1.0]), [85.0, -126.0, -70.0]);
/// assert_eq!(affine.inverse().apply([85.0, -126.0, -70.0]), [10.0, 0.0, 1.0]);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[[f64; 4]; 3]", into = "[[f64; 4]; 3]")]
pub struct Affine {
    rows: [[f64; 4]; 3],
}

/// The least volume, of axes brought to length 1, that counts as three axes rather than two.
const FLAT: f64 = 1e-6;

impl Affine {
    /// An affine map of the first three rows of its matrix.
    ///
    /// # Errors
    /// When a value is NaN or infinite, or the matrix is singular.
    pub fn new(rows: [[f64; 4]; 3]) -> Result<Self> {
        let affine = Self { rows };
        if rows.iter().flatten().any(|v| !v.is_finite()) {
            return Err(Error::argument("affine", format!("{rows:?} holds NaN or infinite values")));
        }
        let spacing = affine.spacing();
        if spacing.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            let reason = format!("voxels are {spacing:?} mm apart; each distance must be above 0");
            return Err(Error::argument("affine", reason));
        }
        if determinant(&affine.directions()).abs() < FLAT {
            let reason = format!("{rows:?} is singular: its axes lie in one plane");
            return Err(Error::argument("affine", reason));
        }
        Ok(affine)
    }

    /// An affine map of the steps in mm from a voxel to the next along i, j and k, and the place of
    /// voxel (0, 0, 0).
    ///
    /// # Errors
    /// As [`Affine::new`].
    pub fn from_steps(steps: [[f64; 3]; 3], origin: [f64; 3]) -> Result<Self> {
        Self::new(Self::reordered(steps, origin).rows)
    }

    /// The steps of a map that is known to be good, in another order or reversed.
    pub(super) fn reordered(steps: [[f64; 3]; 3], origin: [f64; 3]) -> Self {
        let [i, j, k] = steps;
        Self { rows: [0, 1, 2].map(|row| [i[row], j[row], k[row], origin[row]]) }
    }

    /// Axes along x, y and z with the given spacing in mm, voxel (0, 0, 0) at the origin.
    ///
    /// # Errors
    /// When a spacing is not above 0.
    pub fn scaling(spacing: [f64; 3]) -> Result<Self> {
        let [x, y, z] = spacing;
        if spacing.iter().any(|s| *s <= 0.0) {
            return Err(Error::argument("spacing", format!("{spacing:?} mm given; each above 0")));
        }
        Self::from_steps([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, z]], [0.0; 3])
    }

    /// The first three rows of the matrix.
    pub fn rows(&self) -> [[f64; 4]; 3] {
        self.rows
    }

    /// The whole matrix.
    pub fn matrix(&self) -> [[f64; 4]; 4] {
        let [a, b, c] = self.rows;
        [a, b, c, [0.0, 0.0, 0.0, 1.0]]
    }

    /// The step in mm from a voxel to the next along an axis (0, 1 or 2).
    pub(crate) fn step(&self, axis: usize) -> [f64; 3] {
        self.rows.map(|row| row[axis])
    }

    /// The place of voxel (0, 0, 0) in mm.
    pub fn origin(&self) -> [f64; 3] {
        self.step(3)
    }

    /// The distance in mm between neighbours along i, j and k: the lengths of the matrix's columns.
    pub fn spacing(&self) -> [f64; 3] {
        [0, 1, 2].map(|axis| length(self.step(axis)))
    }

    /// The place in mm of a point given in voxels.
    pub fn apply(&self, voxel: [f64; 3]) -> [f64; 3] {
        let [i, j, k] = voxel;
        self.rows.map(|[a, b, c, d]| a * i + b * j + c * k + d)
    }

    /// The map from mm to voxels.
    pub fn inverse(&self) -> Self {
        let inverse = invert(&self.linear());
        let origin = self.origin();
        let rows = inverse.map(|[a, b, c]| [a, b, c, -(a * origin[0] + b * origin[1] + c * origin[2])]);
        Self { rows }
    }

    /// The same places with x and y counted the other way: from DICOM's left and back to right and
    /// front, or the reverse.
    pub fn lps_to_ras(&self) -> Self {
        let [x, y, z] = self.rows;
        Self { rows: [x.map(|v| -v), y.map(|v| -v), z] }
    }

    fn linear(&self) -> [[f64; 3]; 3] {
        self.rows.map(|[a, b, c, _]| [a, b, c])
    }

    /// The linear part with its columns brought to length 1.
    fn directions(&self) -> [[f64; 3]; 3] {
        let [x, y, z] = self.spacing();
        self.linear().map(|[a, b, c]| [a / x, b / y, c / z])
    }

    /// The rotation (or reflection) nearest to the directions of the axes, without shear: the
    /// orthogonal factor of their polar decomposition, by Newton's iteration X ← ½(X + X⁻ᵀ).
    pub(crate) fn rotation(&self) -> [[f64; 3]; 3] {
        let mut x = self.directions();
        // Quadratic once near; from the flattest matrix let in, some twenty halvings come before.
        for _ in 0..64 {
            let inverse = invert(&x);
            let mut change = 0.0f64;
            let mut next = x;
            for (row, values) in next.iter_mut().enumerate() {
                for (column, value) in values.iter_mut().enumerate() {
                    *value = 0.5 * (x[row][column] + inverse[column][row]);
                    change = change.max((*value - x[row][column]).abs());
                }
            }
            x = next;
            if change < 1e-15 {
                break;
            }
        }
        x
    }
}

impl TryFrom<[[f64; 4]; 3]> for Affine {
    type Error = Error;

    fn try_from(rows: [[f64; 4]; 3]) -> Result<Self> {
        Self::new(rows)
    }
}

impl From<Affine> for [[f64; 4]; 3] {
    fn from(affine: Affine) -> Self {
        affine.rows
    }
}

pub(crate) fn length(v: [f64; 3]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    dot(m[0], cross(m[1], m[2]))
}

/// The inverse by cofactors. The caller knows that the matrix is not singular.
fn invert(m: &[[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let det = determinant(m);
    let columns = [cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1])];
    [0, 1, 2].map(|row| [0, 1, 2].map(|column| columns[column][row] / det))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_without_a_place_for_each_voxel_are_refused() {
        let good = [[1.0, 0.2, 0.0, 5.0], [0.0, 1.0, 0.1, 6.0], [0.0, 0.0, 3.0, 7.0]];
        assert!(Affine::new(good).is_ok());
        let cases: [(&str, [[f64; 4]; 3]); 5] = [
            ("NaN", [[f64::NAN, 0.0, 0.0, 0.0], good[1], good[2]]),
            ("infinite", [[1.0, 0.0, 0.0, f64::INFINITY], good[1], good[2]]),
            ("above 0", [[0.0, 0.2, 0.0, 0.0], good[1], good[2]]),
            ("singular", [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
            ("above 0", [[1e200, 0.0, 0.0, 0.0], good[1], good[2]]),
        ];
        for (word, rows) in cases {
            let error = Affine::new(rows).unwrap_err().to_string();
            assert!(error.contains(word), "{rows:?}: {error}");
        }
        assert!(Affine::scaling([1.0, -1.0, 1.0]).is_err());
    }

    #[test]
    fn the_inverse_undoes() {
        let affine =
            Affine::new([[0.9, 0.3, -0.1, 12.0], [-0.2, 1.1, 0.4, -7.0], [0.3, -0.3, 2.5, 100.0]]).unwrap();
        let there = affine.apply([3.0, -4.0, 5.5]);
        let back = affine.inverse().apply(there);
        for (got, want) in back.iter().zip([3.0, -4.0, 5.5]) {
            assert!((got - want).abs() < 1e-12, "{back:?}");
        }
    }

    #[test]
    fn the_rotation_is_orthogonal_and_leaves_rotations_alone() {
        let (s, c) = 0.3f64.sin_cos();
        let turned =
            Affine::new([[2.0 * c, -s, 0.0, 0.0], [2.0 * s, c, 0.0, 0.0], [0.0, 0.0, -3.0, 0.0]]).unwrap();
        let r = turned.rotation();
        let want = [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, -1.0]];
        for (got, want) in r.iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() < 1e-14, "{r:?}");
        }
        let sheared =
            Affine::new([[1.0, 0.9, 0.0, 0.0], [0.0, 0.5, 0.8, 0.0], [0.1, 0.0, 1.0, 0.0]]).unwrap();
        let r = sheared.rotation();
        for a in 0..3 {
            for b in 0..3 {
                let want = if a == b { 1.0 } else { 0.0 };
                assert!((dot(r[a], r[b]) - want).abs() < 1e-12, "{r:?}");
            }
        }
    }
}
