use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use xdiff_core::FeatureExtractor;
use xdiff_nn::{Rng, Tap};

use super::*;
use crate::correlation::Correlation;
use crate::{Batch, Error, Result};

fn matrix(rows: &[Vec<f64>]) -> Tensor {
    let flat: Vec<f64> = rows.concat();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn random(rng: &mut Rng, rows: usize, columns: usize, low: f64, high: f64) -> Vec<Vec<f64>> {
    (0..rows).map(|_| (0..columns).map(|_| rng.range(low, high)).collect()).collect()
}

fn evidence(rng: &mut Rng, images: usize, m: usize) -> Evidence {
    let g = random(rng, images, m, -3.0, 3.0);
    let corr = random(rng, images, m, -1.0, 1.0);
    let changes = random(rng, images, m, 0.0, 2.0);
    let shares = random(rng, images, m, 0.0, 1.0);
    Evidence::from_similarity(&matrix(&g))
        .and_then(|e| e.with_correlations(Correlation::PatchPixel, corr))
        .and_then(|e| e.with_changes(changes))
        .and_then(|e| e.with_contributions(shares))
        .unwrap()
}

fn names(images: usize) -> Vec<(String, String)> {
    (0..images).map(|i| (format!("image {i}"), format!("patient {}", i / 2))).collect()
}

#[test]
fn scores_are_those_of_the_formulas() {
    // NIS = 0.1, 0.2, 0.3, 0.4.
    let g: Vec<f64> = [1.0, 2.0, 3.0, 4.0].map(f64::ln).to_vec();
    let evidence = Evidence::from_similarity(&matrix(&[g]))
        .and_then(|e| e.with_correlation(&matrix(&[vec![1.0, -0.5, 0.5, -1.0]])))
        .and_then(|e| e.with_changes(vec![vec![5.0, 6.0, 7.0, 8.0]]))
        .and_then(|e| e.with_contributions(vec![vec![0.9, 0.6, 0.2, 0.1]]))
        .unwrap();
    let wanted = [
        (Definition::Eq14, -0.25 / 4.0),
        (Definition::Eq14Sum, 0.1 - 0.1 + 0.15 - 0.4),
        (Definition::Eq14SumClamp, 0.1 + 0.15),
        (Definition::ReleasedMaxNis, 0.4),
        (Definition::Intervention, 1.0),
        (Definition::GroundTruth, -1.0),
    ];
    assert_eq!(wanted.map(|(d, _)| d), Definition::ALL);
    let got: Vec<_> = wanted.map(|(d, want)| (d, evidence.score(d).unwrap()[0].unwrap(), want)).to_vec();
    let wrong: Vec<_> = got.iter().filter(|(_, got, want)| (got - want).abs() > 1e-12).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn equal_influences_have_no_correlation() {
    let even = Evidence::from_influence(vec![vec![0.25; 4], vec![0.1, 0.2, 0.3, 0.4]])
        .and_then(|e| e.with_contributions(vec![vec![0.0, 0.0, 0.0, 1.0]; 2]))
        .unwrap();
    let score = even.score(Definition::GroundTruth).unwrap();
    assert_eq!(score[0], None);
    assert!(score[1].is_some_and(|s| s > 0.7 && s < 1.0));
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let even = || Evidence::from_influence(vec![vec![0.5, 0.5]]).unwrap();
    for definition in Definition::ALL {
        let supported = definition == Definition::ReleasedMaxNis;
        assert_eq!(even().supports(definition), supported, "{definition}");
        if !supported {
            let error = even().score(definition).unwrap_err();
            assert!(matches!(&error, Error::Input { .. }) && error.to_string().contains(definition.name()));
        }
    }
    for bad in [vec![], vec![vec![]], vec![vec![0.5, 0.6]], vec![vec![0.5, 0.5], vec![1.0]]] {
        assert!(matches!(Evidence::from_influence(bad.clone()), Err(Error::Input { .. })), "{bad:?}");
    }
    assert!(matches!(Evidence::from_influence(vec![vec![f64::NAN, 1.0]]), Err(Error::NonFinite { .. })));
    for bad in [vec![vec![0.1, 1.1]], vec![vec![0.1]], vec![vec![0.1; 2]; 2]] {
        assert!(matches!(even().with_correlation(&matrix(&bad)), Err(Error::Input { .. })), "{bad:?}");
    }
    let nan = even().with_changes(vec![vec![0.0, f64::NAN]]).unwrap_err();
    assert!(nan.to_string().contains("image 0, prototype 1"), "{nan}");
}

#[test]
fn removed_prototypes_are_those_of_a_sum_without_them() {
    let mut rng = Rng::new(4);
    let vectors = random(&mut rng, 5, 3, -1.0, 1.0);
    let softmax = |g: &[f64], without: Option<usize>| -> Vec<f64> {
        let kept = |j| Some(j) != without;
        let most = (0..5).filter(|j| kept(*j)).map(|j| g[j]).fold(f64::MIN, f64::max);
        let e: Vec<f64> = (0..5).map(|j| if kept(j) { (g[j] - most).exp() } else { 0.0 }).collect();
        e.iter().map(|v| v / e.iter().sum::<f64>()).collect()
    };
    let embed = |w: Vec<f64>| -> Vec<f64> {
        (0..3).map(|d| w.iter().zip(&vectors).map(|(w, p)| w * p[d]).sum()).collect()
    };
    let mut similarity = random(&mut rng, 4, 5, -2.0, 2.0);
    similarity.push(vec![0.0, 2000.0, -300.0, -301.0, -302.0]); // one influence rounds to 1
    let changes = embedding_change(&matrix(&similarity), &matrix(&vectors)).unwrap();
    for (g, changes) in similarity.iter().zip(&changes) {
        for (j, change) in changes.iter().enumerate() {
            let (with, without) = (embed(softmax(g, None)), embed(softmax(g, Some(j))));
            let want = with.iter().zip(&without).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            assert!((change - want).abs() < 1e-12, "{g:?} {j}: {change} {want}");
        }
    }
    assert!(changes[4][1] > 0.1 && changes[4][0] < 1e-12);
    let one = matrix(&vectors[..1]);
    assert!(matches!(embedding_change(&matrix(&[vec![1.0]]), &one), Err(Error::Input { .. })));
    assert!(matches!(embedding_change(&matrix(&similarity), &one), Err(Error::Input { .. })));
}

#[test]
fn a_reconstruction_misses_what_no_other_prototype_can_stand_for() {
    // Two equal prototypes at 0 and one at 10; all patches but one lie at 0.
    let prototypes = Tensor::new(&[[0f32], [0.0], [10.0]], &Device::Cpu).unwrap();
    let features = Tensor::new(&[[[[0f32, 0.0], [0.0, 10.0]]]], &Device::Cpu).unwrap();
    let change = reconstruction_change(&features, &prototypes).unwrap().remove(0);
    assert!(change[0] < 1e-6 && change[1] < 1e-6, "{change:?}");
    assert!((change[2] - 10.0 / 4.0).abs() < 1e-6, "{change:?}");
    let nan = Tensor::new(&[[[[f32::NAN]]]], &Device::Cpu).unwrap();
    assert!(matches!(reconstruction_change(&nan, &prototypes), Err(Error::NonFinite { .. })));
}

#[test]
fn the_change_of_any_output_is_its_distance() {
    let base = Tensor::new(&[[3f32, 4.0], [1.0, 1.0]], &Device::Cpu).unwrap();
    let without = |j: usize| -> Result<Tensor> { Ok(if j == 0 { base.clone() } else { base.zeros_like()? }) };
    let changes = output_change(&base, 2, without).unwrap();
    assert_eq!(changes, [vec![0.0, 5.0], vec![0.0, 2f64.sqrt()]]);
    let shape = output_change(&base, 1, |_| Ok(base.narrow(0, 0, 1)?));
    assert!(matches!(shape, Err(Error::Input { .. })));
    let nan = output_change(&base, 1, |_| Ok((&base * f64::NAN)?));
    assert!(matches!(nan, Err(Error::NonFinite { .. })));
    assert!(output_change(&base, 0, without).is_err());
}

#[test]
fn a_report_holds_every_score_beside_its_baselines() {
    let (images, m) = (6, 8);
    let mut rng = Rng::new(11);
    let run = |seed: u64| Run {
        seed,
        evidence: evidence(&mut rng, images, m),
        random: vec![evidence(&mut rng, images, m)],
    };
    let runs: Vec<Run> = (0..3).map(run).collect();
    let config = FaithfulnessConfig {
        definitions: Definition::ALL.to_vec(),
        permutations: 400,
        matched: vec![3, m],
        choices: 4,
        seed: 5,
    };
    let report = FaithfulnessReport::new("EPPNet", &runs, &names(images), &config).unwrap();
    let again = FaithfulnessReport::new("EPPNet", &runs, &names(images), &config).unwrap();
    assert!(report == again, "one seed, one result");
    let text = serde_json::to_string(&report).unwrap();
    let read: FaithfulnessReport = serde_json::from_str(&text).unwrap();
    assert_eq!((read.to_string(), read.config), (report.to_string(), config));
    assert_eq!((report.uniform, report.groups[5].as_str()), (0.125, "patient 2"));
    for score in &report.scores {
        let name = score.definition;
        let own = score.score.mean.unwrap();
        assert!(report.to_string().contains(name.name()), "{name}");
        assert_eq!((score.score.values.len(), score.permuted.score.values.len()), (3, 1200), "{name}");
        assert!(score.random.is_some() && score.image_values().len() == images, "{name}");
        let per_image = score.image_values().iter().sum::<f64>() / images as f64;
        assert!((per_image - own).abs() < 1e-12, "{name}");
        // Among all prototypes the score is what it was.
        assert!((score.matched[1].choices.score.mean.unwrap() - own).abs() < 1e-12, "{name}");
        assert_eq!(score.matched[0].range, name.range(3));
    }
    // Dealt out at random, the weights average to 1/m.
    let expected = runs.iter().map(|run| mean_correlation(&run.evidence)).sum::<f64>() / 3.0;
    let permuted = report.score(Definition::Eq14Sum).unwrap().permuted.score.mean.unwrap();
    assert!((permuted - expected).abs() < 0.01, "{permuted} {expected}");
    let released = report.score(Definition::ReleasedMaxNis).unwrap();
    assert!((released.permuted.score.mean.unwrap() - released.score.mean.unwrap()).abs() < 1e-12);
    for definition in [Definition::Intervention, Definition::GroundTruth] {
        let permuted = report.score(definition).unwrap().permuted.score.mean.unwrap();
        assert!(permuted.abs() < 0.03, "{definition}: {permuted}");
    }
}

/// The mean of the correlations.
fn mean_correlation(evidence: &Evidence) -> f64 {
    let m = evidence.prototypes();
    // Each prototype alone has influence 1 and so its correlation as score.
    let alone: Vec<f64> =
        (0..m).flat_map(|j| evidence.among(Definition::Eq14Sum, &[j]).unwrap()).map(Option::unwrap).collect();
    alone.iter().sum::<f64>() / alone.len() as f64
}

#[test]
fn runs_that_do_not_belong_together_are_refused() {
    let mut rng = Rng::new(2);
    let mut run = |images, m| Run { seed: 0, evidence: evidence(&mut rng, images, m), random: Vec::new() };
    let (a, b, c) = (run(4, 3), run(4, 5), run(2, 3));
    let config = FaithfulnessConfig::default();
    let new =
        |runs: &[Run], n, config: &FaithfulnessConfig| FaithfulnessReport::new("x", runs, &names(n), config);
    assert!(new(std::slice::from_ref(&a), 4, &config).is_ok());
    for (what, runs, n) in [
        ("none", vec![], 0),
        ("prototypes", vec![a.clone(), b.clone()], 4),
        ("images", vec![a.clone(), c], 4),
        ("names", vec![a.clone()], 5),
        ("random", vec![Run { random: vec![b.evidence], ..a.clone() }], 4),
    ] {
        assert!(matches!(new(&runs, n, &config), Err(Error::Input { .. })), "{what}");
    }
    let wrong = [
        FaithfulnessConfig { definitions: Vec::new(), ..config.clone() },
        FaithfulnessConfig { permutations: 0, ..config.clone() },
        FaithfulnessConfig { matched: vec![4], ..config.clone() },
        FaithfulnessConfig { matched: vec![0], ..config.clone() },
    ];
    for config in wrong {
        assert!(matches!(new(std::slice::from_ref(&a), 4, &config), Err(Error::Config { .. })), "{config:?}");
    }
    let bare = Evidence::from_influence(vec![vec![0.5, 0.5]]).unwrap();
    let bare = Run { seed: 0, evidence: bare, random: Vec::new() };
    assert!(matches!(new(&[bare], 1, &config), Err(Error::Input { .. })));
}

/// Each pixel is its own feature.
struct Pixels;

impl FeatureExtractor for Pixels {
    fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        Ok(images.clone())
    }

    fn identity(&self) -> String {
        "pixels".to_owned()
    }
}

fn stream(images: &Tensor, size: usize) -> Vec<Result<Batch>> {
    let count = images.dims()[0];
    let batch = |first: usize| {
        let n = size.min(count - first);
        let ids = (first..first + n).map(|i| format!("image {i}")).collect();
        Batch::unlabelled(images.narrow(0, first, n)?, ids)
    };
    (0..count).step_by(size).map(batch).collect()
}

#[test]
fn random_patches_are_different_patches_whatever_the_batches() {
    let images = Tensor::arange(0f32, 60., &Device::Cpu).unwrap().reshape((5, 1, 3, 4)).unwrap();
    let draw = |size, count, seed| -> Vec<f32> {
        let patches = random_patches(&Pixels, stream(&images, size), count, &Rng::new(seed)).unwrap();
        patches.vectors().flatten_all().unwrap().to_vec1().unwrap()
    };
    let drawn = draw(1, 20, 3);
    assert_eq!(drawn, draw(2, 20, 3));
    assert_eq!(drawn, draw(5, 20, 3));
    assert_ne!(drawn, draw(5, 20, 4));
    let mut all = draw(2, 60, 1);
    all.sort_by(f32::total_cmp);
    assert_eq!(all, (0..60).map(|v| v as f32).collect::<Vec<_>>());
    // Every patch is drawn about equally often: 20 of 60 in 300 draws, 100 times ± 8.2.
    let mut counts = [0u32; 60];
    (0..300).flat_map(|seed| draw(5, 20, seed)).for_each(|v| counts[v as usize] += 1);
    assert!(counts.iter().all(|n| (65..136).contains(n)), "{counts:?}");

    let few = random_patches(&Pixels, stream(&images, 2), 61, &Rng::new(0));
    assert!(matches!(few, Err(Error::TooFewPatches { prototypes: 61, patches: 60 })));
    assert!(matches!(
        random_patches(&Pixels, stream(&images, 2), 0, &Rng::new(0)),
        Err(Error::Config { .. })
    ));
    let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap().broadcast_as((1, 1, 3, 4)).unwrap();
    let images = Tensor::cat(&[&images, &nan], 0).unwrap().to_dtype(DType::F32).unwrap();
    let error = random_patches(&Pixels, stream(&images, 4), 3, &Rng::new(0)).unwrap_err();
    assert!(error.to_string().contains("image 5"), "{error}");
    let failed = [Err::<Batch, _>("the disk is gone")];
    assert!(matches!(random_patches(&Pixels, failed, 3, &Rng::new(0)), Err(Error::Data(_))));
}

proptest! {
    #[test]
    fn scores_lie_in_their_range(seed in 0u64..1000, m in 2usize..12) {
        let evidence = evidence(&mut Rng::new(seed), 3, m);
        for definition in Definition::ALL {
            let (low, high) = definition.range(m);
            for score in evidence.score(definition).unwrap().into_iter().flatten() {
                prop_assert!(score >= low - 1e-12 && score <= high + 1e-12, "{definition}: {score}");
            }
        }
    }

    #[test]
    fn eq14_reaches_its_bound_when_all_correlate(m in 1usize..40) {
        let even = Evidence::from_similarity(&matrix(&[vec![0.0; m]]))
            .and_then(|e| e.with_correlation(&matrix(&[vec![1.0; m]])))
            .unwrap();
        let score = even.score(Definition::Eq14).unwrap()[0].unwrap();
        prop_assert!((score - 1.0 / m as f64).abs() < 1e-12);
        prop_assert!((even.score(Definition::Eq14Sum).unwrap()[0].unwrap() - 1.0).abs() < 1e-12);
    }
}
