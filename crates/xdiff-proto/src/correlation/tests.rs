use candle_core::{Device, Tensor};
use xdiff_core::FeatureExtractor;
use xdiff_core::statistics::pearson;
use xdiff_nn::{Rng, Tap};

use super::*;
use crate::projection::{Projected, ProjectionConfig, project};
use crate::window::{ReceptiveField, WindowRule};
use crate::{Batch, Error, Prototypes, Similarity};

/// The four pixels of each block of 2 × 2 are its features.
struct Blocks;

impl FeatureExtractor for Blocks {
    fn features(&self, images: &Tensor, _tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        let (b, _, height, width) = images.dims4()?;
        let blocks = images.reshape((b, height / 2, 2, width / 2, 2))?.permute((0, 2, 4, 1, 3))?;
        Ok(blocks.reshape((b, 4, height / 2, width / 2))?.contiguous()?)
    }

    fn identity(&self) -> String {
        "blocks of 2 × 2".to_owned()
    }
}

fn images() -> Tensor {
    Rng::new(6).rand(0.0, 1.0, (3, 1, 6, 8), &Device::Cpu).unwrap()
}

fn projected(images: &Tensor, config: &ProjectionConfig) -> Projected {
    let ids = (0..images.dims()[0]).map(|i| format!("{i}")).collect();
    let batch = Batch::unlabelled(images.clone(), ids);
    let vectors = Rng::new(1).rand(0.0, 1.0, (5, 4), &Device::Cpu).unwrap();
    project(&Blocks, &Prototypes::from_vectors(&vectors).unwrap(), [batch], config).unwrap()
}

fn source_of(projected: &Projected, j: usize) -> usize {
    projected.projection.sources[j].image.parse().unwrap()
}

fn embed(images: &Tensor) -> Tensor {
    Blocks.features(images, &mut ()).unwrap()
}

