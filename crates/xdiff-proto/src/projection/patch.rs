//! A batch of images with their features, and the patches that are taken from it.

use std::cell::OnceCell;

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
    hashes: Vec<OnceCell<String>>,
    rule: WindowRule,
    similarity: Similarity,
}

impl<'a> Seen<'a> {
    /// Checks that the features are finite.
    pub(super) fn new(
        batch: &'a Batch,
        features: Tensor,
        first: usize,
        config: &ProjectionConfig,
    ) -> Result<Self> {
        let (count, width, h, w) = features.dims4()?;
        let features = features.detach().to_dtype(DType::F32)?;
        let rows = features.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let rows = rows.flatten_all()?.to_vec1::<f32>()?;
        for (id, rows) in batch.ids().iter().zip(rows.chunks_exact(h * w * width)) {
            if rows.iter().any(|v| !v.is_finite()) {
                return Err(not_finite("the features", format!("image `{id}`")));
            }
        }
        let compared = if config.similarity.normalises() { unit(&features, 1)? } else { features };
        Ok(Self {
            batch,
            compared,
            rows,
            width,
            map: (h, w),
            first,
            hashes: vec![OnceCell::new(); count],
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
        let rows: Vec<&[f32]> = self.rows[b * size..][..size].chunks_exact(self.width).collect();
        let vector = rows[position].to_vec();
        let unit = self.similarity.normalises();
        let map: Vec<f32> = rows.iter().map(|row| distance(&vector, row, unit) as f32).collect();
        let image = self.batch.images().get(b)?;
        let (_, height, width) = image.dims3()?;
        let activation = self.activation(&map)?;
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

    /// How similar the patches of an image are to one of them.
    fn activation(&self, map: &[f32]) -> Result<Tensor> {
        let map = Tensor::from_slice(map, self.map, &Device::Cpu)?;
        self.similarity.of_distance(&map)
    }
}

/// Vectors along a dimension, scaled to length 1; a vector of zeros stays.
pub(super) fn unit(vectors: &Tensor, dim: usize) -> Result<Tensor> {
    let norms = vectors.sqr()?.sum_keepdim(dim)?.sqrt()?.maximum(SHORTEST)?;
    Ok(vectors.broadcast_div(&norms)?)
}

/// The length below which a vector is not scaled to length 1.
const SHORTEST: f64 = 1e-12;

/// The squared distance of two vectors of one width, scaled to length 1 if asked for; 0 of equal ones.
pub(super) fn distance(a: &[f32], b: &[f32], unit: bool) -> f64 {
    let scale = |v: &[f32]| {
        let square: f64 = v.iter().map(|v| f64::from(*v).powi(2)).sum();
        if unit { square.sqrt().max(SHORTEST).recip() } else { 1.0 }
    };
    let (by_a, by_b) = (scale(a), scale(b));
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) * by_a - f64::from(*b) * by_b).powi(2)).sum()
}

fn not_finite(what: &'static str, of: String) -> Error {
    Error::NonFinite { what, of, hint: "look at its pixels and at the extractor's weights" }
}

/// An error naming `of` unless all numbers are finite.
pub(super) fn all_finite(tensor: &Tensor, what: &'static str, of: impl Fn() -> String) -> Result<()> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(not_finite(what, of())) }
}
