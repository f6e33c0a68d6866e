//! Features of a small U-Net.

use candle_core::{DType, Device, Tensor};
use xdiff_core::sample::{Keep, SampleOptions, Sampler, Trajectory};
use xdiff_core::schedule::{NoiseSchedule, ScheduleConfig};
use xdiff_core::scheduler::{Ddim, DdimConfig};
use xdiff_core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
use xdiff_core::{Cond, Denoiser, FeatureExtractor};
use xdiff_nn::tap::{Recorder, Sites};
use xdiff_nn::{Params, Rng, Tap, gradcheck};

use super::*;
use crate::{Batch, Error, Prototypes, Similarity};

/// A network of one image channel and `condition` further ones.
pub(super) fn unet(condition: usize, seed: u64) -> UNet2D {
    let config = UNet2DConfig {
        in_channels: 1 + condition,
        out_channels: 1,
        layers_per_block: 1,
        attention_head_dim: Some(4),
        block_out_channels: vec![4, 8],
        down_block_types: vec![DownBlock::Plain, DownBlock::Plain],
        up_block_types: vec![UpBlock::Plain, UpBlock::Plain],
        norm_num_groups: 2,
        ..Default::default()
    };
    UNet2D::new(&config, &Params::fresh(seed, &Device::Cpu).freeze(|_| true)).unwrap()
}

pub(super) fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(&ScheduleConfig::default()).unwrap()
}

pub(super) fn extractor(config: DiffusionFeaturesConfig) -> DiffusionFeatures<UNet2D> {
    let net = unet(config.condition_channels, 3);
    DiffusionFeatures::new(net, "toy, seed 3", schedule(), config).unwrap()
}

pub(super) fn images(count: usize, channels: usize) -> Tensor {
    Rng::new(7).rand(-1.0, 1.0, (count, channels, 8, 8), &Device::Cpu).unwrap()
}

pub(super) fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn two_sites() -> SiteMap {
    SiteMap { sites: vec!["up_blocks.0.resnets.0".into(), "mid_block".into()], grid: MapGrid::Finest }
}

