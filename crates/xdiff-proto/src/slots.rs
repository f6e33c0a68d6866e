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
        // Of one patch the nearest is the average one, to the last bit: nothing is in focus.
        let one = patches.flatten_from(2)?.dim(2)? == 1;
        let focal = match mixing {
            Mixing::Distances => {
                let mixed = |distance: &Tensor| similarity.of_distance(&linear(distance, &rows, None)?);
                let mean = if one { distance.clone() } else { mean_distances(patches, prototypes)? };
                (mixed(distance)? - mixed(&mean)?)?
            }
            Mixing::Similarities => {
                let mean = if one {
                    alike.clone()
                } else {
                    let all = similarity.of_distance(&squared_distances(patches, prototypes)?)?;
                    all.flatten_from(2)?.mean(2)?
                };
                linear(&(alike - mean)?, &rows, None)?
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_sharpness_follows_the_published_schedules() {
        let (paper, released) = (Gumbel::paper().annealing, Gumbel::released().annealing);
        for (epoch, of_paper, of_code) in [
            (0, 0.0, 0.0),
            (1, 184.390_889, 182.574_186),
            (15, 714.142_843, 707.106_781),
            (29, 992.975_327, 983.192_080),
            (30, 1000.0, 1000.0),
            (500, 1000.0, 1000.0),
        ] {
            assert!((paper.at(epoch) - of_paper).abs() < 1e-5, "paper, {epoch}: {}", paper.at(epoch));
            assert!((released.at(epoch) - of_code).abs() < 1e-5, "code, {epoch}: {}", released.at(epoch));
        }
    }

    #[test]
    fn the_noise_is_that_of_gumbel() {
        let like = Tensor::zeros((100, 500), candle_core::DType::F32, &Device::Cpu).unwrap();
        let noise = gumbel_noise(&like, &mut Rng::new(1)).unwrap().flatten_all().unwrap();
        let noise: Vec<f64> = noise.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        let mean = noise.iter().sum::<f64>() / noise.len() as f64;
        let variance = noise.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / noise.len() as f64;
        assert!(noise.iter().all(|x| x.is_finite()));
        assert!((mean - 0.577_216).abs() < 0.02, "{mean}");
        assert!((variance - 1.644_934).abs() < 0.05, "{variance}");
    }

    #[test]
    fn noise_chooses_as_the_softmax_says() {
        // With noise that is scaled, the largest number is a draw from softmax(θ) at any sharpness.
        let scores = Tensor::new(&[2f32.ln(), 5f32.ln(), 3f32.ln()], &Device::Cpu).unwrap();
        let sampling = SlotSampling::Gumbel(Gumbel { one_hot: OneHot::Always, ..Gumbel::paper() });
        let mut shares = [0.0; 3];
        for seed in 0..2000 {
            let q = sampling.drawn(&scores, 7, &Rng::new(seed)).unwrap().to_vec1::<f32>().unwrap();
            (0..3).for_each(|j| shares[j] += f64::from(q[j]) / 2000.0);
        }
        assert!(shares.iter().zip([0.2, 0.5, 0.3]).all(|(a, b)| (a - b).abs() < 0.05), "{shares:?}");
    }

    #[test]
    fn without_training_there_is_no_chance_and_ties_go_to_the_first() {
        let scores = Tensor::new(&[[0.1f32, 0.3, 0.3], [-1.0, 0.0, 1e-3]], &Device::Cpu).unwrap();
        let settled = |sampling: SlotSampling| sampling.settled(&scores).unwrap().to_vec2::<f32>().unwrap();
        let soft = settled(SlotSampling::Softmax { temperature: 0.1 });
        let wanted = 1.0 / (2.0 + (-2f32).exp());
        assert!((soft[0][1] - wanted).abs() < 1e-6 && (soft[0][2] - wanted).abs() < 1e-6, "{soft:?}");
        // 10,000 · 1e-3 / 0.5 = 20.
        let sharp = settled(SlotSampling::Gumbel(Gumbel::released()));
        assert_eq!(sharp[0], [0.0, 0.5, 0.5]);
        assert!((sharp[1][1] - 2.061_154e-9).abs() < 1e-12, "{sharp:?}");
        let alone =
            settled(SlotSampling::Gumbel(Gumbel { one_hot: OneHot::Inference, ..Gumbel::released() }));
        assert_eq!(alone, [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
    }

    #[test]
    fn values_out_of_range_are_errors() {
        let gumbel = |change: &dyn Fn(&mut Gumbel)| {
            let mut gumbel = Gumbel::paper();
            change(&mut gumbel);
            SlotSampling::Gumbel(gumbel)
        };
        let cases = [
            (SlotSampling::Softmax { temperature: -1.0 }, "temperature"),
            (SlotSampling::Softmax { temperature: f64::NAN }, "temperature"),
            (gumbel(&|g| g.temperature = 0.0), "temperature"),
            (gumbel(&|g| g.inference = f64::INFINITY), "inference"),
            (gumbel(&|g| g.annealing.last = 0.0), "last"),
            (gumbel(&|g| g.annealing.rate = -1.0), "rate"),
        ];
        for (sampling, field) in cases {
            let e = sampling.validate().unwrap_err().to_string();
            assert!(e.contains(&format!("`{field}`")), "{sampling:?}: {e}");
        }
        assert!(SlotSampling::default().validate().is_ok());
        assert!(SlotSampling::Gumbel(Gumbel::released()).validate().is_ok());
    }
}
