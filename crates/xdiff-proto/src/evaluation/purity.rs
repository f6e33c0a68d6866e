//! The purity of prototypes (Nauta et al. 2023, "PIP-Net: Patch-Based Intuitive Prototypes for
//! Interpretable Image Classification").

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_core::statistics::mean;

use super::ImageParts;
use super::peak::checked;
use crate::host::first_largest;
use crate::window::Window;
use crate::{Error, Result};

/// Which patches count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PurityConfig {
    /// How many images, those of the greatest activation, stand for a prototype: 10 as published.
    pub top: usize,
    /// The side of a patch as a share of the image's height and width: 32/224 as published.
    pub side: f64,
    /// As in [`CorrespondenceConfig`](super::CorrespondenceConfig).
    pub overlap: f64,
}

impl Default for PurityConfig {
    fn default() -> Self {
        Self { top: 10, side: 32.0 / 224.0, overlap: 0.5 }
    }
}

impl PurityConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] when `top` is 0, `side` is not in (0, 1] or `overlap` not in [0, 1].
    pub fn validate(&self) -> Result<()> {
        if self.top == 0 {
            return Err(Error::config("top", "is 0, at least 1 image stands for a prototype"));
        }
        if !(self.side > 0.0 && self.side <= 1.0 && (0.0..=1.0).contains(&self.overlap)) {
            let reason = format!("are {} and {}, between 0 and 1", self.side, self.overlap);
            return Err(Error::config("side and overlap", reason));
        }
        Ok(())
    }

    /// The patch of position `i` of `n` along an axis: patches are spread evenly, the first begins and
    /// the last ends at the border (the published code rounds the step between them).
    fn span(&self, i: usize, n: usize, pixels: usize) -> (usize, usize) {
        let side = ((self.side * pixels as f64).round() as usize).clamp(1, pixels);
        let rest = (pixels - side) as f64;
        let first = if n > 1 { rest * i as f64 / (n - 1) as f64 } else { rest / 2.0 };
        let first = first as usize;
        (first, first + side)
    }
}

/// Gathers, batch by batch, the patches at which each prototype is most active, one an image.
#[derive(Clone, Debug)]
pub struct Purity {
    config: PurityConfig,
    parts: usize,
    /// For each prototype its patches, most active first, the earlier of equals first.
    patches: Vec<Vec<Patch>>,
}

#[derive(Clone, Debug)]
struct Patch {
    activation: f32,
    /// For each part whether the patch shows it; none where the image does not.
    shown: Vec<Option<bool>>,
}

/// The purity of one prototype.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrototypePurity {
    /// The share of its patches that show `part`, of those in images that show it.
    pub purity: f64,
    /// The part for which that share is greatest; of equals the one shown more often, then the first.
    pub part: usize,
    /// How many patches show it.
    pub shown: usize,
}

/// The purity of prototypes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurityScore {
    /// The mean over prototypes.
    pub mean: f64,
    /// Their standard deviation with divisor n, as published.
    pub deviation: f64,
    /// How many have a purity above 0.5.
    pub part_related: usize,
    /// Each prototype's; none where no image among its own shows any part. The published score leaves out
    /// prototypes without a weight in the head: take the mean over the others of these.
    pub prototypes: Vec<Option<PrototypePurity>>,
}

impl Purity {
    /// For `prototypes` prototypes and images with `parts` parts.
    ///
    /// # Errors
    /// [`Error::Config`] when a number is 0; those of [`PurityConfig::validate`].
    pub fn new(prototypes: usize, parts: usize, config: PurityConfig) -> Result<Self> {
        config.validate()?;
        if prototypes == 0 || parts == 0 {
            return Err(Error::config(
                "parts",
                format!("are {parts} for {prototypes} prototypes, at least 1"),
            ));
        }
        Ok(Self { config, parts, patches: vec![Vec::new(); prototypes] })
    }

    /// Adds images.
    ///
    /// # Shapes
    /// `activation` (B, P, h, w), with B annotations.
    ///
    /// # Errors
    /// [`Error::Input`] when numbers do not fit, [`Error::NonFinite`] for a map with NaN; nothing is added
    /// then.
    pub fn update(&mut self, activation: &Tensor, parts: &[ImageParts]) -> Result<()> {
        let maps = checked(activation)?;
        let (count, prototypes, h, w) = maps.dims4()?;
        let fits = |p: &ImageParts| p.len() == self.parts;
        if prototypes != self.patches.len() || parts.len() != count || !parts.iter().all(fits) {
            let expected = format!("{} prototypes and {} parts", self.patches.len(), self.parts);
            let reason =
                format!("have shape {:?} with {} annotations, for {expected}", maps.dims(), parts.len());
            return Err(Error::input("activation maps", reason));
        }
        for (maps, parts) in maps.flatten_from(2)?.to_vec3::<f32>()?.iter().zip(parts) {
            for (map, patches) in maps.iter().zip(&mut self.patches) {
                let peak = first_largest(map);
                let place = patches.partition_point(|p| p.activation >= map[peak]);
                if place >= self.config.top {
                    continue;
                }
                let (top, bottom) = self.config.span(peak / w, h, parts.size().0);
                let (left, right) = self.config.span(peak % w, w, parts.size().1);
                let window = Window { top, left, bottom, right };
                let shown = |k| parts.visible(k).then(|| parts.shown(k, &window, self.config.overlap));
                let shown = (0..self.parts).map(shown).collect();
                patches.insert(place, Patch { activation: map[peak], shown });
                patches.truncate(self.config.top);
            }
        }
        Ok(())
    }

    /// The purity of what was added.
    ///
    /// # Errors
    /// [`Error::Input`] when nothing was added or no prototype has an image that shows a part.
    pub fn score(&self) -> Result<PurityScore> {
        let prototypes: Vec<Option<PrototypePurity>> = self.patches.iter().map(|p| self.of(p)).collect();
        let values: Vec<f64> = prototypes.iter().flatten().map(|p| p.purity).collect();
        let Some(mean) = mean(&values) else {
            return Err(Error::input("images", "show no part: there is nothing to score"));
        };
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Ok(PurityScore {
            mean,
            deviation: (squares / values.len() as f64).sqrt(),
            part_related: values.iter().filter(|v| **v > 0.5).count(),
            prototypes,
        })
    }

    fn of(&self, patches: &[Patch]) -> Option<PrototypePurity> {
        let one = |part: usize| {
            let seen: Vec<bool> = patches.iter().filter_map(|p| p.shown[part]).collect();
            let shown = seen.iter().filter(|s| **s).count();
            (!seen.is_empty()).then(|| PrototypePurity {
                purity: shown as f64 / seen.len() as f64,
                part,
                shown,
            })
        };
        let better = |a: PrototypePurity, b: PrototypePurity| {
            if (b.purity, b.shown) > (a.purity, a.shown) { b } else { a }
        };
        (0..self.parts).filter_map(one).reduce(better)
    }
}
