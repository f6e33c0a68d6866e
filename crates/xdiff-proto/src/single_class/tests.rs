//! Prototypes of small images under one random convolution.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use xdiff_core::FeatureExtractor;
use xdiff_core::cancel::CancelToken;
use xdiff_core::train::{StepReport, TrainObserver};
use xdiff_nn::layers::{Conv2d, Conv2dConfig};
use xdiff_nn::{Params, Rng, Tap, gradcheck};

use super::self_sup::disagreement;
use super::*;
use crate::loss::DiversityScale;
use crate::train::{Batches, StageObserver};
use crate::{Batch, Error, Similarity};

/// A random convolution of stride 2.
struct Patches(Conv2d, u64);

impl Patches {
    fn new(seed: u64) -> Self {
        let conv = Conv2dConfig::new(1, 6, 4).stride(2).padding(1);
        Self(Conv2d::new(conv, &Params::fresh(seed, &Device::Cpu).freeze(|_| true)).unwrap(), seed)
    }
}

impl FeatureExtractor for Patches {
    fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        Ok((self.0.forward(images)? * 3.0)?)
    }

    fn identity(&self) -> String {
        format!("patches {}", self.1)
    }
}

/// Smooth images of 10 × 10 pixels whose classes are 0, 1, 0, 1 …: dark ones and bright ones.
fn images(count: usize) -> Tensor {
    let noise = Rng::new(5).randn((count, 1, 10, 10), &Device::Cpu).unwrap();
    let level: Vec<f32> = (0..count).map(|i| if i % 2 == 0 { -1.5 } else { 1.5 }).collect();
    noise.broadcast_add(&Tensor::from_vec(level, (count, 1, 1, 1), &Device::Cpu).unwrap()).unwrap()
}

fn in_batches(images: &Tensor, size: usize) -> Batches<'static> {
    let count = images.dim(0).unwrap();
    let batch = |first: usize| {
        let n = size.min(count - first);
        let ids = (first..first + n).map(|i| format!("image {i}")).collect();
        let classes = (first..first + n).map(|i| (i % 2) as u32).collect();
        Batch::new(images.narrow(0, first, n).unwrap(), ids, classes).unwrap()
    };
    Batches::fixed((0..count).step_by(size).map(batch).collect())
}

fn config() -> SingleClassConfig {
    SingleClassConfig {
        prototypes: 6,
        epochs: 8,
        push_every: 4,
        lr: 0.02,
        images_per_step: 3,
        ..Default::default()
    }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn trained(config: SingleClassConfig, batch: usize) -> Trained {
    let patches = Patches::new(1);
    SingleClass::new(&patches, config).unwrap().train(&in_batches(&images(8), batch)).unwrap()
}

#[test]
fn every_training_gives_prototypes_that_are_where_their_record_says() {
    let second = Patches::new(1);
    let trainings = [
        Training::default(),
        Training::AlignDiv { align: 1.0, diversity: 0.5, scale: DiversityScale::Dimension },
        Training::ReleasedKMeans { iterations: 30 },
        Training::ClusterClasses { classes: 2 },
        Training::SliceBins,
        Training::RealVsGenerated,
        Training::SelfSup { agreement: 1.0, align: 1.0, diversity: 1.0 },
    ];
    let patches = Patches::new(1);
    let data = in_batches(&images(8), 3);
    for training in trainings {
        let config = SingleClassConfig { training: training.clone(), ..config() };
        let single = SingleClass::new(&patches, config).unwrap().second_view(&second);
        let found = single.train(&data).unwrap();
        assert_eq!((found.prototypes.len(), found.prototypes.width()), (6, 6), "{training:?}");
        let means = matches!(training, Training::ReleasedKMeans { .. });
        assert_eq!(found.history.losses.is_empty(), means, "{training:?}");
        let features = patches.features(&images(8), &mut ()).unwrap();
        for (j, source) in found.projected.projection.sources.iter().enumerate() {
            let image: usize = source.image.trim_start_matches("image ").parse().unwrap();
            let patch = features.get(image).unwrap().narrow(1, source.row, 1).unwrap();
            let patch = values(&patch.narrow(2, source.column, 1).unwrap());
            let own = values(&found.prototypes.vectors().get(j).unwrap());
            assert_eq!(own == patch, !means, "{training:?} {j}");
            assert_eq!(values(&found.projected.vectors.get(j).unwrap()), patch);
            if let (Some(class_of), Some(labels)) = (&found.class_of, &found.labels) {
                assert_eq!(labels[image] as usize, class_of[j], "{training:?} {j}");
            }
        }
        let classes = !matches!(training, Training::AlignDiv { .. } | Training::SelfSup { .. }) && !means;
        assert_eq!(found.class_of.is_some(), classes, "{training:?}");
        if let Training::ClusterClasses { .. } = training {
            let labels = found.labels.unwrap();
            assert!((0..8).all(|i| (labels[i] == labels[0]) == (i % 2 == 0)), "{labels:?}");
        }
    }
}

#[test]
fn the_result_does_not_depend_on_batches_threads_or_repetition_but_on_the_seed() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for training in [Training::default(), Training::ReleasedKMeans { iterations: 20 }] {
        let config = SingleClassConfig { training, ..config() };
        let once = trained(config.clone(), 3);
        let other = trained(config.clone(), 8);
        let single = pool.install(|| trained(config.clone(), 1));
        for again in [&other, &single] {
            assert_eq!(values(once.prototypes.vectors()), values(again.prototypes.vectors()));
            assert_eq!(once.history, again.history);
            assert_eq!(once.inertia, again.inertia);
        }
        let other = trained(SingleClassConfig { seed: 1, ..config }, 3);
        assert_ne!(values(once.prototypes.vectors()), values(other.prototypes.vectors()));
    }
}

