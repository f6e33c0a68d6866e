//! Volumes: slices, orientation, labels.

use proptest::prelude::*;
use xdiff_data::{Affine, Axis, Direction, Error, Grid, LabelVolume, Orientation, Scale, Volume};

/// A volume whose voxels hold a number of their own, with axes that point as asked.
fn numbered(dims: [usize; 3], orientation: &str) -> Volume {
    let axes = orientation.parse::<Orientation>().unwrap().axes();
    let steps = [0, 1, 2].map(|i| {
        let length = 1.0 + i as f64;
        match axes[i] {
            Direction::Right => [length, 0.0, 0.0],
            Direction::Left => [-length, 0.0, 0.0],
            Direction::Anterior => [0.0, length, 0.0],
            Direction::Posterior => [0.0, -length, 0.0],
            Direction::Superior => [0.0, 0.0, length],
            Direction::Inferior => [0.0, 0.0, -length],
        }
    });
    let grid = Grid::new(dims, Affine::from_steps(steps, [7.0, -8.0, 9.0]).unwrap()).unwrap();
    Volume::new(grid, (0..grid.voxels()).map(|n| n as f32).collect()).unwrap()
}

fn value(volume: &Volume, at: [usize; 3]) -> f32 {
    let [i, j, _] = volume.grid().dims();
    volume.voxels()[at[0] + i * (at[1] + j * at[2])]
}

/// Each voxel's place in mm with its value, in no order.
fn places(volume: &Volume) -> Vec<([i64; 3], i64)> {
    let [i, j, k] = volume.grid().dims();
    let all = (0..k).flat_map(|z| (0..j).flat_map(move |y| (0..i).map(move |x| [x, y, z])));
    let mut places: Vec<_> = all
        .map(|at| {
            let mm = volume.grid().affine().apply(at.map(|v| v as f64));
            (mm.map(|v| (v * 1000.0).round() as i64), value(volume, at) as i64)
        })
        .collect();
    places.sort_unstable();
    places
}

/// The place in mm of the voxel with each value, from 0 on.
fn by_value(volume: &Volume) -> Vec<[f64; 3]> {
    let [i, j, _] = volume.grid().dims();
    let mut places: Vec<_> = (0..volume.voxels().len())
        .map(|n| {
            let at = [n % i, n / i % j, n / (i * j)].map(|v| v as f64);
            (volume.voxels()[n] as usize, volume.grid().affine().apply(at))
        })
        .collect();
    places.sort_by_key(|p| p.0);
    places.into_iter().map(|p| p.1).collect()
}

fn orientations() -> Vec<String> {
    let pairs = [['L', 'R'], ['P', 'A'], ['I', 'S']];
    let mut all = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for signs in 0..8usize {
            all.push((0..3).map(|a| pairs[order[a]][signs >> a & 1]).collect());
        }
    }
    all
}

#[test]
fn turning_moves_no_voxel() {
    for from in orientations() {
        let volume = numbered([2, 3, 4], &from);
        for to in ["RAS", "LPS", "ASL", "IPR"] {
            let turned = volume.reoriented(to.parse().unwrap());
            assert_eq!(turned.grid().orientation().to_string(), to);
            assert_eq!(places(&turned), places(&volume), "{from} to {to}");
            assert_eq!(turned.reoriented(volume.grid().orientation()), volume, "{from} to {to} and back");
        }
    }
}

#[test]
fn slices_of_a_plane_do_not_depend_on_the_order_of_the_axes() {
    let reference = numbered([4, 3, 2], "LPS");
    for to in orientations() {
        let turned = reference.reoriented(to.parse().unwrap());
        for axis in [Axis::Axial, Axis::Coronal, Axis::Sagittal] {
            for index in 0..reference.grid().slices(axis) {
                let (a, b) = (reference.slice(axis, index).unwrap(), turned.slice(axis, index).unwrap());
                assert_eq!(a, b, "{to}, {axis:?} {index}");
            }
            assert_eq!(turned.grid().slice_size(axis), reference.grid().slice_size(axis));
            assert_eq!(turned.grid().pixel_spacing(axis), reference.grid().pixel_spacing(axis));
        }
    }
}

