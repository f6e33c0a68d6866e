//! The grid that a volume's voxels stand on, and the ways to walk over it.

use serde::{Deserialize, Serialize};

use super::affine::{Affine, length};
use super::orientation::{Direction, Orientation};
use crate::{Error, Result};

/// The axis that slices are taken along, one slice for each place on it.
///
/// The three anatomical planes are those nearest to the volume's own axes (nothing is interpolated), and
/// are laid out as radiologists see them: the patient's right on the image's left in axial and coronal
/// slices, the face to the left in sagittal ones, the head at the top. The voxel axes take the file's
/// own order: the first of the two other axes runs along a row of the image, the second down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Slices from the feet to the head; columns run to the patient's left, rows to the back.
    Axial,
    /// Slices from the front to the back; columns run to the patient's left, rows to the feet.
    Coronal,
    /// Slices from the patient's right to the left; columns run to the back, rows to the feet.
    Sagittal,
    /// The first voxel axis; columns run along the second, rows along the third.
    I,
    /// The second voxel axis; columns run along the first, rows along the third.
    J,
    /// The third voxel axis; columns run along the first, rows along the second.
    K,
}

/// The size of a volume and its place in the patient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    dims: [usize; 3],
    affine: Affine,
}

impl Grid {
    /// A grid of `dims` voxels along i, j and k.
    ///
    /// # Errors
    /// When a side is 0 or there are more voxels than can be counted.
    pub fn new(dims: [usize; 3], affine: Affine) -> Result<Self> {
        let voxels = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        match voxels {
            Some(n) if n > 0 => Ok(Self { dims, affine }),
            _ => Err(Error::argument("dims", format!("{dims:?} given; each at least 1"))),
        }
    }

    /// Voxels along i, j and k.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// How many voxels there are.
    pub fn voxels(&self) -> usize {
        self.dims.iter().product()
    }

    /// From voxel indices to mm.
    pub fn affine(&self) -> &Affine {
        &self.affine
    }

    /// The distance in mm between neighbours along i, j and k.
    pub fn spacing(&self) -> [f64; 3] {
        self.affine.spacing()
    }

    /// Which way the axes point.
    pub fn orientation(&self) -> Orientation {
        Orientation::of(&self.affine)
    }

    /// How many slices there are along an axis.
    pub fn slices(&self, axis: Axis) -> usize {
        self.seen(axis).dims[2]
    }

    /// Rows and columns of the slices along an axis.
    pub fn slice_size(&self, axis: Axis) -> (usize, usize) {
        let [columns, rows, _] = self.seen(axis).dims;
        (rows, columns)
    }

    /// The distance in mm between the rows and between the columns of the slices along an axis.
    pub fn pixel_spacing(&self, axis: Axis) -> (f64, f64) {
        let [columns, rows, _] = self.seen(axis).spacing();
        (rows, columns)
    }

    /// The grid of `count` planes of the third axis, from plane `first` on.
    ///
    /// # Errors
    /// When there are no such planes.
    pub fn slab(&self, first: usize, count: usize) -> Result<Self> {
        let planes = self.dims[2];
        if first.checked_add(count).is_none_or(|end| end > planes) {
            let reason = format!("{count} from {first} on were asked for, but there are {planes}");
            return Err(Error::argument("planes", reason));
        }
        let origin = self.affine.apply([0.0, 0.0, first as f64]);
        let steps = [0, 1, 2].map(|axis| self.affine.step(axis));
        Self::new([self.dims[0], self.dims[1], count], Affine::reordered(steps, origin))
    }

    /// Whether another grid has the same voxels in the same places, to within 1 % of the smallest
    /// spacing at every corner: what files written by different programs agree to.
    pub fn is_same(&self, other: &Self) -> bool {
        self.difference(other).is_none()
    }

    /// Checks that two volumes lie on one grid, as [`Grid::is_same`] has it.
    ///
    /// # Errors
    /// [`Error::Grids`] with the names and what differs.
    pub fn check_same(&self, name: &str, other: &Self, other_name: &str) -> Result<()> {
        match self.difference(other) {
            None => Ok(()),
            Some(reason) => Err(Error::Grids { first: name.into(), second: other_name.into(), reason }),
        }
    }

