mod files;
mod stale;

use std::cell::Cell;

use candle_core::{Device, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_nn::layers::{Conv2d, Conv2dConfig};
use xdiff_nn::{Params, Rng, Tap};

use super::*;

/// A 3×3 convolution with stride 2, 2 channels to 5; counts the images that it sees.
struct Small {
    conv: Conv2d,
    name: &'static str,
    images: Cell<usize>,
}

impl Small {
    fn new(seed: u64) -> Self {
        let config = Conv2dConfig::new(2, 5, 3).stride(2).padding(1);
        let conv = Conv2d::new(config, &Params::fresh(seed, &Device::Cpu)).unwrap();
        Self { conv, name: "small", images: Cell::new(0) }
    }
}

impl FeatureExtractor for Small {
    fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        self.images.set(self.images.get() + images.dims()[0]);
        Ok(self.conv.forward(images)?)
    }

    fn identity(&self) -> String {
        self.name.to_owned()
    }
}

/// Images of 2 × 6 × 8, so that maps are 3 × 4, named by their numbers; every fifth is the one before
/// it again.
fn images(count: usize) -> Vec<Tensor> {
    let image = |i: usize| {
        let i = if i % 5 == 4 { i - 1 } else { i };
        Rng::new(7).sample(i as u64).randn((2, 6, 8), &Device::Cpu).unwrap()
    };
    (0..count).map(image).collect()
}

/// The images in batches of `size`; image i has class i mod 3.
fn batches(images: &[Tensor], size: usize) -> Vec<Result<Batch>> {
    let batch = |(k, images): (usize, &[Tensor])| {
        let numbers = k * size..k * size + images.len();
        let names = numbers.clone().map(|i| format!("image {i}")).collect();
        Batch::new(Tensor::stack(images, 0)?, names, numbers.map(|i| i as u32 % 3).collect())
    };
    images.chunks(size).enumerate().map(batch).collect()
}