#[test]
fn planes_are_laid_out_as_radiologists_see_them() {
    // i to the left, j to the back, k to the head.
    let volume = numbered([4, 3, 2], "LPS");
    let axial = volume.slice(Axis::Axial, 1).unwrap();
    assert_eq!((axial.height(), axial.width(), axial.scale), (3, 4, Scale::Stored));
    assert_eq!(axial.data()[0], value(&volume, [0, 0, 1]), "right front at the top left");
    assert_eq!(axial.data()[1], value(&volume, [1, 0, 1]));
    assert_eq!(axial.data()[4], value(&volume, [0, 1, 1]));
    let coronal = volume.slice(Axis::Coronal, 2).unwrap();
    assert_eq!((coronal.height(), coronal.width()), (2, 4));
    assert_eq!(coronal.data()[0], value(&volume, [0, 2, 1]), "the head at the top");
    assert_eq!(coronal.data()[7], value(&volume, [3, 2, 0]));
    let sagittal = volume.slice(Axis::Sagittal, 3).unwrap();
    assert_eq!((sagittal.height(), sagittal.width()), (2, 3));
    assert_eq!(sagittal.data()[0], value(&volume, [3, 0, 1]), "the front at the left");
    assert_eq!(sagittal.data()[5], value(&volume, [3, 2, 0]));
    assert_eq!(volume.grid().pixel_spacing(Axis::Sagittal), (3.0, 2.0));
    // Voxel axes: as the file has them.
    for (axis, place) in [(Axis::I, [2, 1, 1]), (Axis::J, [1, 2, 1]), (Axis::K, [1, 2, 1])] {
        let (index, row, column) = match axis {
            Axis::I => (place[0], place[2], place[1]),
            Axis::J => (place[1], place[2], place[0]),
            _ => (place[2], place[1], place[0]),
        };
        let image = volume.slice(axis, index).unwrap();
        assert_eq!(image.data()[row * image.width() + column], value(&volume, place), "{axis:?}");
    }
}

#[test]
fn labels_and_images_are_laid_out_alike() {
    for orientation in ["RAS", "PIR", "SLA"] {
        let volume = numbered([3, 4, 5], orientation);
        let labels = LabelVolume::from_volume(volume.clone()).unwrap();
        labels.check_same_grid(&volume).unwrap();
        for axis in [Axis::Axial, Axis::Coronal, Axis::Sagittal, Axis::I, Axis::J, Axis::K] {
            let image = volume.slice(axis, 1).unwrap();
            let mask = labels.mask(37, axis, 1).unwrap();
            let want: Vec<u8> = image.data().iter().map(|v| u8::from(*v == 37.0)).collect();
            assert_eq!(mask.data(), want);
            let any: Vec<u8> = image.data().iter().map(|v| u8::from(*v != 0.0)).collect();
            assert_eq!(labels.foreground(axis, 1).unwrap().data(), any);
        }
        let turned = labels.reoriented(Orientation::LPS);
        assert_eq!(
            turned.labels(),
            volume.reoriented(Orientation::LPS).voxels().iter().map(|v| *v as u32).collect::<Vec<_>>()
        );
        assert_eq!(labels.counts().len(), 59);
        assert_eq!(labels.to_volume().unwrap(), volume);
    }
}

#[test]
fn frames_are_volumes() {
    let grid = *numbered([2, 1, 2], "RAS").grid();
    let mut volume = Volume::with_frames(grid, 3, (0..12).map(|v| v as f32).collect()).unwrap();
    volume.frame_seconds = Some(2.0);
    assert_eq!(volume.frame(1).unwrap().voxels(), [4.0, 5.0, 6.0, 7.0]);
    assert_eq!(volume.slice_of_frame(2, Axis::K, 1).unwrap().data(), [10.0, 11.0]);
    let error = volume.slice(Axis::K, 0).unwrap_err().to_string();
    assert!(error.contains("3 frames"), "{error}");
    assert!(volume.frame(3).is_err() && volume.slice_of_frame(3, Axis::K, 0).is_err());
    assert!(LabelVolume::from_volume(volume.clone()).is_err());
    let turned = volume.reoriented("LAS".parse().unwrap());
    assert_eq!(turned.voxels()[4..8], [5.0, 4.0, 7.0, 6.0]);
    assert_eq!(turned.frame_seconds, Some(2.0));
}