    fn difference(&self, other: &Self) -> Option<String> {
        if self.dims != other.dims {
            return Some(format!("{:?} voxels against {:?}", self.dims, other.dims));
        }
        let (a, b) = (self.orientation(), other.orientation());
        if a != b {
            return Some(format!("axes point to {a} against {b}"));
        }
        let apart = (0..8u32).map(|corner| {
            let at = [0, 1, 2].map(|axis| {
                let far = corner >> axis & 1 == 1;
                if far { self.dims[axis] as f64 - 1.0 } else { 0.0 }
            });
            let (p, q) = (self.affine.apply(at), other.affine.apply(at));
            length([0, 1, 2].map(|x| p[x] - q[x]))
        });
        let apart = apart.fold(0.0, f64::max);
        let tolerance = 0.01 * self.spacing().into_iter().fold(f64::INFINITY, f64::min);
        (apart > tolerance)
            .then(|| format!("a corner lies {apart:.3} mm apart, where {tolerance:.4} mm is allowed"))
    }

    /// The walk that sees the slices along an axis: columns, rows, slices.
    pub(super) fn walk(&self, axis: Axis) -> Walk {
        use Direction::{Inferior, Left, Posterior, Superior};
        match axis {
            Axis::Axial => self.walk_towards([Left, Posterior, Superior]),
            Axis::Coronal => self.walk_towards([Left, Inferior, Posterior]),
            Axis::Sagittal => self.walk_towards([Posterior, Inferior, Left]),
            Axis::I => Walk { axes: [1, 2, 0], reversed: [false; 3] },
            Axis::J => Walk { axes: [0, 2, 1], reversed: [false; 3] },
            Axis::K => Walk { axes: [0, 1, 2], reversed: [false; 3] },
        }
    }

    /// The walk whose axes point in these directions, which are three different ones.
    pub(super) fn walk_towards(&self, directions: [Direction; 3]) -> Walk {
        let own = self.orientation().axes();
        let mut walk = Walk { axes: [0, 1, 2], reversed: [false; 3] };
        for (place, wanted) in directions.into_iter().enumerate() {
            for (axis, direction) in own.into_iter().enumerate() {
                if direction == wanted || direction == wanted.opposite() {
                    walk.axes[place] = axis;
                    walk.reversed[place] = direction != wanted;
                }
            }
        }
        walk
    }

    /// The grid as a walk sees it: the same voxels in the same places under other indices.
    pub(super) fn walked(&self, walk: &Walk) -> Self {
        let dims = walk.axes.map(|axis| self.dims[axis]);
        let mut origin = self.affine.origin();
        let mut steps = [[0.0; 3]; 3];
        for (place, axis) in walk.axes.into_iter().enumerate() {
            let step = self.affine.step(axis);
            let last = self.dims[axis] as f64 - 1.0;
            for world in 0..3 {
                steps[place][world] = if walk.reversed[place] { -step[world] } else { step[world] };
                if walk.reversed[place] {
                    origin[world] += last * step[world];
                }
            }
        }
        Self { dims, affine: Affine::reordered(steps, origin) }
    }

    fn seen(&self, axis: Axis) -> Self {
        self.walked(&self.walk(axis))
    }
}

/// An order of the three axes, each in its own direction or reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// The voxel axis at each place, the fastest first.
    axes: [usize; 3],
    reversed: [bool; 3],
}

impl Walk {
    /// Where the voxels of one plane stand, in the walk's order: its first axis fastest, its second down.
    pub(super) fn places(&self, dims: [usize; 3], index: usize) -> impl Iterator<Item = usize> + use<> {
        let strides = [1, dims[0], dims[0] * dims[1]];
        let Self { axes, reversed } = *self;
        let at = move |place: usize, n: usize| {
            let axis = axes[place];
            strides[axis] * if reversed[place] { dims[axis] - 1 - n } else { n }
        };
        let (columns, rows) = (dims[axes[0]], dims[axes[1]]);
        (0..rows).flat_map(move |row| (0..columns).map(move |c| at(2, index) + at(1, row) + at(0, c)))
    }

    /// One plane of voxels.
    pub(super) fn plane<T: Copy>(&self, data: &[T], dims: [usize; 3], index: usize) -> Vec<T> {
        self.places(dims, index).map(|place| data[place]).collect()
    }

    /// All voxels of one frame in the walk's order.
    pub(super) fn all<T: Copy>(&self, data: &[T], dims: [usize; 3]) -> Vec<T> {
        (0..dims[self.axes[2]]).flat_map(|index| self.plane(data, dims, index)).collect()
    }
}
