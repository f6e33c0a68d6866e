//! Small patterns planted in images.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use super::composite::{Composite, Contribution, Provenance};
use crate::dataset::{Dataset, Sample, SampleInfo, check_index};
use crate::image::{Image, Scale};
use crate::{Error, Result};

/// A pattern that no anatomy has, in a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Motif {
    /// A bright ring on black.
    Ring,
    /// An upright cross.
    Cross,
    /// Vertical stripes.
    Stripes,
    /// A checkerboard.
    Checker,
    /// One diagonal bar.
    Bar,
}

impl Motif {
    /// All of them.
    pub const ALL: [Motif; 5] = [Self::Ring, Self::Cross, Self::Stripes, Self::Checker, Self::Bar];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Cross => "cross",
            Self::Stripes => "stripes",
            Self::Checker => "checker",
            Self::Bar => "bar",
        }
    }

    /// Whether it is bright at (u, v), both from −1 to 1 over its square.
    fn is_bright(self, u: f64, v: f64) -> bool {
        let parity = |x: f64| ((x + 1.0) * 2.0) as usize % 2;
        match self {
            Self::Ring => (0.45..0.85).contains(&u.hypot(v)),
            Self::Cross => u.abs().min(v.abs()) < 0.25,
            Self::Stripes => parity(u) == 0,
            Self::Checker => parity(u) == parity(v),
            Self::Bar => (u - v).abs() < 0.45,
        }
    }
}

/// Which motifs a [`MotifDataset`] plants, and how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MotifConfig {
    /// The kinds that are drawn from.
    pub kinds: Vec<Motif>,
    /// How many motifs an image gets.
    pub per_image: usize,
    /// The side of a motif in pixels.
    pub size: usize,
    /// How much of a motif's pixels it makes, above 0 and at most 1; the rest shows the image beneath.
    pub strength: f64,
    /// The seed.
    pub seed: u64,
}

impl Default for MotifConfig {
    /// Two motifs of 12 pixels of all kinds, opaque.
    fn default() -> Self {
        Self { kinds: Motif::ALL.to_vec(), per_image: 2, size: 12, strength: 1.0, seed: 0 }
    }
}

impl MotifConfig {
    /// The same without one kind: what a training set has when that kind is to be unknown.
    pub fn without(mut self, motif: Motif) -> Self {
        self.kinds.retain(|kind| *kind != motif);
        self
    }

    /// Checks the values.
    ///
    /// # Errors
    /// When there is no kind, no motif, a side below 4 pixels, or a strength outside (0, 1].
    pub fn validate(&self) -> Result<()> {
        if self.kinds.is_empty() {
            return Err(Error::argument("kinds", "empty; name at least one motif"));
        }
        if self.per_image == 0 {
            return Err(Error::argument("per_image", "0 given; at least 1"));
        }
        if self.size < 4 {
            return Err(Error::argument("size", format!("{} given; at least 4 pixels", self.size)));
        }
        if !(self.strength > 0.0 && self.strength <= 1.0) {
            let reason = format!("{} given; above 0 and at most 1", self.strength);
            return Err(Error::argument("strength", reason));
        }
        Ok(())
    }
}

/// Where a motif was planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlantedMotif {
    /// The pattern.
    pub motif: Motif,
    /// The first row of its square.
    pub top: usize,
    /// The first column.
    pub left: usize,
    /// The side of the square in pixels.
    pub size: usize,
}

/// Images of another dataset with motifs planted in them, the truth for whoever claims to know which
/// patterns of the training an image draws on: a motif that the training lacked has no source there.
///
/// Image i depends on the seed, its number and image i of the base alone. Motifs lie on a lattice of
/// their size, so that no two overlap.
///
/// ```
/// use std::sync::Arc;
/// use xdiff_data::phantom::{Motif, MotifConfig, MotifDataset, PhantomConfig, PhantomDataset};
///
/// let breasts = Arc::new(PhantomDataset::new(PhantomConfig { patients: 4, ..Default::default() })?);
/// let training = MotifDataset::new(breasts, MotifConfig::default().without(Motif::Ring))?;
/// let (image, planted) = training.planted(2)?;
/// assert!(planted.iter().all(|p| p.motif != Motif::Ring));
/// assert!(image.provenance.contributions.iter().all(|c| c.id != "motif/ring"));
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone)]
pub struct MotifDataset {
    base: Arc<dyn Dataset>,
    config: MotifConfig,
}

