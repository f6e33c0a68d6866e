use candle_core::{DType, Device};

use super::*;
use crate::compute::{Path, with_path};
use crate::gradcheck::{Options, check};
use crate::layers::compare::{Case, compare, randn};

fn pad4(top: usize, bottom: usize, left: usize, right: usize) -> Padding {
    Padding { top, bottom, left, right }
}

/// Image size, window size, and how it moves.
type Setting = ((usize, usize), (usize, usize), ConvGeometry);

/// Odd sizes, every kind of padding, stride and dilation.
fn geometries() -> Vec<Setting> {
    let g = ConvGeometry::default();
    let same = Padding::symmetric(1, 1);
    vec![
        ((5, 7), (3, 3), ConvGeometry { padding: same, ..g }),
        ((5, 7), (3, 3), g),
        ((3, 3), (3, 3), g),
        ((1, 1), (3, 3), ConvGeometry { padding: same, ..g }),
        ((6, 5), (3, 3), ConvGeometry { padding: pad4(0, 1, 2, 0), ..g }),
        ((6, 5), (3, 3), ConvGeometry { padding: pad4(3, 4, 0, 5), ..g }),
        ((17, 19), (3, 3), ConvGeometry { padding: same, ..g }),
        ((23, 18), (3, 3), ConvGeometry { padding: pad4(1, 0, 0, 2), ..g }),
        ((6, 7), (3, 3), ConvGeometry { stride: (2, 2), padding: same, ..g }),
        ((7, 8), (3, 3), ConvGeometry { stride: (2, 2), padding: pad4(0, 1, 0, 1), ..g }),
        ((9, 7), (3, 3), ConvGeometry { stride: (3, 1), padding: same, ..g }),
        ((9, 7), (2, 4), ConvGeometry { stride: (1, 3), padding: pad4(1, 0, 2, 1), ..g }),
        ((9, 8), (3, 3), ConvGeometry { dilation: (2, 2), padding: same, ..g }),
        ((9, 8), (3, 2), ConvGeometry { dilation: (1, 3), stride: (2, 1), ..g }),
        ((9, 8), (1, 7), ConvGeometry { padding: pad4(0, 0, 3, 3), ..g }),
        ((8, 9), (7, 1), ConvGeometry { padding: pad4(3, 3, 0, 0), ..g }),
        ((5, 6), (1, 1), g),
        ((5, 6), (1, 1), ConvGeometry { stride: (2, 2), ..g }),
        ((5, 6), (1, 1), ConvGeometry { padding: same, ..g }),
        ((5, 4), (5, 4), ConvGeometry { stride: (7, 9), ..g }),
    ]
}

#[test]
fn the_kernels_agree_with_plain_operations() {
    let mut cases = Vec::new();
    for (size, kernel, geometry) in geometries() {
        for (inputs, outputs, groups) in [(1, 1, 1), (3, 5, 1), (4, 6, 2), (4, 4, 4), (2, 6, 2)] {
            let geometry = ConvGeometry { groups, ..geometry };
            for batch in [0, 1, 2] {
                let x = randn(1, &[batch, inputs, size.0, size.1]);
                let w = randn(2, &[outputs, inputs / groups, kernel.0, kernel.1]);
                let b = randn(3, &[outputs]);
                let name = format!("{batch}x{inputs}x{size:?} to {outputs}, {kernel:?}, {geometry:?}");
                cases.push(Case::new(name.clone(), vec![x.clone(), w.clone(), b], move |t| {
                    conv2d(&t[0], &t[1], Some(&t[2]), &geometry)
                }));
                cases.push(Case::new(format!("{name}, no bias"), vec![x, w], move |t| {
                    conv2d(&t[0], &t[1], None, &geometry)
                }));
            }
        }
    }
    compare(&cases, 2e-5);
}

