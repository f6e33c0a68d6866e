//! Prototypes across the crates: a diffusion network's features, training images, sources, influence,
//! faithfulness and its interval; and a prototype network on a backbone.

use candle_core::{Device, Tensor};
use xdiff::core::schedule::{NoiseSchedule, ScheduleConfig};
use xdiff::core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
use xdiff::core::{Classifier, FeatureExtractor};
use xdiff::data::phantom::{PhantomConfig, PhantomDataset};
use xdiff::metrics::{BootstrapConfig, Design, bootstrap_mean};
use xdiff::nn::{Params, Rng, Tap};
use xdiff::proto::correlation::{Correlation, Queries};
use xdiff::proto::diffusion::{
    DiffusionFeatures, DiffusionFeaturesConfig, FeatureStatistics, SiteMap, Standardised,
};
use xdiff::proto::faithfulness::{Definition, Evidence, FaithfulnessConfig, FaithfulnessReport, Run};
use xdiff::proto::projection::{Projected, ProjectionConfig, project};
use xdiff::proto::single_class::{SingleClass, SingleClassConfig};
use xdiff::proto::train::Batches;
use xdiff::proto::window::{ReceptiveField, WindowRule};
use xdiff::proto::{Batch, Error, PrototypeNetwork, Prototypes, Similarity, ppnet};
use xdiff::vision::{Architecture, Network};

const SIDE: usize = 32;

fn images(count: usize) -> Tensor {
    let config = PhantomConfig { patients: count, size: SIDE, ..Default::default() };
    let phantoms = PhantomDataset::new(config).unwrap();
    let values: Vec<f32> = (0..count)
        .flat_map(|i| phantoms.phantom(i).unwrap().image.into_data())
        .map(|v| 2.0 * v - 1.0)
        .collect();
    Tensor::from_vec(values, (count, 1, SIDE, SIDE), &Device::Cpu).unwrap()
}

fn batches(images: &Tensor, size: usize) -> Vec<Batch> {
    let n = images.dim(0).unwrap();
    (0..n)
        .step_by(size)
        .map(|start| {
            let count = size.min(n - start);
            let ids = (start..start + count).map(|i| format!("image {i}")).collect();
            Batch::unlabelled(images.narrow(0, start, count).unwrap().contiguous().unwrap(), ids).unwrap()
        })
        .collect()
}

fn denoiser(seed: u64) -> UNet2D {
    let config = UNet2DConfig {
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![8, 16],
        down_block_types: vec![DownBlock::Plain, DownBlock::Plain],
        up_block_types: vec![UpBlock::Plain, UpBlock::Plain],
        norm_num_groups: 4,
        ..Default::default()
    };
    UNet2D::new(&config, &Params::fresh(seed, &Device::Cpu).freeze(|_| true)).unwrap()
}

type Features = Standardised<DiffusionFeatures<UNet2D>>;

fn features(seed: u64, images: &Tensor) -> Features {
    let config = DiffusionFeaturesConfig {
        map: SiteMap::one("up_blocks.0.resnets.0"),
        timesteps: vec![100],
        ..Default::default()
    };
    let schedule = NoiseSchedule::new(&ScheduleConfig::default()).unwrap();
    let features = DiffusionFeatures::new(denoiser(seed), "random U-Net", schedule, config).unwrap();
    let all = batches(images, 4).into_iter().map(Ok::<_, Error>);
    let statistics = FeatureStatistics::measure(&features, all).unwrap();
    Standardised::new(features, &statistics, 10.0).unwrap()
}