fn prototypes(count: usize) -> Prototypes {
    Prototypes::from_vectors(&Rng::new(3).randn((count, 5), &Device::Cpu).unwrap()).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Squared distances from all prototypes to the patches of all images, by hand: [j][image][position].
fn all_distances(small: &Small, images: &[Tensor], prototypes: &Prototypes) -> Vec<Vec<Vec<f64>>> {
    let rows = |image: &Tensor| {
        let features = small.features(&image.unsqueeze(0).unwrap(), &mut ()).unwrap();
        features.squeeze(0).unwrap().flatten_from(1).unwrap().t().unwrap().to_vec2::<f32>().unwrap()
    };
    let features: Vec<_> = images.iter().map(rows).collect();
    let to = |p: &Vec<f32>| {
        let of = |image: &Vec<Vec<f32>>| {
            image.iter().map(|row| patch::distance(row, p, Similarity::Linear)).collect()
        };
        features.iter().map(of).collect()
    };
    prototypes.vectors().to_vec2::<f32>().unwrap().iter().map(to).collect()
}

fn run(small: &Small, count: usize, size: usize, config: &ProjectionConfig) -> Result<Projected> {
    project(small, &prototypes(count), batches(&images(23), size), config)
}

#[test]
fn each_prototype_becomes_the_nearest_patch_of_all_images() {
    let (small, images, prototypes) = (Small::new(1), images(23), prototypes(9));
    let distances = all_distances(&small, &images, &prototypes);
    let mut wrong = Vec::new();
    for class_of in [None, Some((0..9).map(|j| j % 3).collect::<Vec<_>>())] {
        let config = ProjectionConfig { class_of: class_of.clone(), ..Default::default() };
        let projected = project(&small, &prototypes, batches(&images, 4), &config).unwrap();
        for (j, source) in projected.projection.sources.iter().enumerate() {
            let mut nearest = (f64::INFINITY, 0, 0);
            for (i, image) in distances[j].iter().enumerate() {
                if class_of.as_ref().is_some_and(|class_of| class_of[j] != i % 3) {
                    continue;
                }
                for (position, distance) in image.iter().enumerate() {
                    if *distance < nearest.0 {
                        nearest = (*distance, i, position);
                    }
                }
            }
            let (distance, i, position) = nearest;
            let expected = (format!("image {i}"), i as u32 % 3, position / 4, position % 4);
            let found = (source.image.clone(), source.class, source.row, source.column);
            if found != expected || (source.distance - distance).abs() > 1e-9 {
                wrong.push(format!("{j} {class_of:?}: {source:?}, expected {expected:?} at {distance}"));
            }
            let window = source.window;
            let cell = (2 * source.row, 2 * source.column, 2 * source.row + 2, 2 * source.column + 2);
            assert_eq!((window.top, window.left, window.bottom, window.right), cell);
            assert_eq!(values(&projected.patches[j]), values(&window.crop(&images[i]).unwrap()));
            let map = projected.maps.get(j).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(map[source.row][source.column], 0.0);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn batches_do_not_matter_and_each_image_is_seen_once() {
    let same = |a: &Projected, b: &Projected| {
        values(&a.vectors) == values(&b.vectors)
            && a.projection == b.projection
            && values(&a.maps) == values(&b.maps)
    };
    for distinct in [false, true] {
        for similarity in [Similarity::default(), Similarity::Cosine] {
            let config = ProjectionConfig {
                distinct,
                similarity,
                window: WindowRule::Percentile(95.0),
                ..Default::default()
            };
            let first = run(&Small::new(1), 30, 1, &config).unwrap();
            for size in [2, 3, 7, 23] {
                let small = Small::new(1);
                let other = run(&small, 30, size, &config).unwrap();
                assert!(same(&first, &other), "{config:?}, batches of {size}");
                assert_eq!(small.images.get(), 24, "23 images and the probe");
            }
        }
    }
}

#[test]
fn distinct_patches_are_the_greedy_pairs() {
    let (small, images) = (Small::new(1), images(10));
    // Three prototypes in each of 25 places.
    let vectors = prototypes(25).vectors().clone();
    let prototypes =
        Prototypes::from_vectors(&Tensor::cat(&[&vectors, &vectors, &vectors], 0).unwrap()).unwrap();
    let config = ProjectionConfig { distinct: true, ..Default::default() };
    let projected = project(&small, &prototypes, batches(&images, 3), &config).unwrap();
    let mut pairs = Vec::new();
    for (j, of_images) in all_distances(&small, &images, &prototypes).iter().enumerate() {
        for (i, image) in of_images.iter().enumerate() {
            pairs.extend(image.iter().enumerate().map(|(position, d)| (*d as f32, i, position, j)));
        }
    }
    pairs.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let mut taken = vec![None; prototypes.len()];
    for (_, i, position, j) in pairs {
        if taken[j].is_none() && !taken.contains(&Some((i, position))) {
            taken[j] = Some((i, position));
        }
    }
    let found = |s: &Source| (s.image["image ".len()..].parse::<usize>().unwrap(), s.row * 4 + s.column);
    let mut found: Vec<_> = projected.projection.sources.iter().map(found).collect();
    // Image 4 equals image 3, and image 9 image 8: which of two equal patches two equal prototypes get
    // is a matter of rounding.
    let mut expected: Vec<_> = taken.into_iter().flatten().collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    found.dedup();
    assert_eq!(found.len(), 75);
}

#[test]
fn a_projected_prototype_stays_where_it_is() {
    for similarity in [Similarity::default(), Similarity::Cosine] {
        let config = ProjectionConfig { similarity, ..Default::default() };
        let small = Small::new(1);
        let first = run(&small, 12, 5, &config).unwrap();
        let again = project(&small, &first.prototypes().unwrap(), batches(&images(23), 4), &config).unwrap();
        assert_eq!(values(&again.vectors), values(&first.vectors));
        for (a, b) in again.projection.sources.iter().zip(&first.projection.sources) {
            assert_eq!((&a.image, a.row, a.column, a.distance), (&b.image, b.row, b.column, 0.0));
        }
    }
}

#[test]
fn the_cosine_looks_at_angles() {
    let small = Small::new(1);
    let config = ProjectionConfig { similarity: Similarity::Cosine, ..Default::default() };
    let longer = Prototypes::from_vectors(&(prototypes(6).vectors() * 50.0).unwrap()).unwrap();
    let [a, b] = [prototypes(6), longer]
        .map(|prototypes| project(&small, &prototypes, batches(&images(23), 4), &config).unwrap());
    assert_eq!(values(&a.vectors), values(&b.vectors));
    assert!(a.projection.sources.iter().all(|source| source.distance <= 4.0));
}

/// One feature for each of four channels, the same everywhere.
struct Constant;

impl FeatureExtractor for Constant {
    fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        let (b, ..) = images.dims4()?;
        Ok(Tensor::full(0.3f32, (b, 5, 3, 4), images.device())?)
    }

    fn identity(&self) -> String {
        "constant".to_owned()
    }
}

#[test]
fn constant_features_give_the_first_patches() {
    let of = |distinct| {
        let config = ProjectionConfig { distinct, ..Default::default() };
        let projected = project(&Constant, &prototypes(14), batches(&images(4), 3), &config).unwrap();
        let place = |s: &Source| (s.image.clone(), s.row, s.column);
        let mut places: Vec<_> = projected.projection.sources.iter().map(place).collect();
        places.sort();
        places
    };
    assert!(of(false).iter().all(|place| *place == ("image 0".to_owned(), 0, 0)));
    let place = |i: usize| (format!("image {}", i / 12), i % 12 / 4, i % 4);
    assert_eq!(of(true), (0..14).map(place).collect::<Vec<_>>());
}

#[test]
fn bad_input_is_a_typed_error() {
    let small = Small::new(1);
    let go = |prototypes: &Prototypes, stream: Vec<Result<Batch>>, config: &ProjectionConfig| {
        project(&small, prototypes, stream, config).unwrap_err()
    };
    let plain = ProjectionConfig::default();
    let distinct = ProjectionConfig { distinct: true, ..Default::default() };
    let of_class = |class| ProjectionConfig { class_of: Some(vec![0, class]), ..Default::default() };
    let two = || batches(&images(2), 2);

    let error = go(&prototypes(25), two(), &distinct);
    assert!(matches!(error, Error::TooFewPatches { prototypes: 25, patches: 24 }), "{error}");
    let error = go(&prototypes(2), two(), &of_class(2));
    assert!(matches!(error, Error::EmptyClass { class: 2, what: "image", .. }), "{error}");
    assert!(matches!(go(&prototypes(2), vec![], &plain), Error::Input { what: "images", .. }));
    assert!(matches!(go(&prototypes(3), two(), &of_class(1)), Error::Config { field: "class_of", .. }));
    let narrow = Prototypes::from_vectors(&Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap()).unwrap();
    assert!(matches!(go(&narrow, two(), &plain), Error::Input { what: "features", .. }));
    let rule = ProjectionConfig { window: WindowRule::Percentile(-1.0), ..Default::default() };
    assert!(matches!(go(&prototypes(2), two(), &rule), Error::Config { .. }));
    let failed: Vec<std::result::Result<Batch, std::io::Error>> = vec![Err(std::io::Error::other("no disk"))];
    let error = project(&small, &prototypes(2), failed, &plain).unwrap_err();
    assert!(matches!(&error, Error::Data(e) if e.to_string() == "no disk"), "{error}");

    let larger =
        Batch::unlabelled(Rng::new(1).randn((1, 2, 8, 8), &Device::Cpu).unwrap(), vec!["larger".into()]);
    let error = go(&prototypes(2), two().into_iter().chain([larger]).collect(), &plain);
    assert!(matches!(error, Error::Input { what: "images", .. }), "{error}");

    let mut all = images(6);
    all[4] = (&all[4] * f64::NAN).unwrap();
    for config in [&plain, &distinct, &of_class(1)] {
        let error = go(&prototypes(2), batches(&all, 4), config);
        assert!(matches!(&error, Error::NonFinite { of, .. } if of == "image `image 4`"), "{error}");
    }
    let nan = Prototypes::from_vectors(&Tensor::full(f32::NAN, (1, 5), &Device::Cpu).unwrap()).unwrap();
    assert!(matches!(go(&nan, two(), &plain), Error::NonFinite { .. }));
    let huge = Prototypes::from_vectors(&Tensor::full(1e25f32, (1, 5), &Device::Cpu).unwrap()).unwrap();
    for config in [&plain, &distinct] {
        assert!(matches!(go(&huge, two(), config), Error::NonFinite { .. }));
    }
}