#[test]
fn features_that_do_not_fit_the_budget_come_anew_and_are_the_same() {
    let (patches, data) = (Patches::new(1), in_batches(&images(8), 3));
    let kept = FeatureBank::new(&patches, &data, 1 << 20).unwrap();
    let anew = FeatureBank::new(&patches, &data, 100).unwrap();
    assert!(kept.is_kept() && !anew.is_kept());
    assert_eq!((anew.images(), anew.patches(), anew.width()), (8, 200, 6));
    assert_eq!(values(&kept.means().unwrap()), values(&anew.means().unwrap()));
    // k-means sees the same either way; a trainer's steps are batches as they come.
    let km = SingleClassConfig { training: Training::ReleasedKMeans { iterations: 20 }, ..config() };
    let streamed = SingleClassConfig { budget: 0, ..km.clone() };
    assert_eq!(
        values(trained(km, 3).prototypes.vectors()),
        values(trained(streamed, 3).prototypes.vectors())
    );
    let streamed = trained(SingleClassConfig { budget: 0, ..config() }, 3);
    assert!(streamed.projected.projection.sources.iter().all(|s| s.distance == 0.0));
}

#[test]
fn alignment_pulls_and_diversity_pushes() {
    let patches = Patches::new(1);
    let run = |align, diversity| {
        let training = Training::AlignDiv { align, diversity, scale: DiversityScale::Plain };
        let config = SingleClassConfig {
            training,
            seeding: Seeding::Uniform,
            epochs: 40,
            push_every: 0,
            images_per_step: 8,
            ..config()
        };
        // So faint that exp(−d) of two patches is not 0.
        let data = in_batches(&(images(8) * 0.1).unwrap(), 8);
        SingleClass::new(&patches, config).unwrap().train(&data).unwrap()
    };
    let apart = |found: &Trained| {
        let rows = found.prototypes.vectors().to_vec2::<f32>().unwrap();
        let mut least = f32::INFINITY;
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[..i] {
                least = least.min(a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum());
            }
        }
        least
    };
    let (aligned, diverse) = (run(1.0, 0.0), run(0.2, 20.0));
    let ends = |found: &Trained| (found.history.losses[0], *found.history.losses.last().unwrap());
    assert!(ends(&diverse).1 < ends(&diverse).0, "{:?}", ends(&diverse));
    assert!(apart(&diverse) > apart(&aligned), "{} {}", apart(&diverse), apart(&aligned));
}

/// Raises a token after some steps.
struct StopAfter(usize, CancelToken);

impl TrainObserver for StopAfter {
    fn step(&mut self, report: &StepReport) -> xdiff_core::Result<()> {
        if report.step >= self.0 {
            self.1.cancel();
        }
        Ok(())
    }
}