fn trained(features: &Features, images: &Tensor, batch: usize) -> Projected {
    let config = SingleClassConfig { prototypes: 6, epochs: 4, push_every: 2, ..Default::default() };
    let images = Batches::fixed(batches(images, batch));
    SingleClass::new(features, config).unwrap().train(&images).unwrap().projected
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn from_a_denoiser_to_a_score_with_its_interval() {
    let images = images(10);
    let features = features(0, &images);
    let projected = trained(&features, &images, 4);
    assert_eq!(projected.projection.sources.len(), 6);

    // A file brings back the same prototypes, which know their own features from others'.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prototypes.safetensors");
    projected.write(&path).unwrap();
    let read = Projected::read(&path).unwrap();
    assert_eq!(bits(&read.vectors), bits(&projected.vectors));
    let prototypes = read.prototypes().unwrap();
    read.projection.check(&prototypes, &features).unwrap();
    let others = self::features(1, &images);
    assert!(matches!(read.projection.check(&prototypes, &others), Err(Error::Stale { .. })));

    let queries = images.narrow(0, 6, 4).unwrap().contiguous().unwrap();
    let embedded = features.features(&queries, &mut ()).unwrap();
    let config = ProjectionConfig { similarity: Similarity::Linear, distinct: true, ..Default::default() };
    let seen = Queries::new(&queries, &embedded, &read, &config).unwrap();
    let correlation = seen.correlation(Correlation::PatchPixel).unwrap();
    let evidence = Evidence::from_similarity(&seen.similarity().unwrap())
        .unwrap()
        .with_correlations(Correlation::PatchPixel, correlation)
        .unwrap();
    let run = Run { seed: 0, evidence, random: Vec::new() };
    let names: Vec<_> = (6..10).map(|i| (format!("image {i}"), format!("patient {}", i / 2))).collect();
    let report = FaithfulnessReport::new("test", &[run], &names, &FaithfulnessConfig::default()).unwrap();
    let design = Design::groups(&report.groups).unwrap();
    for definition in [Definition::Eq14, Definition::Eq14Sum, Definition::Eq14SumClamp] {
        let score = report.score(definition).unwrap();
        let (low, high) = score.range;
        let interval = bootstrap_mean(&score.image_values(), &design, &BootstrapConfig::default()).unwrap();
        assert!(low <= interval.low && interval.high <= high, "{definition}: {interval:?}");
        assert!((interval.value - score.score.mean.unwrap()).abs() < 1e-12);
    }
}

#[test]
fn neither_batches_nor_threads_change_a_prototype() {
    let images = images(9);
    let run = |batch, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let projected = trained(&features(0, &images), &images, batch);
            let places: Vec<_> =
                projected.projection.sources.iter().map(|s| (s.image.clone(), s.row, s.column)).collect();
            (bits(&projected.vectors), places)
        })
    };
    let expected = run(4, 1);
    for (batch, threads) in [(1, 2), (3, 1), (9, 3)] {
        assert_eq!(run(batch, threads), expected, "batches of {batch}, {threads} threads");
    }
}

#[test]
fn a_backbone_with_prototypes_is_a_classifier_whose_prototypes_are_patches() {
    let images = images(8);
    let params = Params::fresh(0, &Device::Cpu);
    let backbone = Architecture::SmallCnn.build_without_head(1, &params.at("features")).unwrap();
    let backbone = Network::from_box(backbone, "random, seed 0");
    let width = backbone.features(&images.narrow(0, 0, 1).unwrap(), &mut ()).unwrap().dim(1).unwrap();
    let network = PrototypeNetwork::new(&ppnet(width, 2), backbone, &params).unwrap();
    let names: Vec<String> = params.finish().unwrap().names().map(String::from).collect();
    for name in ["prototype_vectors", "last_layer.weight", "add_on_layers.0.weight", "add_on_layers.2.bias"] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    let (logits, _) = network.classify(&images, &mut ()).unwrap();
    assert_eq!(logits.dims(), [8, 2]);

    let classes: Vec<u32> = (0..8).map(|i| i % 2).collect();
    let ids = (0..8).map(|i| format!("image {i}")).collect();
    let batch = Batch::new(images.clone(), ids, classes.clone()).unwrap();
    let config = ProjectionConfig { class_of: network.class_of(), ..Default::default() };
    let projected = project(&network, network.prototypes(), [Ok::<_, Error>(batch)], &config).unwrap();
    let of = network.class_of().unwrap();
    for (source, class) in projected.projection.sources.iter().zip(of) {
        assert_eq!(source.class as usize, class);
        assert!(source.distance >= 0.0);
    }
    let embedded = network.embed(&images, &mut ()).unwrap();
    let nearest = xdiff::proto::nearest(&embedded, &projected.vectors).unwrap();
    let least = nearest.distance.min(0).unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(least, vec![0.0; least.len()], "each prototype is a patch of these images");
}

/// Each pixel is its own feature.
struct Pixels;

