//! Named activations of a network as one feature map.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_nn::Tap;
use xdiff_nn::layers::{Resize, resize2d};
use xdiff_nn::tap::visit;

use crate::{Error, Result};

/// The size at which maps of several sites are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MapGrid {
    /// The height and width of the finest of them.
    #[default]
    Finest,
    /// Of the coarsest.
    Coarsest,
    /// (height, width).
    Size(usize, usize),
}

/// Which activations of a network make up a feature map (B, D, h, w): each is brought to one size by
/// linear interpolation with antialiasing, and all are joined along the channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteMap {
    /// Names of sites, as a [`Tap`] meets them: `mid_block`, `up_blocks.1.resnets.0`.
    pub sites: Vec<String>,
    /// The size of the joined map.
    pub grid: MapGrid,
}

impl Default for SiteMap {
    /// The first residual block of the second stage up, at its own size.
    fn default() -> Self {
        Self { sites: vec!["up_blocks.1.resnets.0".to_owned()], grid: MapGrid::Finest }
    }
}

impl SiteMap {
    /// The map of one site, at its own size.
    pub fn one(site: impl Into<String>) -> Self {
        Self { sites: vec![site.into()], grid: MapGrid::Finest }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no site, one stands there twice, or a side is 0.
    pub fn validate(&self) -> Result<()> {
        if self.sites.is_empty() {
            return Err(Error::config("sites", "is empty; name at least one, such as `mid_block`"));
        }
        if let Some(twice) = self.sites.iter().enumerate().find(|(i, s)| self.sites[..*i].contains(s)) {
            return Err(Error::config("sites", format!("names `{}` twice", twice.1)));
        }
        if let MapGrid::Size(h, w) = self.grid
            && h.min(w) == 0
        {
            return Err(Error::config("grid", format!("is {h}×{w}; give at least 1×1")));
        }
        Ok(())
    }

    /// A tap that keeps the activations of the sites, hands everything on to another tap, and ends the run
    /// with an error as soon as every site has been seen.
    pub(super) fn collector<'a>(&'a self, onward: &'a mut dyn Tap) -> Collector<'a> {
        Collector { sites: &self.sites, seen: vec![None; self.sites.len()], onward, stopped: false }
    }

    /// The sites' activations of one run, for `batch` images. Of a doubled batch, as under guidance,
    /// the second half is taken: the one with the condition.
    pub(super) fn maps(&self, seen: Vec<Option<Tensor>>, batch: usize) -> Result<Vec<Tensor>> {
        let sites = self.sites.iter().zip(seen);
        let map = |(site, map): (&String, Option<Tensor>)| {
            let map = map.ok_or_else(|| {
                let reason = format!("`{site}` did not run: the network has no activation of that name");
                Error::config("sites", reason)
            })?;
            match *map.dims() {
                [b, d, h, w] if d * h * w > 0 && b == batch => Ok(map),
                [b, d, h, w] if d * h * w > 0 && b == 2 * batch => Ok(map.narrow(0, batch, batch)?),
                _ => {
                    let reason = format!(
                        "`{site}` has an activation of shape {:?} for {batch} images, not (B, D, h, w)",
                        map.dims()
                    );
                    Err(Error::config("sites", reason))
                }
            }
        };
        sites.map(map).collect()
    }

    /// Joins maps (B, D_i, h_i, w_i) to (B, ΣD_i, h, w).
    pub(super) fn join(&self, maps: &[Tensor]) -> Result<Tensor> {
        let sizes = maps.iter().map(|m| m.dims4().map(|(_, _, h, w)| (h, w)));
        let sizes = sizes.collect::<candle_core::Result<Vec<_>>>()?;
        let area = |size: &(usize, usize)| size.0 * size.1;
        let size = match self.grid {
            MapGrid::Size(h, w) => Some((h, w)),
            MapGrid::Finest => sizes.iter().copied().max_by_key(area),
            MapGrid::Coarsest => sizes.iter().copied().min_by_key(area),
        };
        let Some(size) = size else { return Err(Error::config("sites", "is empty")) };
        let resized = maps.iter().zip(&sizes).map(|(map, own)| {
            if *own == size {
                return Ok(map.clone());
            }
            Ok(resize2d(map, size, Resize::AntialiasedBilinear)?)
        });
        let resized = resized.collect::<Result<Vec<_>>>()?;
        Ok(if resized.len() == 1 { resized[0].clone() } else { Tensor::cat(&resized, 1)? })
    }
}

/// Keeps the activations of its sites, and hands all to a caller's tap, whose replacements it keeps.
pub(super) struct Collector<'a> {
    sites: &'a [String],
    pub(super) seen: Vec<Option<Tensor>>,
    onward: &'a mut dyn Tap,
    /// Whether the run was ended because every site had been seen.
    pub(super) stopped: bool,
}

impl Tap for Collector<'_> {
    fn wants(&self, site: &str) -> bool {
        self.sites.iter().any(|s| s == site) || self.onward.wants(site)
    }

    fn activation(&mut self, site: &str, x: Tensor) -> xdiff_nn::Result<Tensor> {
        let x = visit(self.onward, site, x)?;
        if let Some(i) = self.sites.iter().position(|s| s == site) {
            self.seen[i] = Some(x.clone());
            if self.seen.iter().all(Option::is_some) {
                self.stopped = true;
                return Err(xdiff_nn::Error::argument("tap", "every site was seen"));
            }
        }
        Ok(x)
    }

    fn wants_attention(&self, site: &str) -> bool {
        self.onward.wants_attention(site)
    }

    fn attention(&mut self, site: &str, probabilities: Tensor) -> xdiff_nn::Result<Tensor> {
        self.onward.attention(site, probabilities)
    }
}
