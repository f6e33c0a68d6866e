//! The place of a NIfTI volume in the patient.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::volume::Affine;

/// Where the affine map of a file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The sform: a whole affine map.
    Sform,
    /// The qform: a rotation, the voxel sizes and an offset.
    Qform,
    /// Neither is given: the voxel sizes alone, with the centre of the volume at 0 and x running to the
    /// left. Which side of the patient is which is not known then.
    VoxelSizes,
}

/// What a header says of space, in its own unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub(super) sform_code: i32,
    pub(super) sform: [[f64; 4]; 3],
    pub(super) qform_code: i32,
    /// b, c, d of the unit quaternion.
    pub(super) quaternion: [f64; 3],
    pub(super) offset: [f64; 3],
    /// The handedness, `pixdim[0]`.
    pub(super) qfac: f64,
    pub(super) voxel: [f64; 3],
    /// How far 1 − b² − c² − d² may lie below 0 by rounding.
    pub(super) rounding: f64,
}

/// Of the rows of an affine map by voxels' steps and an offset.
fn rows(linear: [[f64; 3]; 3], offset: [f64; 3]) -> [[f64; 4]; 3] {
    [0, 1, 2].map(|r| [linear[r][0], linear[r][1], linear[r][2], offset[r]])
}

impl Space {
    /// The affine map in mm, when one unit of the file is `unit` mm, and where it comes from.
    pub(super) fn affine(
        &self,
        dims: [usize; 3],
        unit: f64,
    ) -> std::result::Result<(Affine, Placement), String> {
        let known = |code: i32| (1..=5).contains(&code);
        let (rows, placement) = if known(self.sform_code) {
            (self.sform, Placement::Sform)
        } else if known(self.qform_code) {
            (self.qform()?, Placement::Qform)
        } else {
            (self.base(dims), Placement::VoxelSizes)
        };
        let affine: Result<Affine> = Affine::new(rows.map(|row| row.map(|v| v * unit)));
        match affine {
            Ok(affine) => Ok((affine, placement)),
            Err(e) => Err(format!("the {placement:?} gives no place to each voxel: {e}")),
        }
    }

    /// The voxel sizes as they are meant: 0 stands for 1, and signs do not count.
    fn sizes(&self) -> [f64; 3] {
        self.voxel.map(|v| if v == 0.0 { 1.0 } else { v.abs() })
    }

    fn qform(&self) -> std::result::Result<[[f64; 4]; 3], String> {
        let [b, c, d] = self.quaternion;
        let rest = 1.0 - (b * b + c * c + d * d);
        // NaN is caught with the rows.
        if rest < -self.rounding {
            return Err(format!(
                "the quaternion ({b}, {c}, {d}) of the qform is longer than 1, so it is no rotation"
            ));
        }
        let a = if rest.abs() < self.rounding { 0.0 } else { rest.sqrt() };
        let rotation = rotation([a, b, c, d]);
        let [x, y, mut z] = self.sizes();
        // Anything but −1 means 1.
        if self.qfac == -1.0 {
            z = -z;
        }
        Ok(rows(rotation.map(|[i, j, k]| [i * x, j * y, k * z]), self.offset))
    }

    fn base(&self, dims: [usize; 3]) -> [[f64; 4]; 3] {
        let [x, y, z] = self.sizes();
        let steps = [-x, y, z];
        let linear = [[steps[0], 0.0, 0.0], [0.0, steps[1], 0.0], [0.0, 0.0, steps[2]]];
        let middle = [0, 1, 2].map(|axis| -(dims[axis] as f64 - 1.0) / 2.0 * steps[axis]);
        rows(linear, middle)
    }
}

