//! Images whose sources are known, and whether prototypes find them.

use serde::{Deserialize, Serialize};

use crate::projection::Source;
use crate::{Error, Result};

/// What one source gave to an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlantedPart {
    /// The source's name: that of a training image, or of whatever else was planted.
    pub source: String,
    /// How much of each pixel it made, in [0, 1], row by row.
    pub weights: Vec<f32>,
}

/// What the pixels of an image were made of.
///
/// ```
/// use xdiff_proto::provenance::{PlantedPart, ProvenanceMap};
///
/// // The upper row is image a's, of the lower one a quarter is.
/// let parts = vec![
///     PlantedPart { source: "a".to_owned(), weights: vec![1.0, 1.0, 0.25, 0.25] },
///     PlantedPart { source: "b".to_owned(), weights: vec![0.0, 0.0, 0.75, 0.75] },
/// ];
/// let map = ProvenanceMap::new((2, 2), parts)?;
/// assert_eq!(map.planted_by_name(&[Some("b"), Some("c"), None]), [0.375, 0.0, 0.0]);
/// # Ok::<(), xdiff_proto::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ProvenanceMap {
    size: (usize, usize),
    parts: Vec<PlantedPart>,
}

impl ProvenanceMap {
    /// Parts of an image of (height, width) pixels.
    ///
    /// # Errors
    /// [`Error::Input`] when the image has no pixel, a part has another number of weights, a weight is not
    /// in [0, 1], or the weights of a pixel add up to more than 1.
    pub fn new(size: (usize, usize), parts: Vec<PlantedPart>) -> Result<Self> {
        let pixels = size.0.checked_mul(size.1).filter(|n| *n > 0);
        let Some(pixels) = pixels else {
            return Err(Error::input("provenance", format!("is of {size:?} pixels")));
        };
        let mut sums = vec![0.0f64; pixels];
        for part in &parts {
            if part.weights.len() != pixels || part.weights.iter().any(|w| !(0.0..=1.0).contains(w)) {
                let reason = format!(
                    "of `{}` has {} weights for {pixels} pixels, or one outside [0, 1]",
                    part.source,
                    part.weights.len()
                );
                return Err(Error::input("provenance", reason));
            }
            sums.iter_mut().zip(&part.weights).for_each(|(sum, w)| *sum += f64::from(*w));
        }
        match sums.iter().position(|sum| *sum > 1.0 + 1e-4) {
            Some(i) => {
                let reason = format!("of pixel {i} adds up to {}, more than 1", sums[i]);
                Err(Error::input("provenance", reason))
            }
            None => Ok(Self { size, parts }),
        }
    }

    /// The parts.
    pub fn parts(&self) -> &[PlantedPart] {
        &self.parts
    }

    /// The planted contribution of each prototype: the share of this image's pixels that came from the
    /// prototype's source image *and* lie in its source window (parts are aligned: a pixel comes from the
    /// same place of its source). In [0, 1]; windows of two prototypes may share pixels.
    ///
    /// # Errors
    /// [`Error::Input`] when a window leaves the image.
    pub fn planted(&self, sources: &[Source]) -> Result<Vec<f64>> {
        let (height, width) = self.size;
        let of = |source: &Source| {
            let window = source.window;
            if !window.is_inside(self.size) {
                let reason = format!("{window:?} of `{}` is not inside {:?} pixels", source.image, self.size);
                return Err(Error::input("source window", reason));
            }
            let mut sum = 0.0;
            for part in self.parts.iter().filter(|part| part.source == source.image) {
                for row in window.top..window.bottom {
                    let row = &part.weights[row * width..][window.left..window.right];
                    sum += row.iter().map(|w| f64::from(*w)).sum::<f64>();
                }
            }
            Ok(sum / (height * width) as f64)
        };
        sources.iter().map(of).collect()
    }

