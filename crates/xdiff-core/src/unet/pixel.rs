//! The U-Net over pixels.

use candle_core::{DType, Tensor};
use xdiff_nn::layers::{Activation, Conv2d, Conv2dConfig, GroupNorm};
use xdiff_nn::tap::visit;
use xdiff_nn::{Params, Rng, Tap};

use super::block::{Down, Mid, Up};
use super::config::{TimeEmbedding, UNet2DConfig};
use super::embedding::Embeddings;
use super::resnet::Pass;
use crate::{Cond, Denoiser, Error, Prediction, Result};

/// The U-Net of Ho et al. 2020 in the form of diffusers' `UNet2DModel`: the same configuration,
/// weight names and numbers.
///
/// Conditioning: images in [`Cond::image`] are joined to the noisy image along the channels, anew
/// at every call, so `in_channels` counts both; classes in [`Cond::class`] are embedded and added
/// to the time embedding.
///
/// Sites for a [`Tap`]: `conv_in`, `down_blocks.I.resnets.J`, `….attentions.J`, `….downsamplers.0`,
/// `mid_block` and its parts, `up_blocks.…`, `conv_out`; attention maps at the attentions' sites.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::{Cond, Denoiser};
/// use xdiff_core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
/// use xdiff_nn::Params;
///
/// let config = UNet2DConfig {
///     in_channels: 2,
///     out_channels: 1,
///     block_out_channels: vec![8, 16],
///     down_block_types: vec![DownBlock::Plain, DownBlock::Attention],
///     up_block_types: vec![UpBlock::Attention, UpBlock::Plain],
///     norm_num_groups: 4,
///     ..Default::default()
/// };
/// let params = Params::fresh(0, &Device::Cpu);
/// let unet = UNet2D::new(&config, &params)?;
/// params.finish()?;
///
/// let x = Tensor::zeros((3, 1, 16, 16), DType::F32, &Device::Cpu)?;
/// let t = Tensor::new(&[10f32, 500., 999.], &Device::Cpu)?;
/// let mask = Cond { image: Some(x.ones_like()?), ..Default::default() };
/// assert_eq!(unet.predict(&x, &t, &mask, &mut ())?.dims(), [3, 1, 16, 16]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UNet2D {
    config: UNet2DConfig,
    conv_in: Conv2d,
    embeddings: Embeddings,
    down: Vec<Down>,
    mid: Option<Mid>,
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    prediction: Prediction,
    checkpointing: bool,
}

impl UNet2D {
    /// Builds the model, asking `p` for its parameters.
    ///
    /// # Errors
    /// [`Error::Config`] when the configuration does not validate. Keys that do not fit are
    /// reported by [`Params::finish`].
    pub fn new(config: &UNet2DConfig, p: &Params) -> Result<Self> {
        config.validate()?;
        let first = config.block_out_channels[0];
        let stages = config.block_out_channels.len();
        let conv = |i, o| Conv2dConfig::new(i, o, 3).padding(1);
        Ok(Self {
            conv_in: Conv2d::new(conv(config.in_channels, first), &p.at("conv_in"))?,
            embeddings: Embeddings::new(config, p)?,
            down: (0..stages)
                .map(|i| Down::new(config, i, &p.at("down_blocks").at(i)))
                .collect::<Result<_>>()?,
            mid: config.mid_block_type.map(|_| Mid::new(config, &p.at("mid_block"))).transpose()?,
            up: (0..stages).map(|i| Up::new(config, i, &p.at("up_blocks").at(i))).collect::<Result<_>>()?,
            norm_out: GroupNorm::new(config.norm_num_groups, first, config.norm_eps, &p.at("conv_norm_out"))?,
            conv_out: Conv2d::new(conv(first, config.out_channels), &p.at("conv_out"))?,
            prediction: Prediction::Epsilon,
            checkpointing: false,
            config: config.clone(),
        })
    }