#[test]
fn grids_are_told_apart() {
    let volume = numbered([4, 4, 4], "RAS");
    let moved = |rows: fn(&mut [[f64; 4]; 3])| {
        let mut matrix = volume.grid().affine().rows();
        rows(&mut matrix);
        Volume::new(Grid::new([4, 4, 4], Affine::new(matrix).unwrap()).unwrap(), vec![0.0; 64]).unwrap()
    };
    assert!(volume.check_same_grid(&moved(|m| m[0][3] += 0.005)).is_ok(), "half a per cent of a voxel");
    let cases = [
        ("apart", moved(|m| m[0][3] += 0.5)),
        ("apart", moved(|m| m[2][2] *= 1.01)),
        ("LAS", moved(|m| m[0][0] = -m[0][0])),
        ("voxels", numbered([4, 4, 5], "RAS")),
    ];
    for (word, other) in cases {
        let error = volume.check_same_grid(&other).unwrap_err();
        assert!(matches!(error, Error::Grids { .. }) && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_slab_stays_in_its_place() {
    let grid = *numbered([4, 3, 5], "PIR").grid();
    let slab = grid.slab(2, 3).unwrap();
    assert_eq!((slab.dims(), slab.spacing()), ([4, 3, 3], grid.spacing()));
    assert_eq!(slab.affine().apply([1.0, 2.0, 0.5]), grid.affine().apply([1.0, 2.0, 2.5]));
    for (first, count) in [(0, 0), (3, 3), (5, 1), (usize::MAX, 2)] {
        assert!(matches!(grid.slab(first, count), Err(Error::Argument { .. })), "{first} {count}");
    }
}

#[test]
fn what_is_no_volume_is_refused() {
    let affine = Affine::scaling([1.0; 3]).unwrap();
    for dims in [[0, 1, 1], [usize::MAX, 2, 1]] {
        assert!(matches!(Grid::new(dims, affine), Err(Error::Argument { .. })), "{dims:?}");
    }
    let grid = Grid::new([2, 2, 1], affine).unwrap();
    assert!(Volume::new(grid, vec![0.0; 3]).is_err());
    assert!(Volume::with_frames(grid, 0, vec![]).is_err());
    assert!(LabelVolume::new(grid, vec![0; 5]).is_err());
    assert!(LabelVolume::new(grid, vec![0, 1, 2, 1 << 25]).unwrap().to_volume().is_err());
    let volume = Volume::new(grid, vec![0.0, f32::NAN, 2.5, 3.0]).unwrap();
    assert_eq!(volume.extent(), Some((0.0, 3.0)));
    assert!(matches!(volume.slice(Axis::K, 0), Err(Error::NonFinite { count: 1, total: 4, .. })));
    assert!(volume.slice(Axis::Axial, 1).is_err());
    assert!(LabelVolume::from_volume(volume.clone()).is_err());
    assert!(volume.clone().with_non_finite(f32::NAN).is_err());
    let (mended, count) = volume.with_non_finite(-1.0).unwrap();
    assert_eq!((mended.voxels(), count), ([0.0, -1.0, 2.5, 3.0].as_slice(), 1));
    let error = LabelVolume::from_volume(mended).unwrap_err().to_string();
    assert!(error.contains("-1"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn places_survive_any_turn_of_any_grid(
        steps in prop::array::uniform3(prop::array::uniform3(-2.0f64..2.0)),
        origin in prop::array::uniform3(-50.0f64..50.0),
        to in 0usize..48,
    ) {
        let affine = Affine::from_steps(steps, origin);
        prop_assume!(affine.is_ok());
        let grid = Grid::new([2, 3, 2], affine.unwrap()).unwrap();
        let volume = Volume::new(grid, (0..12).map(|v| v as f32).collect()).unwrap();
        let turned = volume.reoriented(orientations()[to].parse().unwrap());
        for (p, q) in by_value(&volume).iter().zip(by_value(&turned)) {
            prop_assert!(p.iter().zip(q).all(|(x, y)| (x - y).abs() < 1e-9), "{:?} {:?}", p, q);
        }
    }
}