#[test]
fn many_channels_and_tiles_agree() {
    let mut cases = Vec::new();
    let same = ConvGeometry { padding: Padding::symmetric(1, 1), ..Default::default() };
    for (inputs, outputs, size, kernel, geometry) in [
        (20, 70, (9, 11), 3, same),
        (70, 20, (13, 6), 3, same),
        (33, 130, (4, 4), 3, ConvGeometry { stride: (2, 2), ..same }),
        (3, 8, (70, 70), 3, ConvGeometry { stride: (2, 1), ..same }),
        (130, 40, (7, 9), 1, ConvGeometry::default()),
        (40, 130, (70, 65), 1, ConvGeometry::default()),
        (40, 24, (6, 6), 5, ConvGeometry { groups: 2, ..same }),
        (24, 3, (18, 17), 3, same),
        (32, 28, (20, 17), 3, ConvGeometry { groups: 4, ..same }),
        (12, 5, (18, 20), 5, ConvGeometry { dilation: (2, 1), padding: pad4(7, 8, 1, 3), ..same }),
        (9, 5, (18, 20), 3, ConvGeometry { padding: pad4(3, 0, 1, 1), ..same }),
        (20, 30, (66, 60), 3, ConvGeometry { stride: (2, 2), ..same }),
        (20, 70, (33, 35), 1, ConvGeometry { stride: (2, 2), ..Default::default() }),
    ] {
        let x = randn(1, &[2, inputs, size.0, size.1]);
        let w = randn(2, &[outputs, inputs / geometry.groups, kernel, kernel]);
        let name = format!("{inputs}x{size:?} to {outputs}, {kernel}, {geometry:?}");
        cases.push(Case::new(name.clone(), vec![x, w, randn(3, &[outputs])], move |t| {
            conv2d(&t[0], &t[1], Some(&t[2]), &geometry)
        }));
    }
    compare(&cases, 5e-5);
}

#[test]
fn strided_arguments_agree() {
    let mut cases = Vec::new();
    let geometry = ConvGeometry { padding: Padding::symmetric(1, 1), ..Default::default() };
    let inputs = [randn(1, &[7, 3, 2, 6]), randn(2, &[3, 3, 3, 5]), randn(3, &[10])];
    cases.push(Case::new("permuted", inputs.to_vec(), move |t| {
        let x = t[0].permute((2, 1, 0, 3))?;
        let w = t[1].permute((3, 0, 1, 2))?;
        conv2d(&x, &w, Some(&t[2].narrow(0, 3, 5)?), &geometry)
    }));
    cases.push(Case::new("narrowed", inputs[..2].to_vec(), move |t| {
        let x = t[0].narrow(0, 2, 3)?;
        conv2d(&x.transpose(2, 3)?, &t[1].narrow(3, 1, 3)?, None, &geometry)
    }));
    compare(&cases, 2e-5);
}

#[test]
fn gradients_match_differences() {
    for path in [Path::Kernels, Path::Plain] {
        for (size, kernel, geometry) in geometries().into_iter().step_by(2) {
            for groups in [1, 2] {
                let geometry = ConvGeometry { groups, ..geometry };
                let x = randn(1, &[1, 2, size.0, size.1]);
                let w = randn(2, &[2, 2 / groups, kernel.0, kernel.1]);
                let options = Options { elements: 40, ..Default::default() };
                let outcome = with_path(path, || {
                    check(|t| conv2d(&t[0], &t[1], Some(&t[2]), &geometry), &[x, w, randn(3, &[2])], options)
                });
                outcome.unwrap_or_else(|e| panic!("{path:?} {size:?} {kernel:?} {geometry:?}: {e}"));
            }
        }
    }
}

/// A sample's result has the same bits alone and in a batch, with one thread and with three.
#[test]
fn results_depend_on_neither_batch_nor_threads() {
    for (inputs, outputs, groups) in [(20, 24, 1), (6, 12, 6), (10, 36, 2)] {
        let geometry = ConvGeometry { padding: Padding::symmetric(1, 1), groups, ..Default::default() };
        let x = randn(1, &[5, inputs, 21, 19]);
        let w = randn(2, &[outputs, inputs / groups, 3, 3]);
        let run = |threads: usize, x: &Tensor| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let x = candle_core::Var::from_tensor(x).unwrap();
                let w = candle_core::Var::from_tensor(&w).unwrap();
                let y = conv2d(&x, &w, None, &geometry).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                (bits(&y), bits(grads.get(&x).unwrap()), bits(grads.get(&w).unwrap()))
            })
        };
        let three = run(3, &x);
        assert!(run(1, &x) == three, "threads, {groups} groups");
        let alone = run(2, &x.narrow(0, 3, 1).unwrap());
        for (alone, three) in [(&alone.0, &three.0), (&alone.1, &three.1)] {
            let n = alone.len();
            assert!(*alone == three[3 * n..4 * n], "batch, {groups} groups");
        }
    }
}

#[test]
fn what_is_frozen_gets_no_gradient() {
    let geometry = ConvGeometry::default();
    let (x, w, b) = (randn(1, &[1, 2, 4, 4]), randn(2, &[3, 2, 3, 3]), randn(3, &[3]));
    for tracked in 0..3 {
        let mut args = [x.clone(), w.clone(), b.clone()];
        let var = candle_core::Var::from_tensor(&args[tracked]).unwrap();
        args[tracked] = var.as_tensor().clone();
        let y = conv2d(&args[0], &args[1], Some(&args[2]), &geometry).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        for (i, arg) in args.iter().enumerate() {
            assert_eq!(grads.get(arg).is_some(), i == tracked, "argument {i}, tracked {tracked}");
        }
    }
}

