//! Images put together from parts of others, with a record of what came from where.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xdiff_nn::Rng;

use crate::dataset::{Dataset, Sample, SampleInfo, check_index};
use crate::image::Image;
use crate::mask::{Mask, MaskKind};
use crate::{Error, Result};

/// How the parts of a composite lie. All are aligned: a pixel comes from the same place of its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PartLayout {
    /// Cells of equal size, each from a source of its own, row by row.
    Grid {
        /// Cells from top to bottom.
        rows: usize,
        /// Cells from left to right.
        columns: usize,
    },
    /// Two sources: all from the first but the region of the second's mask of this kind.
    Region(MaskKind),
}

/// Which composites a [`CompositeDataset`] makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompositeConfig {
    /// The parts.
    pub layout: PartLayout,
    /// How many composites.
    pub count: usize,
    /// The pixels over which one part turns into the next; 0 for a hard edge. At most the side of a cell.
    pub seam: usize,
    /// The seed.
    pub seed: u64,
}

impl Default for CompositeConfig {
    /// 32 composites of four quarters, with seams of four pixels.
    fn default() -> Self {
        Self { layout: PartLayout::Grid { rows: 2, columns: 2 }, count: 32, seam: 4, seed: 0 }
    }
}

impl CompositeConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// When there is no composite, or a grid of fewer than two cells.
    pub fn validate(&self) -> Result<()> {
        if self.count == 0 {
            return Err(Error::argument("count", "0 given; at least 1"));
        }
        match self.layout {
            PartLayout::Grid { rows, columns } if rows.checked_mul(columns).is_none_or(|n| n < 2) => Err(
                Error::argument("layout", format!("{rows} × {columns} cells; at least 2, or it is a copy")),
            ),
            _ => Ok(()),
        }
    }

    fn sources(&self) -> usize {
        match self.layout {
            PartLayout::Grid { rows, columns } => rows * columns,
            PartLayout::Region(_) => 2,
        }
    }
}

/// What one source gave to an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// The source's name: [`SampleInfo::id`] of an image, or a motif's name.
    pub id: String,
    /// How much of each pixel it made, in [0, 1], row by row.
    pub weights: Vec<f32>,
}

impl Contribution {
    /// The share of the image that it made, in [0, 1].
    pub fn share(&self) -> f64 {
        self.weights.iter().map(|w| f64::from(*w)).sum::<f64>() / self.weights.len() as f64
    }
}

/// What each pixel of an image was made of. The weights of all contributions to a pixel add up to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// The sources, each once.
    pub contributions: Vec<Contribution>,
}

impl Provenance {
    /// For each pixel, row by row, the contribution that made most of it; the first of equals.
    pub fn dominant(&self) -> Vec<usize> {
        let mut best = vec![(0, f32::NEG_INFINITY); self.height * self.width];
        for (i, contribution) in self.contributions.iter().enumerate() {
            for (best, weight) in best.iter_mut().zip(&contribution.weights) {
                if *weight > best.1 {
                    *best = (i, *weight);
                }
            }
        }
        best.into_iter().map(|(i, _)| i).collect()
    }
}

/// An image of known provenance.
#[derive(Clone, Debug, PartialEq)]
pub struct Composite {
    /// The image. Its masks are those that all sources have; a pixel's label is that of the source which
    /// made most of it.
    pub sample: Sample,
    /// What it was made of.
    pub provenance: Provenance,
}

/// Composites of the images of another dataset, made when asked for: the truth for whoever claims to
/// find the training images that an image was made of.
///
/// Composite i depends on the seed, its number and the base dataset alone. Its sources are different
/// images of the base, drawn at random.
///
/// ```
/// use std::sync::Arc;
/// use xdiff_data::Dataset;
/// use xdiff_data::phantom::{CompositeConfig, CompositeDataset, PhantomConfig, PhantomDataset};
///
/// let breasts = Arc::new(PhantomDataset::new(PhantomConfig { patients: 12, ..Default::default() })?);
/// let composites = CompositeDataset::new(breasts, CompositeConfig::default())?;
/// let composite = composites.composite(3)?;
/// for source in &composite.provenance.contributions {
///     println!("{} made {:.0} %", source.id, 100.0 * source.share());
/// }
/// let shares: f64 = composite.provenance.contributions.iter().map(|c| c.share()).sum();
/// assert!((shares - 1.0).abs() < 1e-6);
/// # Ok::<(), xdiff_data::Error>(())
/// ```
#[derive(Clone)]
pub struct CompositeDataset {
    base: Arc<dyn Dataset>,
    config: CompositeConfig,
}