#[test]
fn features_are_the_activations_of_the_noised_image() {
    let map = SiteMap { sites: vec!["conv_in".into(), "mid_block".into()], grid: MapGrid::Size(4, 4) };
    let config =
        DiffusionFeaturesConfig { map, timesteps: vec![40], condition_channels: 2, ..Default::default() };
    let features = extractor(config.clone());
    let all = images(3, 3);
    let (x0, mask) = (all.narrow(1, 0, 1).unwrap(), all.narrow(1, 1, 2).unwrap());
    let t = Tensor::full(40f32, 3, &Device::Cpu).unwrap();
    let noise = config.noise.draw(&x0.contiguous().unwrap()).unwrap().unwrap();
    let x_t = schedule().add_noise(&x0, &noise, &t).unwrap();
    let mut tap = Recorder::new(Sites::named(["conv_in", "mid_block"]));
    let cond = Cond { image: Some(mask), ..Default::default() };
    features.denoiser().predict(&x_t, &t, &cond, &mut tap).unwrap();
    let got = features.features(&all, &mut ()).unwrap();
    assert_eq!(got.dims(), [3, 12, 4, 4]);
    let mid = values(&got.narrow(1, 4, 8).unwrap());
    let want = values(&tap.seen()["mid_block"]);
    assert!(mid.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn one_image_has_one_set_of_features_in_any_batch_and_on_any_number_of_threads() {
    for noise in [FeatureNoise::None, FeatureNoise::Fixed { seed: 1 }, FeatureNoise::PerImage { seed: 1 }] {
        let config = DiffusionFeaturesConfig {
            map: two_sites(),
            timesteps: vec![10, 300],
            noise,
            ..Default::default()
        };
        let features = extractor(config);
        let x = images(5, 1);
        let whole = features.features(&x, &mut ()).unwrap();
        assert_eq!(whole.dims(), [5, 32, 4, 4]);
        let alone = |i| features.features(&x.narrow(0, i, 1).unwrap(), &mut ()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(values(&whole), values(&pool.install(|| features.features(&x, &mut ()).unwrap())));
        for i in 0..5 {
            assert_eq!(values(&whole.narrow(0, i, 1).unwrap()), values(&alone(i)), "{noise:?} {i}");
        }
    }
}

#[test]
fn a_run_ends_at_the_last_wanted_site_and_shows_a_callers_tap_the_way_there() {
    let map = SiteMap { sites: vec!["mid_block".into(), "conv_in".into()], grid: MapGrid::Coarsest };
    let features = extractor(DiffusionFeaturesConfig { map, ..Default::default() });
    let mut tap = Recorder::new(Sites::All);
    assert_eq!(features.features(&images(1, 1), &mut tap).unwrap().dims(), [1, 12, 4, 4]);
    assert!(tap.seen().contains_key("down_blocks.1.resnets.0") && tap.seen().contains_key("mid_block"));
    assert!(!tap.seen().keys().any(|site| site.starts_with("up_blocks") || site == "conv_out"));

    /// Fails at a site.
    struct Broken;
    impl Tap for Broken {
        fn wants(&self, site: &str) -> bool {
            site == "down_blocks.0.resnets.0"
        }
        fn activation(&mut self, _: &str, _: Tensor) -> xdiff_nn::Result<Tensor> {
            Err(xdiff_nn::Error::argument("tap", "broken"))
        }
    }
    let e = features.features(&images(1, 1), &mut Broken).unwrap_err().to_string();
    assert!(e.contains("broken"), "{e}");
}

#[test]
fn features_can_be_differentiated_with_respect_to_the_images() {
    let config = DiffusionFeaturesConfig { map: two_sites(), timesteps: vec![20], ..Default::default() };
    let features = extractor(config);
    let loss = |x: &[Tensor]| -> xdiff_nn::Result<Tensor> {
        let f =
            features.features(&x[0], &mut ()).map_err(|e| xdiff_nn::Error::argument("f", e.to_string()))?;
        Ok(f.sqr()?.sum_all()?)
    };
    gradcheck::check(loss, &[images(1, 1)], gradcheck::Options { step: 1e-2, tolerance: 2e-2, elements: 12 })
        .unwrap();
}

#[test]
fn what_cannot_be_used_is_named() {
    let base = DiffusionFeaturesConfig::default;
    let site = |s: &[&str], grid| SiteMap { sites: s.iter().map(|s| (*s).to_owned()).collect(), grid };
    let configs = [
        (DiffusionFeaturesConfig { timesteps: vec![], ..base() }, "timesteps"),
        (DiffusionFeaturesConfig { timesteps: vec![5, 5], ..base() }, "timesteps"),
        (DiffusionFeaturesConfig { timesteps: vec![1000], ..base() }, "timesteps"),
        (DiffusionFeaturesConfig { map: site(&[], MapGrid::Finest), ..base() }, "sites"),
        (DiffusionFeaturesConfig { map: site(&["a", "a"], MapGrid::Finest), ..base() }, "sites"),
        (DiffusionFeaturesConfig { map: site(&["a"], MapGrid::Size(0, 4)), ..base() }, "grid"),
    ];
    for (config, want) in configs {
        let result = DiffusionFeatures::new(unet(0, 0), "toy", schedule(), config);
        assert!(matches!(&result, Err(Error::Config { field, .. }) if *field == want), "{want}: {result:?}");
    }
    let missing = extractor(DiffusionFeaturesConfig { map: SiteMap::one("nowhere"), ..base() });
    let e = missing.features(&images(1, 1), &mut ()).unwrap_err().to_string();
    assert!(e.contains("`nowhere` did not run"), "{e}");
    let conditioned = extractor(DiffusionFeaturesConfig { condition_channels: 1, ..base() });
    for bad in [images(1, 1), images(1, 1).squeeze(0).unwrap(), images(1, 3)] {
        assert!(conditioned.features(&bad, &mut ()).is_err(), "{:?}", bad.dims());
    }
}

fn batches(x: &Tensor, size: usize) -> Vec<Result<Batch, Error>> {
    let n = x.dim(0).unwrap();
    (0..n)
        .step_by(size)
        .map(|first| {
            let len = size.min(n - first);
            let ids = (first..first + len).map(|i| format!("image {i}")).collect();
            Batch::unlabelled(x.narrow(0, first, len)?, ids)
        })
        .collect()
}

#[test]
fn standardised_patches_are_apart_by_the_spread() {
    let features = extractor(DiffusionFeaturesConfig { map: two_sites(), ..Default::default() });
    let x = images(6, 1);
    let statistics = FeatureStatistics::measure(&features, batches(&x, 4)).unwrap();
    assert_eq!(statistics, FeatureStatistics::measure(&features, batches(&x, 1)).unwrap());
    assert_eq!(statistics.patches(), 6 * 16);
    let scaled = Standardised::new(&features, &statistics, 3.0).unwrap();
    let z = scaled.features(&x, &mut ()).unwrap().transpose(1, 3).unwrap().flatten_to(2).unwrap();
    let z: Vec<Vec<f32>> = z.contiguous().unwrap().to_vec2().unwrap();
    let mut sum = 0.0;
    for a in &z {
        for b in &z {
            sum += a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        }
    }
    let mean = sum / (z.len() * (z.len() - 1)) as f64;
    assert!((mean - 3.0).abs() < 1e-3, "{mean}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics.safetensors");
    statistics.write(&path).unwrap();
    let back = FeatureStatistics::read(&path).unwrap();
    assert_eq!(statistics, back);
    assert_eq!(scaled.identity(), Standardised::new(&features, &back, 3.0).unwrap().identity());
    assert_ne!(scaled.identity(), Standardised::new(&features, &back, 2.0).unwrap().identity());

    let other =
        extractor(DiffusionFeaturesConfig { map: two_sites(), timesteps: vec![7], ..Default::default() });
    assert!(matches!(Standardised::new(&other, &back, 2.0), Err(Error::Stale { .. })));
    assert!(matches!(Standardised::new(&features, &back, 0.0), Err(Error::Config { field: "spread", .. })));
    std::fs::write(&path, b"no tensors").unwrap();
    assert!(FeatureStatistics::read(&path).is_err());
}

#[test]
fn constant_and_undefined_features_are_refused() {
    let features = extractor(DiffusionFeaturesConfig { map: SiteMap::one("conv_in"), ..Default::default() });
    let mut x = values(&images(2, 1));
    x[70] = f32::NAN;
    let x = Tensor::from_vec(x, (2, 1, 8, 8), &Device::Cpu).unwrap();
    let result = FeatureStatistics::measure(&features, batches(&x, 2));
    assert!(matches!(&result, Err(Error::NonFinite { of, .. }) if of.contains("image 1")), "{result:?}");

    /// The same feature everywhere.
    struct Flat;
    impl FeatureExtractor for Flat {
        fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
            Ok(Tensor::ones((images.dim(0)?, 3, 2, 2), DType::F32, &Device::Cpu)?)
        }
        fn identity(&self) -> String {
            "flat".into()
        }
    }
    let result = FeatureStatistics::measure(&Flat, batches(&images(2, 1), 2));
    assert!(matches!(result, Err(Error::Input { what: "features", .. })), "{result:?}");
    let none: [Result<Batch, Error>; 0] = [];
    assert!(FeatureStatistics::measure(&Flat, none).is_err());
}

/// A run of five samples in batches of two, watched by one observer.
fn sample(
    net: &dyn Denoiser,
    watch: &mut InfluenceOverTime<'_>,
    batch_size: usize,
    mask: Option<&Tensor>,
) -> Tensor {
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let options = SampleOptions { samples: 5, shape: (1, 8, 8), steps: 4, batch_size, ..Default::default() };
    let cond = Cond { image: mask.cloned(), ..Default::default() };
    Sampler::new(net, &scheduler).observe(watch).run(&cond, &options).unwrap()
}

fn prototypes(width: usize) -> Prototypes {
    Prototypes::from_vectors(&Rng::new(3).randn((3, width), &Device::Cpu).unwrap()).unwrap()
}

#[test]
fn influence_over_time_is_that_of_the_networks_own_activations() {
    let net = unet(1, 3);
    let mask = images(5, 1);
    let (map, prototypes) = (two_sites(), prototypes(16));
    let watch = |keep| {
        InfluenceOverTime::running(&prototypes, Similarity::Linear, map.clone()).unwrap().keeping(keep)
    };
    let mut whole = watch(Keep::All);
    sample(&net, &mut whole, 5, Some(&mask));
    for batch in [1, 2] {
        let mut parts = watch(Keep::All);
        // The second run replaces the first.
        sample(&net, &mut parts, 3, Some(&mask));
        sample(&net, &mut parts, batch, Some(&mask));
        assert_eq!(whole.steps().unwrap(), parts.steps().unwrap());
    }
    // The first step sees the noise that sampling starts from.
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let mut frames = Trajectory::default();
    let options = SampleOptions { samples: 5, shape: (1, 8, 8), steps: 4, ..Default::default() };
    let cond = Cond { image: Some(mask.clone()), ..Default::default() };
    Sampler::new(&net, &scheduler).observe(&mut frames).run(&cond, &options).unwrap();
    for (step, t) in frames.steps() {
        let mut tap = Recorder::new(Sites::named(map.sites.clone()));
        let times = Tensor::full(t as f32, 5, &Device::Cpu).unwrap();
        net.predict(&frames.x_t(step).unwrap(), &times, &cond, &mut tap).unwrap();
        let both = [&tap.seen()["up_blocks.0.resnets.0"], &tap.seen()["mid_block"]];
        let near = crate::nearest(&Tensor::cat(&both, 1).unwrap(), prototypes.vectors()).unwrap();
        let nis = crate::influence::normalised_influence(&near.distance.neg().unwrap()).unwrap();
        let got = &whole.steps().unwrap()[step];
        assert_eq!((got.t, got.map_size), (t, (4, 4)));
        for (a, b) in got.influence.iter().flatten().zip(nis.iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
    let rows = whole.rows().unwrap();
    assert_eq!(rows.len(), 4 * 5 * 3);
    let last = rows.last().unwrap();
    assert_eq!((last.step, last.sample, last.prototype), (3, 4, 2));
    assert_eq!(last.influence, whole.steps().unwrap()[3].influence[4][2]);

    let mut some = watch(Keep::Every(2));
    sample(&net, &mut some, 2, Some(&mask));
    let kept: Vec<usize> = some.steps().unwrap().iter().map(|s| s.step).collect();
    assert_eq!(kept, [0, 2, 3]);
    assert_eq!(some.steps().unwrap()[1], whole.steps().unwrap()[2]);
}

#[test]
fn a_predicted_image_is_looked_at_as_the_prototypes_were_made() {
    let config = DiffusionFeaturesConfig {
        map: two_sites(),
        timesteps: vec![30, 60],
        condition_channels: 1,
        ..Default::default()
    };
    let features = extractor(config);
    let (mask, prototypes) = (images(5, 1), prototypes(32));
    let mut watch = InfluenceOverTime::predicted(&prototypes, Similarity::Cosine, &features).unwrap();
    watch = watch.conditioned_on(&mask).unwrap();
    let x = sample(features.denoiser(), &mut watch, 2, Some(&mask));
    // The last prediction of DDIM is the sample itself.
    let last = features.features(&Tensor::cat(&[&x, &mask], 1).unwrap(), &mut ()).unwrap();
    let (patches, vectors) = Similarity::Cosine.space(&last, prototypes.vectors()).unwrap();
    let near = crate::nearest(&patches, &vectors).unwrap();
    let cosine = Similarity::Cosine.of_distance(&near.distance).unwrap();
    let want: Vec<f32> = values(&cosine);
    let got = watch.steps().unwrap().pop().unwrap();
    for (a, b) in got.similarity.iter().flatten().zip(want) {
        assert!((a - f64::from(b)).abs() < 1e-3, "{a} {b}");
    }
    assert!(
        watch
            .steps()
            .unwrap()
            .iter()
            .flat_map(|s| &s.influence)
            .all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-9)
    );
}

#[test]
fn a_standardised_look_and_a_guided_one() {
    let features = extractor(DiffusionFeaturesConfig { map: two_sites(), ..Default::default() });
    let statistics = FeatureStatistics::measure(&features, batches(&images(6, 1), 3)).unwrap();
    let prototypes = prototypes(16);
    let watch = || InfluenceOverTime::running(&prototypes, Similarity::Linear, two_sites()).unwrap();
    let (mut plain, mut scaled) = (watch(), watch().standardised(&statistics, 2.0).unwrap());
    sample(features.denoiser(), &mut plain, 5, None);
    sample(features.denoiser(), &mut scaled, 5, None);
    assert_ne!(plain.steps().unwrap()[0].influence, scaled.steps().unwrap()[0].influence);

    /// A network that runs on a double batch, as under guidance.
    struct Doubled<'a>(&'a UNet2D);
    impl Denoiser for Doubled<'_> {
        fn predict(
            &self,
            x: &Tensor,
            t: &Tensor,
            cond: &Cond,
            tap: &mut dyn Tap,
        ) -> xdiff_core::Result<Tensor> {
            let (n, zeros) = (x.dim(0)?, x.zeros_like()?);
            let both =
                self.0.predict(&Tensor::cat(&[&zeros, x], 0)?, &Tensor::cat(&[t, t], 0)?, cond, tap)?;
            Ok(both.narrow(0, n, n)?)
        }
    }
    let mut guided = watch();
    sample(&Doubled(features.denoiser()), &mut guided, 5, None);
    assert_eq!(guided.steps().unwrap(), plain.steps().unwrap());
}

#[test]
fn what_an_observer_cannot_use_is_named() {
    let features = extractor(DiffusionFeaturesConfig { map: two_sites(), ..Default::default() });
    let scheduler = Ddim::new(DdimConfig::default()).unwrap();
    let options = SampleOptions { samples: 2, shape: (1, 8, 8), steps: 2, ..Default::default() };
    let narrow = prototypes(7);
    let fitting = prototypes(16);
    let mut cases = [
        (InfluenceOverTime::running(&narrow, Similarity::Linear, two_sites()).unwrap(), "16 channels"),
        (
            InfluenceOverTime::running(&fitting, Similarity::Linear, SiteMap::one("x")).unwrap(),
            "`x` did not run",
        ),
        (
            InfluenceOverTime::running(&fitting, Similarity::Linear, two_sites())
                .unwrap()
                .keeping(Keep::Every(0)),
            "every 0th",
        ),
        (
            InfluenceOverTime::predicted(&fitting, Similarity::Linear, &features)
                .unwrap()
                .conditioned_on(&images(3, 1))
                .unwrap(),
            "for 2 samples",
        ),
    ];
    for (watch, want) in &mut cases {
        let result =
            Sampler::new(features.denoiser(), &scheduler).observe(watch).run(&Cond::default(), &options);
        let e = result.unwrap_err().to_string();
        assert!(e.contains(*want), "{want}: {e}");
    }
    let statistics = FeatureStatistics::measure(&features, batches(&images(2, 1), 2)).unwrap();
    let predicted = || InfluenceOverTime::predicted(&fitting, Similarity::Linear, &features).unwrap();
    assert!(predicted().standardised(&statistics, 2.0).is_err());
    assert!(predicted().steps().unwrap().is_empty());
    let bad = Similarity::Log { epsilon: 2.0 };
    assert!(InfluenceOverTime::running(&fitting, bad, two_sites()).is_err());
}