impl StageObserver for StopAfter {}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bits() {
    let whole = trained(config(), 3);
    let (patches, data) = (Patches::new(1), in_batches(&images(8), 3));
    let folder = tempfile::tempdir().unwrap();
    for steps in [5, 13] {
        let token = CancelToken::new();
        let mut stop = StopAfter(steps, token.clone());
        let single = SingleClass::new(&patches, config()).unwrap();
        let result = single.in_folder(folder.path()).cancel_with(token).observe(&mut stop).train(&data);
        let cancelled = matches!(
            result,
            Err(Error::Core(xdiff_core::Error::Cancelled { step })) if step == steps
        );
        assert!(cancelled, "{result:?}");
    }
    let resumed =
        SingleClass::new(&patches, config()).unwrap().in_folder(folder.path()).train(&data).unwrap();
    assert_eq!(values(whole.prototypes.vectors()), values(resumed.prototypes.vectors()));
    assert_eq!(whole.history, resumed.history);
    let file = folder.path().join(crate::train::PROTOTYPES);
    let back = crate::projection::Projected::read(file).unwrap();
    assert_eq!(back.projection, whole.projected.projection);
}

#[test]
fn prototypes_under_the_cosine_are_patches_too() {
    let found = trained(SingleClassConfig { similarity: Similarity::Cosine, ..config() }, 3);
    assert!(found.projected.projection.sources.iter().all(|source| source.distance < 1e-6));
    assert!(found.history.losses.iter().all(|loss| loss.is_finite()));
}

#[test]
fn what_cannot_be_used_is_named() {
    let patches = Patches::new(1);
    let train =
        |config: SingleClassConfig, x: &Tensor| SingleClass::new(&patches, config)?.train(&in_batches(x, 3));
    let fields: [(SingleClassConfig, &str); 8] = [
        (SingleClassConfig { prototypes: 0, ..config() }, "prototypes"),
        (SingleClassConfig { epochs: 0, ..config() }, "epochs"),
        (SingleClassConfig { lr: f64::NAN, ..config() }, "lr"),
        (SingleClassConfig { seeding_patches: 5, ..config() }, "seeding_patches"),
        (
            SingleClassConfig { training: Training::ReleasedKMeans { iterations: 0 }, ..config() },
            "iterations",
        ),
        (SingleClassConfig { training: Training::ClusterClasses { classes: 7 }, ..config() }, "classes"),
        (
            SingleClassConfig {
                training: Training::SelfSup { agreement: 0.0, align: 1.0, diversity: 1.0 },
                ..config()
            },
            "agreement",
        ),
        (
            SingleClassConfig {
                training: Training::SelfSup { agreement: 1.0, align: 1.0, diversity: 1.0 },
                ..config()
            },
            "training",
        ),
    ];
    for (config, want) in fields {
        let result = train(config, &images(4));
        assert!(matches!(&result, Err(Error::Config { field, .. }) if *field == want), "{want}: {result:?}");
    }
    for training in [Training::default(), Training::ReleasedKMeans { iterations: 9 }, Training::SliceBins] {
        let config = SingleClassConfig { training, prototypes: 60, ..config() };
        let result = train(config, &images(2));
        assert!(
            matches!(result, Err(Error::TooFewPatches { prototypes, .. }) if prototypes > 25),
            "{result:?}"
        );
    }
    let flat = Tensor::zeros((4, 1, 10, 10), DType::F32, &Device::Cpu).unwrap();
    struct Same;
    impl FeatureExtractor for Same {
        fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
            Ok(Tensor::ones((images.dim(0)?, 2, 3, 3), DType::F32, &Device::Cpu)?)
        }
        fn identity(&self) -> String {
            "same".into()
        }
    }
    let result = SingleClass::new(&Same, config()).unwrap().train(&in_batches(&flat, 2));
    assert!(matches!(&result, Err(Error::Input { what: "features", .. })), "{result:?}");
    let mut broken = values(&images(4));
    broken[250] = f32::NAN;
    let broken = Tensor::from_vec(broken, (4, 1, 10, 10), &Device::Cpu).unwrap();
    let result = train(config(), &broken);
    assert!(matches!(&result, Err(Error::NonFinite { of, .. }) if of.contains("image 2")), "{result:?}");
    let one_class = SingleClassConfig { training: Training::SliceBins, ..config() };
    let result = train(one_class, &images(1));
    assert!(matches!(&result, Err(Error::Input { what: "classes", .. })), "{result:?}");
    let none = Batches::fixed(vec![]);
    assert!(SingleClass::new(&patches, config()).unwrap().train(&none).is_err());
}

