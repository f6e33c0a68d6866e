//! Planted patterns, of which the training lacked one.

use std::collections::HashMap;
use std::sync::Arc;

use xdiff::core::FeatureExtractor;
use xdiff::core::cancel::CancelToken;
use xdiff::data::phantom::{Motif, MotifConfig, MotifDataset, PlantedMotif};
use xdiff::data::{Dataset, Sample, Subset};
use xdiff::nn::Rng;
use xdiff::proto::faithfulness::Evidence;
use xdiff::proto::projection::ProjectionConfig;
use xdiff::proto::provenance::{ProvenanceMap, top_k_hits};
use xdiff::proto::window::Window;
use xdiff::viz::{Cell, Table};

use super::super::features::batches;
use super::super::method::Method;
use super::super::settings::Settings;
use super::{Seen, few, provenance, spread};
use crate::AnyError;
use crate::mri::source::MriData;

/// The pattern that the training images of [`motifs`] lack.
const LEFT_OUT: Motif = Motif::Ring;

/// What one method made of images with planted patterns.
#[derive(Clone, Debug)]
pub struct MotifHits {
    /// The method.
    pub method: Method,
    /// For each seed, of images with a pattern that the training had: the share with a prototype of that
    /// pattern among the top five.
    pub known: Vec<f64>,
    /// For each seed what five prototypes drawn at random give.
    pub random: Vec<f64>,
    /// For each seed the influence of all prototypes that are patterns, on images with a known one.
    pub weight_known: Vec<f64>,
    /// The same on images with the pattern that the training lacked.
    pub weight_left_out: Vec<f64>,
    /// The same on images without a pattern.
    pub weight_none: Vec<f64>,
}

/// All methods.
#[derive(Clone, Debug)]
pub struct Motifs {
    /// By method.
    pub hits: Vec<MotifHits>,
    /// How it was measured.
    pub about: String,
}

impl Motifs {
    /// One row a method.
    ///
    /// # Errors
    /// Never, as long as the columns agree.
    pub fn table(&self) -> Result<Table, AnyError> {
        let mut table = Table::new([
            "method",
            "known pattern: right one among the top five",
            "five prototypes at random",
            "NIS of patterns: known pattern",
            "pattern left out",
            "no pattern",
            "seeds",
        ]);
        for hits in &self.hits {
            table.push([
                Cell::from(hits.method.name()),
                spread(&hits.known),
                spread(&hits.random),
                spread(&hits.weight_known),
                spread(&hits.weight_left_out),
                spread(&hits.weight_none),
                Cell::from(hits.weight_none.len()),
            ])?;
        }
        Ok(table)
    }
}

