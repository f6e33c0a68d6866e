use super::convolution::Mode;
use super::*;
use crate::Rng;
use crate::kernels::simd::tests::levels;
use crate::layers::{ConvGeometry, Padding};

fn shape(batch: usize, channels: (usize, usize), size: (usize, usize), padding: Padding) -> ConvShape {
    let x = [batch, channels.0, size.0, size.1];
    let geometry = ConvGeometry { padding, ..Default::default() };
    ConvShape::new(&x, &[channels.1, channels.0, 3, 3], None, &geometry).unwrap()
}

/// The convolution and both gradients in f64: y, dx, dw.
fn exact(s: &ConvShape, x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f64>; 3] {
    let (oh, ow) = (s.out_height, s.out_width);
    let mut all = [vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]];
    for b in 0..s.batch {
        for o in 0..s.out_channels {
            for c in 0..s.in_channels {
                for (i, j, u, v) in (0..oh * ow * 9).map(|n| (n / 9 / ow, n / 9 % ow, n % 9 / 3, n % 3)) {
                    let y = (i + u) as isize - s.geometry.padding.top as isize;
                    let z = (j + v) as isize - s.geometry.padding.left as isize;
                    if y < 0 || z < 0 || y as usize >= s.height || z as usize >= s.width {
                        continue;
                    }
                    let at_x = ((b * s.in_channels + c) * s.height + y as usize) * s.width + z as usize;
                    let at_y = ((b * s.out_channels + o) * oh + i) * ow + j;
                    let at_w = (o * s.in_channels + c) * 9 + u * 3 + v;
                    let (x, w, dy) = (f64::from(x[at_x]), f64::from(w[at_w]), f64::from(dy[at_y]));
                    all[0][at_y] += x * w;
                    all[1][at_x] += dy * w;
                    all[2][at_w] += dy * x;
                }
            }
        }
    }
    all
}

/// The largest error, as a share of the root mean square.
fn error(found: &[f32], exact: &[f64]) -> f64 {
    let rms = (exact.iter().map(|v| v * v).sum::<f64>() / exact.len() as f64).sqrt();
    let worst = found.iter().zip(exact).map(|(a, b)| (f64::from(*a) - b).abs());
    worst.fold(0.0f64, |m, d| if m >= d || m.is_nan() { m } else { d }) / rms
}

fn all_of(
    level: Level,
    tile: Tile,
    mode: Mode,
    s: &ConvShape,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
) -> [Vec<f32>; 3] {
    let (mut y, mut dx, mut dw) =
        (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()], vec![f32::NAN; w.len()]);
    let run = |sizes: &Sizes, turned, x: &[f32], y: &mut [f32]| {
        Convolution { s: sizes, level, mode: Some(mode), turned, transformed: None }.run(
            tile,
            x,
            w,
            None,
            Writer::over(y),
        );
    };
    run(&sizes_of(s), false, x, &mut y);
    run(&turned_sizes_of(s), true, dy, &mut dx);
    match tile {
        Tile::Two => weight_grad_at::<2>(level, s, dy, x, Writer::over(&mut dw)),
        Tile::Four => weight_grad_at::<4>(level, s, dy, x, Writer::over(&mut dw)),
    }
    [y, dx, dw]
}

#[test]
fn errors_against_f64_stay_within_their_bound() {
    let same = Padding::symmetric(1, 1);
    let mut failed = Vec::new();
    let cases = [
        shape(1, (16, 16), (16, 16), same),
        shape(3, (17, 19), (7, 9), same),
        shape(2, (16, 23), (5, 31), Padding { top: 0, bottom: 2, left: 3, right: 0 }),
        shape(1, (21, 16), (33, 6), Padding { top: 4, bottom: 5, left: 0, right: 1 }),
        shape(1, (18, 20), (1, 70), same),
        shape(9, (30, 16), (3, 3), Padding::default()),
        shape(2, (170, 40), (9, 10), same),
    ];
    for s in &cases {
        let mut rng = Rng::new(5);
        let mut normals = |n: usize| rng.normals(n);
        let x = normals(s.batch * s.in_channels * s.pixels());
        let w = normals(s.out_channels * s.in_channels * 9);
        let dy = normals(s.batch * s.out_channels * s.positions());
        let reference = exact(s, &x, &w, &dy);
        for level in levels() {
            for (tile, mode) in [
                (Tile::Two, Mode::Blocks),
                (Tile::Two, Mode::Panels),
                (Tile::Two, Mode::Points),
                (Tile::Four, Mode::Blocks),
                (Tile::Four, Mode::Panels),
                (Tile::Four, Mode::Points),
            ] {
                let found = all_of(level, tile, mode, s, &x, &w, &dy);
                for (name, (found, exact)) in ["y", "dx", "dw"].iter().zip(found.iter().zip(&reference)) {
                    let e = error(found, exact);
                    if e > 2e-5 || e.is_nan() {
                        failed.push(format!("{name} {level:?} {tile:?} {mode:?} {s:?}: {e:e}"));
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} failures:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_choice_depends_on_the_sizes_of_one_sample() {
    let same = Padding::symmetric(1, 1);
    let cases = [
        ((64, 64), 256, Some(Tile::Four)),
        ((640, 640), 16, Some(Tile::Four)),
        ((1280, 1280), 8, Some(Tile::Two)),
        ((64, 64), 4, None),
        ((3, 64), 64, None),
        ((64, 4), 64, None),
    ];
    for (channels, size, expected) in cases {
        for batch in [1, 8] {
            let s = shape(batch, channels, (size, size), same);
            assert_eq!(tile(&s), expected, "{channels:?} {size}");
        }
    }
    let strided = ConvGeometry { stride: (2, 2), padding: same, ..Default::default() };
    let s = ConvShape::new(&[1, 64, 64, 64], &[64, 64, 3, 3], None, &strided).unwrap();
    assert_eq!(tile(&s), None);
}

#[test]
fn weights_transformed_before_give_the_same_bits() {
    for (channels, size) in [((20, 17), (9, 18)), ((160, 180), (17, 16)), ((1000, 33), (5, 6))] {
        let s = shape(2, channels, size, Padding::symmetric(1, 1));
        let mut rng = Rng::new(3);
        let x = rng.normals(s.batch * s.in_channels * s.pixels());
        let w = rng.normals(s.out_channels * s.in_channels * 9);
        for tile in [Tile::Two, Tile::Four] {
            let before = transform_weights(tile, &s, &w);
            assert_eq!(before.values.len() * 4, transformed_bytes(tile, &s));
            let run = |transformed| {
                let mut y = vec![f32::NAN; s.out_dims().iter().product()];
                forward(tile, &s, &x, (&w, transformed), None, Writer::over(&mut y));
                y
            };
            assert_eq!(run(None), run(Some(&before)), "{tile:?} {channels:?}");
        }
    }
}