    /// The same network, whose output is read as `prediction`.
    pub fn predicting(mut self, prediction: Prediction) -> Self {
        self.prediction = prediction;
        self
    }

    /// Whether training keeps the inputs of the layers alone (a residual block with its attention
    /// each) and computes their activations anew in the backward pass; see [`checkpoint`]. It takes
    /// far less memory and one more forward pass. Predictions are the same, gradients too but for
    /// the order of sums.
    ///
    /// [`checkpoint`]: xdiff_nn::checkpoint()
    pub fn checkpointing(mut self, checkpointing: bool) -> Self {
        self.checkpointing = checkpointing;
        self
    }

    /// The configuration that the model was built from.
    pub fn config(&self) -> &UNet2DConfig {
        &self.config
    }

    fn forward(
        &self,
        x_t: &Tensor,
        t: &Tensor,
        cond: &Cond,
        tap: &mut dyn Tap,
        training: Option<&Rng>,
    ) -> Result<Tensor> {
        let x = self.input(x_t, t, cond)?;
        let embedding = self.embeddings.forward(t, cond)?;
        let checkpointing = self.checkpointing && training.is_some();
        let pass = &mut Pass { embedding: &embedding, tap, dropout: training, checkpointing };
        let mut x = visit(pass.tap, "conv_in", self.conv_in.forward(&x)?)?;
        let mut skips = vec![x.clone()];
        for down in &self.down {
            x = down.forward(x, &mut skips, pass)?;
        }
        if let Some(mid) = &self.mid {
            x = mid.forward(x, pass)?;
        }
        for up in &self.up {
            x = up.forward(x, &mut skips, pass)?;
        }
        let x = self.conv_out.forward(&self.norm_out.forward_act(&x, Activation::Silu)?)?;
        let x = if self.config.time_embedding_type == TimeEmbedding::Fourier {
            x.broadcast_div(&t.to_dtype(DType::F32)?.reshape(((), 1, 1, 1))?)?
        } else {
            x
        };
        Ok(visit(pass.tap, "conv_out", x)?)
    }

    /// Joins the conditioning image and checks shapes.
    fn input(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Result<Tensor> {
        let &[batch, _, height, width] = x_t.dims() else {
            return Err(Error::input("noisy image", format!("shape {:?}, must be (B, C, H, W)", x_t.dims())));
        };
        if t.dims() != [batch] {
            return Err(Error::input("time steps", format!("shape {:?} for a batch of {batch}", t.dims())));
        }
        let x = match &cond.image {
            None => x_t.clone(),
            Some(image) => match image.dims() {
                &[b, _, h, w] if (b, h, w) == (batch, height, width) => Tensor::cat(&[x_t, image], 1)?,
                other => {
                    return Err(Error::input(
                        "conditioning image",
                        format!(
                            "shape {other:?} cannot be joined to a noisy image of shape {:?}",
                            x_t.dims()
                        ),
                    ));
                }
            },
        };
        let channels = x.dim(1)?;
        if channels != self.config.in_channels {
            return Err(Error::input(
                "noisy image",
                format!(
                    "has {channels} channels with its conditioning image, the model takes in_channels = {}",
                    self.config.in_channels
                ),
            ));
        }
        let multiple = self.config.size_multiple();
        if height == 0 || width == 0 || height % multiple != 0 || width % multiple != 0 {
            return Err(Error::input(
                "noisy image",
                format!("is {height}×{width}, both sides must be positive multiples of {multiple}"),
            ));
        }
        Ok(if self.config.center_input_sample { x.affine(2.0, -1.0)? } else { x })
    }
}

impl Denoiser for UNet2D {
    fn predict(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, tap: &mut dyn Tap) -> Result<Tensor> {
        self.forward(x_t, t, cond, tap, None)
    }

    fn predict_training(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, rng: &mut Rng) -> Result<Tensor> {
        self.forward(x_t, t, cond, &mut (), Some(&Rng::new(rng.next_seed())))
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }
}