/// Trains every method with every seed on a few training images in which patterns of four kinds were
/// planted, and looks at held-out images with a planted pattern: of these kinds, of a kind that the
/// training lacked, and without any. `None` when cancelled or there are too few images.
///
/// # Errors
/// When the images are too small for patterns.
pub fn motifs(
    features: &dyn FeatureExtractor,
    data: &MriData,
    (projection, settings): (&ProjectionConfig, &Settings),
    cancel: &CancelToken,
) -> Result<Option<Motifs>, AnyError> {
    let (n, asked) =
        (settings.composed_of.min(data.train.len()), settings.composites.min(data.held_out.len()));
    if n < 4 || asked < 4 {
        return Ok(None);
    }
    let settings = &Settings { prototypes: settings.composed_prototypes, ..settings.clone() };
    let queries: Arc<dyn Dataset> = Arc::new(Subset::new(data.held_out.clone(), (0..asked).collect())?);
    let plain = (0..asked).map(|i| queries.get(i, &mut Rng::new(0))).collect::<Result<Vec<_>, _>>()?;
    let plain = Seen::new(&plain, data, features)?;
    let mut all: Vec<MotifHits> = Method::ALL
        .into_iter()
        .map(|method| MotifHits {
            method,
            known: vec![],
            random: vec![],
            weight_known: vec![],
            weight_left_out: vec![],
            weight_none: vec![],
        })
        .collect();
    for seed in (0..settings.seeds).map(|k| settings.seed + k) {
        let known = MotifConfig { seed, ..MotifConfig::default() }.without(LEFT_OUT);
        let left_out = MotifConfig { kinds: vec![LEFT_OUT], seed: seed + 1000, ..MotifConfig::default() };
        let asked_known = MotifConfig { per_image: 1, seed: seed + 1000, ..known.clone() };
        let base = Arc::new(MotifDataset::new(few(data, n)?, known)?);
        // What lies under the window of each prototype, by the name of its source.
        let mut planted = HashMap::new();
        for i in 0..base.len() {
            let (image, places) = base.planted(i)?;
            planted.insert(image.sample.info.id, places);
        }
        let draw = |config: MotifConfig| -> Result<(Seen, Vec<ProvenanceMap>), AnyError> {
            let drawn = MotifDataset::new(queries.clone(), config)?;
            let drawn = (0..asked).map(|i| Ok(drawn.planted(i)?.0)).collect::<Result<Vec<_>, AnyError>>()?;
            let samples: Vec<Sample> = drawn.iter().map(|c| c.sample.clone()).collect();
            let made_of = drawn.into_iter().map(|c| provenance(c.provenance)).collect::<Result<_, _>>()?;
            Ok((Seen::new(&samples, data, features)?, made_of))
        };
        let ((with_known, made_of), (with_left_out, _)) = (draw(asked_known)?, draw(left_out)?);
        let training = batches(&*base, &data.mask);
        for hits in &mut all {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            let projected = hits.method.train(features, &training, settings, (projection, seed), cancel)?;
            let sources = projected.projection.sources.iter();
            let names: Vec<Option<String>> = sources
                .map(|source| {
                    let places = planted.get(&source.image)?;
                    let found = places.iter().find(|place| covers(place, &source.window))?;
                    Some(format!("motif/{}", found.motif.name()))
                })
                .collect();
            let named: Vec<Option<&str>> = names.iter().map(Option::as_deref).collect();
            let right: Vec<_> = made_of.iter().map(|map| map.planted_by_name(&named)).collect();
            let known = with_known.influences(hits.method, &projected, projection)?;
            if let Some(rate) = top_k_hits(known.influence(), &right, 5.min(settings.prototypes))? {
                hits.known.push(rate.rate);
                hits.random.push(rate.random);
            }
            let weight = |evidence: &Evidence| {
                let of_patterns = |row: &Vec<f64>| {
                    row.iter().zip(&names).filter(|(_, name)| name.is_some()).map(|(nis, _)| nis).sum::<f64>()
                };
                evidence.influence().iter().map(of_patterns).sum::<f64>() / evidence.images() as f64
            };
            hits.weight_known.push(weight(&known));
            let left_out = with_left_out.influences(hits.method, &projected, projection)?;
            hits.weight_left_out.push(weight(&left_out));
            hits.weight_none.push(weight(&plain.influences(hits.method, &projected, projection)?));
        }
    }
    let about = format!(
        "Patterns that no anatomy has (cross, stripes, checker, bar; two of 12 pixels an image) were planted in {n} training \
         images, from which {} prototypes were found; one is a pattern where half of its window is. {asked} held-out images \
         were then shown with one pattern of these kinds, with two rings, which the training lacked, and as they are. The \
         network never saw a pattern. An explanation that knows what it does not know gives rings no more weight on patterns \
         than images without any.",
        settings.prototypes,
    );
    Ok(Some(Motifs { hits: all, about }))
}

/// Whether half of a window's pixels are those of a pattern.
fn covers(place: &PlantedMotif, window: &Window) -> bool {
    let shared = |from: usize, size: usize, low: usize, high: usize| {
        (from + size).min(high).saturating_sub(from.max(low))
    };
    let rows = shared(place.top, place.size, window.top, window.bottom);
    let columns = shared(place.left, place.size, window.left, window.right);
    2 * rows * columns >= window.height() * window.width()
}