/// The rotation of a quaternion a + bi + cj + dk, of any length but 0.
fn rotation([a, b, c, d]: [f64; 4]) -> [[f64; 3]; 3] {
    let s = 2.0 / (a * a + b * b + c * c + d * d);
    [
        [1.0 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
        [s * (b * c + a * d), 1.0 - s * (b * b + d * d), s * (c * d - a * b)],
        [s * (b * d - a * c), s * (c * d + a * b), 1.0 - s * (b * b + c * c)],
    ]
}

/// The qform of an affine map: the handedness and b, c, d of the quaternion. `None` when the map has
/// shear, which a qform cannot say.
pub(super) fn quaternion(affine: &Affine) -> Option<(f64, [f64; 3])> {
    let [x, y, z] = affine.spacing();
    let mut r = affine.rows().map(|[i, j, k, _]| [i / x, j / y, k / z]);
    let column = |r: &[[f64; 3]; 3], n: usize| r.map(|row| row[n]);
    let dot = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).map(|(p, q)| p * q).sum::<f64>();
    let across = [(0, 1), (0, 2), (1, 2)].map(|(m, n)| dot(column(&r, m), column(&r, n)).abs());
    if across.into_iter().fold(0.0, f64::max) > 1e-4 {
        return None;
    }
    let det = r[0][0] * (r[1][1] * r[2][2] - r[1][2] * r[2][1])
        - r[0][1] * (r[1][0] * r[2][2] - r[1][2] * r[2][0])
        + r[0][2] * (r[1][0] * r[2][1] - r[1][1] * r[2][0]);
    let qfac = if det < 0.0 { -1.0 } else { 1.0 };
    r.iter_mut().for_each(|row| row[2] *= qfac);
    // Four times the squares of a, b, c and d; the largest is safe to divide by.
    let squares = [
        1.0 + r[0][0] + r[1][1] + r[2][2],
        1.0 + r[0][0] - r[1][1] - r[2][2],
        1.0 - r[0][0] + r[1][1] - r[2][2],
        1.0 - r[0][0] - r[1][1] + r[2][2],
    ];
    let (bc, bd, cd) = (r[1][0] + r[0][1], r[2][0] + r[0][2], r[2][1] + r[1][2]);
    let (ab, ac, ad) = (r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]);
    // 4ab, 4ac, 4ad and so on, in the row of the largest.
    let products = [
        [squares[0], ab, ac, ad],
        [ab, squares[1], bc, bd],
        [ac, bc, squares[2], cd],
        [ad, bd, cd, squares[3]],
    ];
    let largest = (1..4).fold(0, |best, n| if squares[n] > squares[best] { n } else { best });
    let q = products[largest].map(|p| p / (2.0 * squares[largest].sqrt()));
    let sign = if q[0] < 0.0 { -1.0 } else { 1.0 };
    Some((qfac, [sign * q[1], sign * q[2], sign * q[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_comes_back_from_its_quaternion() {
        let quaternions = [
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
            [0.5, -0.5, 0.5, 0.5],
            [0.1, 0.7, -0.7, 0.1],
            [0.9, 0.1, 0.3, -0.29],
        ];
        for q in quaternions {
            for qfac in [1.0, -1.0] {
                let r = rotation(q);
                let steps = [0, 1, 2].map(|n| {
                    let size = [0.7, 1.3, 2.5][n] * if n == 2 { qfac } else { 1.0 };
                    r.map(|row| row[n] * size)
                });
                let affine = Affine::from_steps(steps, [1.0, 2.0, 3.0]).unwrap();
                let (got_qfac, quaternion) = super::quaternion(&affine).unwrap();
                assert_eq!(got_qfac, qfac);
                let space = Space {
                    sform_code: 0,
                    sform: [[0.0; 4]; 3],
                    qform_code: 1,
                    quaternion,
                    offset: [1.0, 2.0, 3.0],
                    qfac,
                    voxel: [0.7, 1.3, 2.5],
                    rounding: 1e-12,
                };
                let (back, placement) = space.affine([1; 3], 1.0).unwrap();
                assert_eq!(placement, Placement::Qform);
                for (a, b) in back.rows().iter().flatten().zip(affine.rows().iter().flatten()) {
                    assert!((a - b).abs() < 1e-7, "{q:?}: {back:?} against {affine:?}");
                }
            }
        }
    }

    #[test]
    fn shear_has_no_quaternion() {
        let affine = Affine::from_steps([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.0; 3]);
        assert_eq!(quaternion(&affine.unwrap()), None);
    }
}
