//! Blocks, linear layers and convolutions against sums in f64 of the rounded factors.

mod scope;

use half::bf16;

use super::block::{Block, SIDE, TERMS, Unit};
use super::level::{Level, levels};
use super::{conv, linear, pack};
use crate::kernels::linear::LinearShape;
use crate::layers::{ConvGeometry, ConvShape, Padding};

/// Numbers of both signs, some of them large.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0) * 1.7).collect()
}

fn rounded(x: f32) -> f64 {
    f64::from(bf16::from_f32(x).to_f32())
}

/// Panics where `got` is off by more than f32 sums of `terms` products may be.
fn assert_close(got: &[f32], expected: &[f64], terms: usize, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let limit = 3e-7 * (terms as f64).sqrt().max(4.0) * 3.0;
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() <= limit * e.abs().max(1.0), "{what}: {g} for {e} at {i}");
    }
}

#[test]
fn blocks_agree_with_sums_in_f64_on_every_level() {
    for level in levels() {
        for (rows, columns, terms) in [(1, 1, 1), (32, 32, 32), (7, 19, 33), (17, 31, 321), (32, 5, 1000)] {
            let (a, b) = (numbers(rows * terms, 1), numbers(columns * terms, 2));
            let words = pack::block_words(terms);
            let (mut left, mut right) = (vec![u32::MAX; words], vec![u32::MAX; words]);
            pack::left(level, a.chunks(terms), &mut left);
            pack::right(level, b.chunks(terms), &mut right);
            let (offsets, stride) = pack::right_tiles(terms);
            let mut sums = [f32::NAN; SIDE * SIDE];
            let block = Block { left: &left, right: &right, offsets: &offsets, stride };
            Unit::new(level).multiply(block, &mut sums);
            let expected: Vec<f64> = (0..SIDE * SIDE)
                .map(|i| {
                    let (row, column) = (i / SIDE, i % SIDE);
                    let product = |k: usize| rounded(a[row * terms + k]) * rounded(b[column * terms + k]);
                    let inside = row < rows && column < columns;
                    if inside { (0..terms).map(product).sum() } else { 0.0 }
                })
                .collect();
            assert_close(&sums, &expected, terms, &format!("{level:?} {rows} {columns} {terms}"));
        }
    }
}

#[test]
#[should_panic(expected = "right operand that is too short")]
fn a_block_outside_of_its_operand_is_refused() {
    let (left, right) = (vec![0; pack::block_words(TERMS)], vec![0; 500]);
    let block = Block { left: &left, right: &right, offsets: &[0], stride: SIDE };
    Unit::new(Level::Portable).multiply(block, &mut [0.0; SIDE * SIDE]);
}

#[test]
fn linear_layers_agree_with_sums_in_f64_on_every_level() {
    for level in levels() {
        for (samples, rows, inputs, outputs) in
            [(1, 1, 1, 1), (2, 3, 5, 7), (0, 4, 8, 8), (3, 33, 65, 97), (1, 300, 40, 33), (2, 16, 1100, 64)]
        {
            let s = LinearShape { samples, rows, inputs, outputs };
            let (x, w) = (numbers(s.all_rows() * inputs, 1), numbers(outputs * inputs, 2));
            let b = numbers(outputs, 3);
            for bias in [None, Some(&b[..])] {
                let y = linear::forward(level, s, &x, &w, bias).unwrap();
                let expected: Vec<f64> = (0..s.all_rows() * outputs)
                    .map(|i| {
                        let (row, out) = (i / outputs, i % outputs);
                        let pairs = x[row * inputs..][..inputs].iter().zip(&w[out * inputs..]);
                        let sum: f64 = pairs.map(|(x, w)| rounded(*x) * rounded(*w)).sum();
                        sum + bias.map_or(0.0, |b| f64::from(b[out]))
                    })
                    .collect();
                assert_close(&y, &expected, inputs, &format!("{level:?} {s:?}"));
            }
        }
    }
}

/// Batch, channels in, height, width, channels out; window; geometry.
type ConvCase = ([usize; 5], [usize; 2], ConvGeometry);

fn conv_cases() -> Vec<ConvCase> {
    let plain = ConvGeometry::default();
    let same = ConvGeometry { padding: Padding::symmetric(1, 1), ..plain };
    let strided = ConvGeometry { stride: (2, 2), ..same };
    let odd = ConvGeometry {
        stride: (2, 3),
        padding: Padding { top: 2, bottom: 0, left: 1, right: 4 },
        dilation: (2, 1),
        groups: 1,
    };
    let wide = ConvGeometry { dilation: (1, 3), padding: Padding::symmetric(0, 3), ..plain };
    vec![
        ([1, 1, 1, 1, 1], [1, 1], plain),
        ([2, 64, 8, 8, 40], [1, 1], plain),
        ([3, 37, 9, 7, 33], [3, 3], same),
        ([5, 32, 4, 4, 64], [3, 3], same),
        ([1, 40, 70, 33, 35], [3, 3], same),
        ([2, 33, 11, 16, 32], [3, 3], strided),
        ([2, 3, 20, 17, 5], [5, 4], odd),
        ([1, 34, 6, 40, 8], [1, 3], wide),
        ([0, 32, 8, 8, 32], [3, 3], same),
        ([2, 32, 9, 9, 32], [1, 1], ConvGeometry { stride: (2, 2), ..plain }),
        ([1, 5, 1, 3, 2], [1, 1], ConvGeometry { padding: Padding::symmetric(3, 5), ..plain }),
    ]
}

#[test]
fn convolutions_agree_with_sums_in_f64_on_every_level() {
    for (dims, window, g) in conv_cases() {
        let [batch, inputs, height, width, outputs] = dims;
        let s = ConvShape::new(
            &[batch, inputs, height, width],
            &[outputs, inputs, window[0], window[1]],
            Some(&[outputs]),
            &g,
        )
        .unwrap();
        let x = numbers(batch * inputs * height * width, 1);
        let w = numbers(outputs * inputs * s.taps(), 2);
        let b = numbers(outputs, 3);
        let sum = |sample: usize, out: usize, i: usize, j: usize| {
            let mut sum = f64::from(b[out]);
            for (u, v) in (0..window[0]).flat_map(|u| (0..window[1]).map(move |v| (u, v))) {
                let line = (i * g.stride.0 + u * g.dilation.0).checked_sub(g.padding.top);
                let column = (j * g.stride.1 + v * g.dilation.1).checked_sub(g.padding.left);
                let (Some(line), Some(column)) = (line, column) else { continue };
                if line >= height || column >= width {
                    continue;
                }
                for c in 0..inputs {
                    let pixel = x[((sample * inputs + c) * height + line) * width + column];
                    let weight = w[((out * inputs + c) * window[0] + u) * window[1] + v];
                    sum += rounded(pixel) * rounded(weight);
                }
            }
            sum
        };
        let mut expected = Vec::new();
        for (sample, out) in (0..batch).flat_map(|b| (0..outputs).map(move |o| (b, o))) {
            for position in 0..s.positions() {
                expected.push(sum(sample, out, position / s.out_width, position % s.out_width));
            }
        }
        for level in levels() {
            let y = conv::forward(level, &s, &x, &w, Some(&b)).unwrap();
            assert_close(&y, &expected, inputs * s.taps(), &format!("{level:?} {dims:?} {window:?} {g:?}"));
        }
    }
}