fn pixels(image: &Tensor) -> Vec<f64> {
    image.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

#[test]
fn a_source_correlates_fully_with_itself() {
    let images = images();
    let field = ReceptiveField { jump: 2.0, size: 4.0, start: 1.0 };
    for window in [WindowRule::Cell, WindowRule::Field(field), WindowRule::Percentile(80.0)] {
        for similarity in [Similarity::default(), Similarity::Cosine, Similarity::Linear] {
            let config = ProjectionConfig { window, similarity, ..Default::default() };
            let projected = projected(&images, &config);
            let sources: Vec<Tensor> =
                (0..5).map(|j| images.get(source_of(&projected, j)).unwrap()).collect();
            let queries = Queries::new(&images, &embed(&images), &projected, &config).unwrap();
            let queries = queries.with_sources(&sources).unwrap();
            for correlation in Correlation::ALL {
                let rows = queries.correlation(correlation).unwrap();
                assert!(rows.iter().flatten().all(|c| (-1.0..=1.0).contains(c)), "{correlation}");
                for j in 0..5 {
                    let own = rows[source_of(&projected, j)][j];
                    assert!((own - 1.0).abs() < 1e-5, "{correlation} {window:?} {similarity:?}: {own}");
                    let others = (0..3).filter(|b| *b != source_of(&projected, j));
                    assert!(others.map(|b| rows[b][j]).all(|c| c < 0.999), "{correlation}");
                }
            }
        }
    }
}

#[test]
fn each_reading_is_pearson_of_what_it_says() {
    let config = ProjectionConfig { similarity: Similarity::Linear, ..Default::default() };
    let images = images();
    let projected = projected(&images, &config);
    let query = Rng::new(9).rand(0.0, 1.0, (1, 1, 6, 8), &Device::Cpu).unwrap();
    let sources: Vec<Tensor> = (0..5).map(|j| images.get(source_of(&projected, j)).unwrap()).collect();
    let queries = Queries::new(&query, &embed(&query), &projected, &config).unwrap();
    let queries = queries.with_sources(&sources).unwrap();
    let got = |c: Correlation| queries.correlation(c).unwrap().remove(0);
    let (patch, map) = (got(Correlation::PatchPixel), got(Correlation::ActivationMap));
    let (latent, whole) = (got(Correlation::Latent), got(Correlation::WholeImage));
    let features = embed(&query).flatten_from(2).unwrap().squeeze(0).unwrap().t().unwrap();
    let features = features.to_vec2::<f32>().unwrap();
    for (j, vector) in projected.vectors.to_vec2::<f32>().unwrap().iter().enumerate() {
        let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let distances = |of: &[Vec<f32>]| -> Vec<f64> {
            let square = |f: &Vec<f32>| wide(f).iter().zip(wide(vector)).map(|(a, b)| (a - b).powi(2)).sum();
            of.iter().map(square).collect::<Vec<f64>>()
        };
        let seen = distances(&features);
        let nearest = (0..seen.len()).min_by(|a, b| seen[*a].total_cmp(&seen[*b])).unwrap();
        let want = pearson(&wide(&features[nearest]), &wide(vector)).unwrap();
        assert!((latent[j] - want).abs() < 1e-6);
        // Cells of this map are its blocks, so that pixels and features are the same numbers.
        assert!((patch[j] - want).abs() < 1e-6);
        assert!((whole[j] - pearson(&pixels(&query), &pixels(&sources[j])).unwrap()).abs() < 1e-12);
        let source = embed(&sources[j].unsqueeze(0).unwrap()).flatten_from(2).unwrap().squeeze(0).unwrap();
        let source = distances(&source.t().unwrap().to_vec2::<f32>().unwrap());
        assert!((map[j] - pearson(&seen, &source).unwrap()).abs() < 1e-5);
    }
    let g = queries.similarity().unwrap();
    assert_eq!((g.dims(), queries.maps().dims()), ([1, 5].as_slice(), [1, 5, 3, 4].as_slice()));
}

#[test]
fn windows_of_another_size_are_resized() {
    let field = ReceptiveField { jump: 2.0, size: 6.0, start: 1.0 };
    let config = ProjectionConfig { window: WindowRule::Field(field), ..Default::default() };
    // A ramp: any part of it, at any scale, correlates fully with any other of the same direction.
    let ramp = Tensor::arange(0f32, 8., &Device::Cpu).unwrap().reshape((1, 1, 1, 8)).unwrap();
    let ramp = ramp.broadcast_as((1, 1, 6, 8)).unwrap().contiguous().unwrap();
    let projected = projected(&ramp, &config);
    let query = ramp.affine(1.0, 3.0).unwrap();
    let queries = Queries::new(&query, &embed(&query), &projected, &config).unwrap();
    let sizes: Vec<_> = projected.patches.iter().map(|p| p.dims()[2]).collect();
    for correlation in queries.correlation(Correlation::PatchPixel).unwrap().remove(0) {
        assert!(correlation > 0.95, "{correlation} {sizes:?}");
    }
}

#[test]
fn without_variance_the_correlation_is_zero() {
    let config = ProjectionConfig::default();
    let images = images();
    let projected = projected(&images, &config);
    let sources: Vec<Tensor> = (0..5).map(|j| images.get(source_of(&projected, j)).unwrap()).collect();
    let flat = images.narrow(0, 0, 1).unwrap().zeros_like().unwrap().affine(1.0, 0.3).unwrap();
    let queries = Queries::new(&flat, &embed(&flat), &projected, &config).unwrap();
    let queries = queries.with_sources(&sources).unwrap();
    for correlation in Correlation::ALL {
        assert_eq!(queries.correlation(correlation).unwrap(), [[0.0; 5]], "{correlation}");
    }
}

#[test]
fn misfits_are_typed_errors() {
    let config = ProjectionConfig::default();
    let images = images();
    let projected = projected(&images, &config);
    let embedded = embed(&images);
    let new = |images: &Tensor, embedded: &Tensor| Queries::new(images, embedded, &projected, &config).err();
    let narrow = images.narrow(3, 0, 6).unwrap();
    assert!(matches!(new(&narrow, &embed(&narrow)), Some(Error::Input { .. })));
    assert!(matches!(new(&images, &embedded.narrow(0, 0, 2).unwrap()), Some(Error::Input { .. })));
    assert!(matches!(new(&images, &embedded.narrow(1, 0, 3).unwrap()), Some(Error::Input { .. })));
    let nan = Tensor::cat(
        &[&images.narrow(0, 0, 2).unwrap(), &(images.narrow(0, 2, 1).unwrap() * f64::NAN).unwrap()],
        0,
    );
    let nan = nan.unwrap();
    assert!(new(&nan, &embedded).unwrap().to_string().contains("image 2"));
    assert!(matches!(new(&images, &embed(&nan)), Some(Error::NonFinite { .. })));

    let queries = Queries::new(&images, &embedded, &projected, &config).unwrap();
    assert!(matches!(queries.correlation(Correlation::WholeImage), Err(Error::Input { .. })));
    let sources: Vec<Tensor> = (0..5).map(|j| images.get(source_of(&projected, j)).unwrap()).collect();
    assert!(matches!(queries.clone().with_sources(&sources[..4]), Err(Error::Input { .. })));
    let changed: Vec<Tensor> = sources.iter().map(|s| s.affine(1.0, 0.1).unwrap()).collect();
    assert!(matches!(queries.clone().with_sources(&changed), Err(Error::Stale { .. })));
    let small: Vec<Tensor> = sources.iter().map(|s| s.narrow(1, 0, 2).unwrap()).collect();
    assert!(matches!(queries.with_sources(&small), Err(Error::Input { .. })));
    // Maps of another size than those of the sources.
    let fewer = Queries::new(&images, &embedded.narrow(2, 0, 2).unwrap(), &projected, &config).unwrap();
    assert!(matches!(fewer.correlation(Correlation::ActivationMap), Err(Error::Input { .. })));
}
