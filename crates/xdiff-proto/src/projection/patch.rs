//! A batch of images with their features, and the patches that are taken from it.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};

use super::ProjectionConfig;
use super::fingerprint::hash;
use crate::window::{Window, WindowRule};
use crate::{Batch, Error, Result, Similarity};

/// A patch that a prototype may become.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub(super) id: String,
    pub(super) image_hash: String,
    pub(super) class: u32,
    /// row · w + column.
    pub(super) position: usize,
    /// Its features, as the extractor gave them.
    pub(super) vector: Vec<f32>,
    /// Squared distances from it to all patches of its image.
    pub(super) map: Vec<f32>,
    pub(super) window: Window,
    pub(super) pixels: Tensor,
}

/// A batch with its features.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    batch: &'a Batch,
    /// The features (B, D, h, w), f32, as prototypes are compared with them.
    compared: Tensor,
    /// The features themselves, one after another on the host: B · h · w rows of D.
    rows: Vec<f32>,
    width: usize,
    map: (usize, usize),
    /// The number of the first image in the stream.
    first: usize,
    hashes: Vec<OnceLock<String>>,
    rule: WindowRule,
    similarity: Similarity,
}

impl<'a> Seen<'a> {
    /// Checks that the features are finite, and takes them to where prototypes are compared with them.
    pub(super) fn new(
        batch: &'a Batch,
        features: &Tensor,
        prototypes: &Tensor,
        first: usize,
        config: &ProjectionConfig,
    ) -> Result<Self> {
        let (count, width, h, w) = features.dims4()?;
        let features = features.detach().to_dtype(DType::F32)?;
        let rows = features.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let rows = rows.flatten_all()?.to_vec1::<f32>()?;
        check_finite(batch, &rows)?;
        let (compared, _) = config.similarity.space(&features, prototypes)?;
        Ok(Self {
            batch,
            compared,
            rows,
            width,
            map: (h, w),
            first,
            hashes: vec![OnceLock::new(); count],
            rule: config.window,
            similarity: config.similarity,
        })
    }

    /// The features (B, D, h, w) as prototypes are compared with them.
    pub(super) fn compared(&self) -> &Tensor {
        &self.compared
    }

    pub(super) fn classes(&self) -> &[u32] {
        self.batch.classes()
    }

    /// The number in the stream of image `b` of the batch.
    pub(super) fn number(&self, b: usize) -> usize {
        self.first + b
    }

    /// How many patches an image has.
    pub(super) fn positions(&self) -> usize {
        self.map.0 * self.map.1
    }

    /// The error for a distance that is not finite.
    pub(super) fn no_distance(&self, b: usize) -> Error {
        not_finite("a distance", format!("image `{}`", self.batch.ids()[b]))
    }

    /// The patch of image `b` at a position.
    pub(super) fn patch(&self, b: usize, position: usize) -> Result<Patch> {
        let (h, w) = self.map;
        let size = h * w * self.width;
        let rows = self.rows[b * size..][..size].chunks_exact(self.width);
        let vector = self.rows[b * size..][position * self.width..][..self.width].to_vec();
        let map: Vec<f32> = rows.map(|row| distance(&vector, row, self.similarity) as f32).collect();
        let image = self.batch.images().get(b)?;
        let (_, height, width) = image.dims3()?;
        let activation = Tensor::from_slice(&map, self.map, &Device::Cpu)?;
        let activation = match self.rule {
            WindowRule::Percentile(_) => self.similarity.of_distance(&activation)?,
            WindowRule::Cell | WindowRule::Field(_) => activation,
        };
        let window = self.rule.window((position / w, position % w), &activation, (height, width))?;
        let image_hash = match self.hashes[b].get() {
            Some(known) => known.clone(),
            None => {
                let found = hash(&image)?;
                self.hashes[b].get_or_init(|| found).clone()
            }
        };
        Ok(Patch {
            id: self.batch.ids()[b].clone(),
            image_hash,
            class: self.batch.classes()[b],
            position,
            vector,
            map,
            window,
            pixels: window.crop(&image)?,
        })
    }
}

/// The squared distance of two vectors of one width where `similarity` takes it; 0 of equal ones, except
/// that vectors of zeros have no angle ([`Similarity::Cosine`]).
pub(super) fn distance(a: &[f32], b: &[f32], similarity: Similarity) -> f64 {
    let pairs = a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    if !similarity.normalises() {
        return pairs.map(|(a, b)| (a - b) * (a - b)).sum();
    }
    let length = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let (of_a, of_b) = (length(a), length(b));
    if of_a == 0.0 || of_b == 0.0 {
        return 2.0;
    }
    pairs.map(|(a, b)| (a / of_a - b / of_b).powi(2)).sum()
}

fn not_finite(what: &'static str, of: String) -> Error {
    Error::NonFinite { what, of, hint: "look at its pixels and at the extractor's weights" }
}

/// An error naming an image unless all its features are finite: those of all images, one after another.
pub(crate) fn check_finite(batch: &Batch, features: &[f32]) -> Result<()> {
    let finite = |of_image: &[f32]| of_image.iter().all(|v| v.is_finite());
    match features.chunks_exact(features.len() / batch.len()).position(|image| !finite(image)) {
        Some(b) => Err(not_finite("the features", format!("image `{}`", batch.ids()[b]))),
        None => Ok(()),
    }
}

/// An error naming `of` unless all numbers are finite.
pub(super) fn all_finite(tensor: &Tensor, what: &'static str, of: impl Fn() -> String) -> Result<()> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(not_finite(what, of())) }
}