impl FeatureExtractor for Pixels {
    fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff::core::Result<Tensor> {
        Ok(images.clone())
    }

    fn identity(&self) -> String {
        "pixels".to_owned()
    }
}

#[test]
fn a_condition_is_looked_at_but_not_compared() {
    let images = Rng::new(3).randn((5, 2, 9, 9), &Device::Cpu).unwrap();
    let training = images.narrow(0, 0, 3).unwrap().contiguous().unwrap();
    let queries = images.narrow(0, 3, 2).unwrap().contiguous().unwrap();
    let window = WindowRule::Field(ReceptiveField { jump: 1.0, size: 3.0, start: 0.5 });
    let config = ProjectionConfig { window, similarity: Similarity::Linear, ..Default::default() };
    let prototypes = Prototypes::from_vectors(&Rng::new(4).randn((4, 2), &Device::Cpu).unwrap()).unwrap();
    let stream = batches(&training, 2).into_iter().map(Ok::<_, Error>);
    let projected = project(&Pixels, &prototypes, stream, &config).unwrap();

    let all = Queries::new(&queries, &queries, &projected, &config).unwrap();
    let one = all.clone().of_channels(1).unwrap();
    let (of_all, of_one) = (
        all.correlation(Correlation::PatchPixel).unwrap(),
        one.correlation(Correlation::PatchPixel).unwrap(),
    );
    assert_ne!(of_all, of_one);
    let first = |image: &Tensor| -> Vec<f64> {
        let values = image.get(0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f64::from).collect()
    };
    let mut compared = 0;
    for (b, row) in of_one.iter().enumerate() {
        for (j, corr) in row.iter().enumerate() {
            let seen = one.window(b, j).unwrap().crop(&queries.get(b).unwrap()).unwrap();
            let source = &projected.patches[j];
            if seen.dims() == source.dims() {
                let (seen, source) = (first(&seen), first(source));
                assert!((corr - xdiff::metrics::pearson(&source, &seen).unwrap()).abs() < 1e-6);
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "no window has the size of its source's");
    for channels in [0, 3] {
        assert!(matches!(all.clone().of_channels(channels), Err(Error::Input { .. })), "{channels}");
    }
    for (image, prototype) in [(2, 0), (0, 4)] {
        assert!(matches!(all.window(image, prototype), Err(Error::Input { .. })));
    }
}

#[test]
fn features_that_say_nothing_are_typed_errors_or_documented() {
    let flat = Tensor::zeros((3, 2, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    let stream = |images: &Tensor| batches(images, 2).into_iter().map(Ok::<_, Error>).collect::<Vec<_>>();
    // The same everywhere: each prototype gets the first patch of the first image.
    let prototypes =
        Prototypes::from_vectors(&Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu).unwrap()).unwrap();
    let projected = project(&Pixels, &prototypes, stream(&flat), &ProjectionConfig::default()).unwrap();
    for source in &projected.projection.sources {
        assert_eq!((source.image.as_str(), source.row, source.column), ("image 0", 0, 0));
    }
    let statistics = FeatureStatistics::measure(&Pixels, stream(&flat));
    assert!(matches!(statistics, Err(Error::Input { .. })), "{statistics:?}");
    // NaN names its image.
    let nan = (flat.affine(1.0, f64::NAN)).unwrap();
    let e = project(&Pixels, &prototypes, stream(&nan), &ProjectionConfig::default()).unwrap_err();
    assert!(matches!(&e, Error::NonFinite { .. }) && e.to_string().contains("image 0"), "{e}");
    // More prototypes than patches, where each needs its own.
    let many = Prototypes::from_vectors(&Rng::new(0).randn((49, 2), &Device::Cpu).unwrap()).unwrap();
    let distinct = ProjectionConfig { distinct: true, ..Default::default() };
    let e = project(&Pixels, &many, stream(&flat), &distinct).unwrap_err();
    assert!(matches!(e, Error::TooFewPatches { prototypes: 49, patches: 48 }), "{e}");
    // A class without an image.
    let of_classes = ProjectionConfig { class_of: Some(vec![0, 1]), ..Default::default() };
    let e = project(&Pixels, &prototypes, stream(&flat), &of_classes).unwrap_err();
    assert!(matches!(e, Error::EmptyClass { class: 1, .. }), "{e}");
}