    /// The share of this image that came from the source of each name, wherever it lies: for what was
    /// planted in many images, such as a motif, where a prototype's name is that of the motif under its
    /// source window. 0 without a name.
    pub fn planted_by_name(&self, names: &[Option<&str>]) -> Vec<f64> {
        let pixels = (self.size.0 * self.size.1) as f64;
        let share = |name: &str| {
            let own = self.parts.iter().filter(|part| part.source == name);
            own.flat_map(|part| &part.weights).map(|w| f64::from(*w)).sum::<f64>() / pixels
        };
        names.iter().map(|name| name.map_or(0.0, share)).collect()
    }
}

/// How often a right prototype is among the first k of an image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HitRate {
    /// k.
    pub k: usize,
    /// How many images there were.
    pub images: usize,
    /// Those of them of which some prototype is right: the others cannot be hit, and do not count below.
    pub answerable: usize,
    /// The share of them with at least one right prototype among the first k.
    pub rate: f64,
    /// What k prototypes drawn at random give in the mean: for r right ones of P,
    /// 1 − C(P − r, k)/C(P, k).
    pub random: f64,
    /// The standard deviation of the rate under such draws.
    pub random_deviation: f64,
    /// The share of right ones among the first k, averaged over the images.
    pub precision: f64,
    /// What k prototypes drawn at random give: the mean of r/P.
    pub random_precision: f64,
}

