//! Time steps and classes as vectors.

use candle_core::{DType, Device, Tensor};
use xdiff_nn::layers::{Activation, Embedding, Linear};
use xdiff_nn::{Init, Params};

use super::config::{ClassEmbedding, TimeEmbedding, UNet2DConfig};
use crate::{Cond, Error, Result};

type Wave = fn(f32) -> f32;

/// Sines and cosines of t·10000^(−i/(half − shift)), i in 0..half, for each time step.
///
/// The angles are computed in f32, as diffusers does.
fn sinusoids(t: &[f32], width: usize, flip: bool, shift: f64, device: &Device) -> Result<Tensor> {
    let half = width / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| (-(10_000f64.ln() as f32) * i as f32 / (half as f64 - shift) as f32).exp())
        .collect();
    let mut values = Vec::with_capacity(t.len() * width);
    for &t in t {
        let (first, second) =
            if flip { (f32::cos as Wave, f32::sin as Wave) } else { (f32::sin as Wave, f32::cos as Wave) };
        values.extend(frequencies.iter().map(|f| first(t * f)));
        values.extend(frequencies.iter().map(|f| second(t * f)));
        if width % 2 == 1 {
            values.push(0.0);
        }
    }
    Ok(Tensor::from_vec(values, (t.len(), width), device)?)
}

/// Turns time steps (B) into raw features (B, D).
#[derive(Debug)]
enum TimeFeatures {
    Positional { width: usize, flip: bool, shift: f64 },
    Fourier { weight: Tensor },
    Learned { table: Embedding },
}

impl TimeFeatures {
    fn forward(&self, t: &Tensor) -> Result<Tensor> {
        match self {
            Self::Positional { width, flip, shift } => {
                let steps = t.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                sinusoids(&steps, *width, *flip, *shift, t.device())
            }
            Self::Fourier { weight } => {
                let angle =
                    t.to_dtype(DType::F32)?.log()?.unsqueeze(1)?.broadcast_mul(&weight.unsqueeze(0)?)?;
                let angle = (angle * std::f64::consts::TAU)?;
                Ok(Tensor::cat(&[angle.sin()?, angle.cos()?], 1)?)
            }
            Self::Learned { table } => Ok(table.forward(&t.to_dtype(DType::U32)?)?),
        }
    }
}

/// Linear, activation, linear.
#[derive(Debug)]
struct Projection {
    linear_1: Linear,
    linear_2: Linear,
}

impl Projection {
    fn new(width: usize, out: usize, p: &Params) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::new(width, out, true, &p.at("linear_1"))?,
            linear_2: Linear::new(out, out, true, &p.at("linear_2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.linear_2.forward(&Activation::Silu.apply(&self.linear_1.forward(x)?)?)?)
    }
}

#[derive(Debug)]
enum ClassVector {
    Table(Embedding),
    Timestep(Projection),
    Identity { width: usize },
}

/// The vector that tells every residual block the time step and the class.
#[derive(Debug)]
pub(super) struct Embeddings {
    features: TimeFeatures,
    time: Projection,
    class: Option<ClassVector>,
}

impl Embeddings {
    pub(super) fn new(config: &UNet2DConfig, p: &Params) -> Result<Self> {
        let first = config.block_out_channels[0];
        let out = config.time_width();
        let (features, width) = match config.time_embedding_type {
            TimeEmbedding::Positional => (
                TimeFeatures::Positional {
                    width: first,
                    flip: config.flip_sin_to_cos,
                    shift: config.freq_shift,
                },
                first,
            ),
            TimeEmbedding::Fourier => {
                // Random frequencies that no optimiser moves.
                let weight =
                    p.at("time_proj").buffer("weight", first, Init::Normal(16.0))?.as_detached_tensor();
                (TimeFeatures::Fourier { weight }, 2 * first)
            }
            TimeEmbedding::Learned => {
                let rows = config.num_train_timesteps.unwrap_or(1);
                (TimeFeatures::Learned { table: Embedding::new(rows, first, &p.at("time_proj"))? }, first)
            }
        };
        let time = Projection::new(width, out, &p.at("time_embedding"))?;
        let scope = p.at("class_embedding");
        let class = match (config.class_embed_type, config.num_class_embeds) {
            (None, None) => None,
            (None, Some(rows)) => Some(ClassVector::Table(Embedding::new(rows, out, &scope)?)),
            (Some(ClassEmbedding::Timestep), _) => {
                Some(ClassVector::Timestep(Projection::new(width, out, &scope)?))
            }
            (Some(ClassEmbedding::Identity), _) => Some(ClassVector::Identity { width: out }),
        };
        Ok(Self { features, time, class })
    }

    /// (B) time steps and the condition's classes → (B, time width).
    pub(super) fn forward(&self, t: &Tensor, cond: &Cond) -> Result<Tensor> {
        let time = self.time.forward(&self.features.forward(t)?)?;
        let class = match (&self.class, &cond.class) {
            (None, None) => return Ok(time),
            (None, Some(_)) => {
                return Err(Error::input(
                    "class condition",
                    "the model has no class embedding (set num_class_embeds) but classes were given",
                ));
            }
            (Some(_), None) => {
                return Err(Error::input(
                    "class condition",
                    "the model needs a class for each sample, none was given",
                ));
            }
            (Some(embedding), Some(labels)) => {
                if labels.dims().first() != t.dims().first() {
                    return Err(Error::input(
                        "class condition",
                        format!("shape {:?} for a batch of {:?}", labels.dims(), t.dims()),
                    ));
                }
                match embedding {
                    ClassVector::Table(table) => table.forward(&labels.to_dtype(DType::U32)?)?,
                    ClassVector::Timestep(projection) => {
                        projection.forward(&self.features.forward(labels)?)?
                    }
                    ClassVector::Identity { width } if labels.dims().get(1) == Some(width) => {
                        labels.to_dtype(DType::F32)?
                    }
                    ClassVector::Identity { width } => {
                        return Err(Error::input(
                            "class condition",
                            format!("shape {:?}, the model takes vectors (B, {width})", labels.dims()),
                        ));
                    }
                }
            }
        };
        Ok((time + class)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoids_of_known_angles() {
        let x = sinusoids(&[0.0, 1.0], 5, false, 0.0, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(x[0], [0.0, 0.0, 1.0, 1.0, 0.0]);
        let (a, b) = (1f32, 0.01f32);
        for (got, want) in x[1].iter().zip([a.sin(), b.sin(), a.cos(), b.cos(), 0.0]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }
}
