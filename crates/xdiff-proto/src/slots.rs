//! Slots that share a pool of prototypes.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_nn::layers::{linear, softmax_last_dim};
use xdiff_nn::{Init, Params, Rng};

use crate::{Error, Mixing, Result, Similarity, squared_distances};

/// How a slot's distribution q over prototypes is formed from its learnt scores θ.
///
/// It is the same at every call without training. (The released code of ProtoPool draws Gumbel noise at
/// inference, too, so that its results differ from run to run.)
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum SlotSampling {
    /// q = softmax(θ / τ), in training as without.
    Softmax {
        /// τ, above 0.
        temperature: f64,
    },
    /// The Gumbel-softmax in training, without noise elsewhere.
    Gumbel(Gumbel),
}

impl Default for SlotSampling {
    /// The softmax with τ = 1.
    fn default() -> Self {
        SlotSampling::Softmax { temperature: 1.0 }
    }
}

/// The Gumbel-softmax (Jang et al. 2017) with a sharpness s that grows from epoch to epoch, so that a
/// slot ends up with one prototype.
///
/// In training q = softmax((s·θ + η)/τ), or softmax(s·(θ + η)/τ) when the noise
/// [is scaled](Gumbel::scales_noise), with η = −ln(−ln u) of uniform u for each number; without noise,
/// softmax(θ), as long as s is 0. Elsewhere q = softmax(s′·θ/τ), with s′ the
/// [sharpness of inference](Gumbel::inference).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gumbel {
    /// s by epoch.
    pub annealing: Annealing,
    /// τ, above 0.
    pub temperature: f64,
    /// Whether s multiplies the noise as well as the scores.
    pub scales_noise: bool,
    /// s′, above 0.
    pub inference: f64,
    /// When a slot takes one prototype alone.
    pub one_hot: OneHot,
}

/// When q becomes 1 for its largest prototype, the first of equals, and 0 for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OneHot {
    /// Never: q is soft.
    #[default]
    Never,
    /// Outside of training.
    Inference,
    /// In training as well, where the gradient is that of the soft q (straight through).
    Always,
}

/// s(e) = √(rate · e) before epoch `epochs`, `last` from then on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annealing {
    /// How fast s² grows with an epoch; at least 0.
    pub rate: f64,
    /// From which epoch, counted from 0, s is `last`.
    pub epochs: usize,
    /// The last s, above 0.
    pub last: f64,
}

impl Annealing {
    /// s at an epoch, counted from 0.
    pub fn at(&self, epoch: usize) -> f64 {
        if epoch < self.epochs { (self.rate * epoch as f64).sqrt() } else { self.last }
    }
}

impl Gumbel {
    /// The paper's schedule (Rymarczyk et al. 2022): one temperature 1/s for scores and noise, with
    /// s² = 3.4·10⁴ · epoch for 30 epochs and s = 1000 after.
    pub fn paper() -> Self {
        Self {
            annealing: Annealing { rate: 3.4e4, epochs: 30, last: 1e3 },
            temperature: 1.0,
            scales_noise: true,
            inference: 1e3,
            one_hot: OneHot::Never,
        }
    }

    /// The schedule of the released code: τ = 0.5, s = 1000 √(epoch / 30) for 30 epochs and 1000 after, by
    /// which only the scores are multiplied; 10,000 after training.
    pub fn released() -> Self {
        Self {
            annealing: Annealing { rate: 1e6 / 30.0, epochs: 30, last: 1e3 },
            temperature: 0.5,
            scales_noise: false,
            inference: 1e4,
            one_hot: OneHot::Never,
        }
    }
}

impl SlotSampling {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let positive = |field, value: f64| {
            if value > 0.0 && value.is_finite() {
                return Ok(());
            }
            Err(Error::config(field, format!("is {value}, must be above 0")))
        };
        match self {
            SlotSampling::Softmax { temperature } => positive("temperature", *temperature),
            SlotSampling::Gumbel(gumbel) => {
                positive("temperature", gumbel.temperature)?;
                positive("inference", gumbel.inference)?;
                positive("last", gumbel.annealing.last)?;
                let rate = gumbel.annealing.rate;
                if rate >= 0.0 && rate.is_finite() {
                    return Ok(());
                }
                Err(Error::config("rate", format!("is {rate}, must be at least 0")))
            }
        }
    }

    /// q of scores (…, P), without chance.
    fn settled(&self, scores: &Tensor) -> Result<Tensor> {
        match self {
            SlotSampling::Softmax { temperature } => Ok(softmax_last_dim(&(scores / *temperature)?)?),
            SlotSampling::Gumbel(gumbel) => {
                let q = softmax_last_dim(&(scores * (gumbel.inference / gumbel.temperature))?)?;
                if gumbel.one_hot == OneHot::Never { Ok(q) } else { one_hot(&q) }
            }
        }
    }

    /// q of scores (…, P) in training.
    fn drawn(&self, scores: &Tensor, epoch: usize, rng: &Rng) -> Result<Tensor> {
        let SlotSampling::Gumbel(gumbel) = self else { return self.settled(scores) };
        let s = gumbel.annealing.at(epoch);
        let q = if s == 0.0 {
            softmax_last_dim(scores)?
        } else {
            let scale = if gumbel.scales_noise { s } else { 1.0 };
            let noise = gumbel_noise(scores, &mut rng.fork("gumbel"))?;
            softmax_last_dim(
                &((scores * (s / gumbel.temperature))? + (noise * (scale / gumbel.temperature))?)?,
            )?
        };
        if gumbel.one_hot == OneHot::Always { Ok(((one_hot(&q)? - q.detach())? + &q)?) } else { Ok(q) }
    }
}