impl fmt::Debug for CompositeDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompositeDataset")
            .field("base", &self.base.len())
            .field("config", &self.config)
            .finish()
    }
}

impl CompositeDataset {
    /// Composites of a dataset whose images have one size and scale.
    ///
    /// # Errors
    /// When the configuration is wrong or the base has fewer images than a composite has sources.
    pub fn new(base: Arc<dyn Dataset>, config: CompositeConfig) -> Result<Self> {
        config.validate()?;
        if base.len() < config.sources() {
            let reason = format!("{} images for composites of {} sources", base.len(), config.sources());
            return Err(Error::argument("base", reason));
        }
        Ok(Self { base, config })
    }

    /// The configuration.
    pub fn config(&self) -> &CompositeConfig {
        &self.config
    }

    /// The composite of an index.
    ///
    /// # Errors
    /// When there is no such sample; when sources differ in size, channels or scale, a seam is wider than
    /// a cell, or no image of the base has the region that is asked for.
    pub fn composite(&self, index: usize) -> Result<Composite> {
        check_index(index, self.config.count)?;
        let mut rng = Rng::new(self.config.seed).fork("composite").sample(index as u64);
        let mut order: Vec<usize> = (0..self.base.len()).collect();
        rng.shuffle(&mut order);
        let (sources, weights) = match &self.config.layout {
            PartLayout::Grid { rows, columns } => {
                let sources = order[..rows * columns].iter().map(|i| self.source(*i));
                let sources = sources.collect::<Result<Vec<_>>>()?;
                let weights = self.cells(*rows, *columns, &sources[0].image)?;
                (sources, weights)
            }
            PartLayout::Region(kind) => {
                let (donor, mask) = self.donor(&order, kind)?;
                let host = if order[0] == donor { order[1] } else { order[0] };
                let inside = soft(&mask, self.config.seam);
                let outside = inside.iter().map(|w| 1.0 - w).collect();
                (vec![self.source(host)?, self.source(donor)?], vec![outside, inside])
            }
        };
        blend(self.info(index)?, sources, weights)
    }

    /// A sample of the base, the same for all composites.
    fn source(&self, index: usize) -> Result<Sample> {
        let mut rng = Rng::new(self.config.seed).fork("source").sample(index as u64);
        self.base.get(index, &mut rng)
    }

    /// The first image in an order whose mask of a kind is not empty, and that mask.
    fn donor(&self, order: &[usize], kind: &MaskKind) -> Result<(usize, Mask)> {
        for index in order {
            if let Some(mask) = self.source(*index)?.masks.remove(kind)
                && mask.area() > 0
            {
                return Ok((*index, mask));
            }
        }
        let reason = format!("no image has a mask {kind:?} that is not empty");
        Err(Error::argument("layout", reason))
    }

    /// The weights of each cell.
    fn cells(&self, rows: usize, columns: usize, image: &Image) -> Result<Vec<Vec<f32>>> {
        let down = axis(image.height(), rows, self.config.seam)?;
        let across = axis(image.width(), columns, self.config.seam)?;
        let cell = |row: &Vec<f64>, column: &Vec<f64>| {
            row.iter().flat_map(|y| column.iter().map(move |x| (y * x) as f32)).collect()
        };
        Ok(down.iter().flat_map(|row| across.iter().map(move |column| cell(row, column))).collect())
    }
}

