use candle_core::{DType, Device};
use proptest::prelude::*;

use super::*;

/// An ellipsoid with holes and specks; the table's Python makes the same.
fn mask(shape: &[usize], k: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let voxel = |i: usize| {
        let (mut rest, mut radius) = (i, 0.0);
        for s in shape.iter().rev() {
            let s_f = *s as f64;
            let centre = (s_f - 1.0) * 0.5 + (k as f64 * 0.7 - 1.0);
            let d = ((rest % s) as f64 - centre) / (s_f * (0.25 + 0.05 * k as f64));
            radius += d * d;
            rest /= s;
        }
        u8::from((radius <= 1.0) != (i * i * (k + 3) + i / 2).is_multiple_of(23))
    };
    Tensor::from_vec((0..n).map(voxel).collect(), shape, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

#[test]
fn distances_agree_with_monai_and_with_scipy() {
    // SciPy 1.17.1, distance_transform_edt and binary_erosion, with MONAI's and medpy's way to join the
    // two directions; MONAI 1.6.1 itself agrees to its f32 (but takes no 1-D masks).
    // Hausdorff, then HD95 and average of MONAI, HD95 and average of medpy, surface Dice within 1.
    type Row = (&'static [usize], &'static [f64], [f64; 6]);
    let table: [Row; 4] = [
        (
            &[9, 13],
            &[1.0, 1.0],
            [
                2.0,
                1.677817459305202,
                0.5862142730240893,
                1.0828427124746172,
                0.5745970869120796,
                0.9473684210526315,
            ],
        ),
        (&[9, 13], &[2.5, 0.7], [2.8, 2.5, 0.787719298245614, 2.5, 0.7601875, 0.7368421052631579]),
        (
            &[6, 7, 8],
            &[3.0, 0.8, 0.8],
            [
                3.8418745424597094,
                2.4389466384404113,
                0.8036973057854204,
                2.4000000000000004,
                0.7274040253818835,
                0.6722689075630253,
            ],
        ),
        (&[31], &[0.4], [2.4, 2.26, 1.0461538461538462, 2.16, 1.0, 0.46153846153846156]),
    ];
    let mut wrong = Vec::new();
    for (shape, spacing, want) in table {
        let (a, b) = (mask(shape, 1), mask(shape, 2));
        let hd95 = |preset| Hausdorff { preset, ..Hausdorff::hd95(spacing).unwrap() };
        let average =
            |preset| AverageSurfaceDistance { preset, ..AverageSurfaceDistance::new(spacing).unwrap() };
        let metrics: [Box<dyn PairMetric>; 6] = [
            Box::new(Hausdorff::new(spacing).unwrap()),
            Box::new(hd95(SurfacePreset::Monai)),
            Box::new(average(SurfacePreset::Monai)),
            Box::new(hd95(SurfacePreset::Medpy)),
            Box::new(average(SurfacePreset::Medpy)),
            Box::new(SurfaceDice::new(spacing, 1.0).unwrap()),
        ];
        for (metric, want) in metrics.iter().zip(want) {
            let (got, turned) = (metric.values(&a, &b).unwrap()[0], metric.values(&b, &a).unwrap()[0]);
            if (got - want).abs() > 1e-12 || (got - turned).abs() > 1e-12 {
                wrong.push(format!("{} {shape:?}: {got} {turned}, not {want}", metric.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn empty_masks_have_the_value_that_was_chosen() {
    let none = Tensor::zeros((3, 4, 4), DType::U8, &Device::Cpu).unwrap();
    let dot = Tensor::cat(
        &[&none.narrow(0, 0, 1).unwrap(), &none.narrow(0, 0, 1).unwrap().ones_like().unwrap()],
        0,
    );
    let some = Tensor::cat(&[&dot.unwrap(), &none.narrow(0, 0, 1).unwrap()], 0).unwrap();
    let spacing = [1.0, 2.0];
    let hausdorff = Hausdorff::hd95(spacing).unwrap();
    assert_eq!(hausdorff.values(&none, &some).unwrap(), [0.0, f64::INFINITY, 0.0]);
    assert_eq!(hausdorff.values(&some, &none).unwrap(), [0.0, f64::INFINITY, 0.0]);
    assert_eq!(SurfaceDice::new(spacing, 1.0).unwrap().values(&none, &some).unwrap(), [1.0, 0.0, 1.0]);
    let average =
        AverageSurfaceDistance { empty: EmptySurface::Nan, ..AverageSurfaceDistance::new(spacing).unwrap() };
    assert!(average.values(&none, &some).unwrap().iter().all(|v| v.is_nan()));
    assert_eq!(
        average.values(&some.narrow(0, 1, 1).unwrap(), &some.narrow(0, 1, 1).unwrap()).unwrap(),
        [0.0]
    );
}

#[test]
fn a_mask_at_the_edge_of_the_image_has_a_surface_there() {
    let full = Tensor::ones((1, 5, 5), DType::U8, &Device::Cpu).unwrap();
    let dot: Vec<u8> = (0..25).map(|i| u8::from(i == 12)).collect();
    let dot = Tensor::from_vec(dot, (1, 5, 5), &Device::Cpu).unwrap();
    // From the corner to the centre, and from the centre to the nearest edge.
    assert_eq!(Hausdorff::new([1.0, 1.0]).unwrap().values(&full, &dot).unwrap(), [8f64.sqrt()]);
}

#[test]
fn bad_spacing_shapes_and_options_are_typed_errors() {
    for spacing in [vec![], vec![0.0, 1.0], vec![1.0, -2.0], vec![1.0, f64::NAN], vec![f64::INFINITY, 1.0]] {
        assert!(matches!(Hausdorff::new(spacing.clone()), Err(Error::Config { field: "spacing", .. })));
        assert!(AverageSurfaceDistance::new(spacing.clone()).is_err());
        assert!(SurfaceDice::new(spacing, 1.0).is_err());
    }
    for tolerance in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(SurfaceDice::new([1.0], tolerance), Err(Error::Config { field: "tolerance", .. })));
    }
    let hausdorff = Hausdorff::new([1.0, 1.0]).unwrap();
    let image = Tensor::zeros((1, 3, 3), DType::F32, &Device::Cpu).unwrap();
    for percentile in [0.0, -1.0, 101.0, f64::NAN] {
        let bad = Hausdorff { percentile, ..hausdorff.clone() };
        assert!(matches!(bad.values(&image, &image), Err(Error::Config { field: "percentile", .. })));
    }
    let volume = image.unsqueeze(1).unwrap();
    assert!(matches!(hausdorff.values(&volume, &volume), Err(Error::Shape { .. })));
    assert!(matches!(hausdorff.values(&image, &volume), Err(Error::Mismatch { .. })));
    let grey = (&image + 0.5).unwrap();
    assert!(matches!(hausdorff.values(&image, &grey), Err(Error::Value { index: 0, .. })));
    let none = Tensor::zeros((0, 3, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(hausdorff.values(&none, &none), Err(Error::Shape { .. })));
}

proptest! {
    #[test]
    fn a_moved_mask_is_as_far_as_it_was_moved(down in 0usize..4, right in 0usize..4, pad in 0usize..3) {
        // A block of 3×3 in a field of 8+pad, moved by less than the field allows.
        let side = 8 + pad;
        let block = |down: usize, right: usize| {
            let inside = |i: usize| (down..down + 3).contains(&(i / side)) && (right..right + 3).contains(&(i % side));
            let data: Vec<u8> = (0..side * side).map(|i| u8::from(inside(i))).collect();
            Tensor::from_vec(data, (1, side, side), &Device::Cpu).unwrap()
        };
        let got = Hausdorff::new([2.0, 0.5]).unwrap().values(&block(0, 0), &block(down, right)).unwrap()[0];
        let moved = (2.0 * down as f64).hypot(0.5 * right as f64);
        prop_assert!((got - moved).abs() < 1e-12, "{} {}", got, moved);
    }
}