#[test]
fn two_views_agree_when_they_give_all_influence_to_one_prototype() {
    let a = Tensor::new(&[[0f32, -60., -60.], [1., 1., 1.]], &Device::Cpu).unwrap();
    let b = Tensor::new(&[[0f32, -50., -90.], [5., 5., 5.]], &Device::Cpu).unwrap();
    let value = disagreement(&a, &b).unwrap().to_scalar::<f32>().unwrap();
    assert!((value - 3f32.ln() / 2.0).abs() < 1e-6, "{value}");
    let far = disagreement(&(&a * 1e3).unwrap(), &(b * -1e3).unwrap()).unwrap();
    assert!(far.to_scalar::<f32>().unwrap().is_finite());
    let x = |seed| Rng::new(seed).randn((3, 4), &Device::Cpu).unwrap();
    let f = |x: &[Tensor]| {
        disagreement(&x[0], &x[1]).map_err(|e| xdiff_nn::Error::argument("views", e.to_string()))
    };
    gradcheck::check(f, &[x(1), x(2)], gradcheck::Options::default()).unwrap();
}

/// The rows of a tensor, a few at a time.
struct InBlocks<'a>(&'a Tensor, usize);

impl Points for InBlocks<'_> {
    fn count(&self) -> usize {
        self.0.dims()[0]
    }

    fn each(&self, f: &mut dyn FnMut(&Tensor) -> Result<(), Error>) -> Result<(), Error> {
        let n = self.count();
        (0..n).step_by(self.1).try_for_each(|first| f(&self.0.narrow(0, first, self.1.min(n - first))?))
    }
}

#[test]
fn an_empty_cluster_takes_the_farthest_point() {
    let points = Tensor::new(&[[0f32], [1.], [2.], [50.]], &Device::Cpu).unwrap();
    let start = Tensor::new(&[[1f32], [-900.], [-901.]], &Device::Cpu).unwrap();
    let found = k_means(&points, &start, KMeansConfig::default()).unwrap();
    let mut centres = values(&found.centres);
    centres.sort_by(f32::total_cmp);
    assert_eq!(centres.last(), Some(&50.0));
    assert_eq!(found.inertia.last(), Some(&0.5), "{found:?}");
    assert!(matches!(
        k_means(&points.narrow(0, 0, 2).unwrap(), &start, KMeansConfig::default()),
        Err(Error::TooFewPatches { prototypes: 3, patches: 2 })
    ));
    assert!(k_means(&points, &start, KMeansConfig { iterations: 0 }).is_err());
    let nan = Tensor::new(&[[0f32], [f32::NAN], [2.]], &Device::Cpu).unwrap();
    assert!(matches!(k_means(&nan, &start, KMeansConfig::default()), Err(Error::NonFinite { .. })));
}

proptest! {
    #[test]
    fn k_means_never_gets_worse_and_does_not_see_blocks(seed in 0u64..200, k in 1usize..5, block in 1usize..9) {
        let points = Rng::new(seed).randn((17, 3), &Device::Cpu).unwrap();
        let start = points.narrow(0, 0, k).unwrap();
        let whole = k_means(&points, &start, KMeansConfig::default()).unwrap();
        let parts = k_means(&InBlocks(&points, block), &start, KMeansConfig::default()).unwrap();
        prop_assert_eq!(values(&whole.centres), values(&parts.centres));
        prop_assert_eq!(&whole.cluster_of, &parts.cluster_of);
        for pair in whole.inertia.windows(2) {
            prop_assert!(pair[1] <= pair[0] * (1.0 + 1e-6), "{:?}", whole.inertia);
        }
        // Each centre is the mean of its points.
        let rows = points.to_vec2::<f32>().unwrap();
        for (c, centre) in whole.centres.to_vec2::<f32>().unwrap().iter().enumerate() {
            let own: Vec<&Vec<f32>> =
                rows.iter().zip(&whole.cluster_of).filter(|(_, of)| **of == c as u32).map(|(r, _)| r).collect();
            for (d, value) in centre.iter().enumerate() {
                let mean = own.iter().map(|row| f64::from(row[d])).sum::<f64>() / own.len() as f64;
                prop_assert!((f64::from(*value) - mean).abs() < 1e-5);
            }
        }
    }
}