/// The weight of each of `cells` cells at each of `n` pixels: ramps of `seam` pixels where two meet.
fn axis(n: usize, cells: usize, seam: usize) -> Result<Vec<Vec<f64>>> {
    if seam > n / cells || cells > n {
        let reason = format!("{seam} pixels, wider than the smallest of {cells} cells of {n} pixels");
        return Err(Error::argument("seam", reason));
    }
    // How far a pixel has gone past the edge before cell k, from 0 to 1.
    let past = |k: usize, pixel: usize| {
        if k == 0 {
            return 1.0;
        }
        if k == cells {
            return 0.0;
        }
        let beyond = pixel as f64 + 0.5 - (k * n / cells) as f64;
        if seam == 0 {
            f64::from(u8::from(beyond > 0.0))
        } else {
            (beyond / seam as f64 + 0.5).clamp(0.0, 1.0)
        }
    };
    Ok((0..cells).map(|k| (0..n).map(|pixel| past(k, pixel) - past(k + 1, pixel)).collect()).collect())
}

/// The share of a window of about `seam` pixels around each pixel that a mask covers.
fn soft(mask: &Mask, seam: usize) -> Vec<f32> {
    let (h, w, reach) = (mask.height(), mask.width(), seam / 2);
    let around = |i: usize, n: usize| (i.saturating_sub(reach), (i + reach + 1).min(n));
    let inside = |y: usize, x: usize| f64::from(u8::from(mask.data()[y * w + x] != 0));
    let mut rows = vec![0.0f64; h * w];
    for y in 0..h {
        for x in 0..w {
            let (first, end) = around(x, w);
            rows[y * w + x] = (first..end).map(|x| inside(y, x)).sum::<f64>() / (end - first) as f64;
        }
    }
    let mut both = vec![0.0f32; h * w];
    for y in 0..h {
        let (first, end) = around(y, h);
        for x in 0..w {
            both[y * w + x] =
                ((first..end).map(|y| rows[y * w + x]).sum::<f64>() / (end - first) as f64) as f32;
        }
    }
    both
}

/// The weighted sum of samples.
pub(super) fn blend(info: SampleInfo, sources: Vec<Sample>, weights: Vec<Vec<f32>>) -> Result<Composite> {
    let first = &sources[0].image;
    let (channels, height, width, scale) = (first.channels(), first.height(), first.width(), first.scale);
    let n = height * width;
    let mut data = vec![0.0f64; channels * n];
    for (sample, weights) in sources.iter().zip(&weights) {
        let image = &sample.image;
        if (image.channels(), image.height(), image.width(), image.scale) != (channels, height, width, scale)
            || weights.len() != n
        {
            let reason = format!(
                "`{}` is {}×{}×{} in {:?}, `{}` {channels}×{height}×{width} in {scale:?}; sources must be alike",
                sample.info.id,
                image.channels(),
                image.height(),
                image.width(),
                image.scale,
                sources[0].info.id,
            );
            return Err(Error::argument("base", reason));
        }
        for (i, (sum, value)) in data.iter_mut().zip(image.data()).enumerate() {
            *sum += f64::from(weights[i % n]) * f64::from(*value);
        }
    }
    let image = Image::new(channels, height, width, data.into_iter().map(|v| v as f32).collect(), scale)?;
    let contributions = sources.iter().zip(weights);
    let contributions =
        contributions.map(|(s, weights)| Contribution { id: s.info.id.clone(), weights }).collect();
    let provenance = Provenance { height, width, contributions };
    let dominant = provenance.dominant();
    let mut masks = BTreeMap::new();
    for kind in sources[0].masks.keys() {
        let all: Option<Vec<&Mask>> = sources.iter().map(|s| s.masks.get(kind)).collect();
        if let Some(all) = all {
            let labels = dominant.iter().enumerate().map(|(pixel, source)| all[*source].data()[pixel]);
            masks.insert(kind.clone(), Mask::new(height, width, labels.collect())?);
        }
    }
    Ok(Composite { sample: Sample { info, image, masks }, provenance })
}

impl Dataset for CompositeDataset {
    fn len(&self) -> usize {
        self.config.count
    }

    fn info(&self, index: usize) -> Result<SampleInfo> {
        check_index(index, self.config.count)?;
        Ok(SampleInfo { id: format!("composite-{}/{index:05}", self.config.seed), class: None, group: None })
    }

    fn get(&self, index: usize, _: &mut Rng) -> Result<Sample> {
        Ok(self.composite(index)?.sample)
    }
}