#[test]
fn doubles_take_the_plain_path() {
    let double = |t: Tensor| t.to_dtype(DType::F64).unwrap();
    let y = conv2d(
        &double(randn(1, &[1, 2, 4, 4])),
        &double(randn(2, &[3, 2, 3, 3])),
        None,
        &ConvGeometry::default(),
    );
    assert_eq!(y.unwrap().dtype(), DType::F64);
}

#[test]
fn misfits_are_typed_errors() {
    let g = ConvGeometry::default();
    type Shapes<'a> = (&'a [usize], &'a [usize], Option<&'a [usize]>, ConvGeometry);
    let shapes: [Shapes<'_>; 12] = [
        (&[2, 4, 4], &[3, 2, 3, 3], None, g),
        (&[1, 2, 4, 4], &[3, 2, 3], None, g),
        (&[1, 3, 4, 4], &[3, 2, 3, 3], None, g),
        (&[1, 0, 4, 4], &[3, 0, 3, 3], None, g),
        (&[1, 2, 4, 4], &[0, 2, 3, 3], None, g),
        (&[1, 2, 4, 4], &[3, 2, 3, 0], None, g),
        (&[1, 2, 4, 4], &[3, 2, 5, 3], None, g),
        (&[1, 2, 0, 4], &[3, 2, 1, 1], None, ConvGeometry { padding: Padding::symmetric(1, 1), ..g }),
        (&[1, 2, 4, 4], &[3, 2, 3, 3], None, ConvGeometry { dilation: (2, 2), ..g }),
        (&[1, 4, 4, 4], &[3, 2, 3, 3], None, ConvGeometry { groups: 2, ..g }),
        (&[1, 2, 4, 4], &[3, 2, 3, 3], Some(&[2]), g),
        (
            &[1, 2, 4, 4],
            &[3, 2, 3, 3],
            None,
            ConvGeometry { padding: Padding::symmetric(usize::MAX, 1), ..g },
        ),
    ];
    for (x, w, b, geometry) in shapes {
        let y = conv2d(&randn(1, x), &randn(1, w), b.map(|b| randn(1, b)).as_ref(), &geometry);
        assert!(matches!(y, Err(Error::Shape { .. })), "{x:?} {w:?} {b:?} {geometry:?}: {y:?}");
    }
    let (x, w) = (randn(1, &[1, 2, 4, 4]), randn(1, &[3, 2, 3, 3]));
    for geometry in [
        ConvGeometry { stride: (0, 1), ..g },
        ConvGeometry { dilation: (1, 0), ..g },
        ConvGeometry { groups: 0, ..g },
    ] {
        assert!(matches!(conv2d(&x, &w, None, &geometry), Err(Error::Argument { .. })));
    }
    let huge = ConvGeometry { padding: Padding::symmetric(1 << 40, 1 << 40), ..g };
    assert!(conv2d(&x, &w, None, &huge).is_err());
    for config in [
        Conv2dConfig::new(0, 1, 3),
        Conv2dConfig::new(1, 0, 3),
        Conv2dConfig::new(1, 1, 0),
        Conv2dConfig::new(4, 6, 3).groups(4),
        Conv2dConfig::new(4, 6, 3).groups(0),
        Conv2dConfig::new(1, 1, 1).stride(0),
        Conv2dConfig::new(1, 1, 1).dilation(0),
    ] {
        let params = Params::fresh(1, &Device::Cpu);
        assert!(matches!(Conv2d::new(config, &params), Err(Error::Argument { .. })), "{config:?}");
    }
}

#[test]
fn a_layer_asks_for_pytorchs_names() {
    let params = Params::fresh(1, &Device::Cpu);
    let config = Conv2dConfig::new(4, 6, 3).kernel_hw(1, 7).padding_hw(0, 3).groups(2);
    let conv = Conv2d::with_init(config, Init::ZEROS, &params.at("conv")).unwrap();
    assert_eq!((conv.weight().dims(), conv.bias().unwrap().dims()), (&[6, 2, 1, 7][..], &[6][..]));
    let y = conv.forward(&randn(1, &[2, 4, 5, 9])).unwrap();
    assert_eq!(y.dims(), [2, 6, 5, 9]);
    assert_eq!(y.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    Conv2d::new(Conv2dConfig::new(1, 1, 1).bias(false), &params.at("plain")).unwrap();
    let set = params.finish().unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["conv.bias", "conv.weight", "plain.weight"]);
}