/// −ln(−ln u) in the shape of a tensor.
fn gumbel_noise(like: &Tensor, rng: &mut Rng) -> Result<Tensor> {
    let draw = || (-(-rng.uniform().max(f64::MIN_POSITIVE).ln()).ln()) as f32;
    let noise: Vec<f32> = std::iter::repeat_with(draw).take(like.elem_count()).collect();
    Ok(Tensor::from_vec(noise, like.shape(), like.device())?)
}

/// 1 at the first largest number of each row, 0 elsewhere.
fn one_hot(q: &Tensor) -> Result<Tensor> {
    let largest = q.detach().argmax_keepdim(D::Minus1)?;
    let ones = largest.ones_like()?.to_dtype(q.dtype())?;
    Ok(q.detach().zeros_like()?.scatter_add(&largest, &ones, D::Minus1)?)
}

/// The learnt scores of all slots: the parameter `proto_presence` (C, P, n).
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    presence: Tensor,
    sampling: SlotSampling,
}

impl Slots {
    /// Fresh scores are Xavier normal, with the fans that PyTorch counts in a tensor of this shape.
    pub(crate) fn new(
        (classes, prototypes, slots): (usize, usize, usize),
        sampling: SlotSampling,
        params: &Params,
    ) -> Result<Self> {
        let fans = (classes.saturating_add(prototypes)).saturating_mul(slots);
        let init = Init::Normal((2.0 / fans as f64).sqrt());
        Ok(Self { presence: params.weight("proto_presence", (classes, prototypes, slots), init)?, sampling })
    }

    /// The scores (C, P, n).
    pub(crate) fn presence(&self) -> &Tensor {
        &self.presence
    }

    /// The distributions (C, n, P): without chance, or as drawn in training.
    pub(crate) fn weights(&self, training: Option<(usize, &Rng)>) -> Result<Tensor> {
        let scores = self.presence.transpose(1, 2)?.contiguous()?;
        match training {
            None => self.sampling.settled(&scores),
            Some((epoch, rng)) => self.sampling.drawn(&scores, epoch, rng),
        }
    }
}

/// What slots find in images.
#[derive(Clone, Debug)]
pub struct SlotReading {
    /// The focal similarity of each slot (B, C, n): that of the nearest patch less the average one.
    pub similarity: Tensor,
    /// The distribution q of each slot over the prototypes (C, n, P) that was used.
    pub weights: Tensor,
}

impl SlotReading {
    /// `patches` and `prototypes` stand where distances are taken; `distance` and `alike` (B, P) are
    /// those of the nearest patches.
    pub(crate) fn new(
        (patches, prototypes): (&Tensor, &Tensor),
        (distance, alike): (&Tensor, &Tensor),
        (similarity, mixing): (Similarity, Mixing),
        weights: Tensor,
    ) -> Result<Self> {
        let (classes, slots, count) = weights.dims3()?;
        let rows = weights.reshape((classes * slots, count))?;
        let focal = match mixing {
            Mixing::Distances => {
                let mixed = |distance: &Tensor| similarity.of_distance(&linear(distance, &rows, None)?);
                (mixed(distance)? - mixed(&mean_distances(patches, prototypes)?)?)?
            }
            Mixing::Similarities => {
                let all = similarity.of_distance(&squared_distances(patches, prototypes)?)?;
                linear(&(alike - all.flatten_from(2)?.mean(2)?)?, &rows, None)?
            }
        };
        Ok(Self { similarity: focal.reshape((distance.dim(0)?, classes, slots))?, weights })
    }
}

/// The average of ‖f_hw − p‖² over all positions, (B, P), from averages alone:
/// mean ‖f‖² − 2 p·mean f + ‖p‖².
fn mean_distances(patches: &Tensor, prototypes: &Tensor) -> Result<Tensor> {
    let patches = patches.flatten_from(2)?;
    let norms = patches.sqr()?.sum(1)?.mean_keepdim(1)?;
    let products = linear(&patches.mean(2)?, prototypes, None)?;
    let distances = norms.broadcast_sub(&(products * 2.0)?)?.broadcast_add(&prototypes.sqr()?.sum(1)?)?;
    Ok(distances.relu()?)
}
