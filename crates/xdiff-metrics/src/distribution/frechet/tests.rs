use candle_core::{Device, Tensor};
use proptest::prelude::*;
use xdiff_core::FeatureExtractor;
use xdiff_nn::Tap;

use super::*;
use crate::distribution::kernel_distance;

/// The formula features of the golden numbers: sin(a·i·j) + b·cos(0.7i + 0.3j²), from 1.
fn formula(n: usize, dim: usize, a: f64, b: f64) -> Features {
    let at = |i: f64, j: f64| (a * i * j).sin() + b * (0.7 * i + 0.3 * j * j).cos();
    let rows = (1..=n).flat_map(|i| (1..=dim).map(move |j| at(i as f64, j as f64))).collect();
    Features::new(rows, dim, "formula").unwrap()
}

fn noise(seed: u64, n: usize, dim: usize) -> Features {
    let mut rng = xdiff_nn::Rng::new(seed);
    let rows = (0..n * dim).map(|i| rng.normal() * (1.0 + (i % dim) as f64)).collect();
    Features::new(rows, dim, "noise").unwrap()
}

/// The same set in the form of a covariance, whatever its size.
fn by_covariance(a: &Features, b: &Features) -> f64 {
    let of = |f: &Features| {
        let mut moments = FeatureMoments::new(f.dim(), f.extractor()).unwrap();
        moments.push(f).unwrap();
        moments.mean_and_covariance().unwrap()
    };
    let (a, b) = (of(a), of(b));
    frechet_of_moments((&a.0, &a.1), (&b.0, &b.1)).unwrap()
}

#[test]
fn golden_numbers() {
    let (a, b) = (formula(50, 8, 0.37, 0.5), formula(40, 8, 0.41, 0.3));
    let (few, fewer) = (formula(6, 16, 0.41, 0.3), formula(5, 16, 0.37, 0.5));
    let (large, larger) = (formula(300, 64, 0.37, 0.5), formula(270, 64, 0.41, 0.3));
    let table = [
        ("n > d", frechet_distance(&a, &b).unwrap().value, 0.155613787179, 1e-11),
        ("n > d, by covariance", by_covariance(&a, &b), 0.155613787179, 1e-11),
        // pytorch-fid 0.3.0, clean-fid 0.1.35, torch-fidelity 0.4.0 and torchmetrics 1.9.0 agree.
        ("larger", frechet_distance(&large, &larger).unwrap().value, 9.463887774783, 1e-9),
        ("n < d", frechet_distance(&fewer, &few).unwrap().value, 12.1176, 5e-5),
        ("n < d, by covariance", by_covariance(&fewer, &few), 12.1176, 5e-5),
        ("kernel", kernel_distance(&a, &b, None).unwrap().value, -0.108065131925, 1e-11),
    ];
    let wrong: Vec<_> = table.iter().filter(|(_, got, want, tol)| (got - want).abs() > *tol).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn unit_gaussians_one_apart_in_every_direction() {
    for dim in [1, 64, 2048] {
        let identity: Vec<f64> = (0..dim * dim).map(|i| if i % (dim + 1) == 0 { 1.0 } else { 0.0 }).collect();
        let (zero, one) = (vec![0.0; dim], vec![1.0; dim]);
        let got = frechet_of_moments((&zero, &identity), (&one, &identity)).unwrap();
        assert!((got - dim as f64).abs() < 1e-9 * dim as f64, "{dim}: {got}");
    }
}

#[test]
fn commuting_covariances_have_a_closed_form() {
    let variances = [[4.0, 9.0, 0.0], [1.0, 16.0, 25.0]];
    let diagonal = |v: [f64; 3]| (0..9).map(|i| if i % 4 == 0 { v[i / 4] } else { 0.0 }).collect();
    let [first, second]: [Vec<f64>; 2] = variances.map(diagonal);
    let got = frechet_of_moments((&[0.0; 3], &first), (&[0.0; 3], &second)).unwrap();
    // (2−1)² + (3−4)² + (0−5)²
    assert!((got - 27.0).abs() < 1e-10, "{got}");
}

#[test]
fn every_form_of_the_trace_agrees() {
    let dim = 24;
    let sets = [noise(1, 10, dim), noise(2, 100, dim), noise(3, 700, dim), noise(4, 300, dim)];
    for a in &sets {
        for b in &sets {
            let (ab, ba) = (frechet_distance(a, b).unwrap(), frechet_distance(b, a).unwrap());
            let scale = ab.value.max(1.0);
            assert!((ab.value - ba.value).abs() < 1e-9 * scale, "symmetry: {ab} {ba}");
            let other = by_covariance(a, b);
            assert!((ab.value - other).abs() < 1e-6 * scale, "{ab} {other}");
            assert!((ab.value - ab.mean_term - ab.covariance_term).abs() < 1e-9 * scale);
        }
        let same = frechet_distance(a, a).unwrap().value;
        assert!((0.0..1e-6).contains(&same), "{same}");
    }
}

#[test]
fn a_score_names_its_extractor_and_its_size() {
    let score = frechet_distance(&noise(1, 5, 2), &noise(2, 6, 2)).unwrap();
    assert!(score.biased_small_sample);
    let text = score.to_string();
    for part in ["Fréchet distance (noise)", "n = 5 and 6", "fewer than 2048"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("FID"));
    let names = |extractor: &str| {
        let of = |seed| Features::new(noise(seed, 9, 2).rows().to_vec(), 2, extractor).unwrap();
        let frechet = frechet_distance(&of(1), &of(2)).unwrap();
        (frechet.name(), kernel_distance(&of(1), &of(2), None).unwrap().name())
    };
    let table = [
        ("fid_inception (published weights, sha256 6726825d; resize pytorch_fid)", ("FID", "KID")),
        ("fid_inception (random weights, seed 0)", ("Fréchet distance", "Cubic kernel distance")),
        ("resnet18 (sha256 6726825d)", ("Fréchet distance", "Cubic kernel distance")),
    ];
    for (extractor, want) in table {
        assert_eq!(names(extractor), want, "{extractor}");
    }
    let large = frechet_distance(&noise(1, 2048, 2), &noise(2, 2048, 2)).unwrap();
    assert!(!large.biased_small_sample);
}

#[test]
fn images_stream_in_batches_of_any_size() {
    /// Four numbers of an image.
    struct Quarters;
    impl FeatureExtractor for Quarters {
        fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
            Ok(xdiff_nn::layers::adaptive_avg_pool2d(images, (2, 2))?.flatten_from(1)?)
        }
        fn identity(&self) -> String {
            "quarters".into()
        }
    }
    let (mut one, mut many) = (None, None);
    for (at_once, distance) in [(500, &mut one), (7, &mut many)] {
        let mut metric = FrechetDistance::new(4, "quarters").unwrap();
        for seed in [1, 2] {
            let images = xdiff_nn::Rng::new(seed).randn((500, 1, 6, 6), &Device::Cpu).unwrap();
            for from in (0..500).step_by(at_once) {
                let images = images.narrow(0, from, at_once.min(500 - from)).unwrap();
                let features = Features::extract(&Quarters, &images).unwrap();
                let batch = match seed {
                    1 => FeatureBatch::Reference(&features),
                    _ => FeatureBatch::Generated(&features),
                };
                metric.update(batch).unwrap();
            }
        }
        *distance = Some(metric.compute().unwrap());
    }
    let (one, many) = (one.unwrap(), many.unwrap());
    assert_eq!((one.n_reference, many.n_generated), (500, 500));
    assert!((one.value - many.value).abs() < 1e-12, "{one} {many}");
    let black = Tensor::full(f32::NAN, (1, 1, 6, 6), &Device::Cpu).unwrap();
    assert!(matches!(Features::extract(&Quarters, &black), Err(Error::Value { .. })));
}