/// Whether the prototypes that an explanation puts first are right ones, and what chance would give.
///
/// A prototype is right for an image where its planted contribution is above 0. Scores are similarities or
/// influences; of equal ones the earlier prototype comes first. `None` when no image is answerable.
///
/// ```
/// use xdiff_proto::provenance::top_k_hits;
///
/// // Of four prototypes the third is right; it comes second.
/// let (scores, planted) = ([vec![0.1, 0.5, 0.3, 0.1]], [vec![0.0, 0.0, 0.2, 0.0]]);
/// let hits = top_k_hits(&scores, &planted, 2)?.ok_or("no image can be answered")?;
/// assert_eq!((hits.rate, hits.random), (1.0, 0.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Shapes
/// `scores` and `planted`: a row of P for each image.
///
/// # Errors
/// [`Error::Config`] when k is 0 or above P, [`Error::Input`] when rows differ in length,
/// [`Error::NonFinite`] for a score that is NaN.
pub fn top_k_hits(scores: &[Vec<f64>], planted: &[Vec<f64>], k: usize) -> Result<Option<HitRate>> {
    let prototypes = scores.first().map_or(0, Vec::len);
    let fits = scores.len() == planted.len()
        && scores.iter().chain(planted).all(|row| row.len() == prototypes)
        && prototypes > 0;
    if !fits {
        let reason = format!("{} rows of scores, {} of planted shares", scores.len(), planted.len());
        return Err(Error::input("scores", reason + ", or rows of different lengths"));
    }
    if k == 0 || k > prototypes {
        return Err(Error::config("k", format!("is {k}, must be 1 to {prototypes}")));
    }
    let mut hits = HitRate {
        k,
        images: scores.len(),
        answerable: 0,
        rate: 0.0,
        random: 0.0,
        random_deviation: 0.0,
        precision: 0.0,
        random_precision: 0.0,
    };
    let mut variance = 0.0;
    for (image, (scores, planted)) in scores.iter().zip(planted).enumerate() {
        if let Some(j) = scores.iter().position(|s| s.is_nan()) {
            return Err(Error::NonFinite {
                what: "the score",
                of: format!("image {image}, prototype {j}"),
                hint: "look at the features and the prototypes for NaN",
            });
        }
        let right = planted.iter().filter(|share| **share > 0.0).count();
        if right == 0 {
            continue;
        }
        let mut order: Vec<usize> = (0..prototypes).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        let found = order[..k].iter().filter(|j| planted[**j] > 0.0).count();
        // One draw after another misses all right ones.
        let left = |i: usize| (prototypes - i) as f64;
        let miss: f64 = (0..k).map(|i| ((left(i) - right as f64) / left(i)).max(0.0)).product();
        hits.answerable += 1;
        hits.rate += f64::from(u8::from(found > 0));
        hits.random += 1.0 - miss;
        hits.precision += found as f64 / k as f64;
        hits.random_precision += right as f64 / prototypes as f64;
        variance += miss * (1.0 - miss);
    }
    if hits.answerable == 0 {
        return Ok(None);
    }
    let n = hits.answerable as f64;
    for sum in [&mut hits.rate, &mut hits.random, &mut hits.precision, &mut hits.random_precision] {
        *sum /= n;
    }
    hits.random_deviation = variance.sqrt() / n;
    Ok(Some(hits))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use xdiff_core::FeatureExtractor;
    use xdiff_nn::layers::{Conv2d, Conv2dConfig, upsample_bilinear2d};
    use xdiff_nn::{Params, Rng, Tap};

    use super::*;
    use crate::single_class::{SingleClass, SingleClassConfig};
    use crate::train::Batches;
    use crate::window::Window;
    use crate::{Batch, Similarity, nearest};

    fn source(image: &str, window: Window) -> Source {
        let image = image.to_owned();
        Source { image, image_hash: String::new(), class: 0, row: 0, column: 0, window, distance: 0.0 }
    }

    #[test]
    fn planted_shares_count_pixels_of_the_right_image_under_the_window() {
        let left = |x: usize| if x < 2 { 1.0 } else { 0.0 };
        let weights = |f: &dyn Fn(usize) -> f32| (0..12).map(|i| f(i % 4)).collect::<Vec<f32>>();
        let parts = vec![
            PlantedPart { source: "a".into(), weights: weights(&left) },
            PlantedPart { source: "b".into(), weights: weights(&|x| (1.0 - left(x)) * 0.5) },
        ];
        let map = ProvenanceMap::new((3, 4), parts.clone()).unwrap();
        let window = |top, left, bottom, right| Window { top, left, bottom, right };
        let cases = [
            (source("a", window(0, 0, 3, 4)), 6.0 / 12.0),
            (source("b", window(0, 0, 3, 4)), 3.0 / 12.0),
            (source("a", window(1, 1, 3, 3)), 2.0 / 12.0),
            (source("a", window(0, 2, 3, 4)), 0.0),
            (source("c", window(0, 0, 3, 4)), 0.0),
        ];
        let (sources, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
        assert_eq!(map.planted(&sources).unwrap(), expected);
        assert!(map.planted(&[source("a", window(0, 0, 4, 4))]).is_err());
        let part = |weights: Vec<f32>| vec![PlantedPart { source: "a".into(), weights }];
        for bad in [
            part(vec![0.5; 11]),
            part(vec![f32::NAN; 12]),
            part(vec![1.5; 12]),
            [parts.clone(), parts].concat(),
        ] {
            assert!(ProvenanceMap::new((3, 4), bad).is_err());
        }
        assert!(ProvenanceMap::new((0, 4), vec![]).is_err());
    }

    #[test]
    fn chance_is_what_counting_gives() {
        let mut rng = Rng::new(3);
        let (p, k, right) = (9, 3, 2);
        let planted: Vec<f64> = (0..p).map(|j| f64::from(u8::from(j < right))).collect();
        let draws = 20_000;
        let scores: Vec<Vec<f64>> = (0..draws).map(|_| (0..p).map(|_| rng.uniform()).collect()).collect();
        let hits = top_k_hits(&scores, &vec![planted; draws], k).unwrap().unwrap();
        assert!((hits.random - (1.0 - 35.0 / 84.0)).abs() < 1e-9, "{hits:?}");
        assert!((hits.rate - hits.random).abs() < 4.0 * hits.random_deviation, "{hits:?}");
        assert!((hits.precision - hits.random_precision).abs() < 0.01, "{hits:?}");
    }

    #[test]
    fn images_without_a_right_prototype_do_not_count() {
        let scores = vec![vec![1.0, 2.0], vec![2.0, 1.0]];
        let hits = top_k_hits(&scores, &[vec![0.0, 0.0], vec![0.1, 0.0]], 1).unwrap().unwrap();
        assert_eq!((hits.images, hits.answerable, hits.rate, hits.random), (2, 1, 1.0, 0.5));
        assert_eq!(top_k_hits(&scores, &vec![vec![0.0, 0.0]; 2], 1).unwrap(), None);
        for (scores, k) in [(vec![], 1), (scores.clone(), 0), (scores.clone(), 3), (vec![vec![1.0]; 2], 1)] {
            assert!(top_k_hits(&scores, &vec![vec![0.0, 0.0]; 2], k).is_err());
        }
        assert!(top_k_hits(&[vec![f64::NAN, 0.0]], &[vec![0.0, 0.0]], 1).is_err());
    }

    /// Random convolutions.
    struct Random(Conv2d, Conv2d);

    impl FeatureExtractor for Random {
        fn features(&self, images: &Tensor, _: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
            Ok(self.1.forward(&self.0.forward(images)?.relu()?)?)
        }
        fn identity(&self) -> String {
            "random convolutions".into()
        }
    }

    /// Smooth random images put together from quarters: the five prototypes that are most alike hold a patch
    /// of a source far more often than five drawn at random.
    #[test]
    fn the_sources_of_composites_are_among_the_first_five() {
        let (side, count) = (32, 24);
        let params = Params::fresh(2, &Device::Cpu).freeze(|_| true);
        let conv = |i, o| Conv2dConfig::new(i, o, 4).stride(4);
        let extractor = Random(
            Conv2d::new(conv(1, 16), &params.at("a")).unwrap(),
            Conv2d::new(Conv2dConfig::new(16, 16, 1), &params.at("b")).unwrap(),
        );
        let noise = Rng::new(4).randn((count, 1, 8, 8), &Device::Cpu).unwrap();
        let images = upsample_bilinear2d(&noise, (side, side), false).unwrap();
        let ids: Vec<String> = (0..count).map(|i| format!("image {i}")).collect();
        let data = Batches::fixed(vec![Batch::unlabelled(images.clone(), ids.clone()).unwrap()]);
        let config = SingleClassConfig { prototypes: 60, epochs: 4, push_every: 2, ..Default::default() };
        let found = SingleClass::new(&extractor, config).unwrap().train(&data).unwrap();

        let mut rng = Rng::new(9);
        let (mut queries, mut planted) = (Vec::new(), Vec::new());
        for _ in 0..12 {
            let mut order: Vec<usize> = (0..count).collect();
            rng.shuffle(&mut order);
            let quarter = |y: usize, x: usize| 2 * (2 * y / side) + 2 * x / side;
            let mut pixels = vec![0f32; side * side];
            let mut parts = Vec::new();
            for (cell, image) in order[..4].iter().enumerate() {
                let values = images.get(*image).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let mut weights = vec![0f32; side * side];
                for (i, pixel) in pixels.iter_mut().enumerate() {
                    if quarter(i / side, i % side) == cell {
                        (*pixel, weights[i]) = (values[i], 1.0);
                    }
                }
                parts.push(PlantedPart { source: ids[*image].clone(), weights });
            }
            queries.push(Tensor::from_vec(pixels, (1, side, side), &Device::Cpu).unwrap());
            let map = ProvenanceMap::new((side, side), parts).unwrap();
            planted.push(map.planted(&found.projected.projection.sources).unwrap());
        }
        let features = extractor.features(&Tensor::stack(&queries, 0).unwrap(), &mut ()).unwrap();
        let near = nearest(&features, found.prototypes.vectors()).unwrap();
        let similarity = Similarity::Linear.of_distance(&near.distance).unwrap();
        let scores: Vec<Vec<f64>> = similarity.to_dtype(candle_core::DType::F64).unwrap().to_vec2().unwrap();
        let hits = top_k_hits(&scores, &planted, 5).unwrap().unwrap();
        assert!(hits.answerable >= 8, "{hits:?}");
        assert!(hits.rate > hits.random + 3.0 * hits.random_deviation, "{hits:?}");
        assert!(hits.precision > 2.0 * hits.random_precision, "{hits:?}");
    }
}