impl fmt::Debug for MotifDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MotifDataset").field("base", &self.base.len()).field("config", &self.config).finish()
    }
}

impl MotifDataset {
    /// Plants motifs in the images of a dataset.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(base: Arc<dyn Dataset>, config: MotifConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { base, config })
    }

    /// The configuration.
    pub fn config(&self) -> &MotifConfig {
        &self.config
    }

    /// The image of an index with its provenance, and where the motifs are. The provenance names the
    /// image's own [`id`](SampleInfo::id) for what is not planted, and `motif/ring`, `motif/cross` … for
    /// each kind that is.
    ///
    /// # Errors
    /// When there is no such sample, its values are stored ones (give it a window first), or it is too
    /// small for its motifs.
    pub fn planted(&self, index: usize) -> Result<(Composite, Vec<PlantedMotif>)> {
        let rng = Rng::new(self.config.seed).fork("motif").sample(index as u64);
        let mut sample = self.base.get(index, &mut rng.fork("base"))?;
        sample.info = self.info(index)?;
        let planted = self.places(&sample.image, &mut rng.fork("places"))?;
        let image = &sample.image;
        let (dark, bright) = match image.scale {
            Scale::Unit => (0.0, 1.0),
            Scale::Signed => (-1.0, 1.0),
            Scale::Stored => {
                let reason = "images of stored values have no range to plant motifs in; window them first";
                return Err(Error::argument("base", reason));
            }
        };
        let (height, width, scale) = (image.height(), image.width(), image.scale);
        let n = height * width;
        let strength = self.config.strength as f32;
        let mut data = image.data().to_vec();
        let mut own = vec![1.0f32; n];
        let mut kinds: Vec<(Motif, Vec<f32>)> = Vec::new();
        for place in &planted {
            let side = place.size as f64;
            let at = |i: usize| (i as f64 + 0.5) / side * 2.0 - 1.0;
            let known = kinds.iter().position(|(kind, _)| *kind == place.motif);
            let kind = known.unwrap_or(kinds.len());
            if known.is_none() {
                kinds.push((place.motif, vec![0.0; n]));
            }
            let weights = &mut kinds[kind].1;
            for y in 0..place.size {
                for x in 0..place.size {
                    let pixel = (place.top + y) * width + place.left + x;
                    let target = if place.motif.is_bright(at(x), at(y)) { bright } else { dark };
                    for value in data.iter_mut().skip(pixel).step_by(n) {
                        *value += strength * (target - *value);
                    }
                    own[pixel] = 1.0 - strength;
                    weights[pixel] = strength;
                }
            }
        }
        sample.image = Image::new(image.channels(), height, width, data, scale)?;
        let mut contributions = vec![Contribution { id: sample.info.id.clone(), weights: own }];
        contributions.extend(
            kinds
                .into_iter()
                .map(|(kind, weights)| Contribution { id: format!("motif/{}", kind.name()), weights }),
        );
        Ok((Composite { sample, provenance: Provenance { height, width, contributions } }, planted))
    }

    fn places(&self, image: &Image, rng: &mut Rng) -> Result<Vec<PlantedMotif>> {
        let size = self.config.size;
        let (rows, columns) = (image.height() / size, image.width() / size);
        let mut cells: Vec<usize> = (0..rows * columns).collect();
        if cells.len() < self.config.per_image {
            let reason = format!(
                "{} motifs of {size} pixels; {}×{} pixels hold {}",
                self.config.per_image,
                image.height(),
                image.width(),
                cells.len()
            );
            return Err(Error::argument("per_image", reason));
        }
        rng.shuffle(&mut cells);
        let place = |cell: &usize| PlantedMotif {
            motif: self.config.kinds[rng.below(self.config.kinds.len())],
            top: cell / columns * size,
            left: cell % columns * size,
            size,
        };
        Ok(cells[..self.config.per_image].iter().map(place).collect())
    }
}

impl Dataset for MotifDataset {
    fn len(&self) -> usize {
        self.base.len()
    }

    fn classes(&self) -> &[String] {
        self.base.classes()
    }

    fn info(&self, index: usize) -> Result<SampleInfo> {
        check_index(index, self.len())?;
        let info = self.base.info(index)?;
        Ok(SampleInfo { id: format!("{}+motifs-{}", info.id, self.config.seed), ..info })
    }

    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        Ok(self.planted(index)?.0.sample)
    }
}
