//! What a layer does inside [`with_precision`].

use candle_core::{DType, Device, Tensor, Var};

use crate::compute::{Path, Precision, with_path, with_precision};
use crate::kernels::bf16::level::on_every_level;
use crate::{Result, Rng};

use crate::layers::{ConvGeometry, Padding, conv2d, linear};

fn randn(seed: u64, dims: &[usize]) -> Tensor {
    Rng::new(seed).randn(dims, &Device::Cpu).unwrap()
}

fn in_bf16<T>(work: impl FnOnce() -> T) -> T {
    with_precision(Precision::Bf16, work)
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    numbers(t).into_iter().map(f32::to_bits).collect()
}

type Layer = fn(&Tensor, &Tensor) -> Result<Tensor>;

fn strided(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let g = ConvGeometry { stride: (2, 2), padding: Padding::symmetric(1, 1), ..Default::default() };
    conv2d(x, w, None, &g)
}

/// Layers that take bf16 where it is offered, with an input of three samples and a weight.
fn served() -> Vec<(&'static str, Layer, Tensor, Tensor)> {
    let pointwise: Layer = |x, w| conv2d(x, w, None, &ConvGeometry::default());
    let plain: Layer = |x, w| linear(x, w, None);
    vec![
        ("linear", plain, randn(1, &[3, 70, 320]), randn(2, &[100, 320])),
        ("short sums", plain, randn(1, &[3, 64, 40]), randn(2, &[48, 40])),
        ("pointwise", pointwise, randn(1, &[3, 64, 9, 17]), randn(2, &[40, 64, 1, 1])),
        ("strided", strided, randn(1, &[3, 96, 24, 24]), randn(2, &[64, 96, 3, 3])),
    ]
}

#[test]
fn results_are_off_by_the_stated_share_of_their_size() {
    on_every_level(|level| {
        for (name, layer, x, w) in served() {
            let exact = numbers(&layer(&x, &w).unwrap());
            let fast = numbers(&in_bf16(|| layer(&x, &w)).unwrap());
            let rms = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let off = rms(&mut exact.iter().zip(&fast).map(|(a, b)| a - b)) / rms(&mut exact.iter().copied());
            assert!(off > 1e-4 && off < 4e-3, "{level:?} {name}: {off}");
        }
    });
}

#[test]
fn tracked_layers_other_types_and_the_plain_path_ignore_it() {
    on_every_level(|level| {
        for (name, layer, x, w) in served() {
            let exact = bits(&layer(&x, &w).unwrap());
            let (var_x, var_w) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&w).unwrap());
            for (x, w) in [(var_x.as_tensor(), &w), (&x, var_w.as_tensor())] {
                let tracked = in_bf16(|| layer(x, w)).unwrap();
                assert_eq!(bits(&tracked), exact, "{level:?} {name}, tracked");
            }
            let plain = |precision| {
                bits(&with_path(Path::Plain, || with_precision(precision, || layer(&x, &w))).unwrap())
            };
            assert_eq!(plain(Precision::Bf16), plain(Precision::F32), "{level:?} {name}, plain");
            let [x, w] = [&x, &w].map(|t| t.to_dtype(DType::F64).unwrap());
            let double = |precision| {
                let y = with_precision(precision, || layer(&x, &w)).unwrap();
                y.flatten_all().unwrap().to_vec1::<f64>().unwrap()
            };
            assert_eq!(double(Precision::Bf16), double(Precision::F32), "{level:?} {name}, f64");
        }
    });
}

#[test]
fn a_sample_depends_neither_on_its_batch_nor_on_threads() {
    on_every_level(|level| {
        for (name, layer, x, w) in served() {
            let all = in_bf16(|| layer(&x, &w)).unwrap();
            for sample in 0..3 {
                let alone = in_bf16(|| layer(&x.narrow(0, sample, 1).unwrap(), &w)).unwrap();
                let among = all.narrow(0, sample, 1).unwrap();
                assert_eq!(bits(&alone), bits(&among), "{level:?} {name}, sample {sample}");
            }
        }
    });
    // On pools of their own the processor's best level runs.
    for (name, layer, x, w) in served() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| in_bf16(|| layer(&x, &w))).unwrap())
        };
        assert_eq!(on(1), on(5), "{name}");
    }
}

#[test]
fn what_is_not_finite_stays_so_and_where_it_is() {
    on_every_level(|level| {
        for (name, layer, x, w) in served() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = numbers(&x);
                values[10] = bad;
                let x = Tensor::from_vec(values, x.shape(), x.device()).unwrap();
                let exact = numbers(&layer(&x, &w).unwrap());
                let fast = numbers(&in_bf16(|| layer(&x, &w)).unwrap());
                let kind = |v: &f32| (v.is_nan(), v.is_infinite().then_some(v.is_sign_positive()));
                let off = exact.iter().zip(&fast).position(|(a, b)| kind(a) != kind(b));
                assert_eq!(off, None, "{level:?} {name} {bad}");
                assert!(!exact.iter().all(|v| v.is_finite()), "{name} {bad}");
            }
        }
    });
}

#[test]
fn small_layers_and_those_of_winograd_keep_f32() {
    let same = |x: &Tensor, w: &Tensor| {
        conv2d(x, w, None, &ConvGeometry { padding: Padding::symmetric(1, 1), ..Default::default() })
    };
    let plain: Layer = |x, w| linear(x, w, None);
    let cases: Vec<(&str, Layer, Tensor, Tensor)> = vec![
        ("one row a sample", plain, randn(1, &[64, 320]), randn(2, &[320, 320])),
        ("short sums", plain, randn(1, &[2, 64, 16]), randn(2, &[320, 16])),
        ("few channels", strided, randn(1, &[2, 3, 32, 32]), randn(2, &[64, 3, 3, 3])),
        ("weights that cost much to pack", strided, randn(1, &[1, 720, 8, 8]), randn(2, &[720, 720, 3, 3])),
        (
            "a group for each channel",
            |x, w| conv2d(x, w, None, &ConvGeometry { groups: 64, ..Default::default() }),
            randn(1, &[1, 64, 16, 16]),
            randn(2, &[64, 1, 3, 3]),
        ),
    ];
    on_every_level(|level| {
        for (name, layer, x, w) in &cases {
            let exact = bits(&layer(x, w).unwrap());
            assert_eq!(bits(&in_bf16(|| layer(x, w)).unwrap()), exact, "{level:?} {name}");
        }
        // Only tiles are faster than Winograd's convolution.
        let (x, w) = (randn(1, &[1, 64, 32, 32]), randn(2, &[64, 64, 3, 3]));
        let equal = bits(&same(&x, &w).unwrap()) == bits(&in_bf16(|| same(&x, &w)).unwrap());
        assert_eq!(equal, !level.has_tiles(), "{level:?}");
    });
}