#[test]
fn moments_that_are_none_are_refused() {
    let zero = [0.0, 0.0];
    let unit = [1.0, 0.0, 0.0, 1.0];
    let table: [(&str, &[f64], &[f64]); 5] = [
        ("length of the mean", &[0.0], &unit),
        ("length of the covariance", &zero, &unit[..3]),
        ("not finite", &zero, &[1.0, 0.0, 0.0, f64::NAN]),
        ("not symmetric", &zero, &[1.0, 0.5, 0.0, 1.0]),
        ("not semi-definite", &zero, &[1.0, 0.0, 0.0, -1.0]),
    ];
    for (name, mean, covariance) in table {
        assert!(frechet_of_moments((mean, covariance), (&zero, &unit)).is_err(), "{name}, first");
        assert!(frechet_of_moments((&zero, &unit), (mean, covariance)).is_err(), "{name}, second");
    }
    assert!(frechet_of_moments((&[], &[]), (&[], &[])).is_err());
    assert!(Features::new(vec![1.0, f64::INFINITY], 2, "").is_err());
    assert!(Features::new(vec![1.0, 2.0, 3.0], 2, "").is_err());
    assert!(Features::new(vec![], 2, "").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn shards_equal_one_stream(cut in 1usize..300, seed in 0u64..100) {
        let (a, b) = (noise(seed, 300, 5), noise(seed + 1000, 40, 5));
        let piece = |from: usize, to: usize| {
            Features::new(a.rows()[from * 5..to * 5].to_vec(), 5, "noise").unwrap()
        };
        let mut first = FrechetDistance::new(5, "noise").unwrap();
        first.update(FeatureBatch::Reference(&piece(cut, 300))).unwrap();
        let mut second = FrechetDistance::new(5, "noise").unwrap();
        second.update(FeatureBatch::Reference(&piece(0, cut))).unwrap();
        second.update(FeatureBatch::Generated(&b)).unwrap();
        first.merge(&second).unwrap();
        let (merged, whole) = (first.compute().unwrap(), frechet_distance(&a, &b).unwrap());
        prop_assert!((merged.value - whole.value).abs() < 1e-10 * whole.value.max(1.0));
        first.reset();
        prop_assert!(first.compute().is_err());
    }
}
