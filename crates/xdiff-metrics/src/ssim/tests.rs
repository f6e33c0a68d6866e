use candle_core::{Device, Tensor};

use super::*;
use crate::Psnr;

/// The formula images of the golden numbers: a = (7i + 13j + (ij mod 31)) mod 256 and
/// b = clip(a + ((5i + 3j) mod 17) − 8).
fn formula(side: i64) -> (Tensor, Tensor) {
    let mut a = Vec::new();
    let mut b = Vec::new();
    for i in 0..side {
        for j in 0..side {
            let v = (7 * i + 13 * j + (i * j) % 31) % 256;
            a.push(v as f32);
            b.push((v + (5 * i + 3 * j) % 17 - 8).clamp(0, 255) as f32);
        }
    }
    let shape = (1, 1, side as usize, side as usize);
    (Tensor::from_vec(a, shape, &Device::Cpu).unwrap(), Tensor::from_vec(b, shape, &Device::Cpu).unwrap())
}

fn noise(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
    xdiff_nn::Rng::new(seed).rand(0.0, 1.0, shape, &Device::Cpu).unwrap()
}

const PRESETS: [SsimPreset; 3] = [SsimPreset::Wang, SsimPreset::SkimageDefault, SsimPreset::Torchmetrics];

#[test]
fn golden_numbers_of_the_reference_libraries() {
    let (a, b) = formula(192);
    let ssim = |preset| Ssim::new(preset, 255.0).unwrap().values(&a, &b).unwrap()[0];
    let table = [
        ("skimage_default", ssim(SsimPreset::SkimageDefault), 0.99243129),
        ("wang", ssim(SsimPreset::Wang), 0.98739779),
        // torchmetrics 1.9 in f64; mirroring with repeated edges, as SciPy does, gives 0.98732926.
        ("torchmetrics", ssim(SsimPreset::Torchmetrics), 0.98729356),
        ("MS-SSIM", MsSsim::new(255.0).unwrap().values(&a, &b).unwrap()[0], 0.99916397),
        ("PSNR", Psnr::new(255.0).unwrap().values(&a, &b).unwrap()[0], 34.41031024),
    ];
    let wrong: Vec<_> = table.iter().filter(|(_, got, want)| (got - want).abs() > 6e-9).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn identical_images_have_one_and_swapping_changes_nothing() {
    let (a, b) = (noise(1, (2, 3, 19, 23)), noise(2, (2, 3, 19, 23)));
    let flat = Tensor::full(0.3f32, (1, 1, 16, 16), &Device::Cpu).unwrap();
    for preset in PRESETS {
        let ssim = Ssim::new(preset, 1.0).unwrap();
        for v in ssim.values(&a, &a).unwrap() {
            assert!((v - 1.0).abs() < 1e-12, "{preset:?} {v}");
        }
        assert!((ssim.values(&flat, &flat).unwrap()[0] - 1.0).abs() < 1e-12, "{preset:?}");
        let (ab, ba) = (ssim.values(&a, &b).unwrap(), ssim.values(&b, &a).unwrap());
        assert!(ab.iter().zip(&ba).all(|(x, y)| (x - y).abs() < 1e-14), "{preset:?}");
        let distance = ssim.distance(&a, &b).unwrap();
        assert!(distance.iter().zip(&ab).all(|(d, s)| (d + s - 1.0).abs() < 1e-15));
    }
}

#[test]
fn constant_images_have_only_the_luminance_term() {
    let (a, b) = (vec![0.2; 144], vec![0.7; 144]);
    let want = (2.0 * 0.2 * 0.7 + 1e-4) / (0.04 + 0.49 + 1e-4);
    for preset in PRESETS {
        let got = Ssim::new(preset, 1.0).unwrap().of_plane(&a, &b, 12, 12).unwrap();
        assert!((got - want).abs() < 1e-10, "{preset:?} {got} {want}");
    }
}

#[test]
fn a_batch_is_its_images_and_an_image_the_mean_of_its_channels() {
    let (a, b) = (noise(3, (2, 3, 14, 17)), noise(4, (2, 3, 14, 17)));
    for preset in PRESETS {
        let ssim = Ssim::new(preset, 1.0).unwrap();
        let batch = ssim.values(&a, &b).unwrap();
        for (i, value) in batch.iter().enumerate() {
            let mut sum = 0.0;
            for c in 0..3 {
                let plane = |t: &Tensor| {
                    let t = t.get(i).unwrap().get(c).unwrap().flatten_all().unwrap();
                    t.to_dtype(candle_core::DType::F64).unwrap().to_vec1::<f64>().unwrap()
                };
                sum += ssim.of_plane(&plane(&a), &plane(&b), 14, 17).unwrap();
            }
            assert!((value - sum / 3.0).abs() < 1e-14, "{preset:?} {i}");
        }
    }
}

#[test]
fn the_layout_and_type_of_the_tensor_do_not_matter() {
    let (a, b) = (noise(5, (2, 2, 13, 15)), noise(6, (2, 2, 13, 15)));
    let ssim = Ssim::new(SsimPreset::Wang, 1.0).unwrap();
    let want = ssim.values(&a, &b).unwrap();
    let turn = |t: &Tensor| t.transpose(2, 3).unwrap().contiguous().unwrap().transpose(2, 3).unwrap();
    let wide = |t: &Tensor| t.to_dtype(candle_core::DType::F64).unwrap();
    assert_eq!(ssim.values(&turn(&a), &turn(&b)).unwrap(), want);
    assert_eq!(ssim.values(&wide(&a), &wide(&b)).unwrap(), want);
}

#[test]
fn reduced_scales_are_named_and_weighted() {
    let (a, b) = formula(96);
    let reduced = MsSsimReduced::for_size(255.0, 96, 96).unwrap();
    assert_eq!(reduced.scales, 4);
    let scores = reduced.scores(&a, &b).unwrap();
    assert!((scores.weights.iter().sum::<f64>() - 1.0).abs() < 1e-15);
    assert!(scores.values[0] > 0.99 && scores.values[0] < 1.0, "{scores}");
    assert!(scores.to_string().starts_with("MS-SSIM reduced to 4 scales, weights [0.0517"), "{scores}");
    let one = MsSsimReduced::new(255.0, 1).unwrap().values(&a, &b).unwrap()[0];
    let ssim = Ssim::new(SsimPreset::Wang, 255.0).unwrap().values(&a, &b).unwrap()[0];
    assert!((one - ssim).abs() < 1e-6, "{one} {ssim}");
    assert!(MsSsimReduced::new(1.0, 5).is_err() && MsSsimReduced::new(1.0, 0).is_err());
}

#[test]
fn what_cannot_be_compared_is_a_typed_error() {
    let of = |shape| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let ssim = Ssim::new(SsimPreset::Wang, 1.0).unwrap();
    assert!(matches!(ssim.values(&of((1, 1, 11, 11)), &of((1, 1, 11, 12))), Err(Error::Mismatch { .. })));
    assert!(matches!(ssim.values(&of((1, 0, 11, 11)), &of((1, 0, 11, 11))), Err(Error::Shape { .. })));
    for preset in PRESETS {
        let min = preset.min_side();
        let ssim = Ssim::new(preset, 1.0).unwrap();
        assert!(ssim.values(&of((1, 1, min, 30)), &of((1, 1, min, 30))).is_ok(), "{preset:?}");
        let small = of((1, 1, 30, min - 1));
        assert!(matches!(ssim.values(&small, &small), Err(Error::TooSmall { .. })), "{preset:?}");
        assert!(ssim.of_plane(&[0.0; 4], &[0.0; 4], usize::MAX, 12).is_err());
    }
    let small = of((1, 1, 160, 161));
    let e = MsSsim::new(1.0).unwrap().values(&small, &small).unwrap_err();
    assert!(matches!(e, Error::TooSmall { min: 161, .. }) && e.to_string().contains("MsSsimReduced"), "{e}");
    let mut pixels = vec![0f32; 2 * 144];
    pixels[200] = f32::NAN;
    let bad = Tensor::from_vec(pixels, (2, 1, 12, 12), &Device::Cpu).unwrap();
    let good = of((2, 1, 12, 12));
    for (a, b) in [(&bad, &good), (&good, &bad)] {
        assert!(matches!(ssim.values(a, b), Err(Error::Value { index: 200, .. })));
    }
    for data_range in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(Ssim::new(SsimPreset::Wang, data_range).is_err());
        let unchecked = Ssim { preset: SsimPreset::Wang, data_range };
        assert!(matches!(unchecked.values(&good, &good), Err(Error::Config { .. })));
        assert!(MsSsim { data_range }.values(&small, &small).is_err());
        assert!(Psnr { data_range }.values(&good, &good).is_err());
    }
}
