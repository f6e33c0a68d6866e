//! The record of where prototypes come from, and whether it still holds.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_core::FeatureExtractor;

use super::fingerprint::{Fingerprint, hash};
use crate::window::Window;
use crate::{Error, Prototypes, Result};

/// The patch that a prototype was projected onto.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The image's name.
    pub image: String,
    /// The [`hash`] of its numbers (C, H, W).
    pub image_hash: String,
    /// Its class.
    pub class: u32,
    /// The patch's row in the feature map.
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// The pixels that it stands for.
    pub window: Window,
    /// The squared distance from the prototype, before it was projected, to the patch.
    pub distance: f64,
}

/// Where all prototypes come from: what was projected, with which features, onto what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// The feature extractor's [identity](FeatureExtractor::identity).
    pub extractor: String,
    /// The [`hash`] of its features of a fixed image of random numbers.
    pub extractor_hash: String,
    /// Some of these features. An extractor whose output has another hash, but whose numbers agree to
    /// 1e-4 of their root mean square, is the same one on another processor.
    pub extractor_probe: Vec<f32>,
    /// The [`hash`] of the projected prototypes (P, D).
    pub prototypes_hash: String,
    /// Channels of the images.
    pub channels: usize,
    /// Their height and width.
    pub image_size: (usize, usize),
    /// Height and width of the feature maps.
    pub map_size: (usize, usize),
    /// How many images were looked at.
    pub images: usize,
    /// Each prototype's source.
    pub sources: Vec<Source>,
}

impl Projection {
    /// Checks that these are the prototypes as projected, and the extractor they were projected with:
    /// its name, and its output on a fixed image, so that other weights under the same name are noticed.
    ///
    /// # Errors
    /// [`Error::Stale`]; whatever the extractor reports.
    pub fn check(&self, prototypes: &Prototypes, extractor: &dyn FeatureExtractor) -> Result<()> {
        let recorded = Fingerprint {
            identity: self.extractor.clone(),
            hash: self.extractor_hash.clone(),
            probe: self.extractor_probe.clone(),
        };
        if extractor.identity() != recorded.identity {
            return Err(stale("the feature extractor", recorded.identity, extractor.identity()));
        }
        let device = prototypes.vectors().device();
        let now = Fingerprint::of(extractor, self.channels, self.image_size, device)?;
        if let Some((what, recorded, found)) = recorded.difference(&now) {
            return Err(stale(what, recorded, found));
        }
        let found = hash(prototypes.vectors())?;
        if found != self.prototypes_hash {
            return Err(stale("the hash of the prototypes", self.prototypes_hash.clone(), found));
        }
        Ok(())
    }

    /// Checks that an image is what it was wherever it is a source.
    ///
    /// # Shapes
    /// `image` (C, H, W).
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn check_image(&self, name: &str, image: &Tensor) -> Result<()> {
        let mut found = None;
        for source in self.sources.iter().filter(|source| source.image == name) {
            let found = match &found {
                Some(found) => found,
                None => found.insert(hash(image)?),
            };
            if *found != source.image_hash {
                let recorded = format!("{} (`{name}`)", source.image_hash);
                return Err(stale("the hash of a source image", recorded, found.clone()));
            }
        }
        Ok(())
    }

    /// The names of all source images, each once, in order.
    pub fn source_images(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.sources.iter().map(|source| source.image.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What is wrong with the record itself, whatever it is of.
    pub(super) fn fault(&self) -> Option<String> {
        let (h, w) = self.map_size;
        let sizes = [self.channels, self.image_size.0, self.image_size.1, h, w, self.images];
        if sizes.contains(&0) {
            return Some(format!("a size is 0: channels, image, map and images are {sizes:?}"));
        }
        if self.extractor_probe.iter().any(|v| !v.is_finite()) {
            return Some("`extractor_probe` is not finite".to_owned());
        }
        self.sources.iter().enumerate().find_map(|(j, source)| {
            if source.row >= h || source.column >= w {
                let (row, column) = (source.row, source.column);
                return Some(format!("prototype {j} is at ({row}, {column}) of a map of {h} × {w}"));
            }
            if !source.window.is_inside(self.image_size) {
                let (image, window) = (self.image_size, source.window);
                return Some(format!("prototype {j} has {window:?} of an image of {image:?}"));
            }
            let distance = source.distance;
            let sound = distance.is_finite() && distance >= 0.0;
            (!sound).then(|| format!("prototype {j} has the squared distance {distance}"))
        })
    }
}

fn stale(what: &'static str, recorded: String, found: String) -> Error {
    Error::Stale { what, recorded, found }
}
