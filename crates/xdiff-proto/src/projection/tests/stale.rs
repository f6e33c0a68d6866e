use super::*;

fn projected(small: &Small) -> Projected {
    run(small, 4, 5, &ProjectionConfig::default()).unwrap()
}

fn what(result: Result<()>) -> &'static str {
    match result {
        Ok(()) => "nothing",
        Err(Error::Stale { what, .. }) => what,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_has_changed_is_noticed() {
    let small = Small::new(1);
    let projected = projected(&small);
    let (record, own) = (&projected.projection, projected.prototypes().unwrap());
    assert_eq!(what(record.check(&own, &small)), "nothing");
    let renamed = Small { name: "another", ..Small::new(1) };
    assert_eq!(what(record.check(&own, &renamed)), "the feature extractor");
    assert_eq!(what(record.check(&own, &Small::new(2))), "the extractor's output on a fixed image");
    assert_eq!(what(record.check(&prototypes(4), &small)), "the hash of the prototypes");
    assert_eq!(what(record.check(&prototypes(3), &small)), "the hash of the prototypes");
}

/// Another processor sums in another order.
#[test]
fn rounding_of_the_extractor_is_not_another_extractor() {
    struct Scaled(Small, f64);
    impl FeatureExtractor for Scaled {
        fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
            Ok((self.0.features(images, tap)? * self.1)?)
        }

        fn identity(&self) -> String {
            self.0.identity()
        }
    }
    let projected = projected(&Small::new(1));
    let (record, own) = (&projected.projection, projected.prototypes().unwrap());
    assert_eq!(what(record.check(&own, &Scaled(Small::new(1), 1.0 + 1e-6))), "nothing");
    let changed = what(record.check(&own, &Scaled(Small::new(1), 1.0 + 1e-3)));
    assert_eq!(changed, "the extractor's output on a fixed image");
}

#[test]
fn a_changed_source_image_is_noticed() {
    let projected = projected(&Small::new(1));
    let record = &projected.projection;
    let name = record.sources[0].image.as_str();
    let i: usize = name["image ".len()..].parse().unwrap();
    let image = &images(23)[i];
    assert_eq!(what(record.check_image(name, image)), "nothing");
    let mut pixels = values(image);
    pixels[95] += 1e-3;
    let changed = Tensor::from_vec(pixels, image.shape(), &Device::Cpu).unwrap();
    assert_eq!(what(record.check_image(name, &changed)), "the hash of a source image");
    assert_eq!(what(record.check_image("no source", &changed)), "nothing");
    assert!(record.source_images().contains(&name));
}
