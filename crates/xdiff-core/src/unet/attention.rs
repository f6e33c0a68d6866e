//! Self-attention over the positions of a feature map.

use candle_core::Tensor;
use xdiff_nn::layers::{AttentionOptions, GroupNorm, Linear, add, attend};
use xdiff_nn::tap::visit;
use xdiff_nn::{Params, Tap};

use crate::Result;

/// GroupNorm, multi-head attention over the h·w positions, a projection, plus the input.
#[derive(Debug)]
pub(super) struct SelfAttention {
    site: String,
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    scale: f64,
}

/// The widths of an attention layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Widths {
    /// Channels of the feature map.
    pub(super) channels: usize,
    /// Width of one head.
    pub(super) head: usize,
    /// Groups of the normalisation; none for no normalisation.
    pub(super) groups: Option<usize>,
}

impl SelfAttention {
    /// `scale` divides the sum of input and attention.
    pub(super) fn new(widths: Widths, eps: f64, scale: f64, p: &Params) -> Result<Self> {
        let c = widths.channels;
        let heads = c / widths.head;
        let inner = heads * widths.head;
        let group_norm = match widths.groups {
            Some(groups) => Some(GroupNorm::new(groups, c, eps, &p.at("group_norm"))?),
            None => None,
        };
        Ok(Self {
            site: p.path().to_owned(),
            group_norm,
            to_q: Linear::new(c, inner, true, &p.at("to_q"))?,
            to_k: Linear::new(c, inner, true, &p.at("to_k"))?,
            to_v: Linear::new(c, inner, true, &p.at("to_v"))?,
            to_out: Linear::new(inner, c, true, &p.at("to_out").at(0))?,
            heads,
            scale,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let y = match &self.group_norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        let y = y.reshape((b, c, h * w))?.transpose(1, 2)?.contiguous()?;
        let split = |t: Tensor| -> Result<Tensor> {
            Ok(t.reshape((b, h * w, self.heads, ()))?.transpose(1, 2)?.contiguous()?)
        };
        let (q, k, v) =
            (split(self.to_q.forward(&y)?)?, split(self.to_k.forward(&y)?)?, split(self.to_v.forward(&y)?)?);
        let y = attend(&q, &k, &v, &AttentionOptions::default(), &self.site, tap)?;
        let y = y.transpose(1, 2)?.contiguous()?.reshape((b, h * w, ()))?;
        let y = self.to_out.forward(&y)?.transpose(1, 2)?.contiguous()?.reshape((b, c, h, w))?;
        let y = add(&y, x)?;
        let y = if self.scale == 1.0 { y } else { (y / self.scale)? };
        Ok(visit(tap, &self.site, y)?)
    }
}
