//! Frozen features of a diffusion network.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_core::schedule::NoiseSchedule;
use xdiff_core::{Cond, Denoiser, FeatureExtractor};
use xdiff_nn::Tap;

use super::noise::FeatureNoise;
use super::sites::SiteMap;
use crate::{Error, Result};

/// Where and when a [`DiffusionFeatures`] looks into its network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionFeaturesConfig {
    /// The activations.
    pub map: SiteMap,
    /// The time steps, each below the schedule's T. The maps of all of them are joined, time step by
    /// time step.
    pub timesteps: Vec<usize>,
    /// The noise that is mixed into the images.
    pub noise: FeatureNoise,
    /// How many of an image's channels, counted from the last, are its condition (a mask): they are not
    /// noised, but given as [`Cond::image`].
    pub condition_channels: usize,
}

impl Default for DiffusionFeaturesConfig {
    /// One site at t = 100 under one noise map, without a condition.
    fn default() -> Self {
        Self {
            map: SiteMap::default(),
            timesteps: vec![100],
            noise: FeatureNoise::default(),
            condition_channels: 0,
        }
    }
}

impl DiffusionFeaturesConfig {
    /// Checks every field that does not depend on the schedule.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn validate(&self) -> Result<()> {
        self.map.validate()?;
        if self.timesteps.is_empty() {
            return Err(Error::config("timesteps", "is empty; give at least one"));
        }
        if let Some((_, t)) =
            self.timesteps.iter().enumerate().find(|(i, t)| self.timesteps[..*i].contains(t))
        {
            return Err(Error::config("timesteps", format!("has {t} twice")));
        }
        Ok(())
    }
}

/// Images (B, C, H, W) to feature maps (B, D, h, w) of a diffusion network: the images are noised to
/// x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε, the network runs once for each time step t, and what passes its chosen
/// sites is joined. D is the sum of the sites' channels, times the number of time steps.
///
/// Images are in the range that the network was trained on, most often [−1, 1]. Where the network is
/// conditioned on an image, that image follows as further channels: (B, C_image + C_condition, H, W) is
/// split by [`condition_channels`](DiffusionFeaturesConfig::condition_channels).
///
/// A run ends at the last site that is wanted: layers behind it are not computed, and a caller's tap
/// sees the network up to there, at each time step in turn. Nothing is detached: features can be
/// differentiated with respect to the images. Build the network from [`Params::frozen`], or no memory
/// is saved.
///
/// [`Params::frozen`]: xdiff_nn::Params::frozen
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_core::FeatureExtractor;
/// use xdiff_core::schedule::{NoiseSchedule, ScheduleConfig};
/// use xdiff_core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
/// use xdiff_nn::Params;
/// use xdiff_proto::diffusion::{DiffusionFeatures, DiffusionFeaturesConfig, SiteMap};
///
/// let unet = UNet2D::new(
///     &UNet2DConfig {
///         in_channels: 2, // an image and its mask
///         out_channels: 1,
///         block_out_channels: vec![8, 16],
///         down_block_types: vec![DownBlock::Plain, DownBlock::Plain],
///         up_block_types: vec![UpBlock::Plain, UpBlock::Plain],
///         norm_num_groups: 4,
///         ..Default::default()
///     },
///     &Params::fresh(0, &Device::Cpu).freeze(|_| true),
/// )?;
/// let config = DiffusionFeaturesConfig {
///     map: SiteMap::one("mid_block"),
///     timesteps: vec![50, 250],
///     condition_channels: 1,
///     ..Default::default()
/// };
/// let schedule = NoiseSchedule::new(&ScheduleConfig::default())?;
/// let features = DiffusionFeatures::new(unet, "random U-Net, seed 0", schedule, config)?;
/// let images = Tensor::zeros((3, 2, 16, 16), DType::F32, &Device::Cpu)?;
/// assert_eq!(features.features(&images, &mut ())?.dims(), [3, 32, 8, 8]);
/// assert!(features.identity().contains("mid_block at t = 50, 250"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct DiffusionFeatures<D> {
    denoiser: D,
    name: String,
    schedule: NoiseSchedule,
    config: DiffusionFeaturesConfig,
}

impl<D> std::fmt::Debug for DiffusionFeatures<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiffusionFeatures")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<D: Denoiser> DiffusionFeatures<D> {
    /// `name` says which network with which weights this is (`U-Net of breast phantoms, sha256 1a2b…`):
    /// it stands in the [`identity`](FeatureExtractor::identity), by which stale prototypes are known.
    ///
    /// # Errors
    /// [`Error::Config`] when a field cannot be used or a time step is not below the schedule's T.
    pub fn new(
        denoiser: D,
        name: impl Into<String>,
        schedule: NoiseSchedule,
        config: DiffusionFeaturesConfig,
    ) -> Result<Self> {
        config.validate()?;
        if let Some(t) = config.timesteps.iter().find(|t| **t >= schedule.steps()) {
            let reason = format!("has {t}; the schedule has T = {}", schedule.steps());
            return Err(Error::config("timesteps", reason));
        }
        Ok(Self { denoiser, name: name.into(), schedule, config })
    }

    /// The configuration.
    pub fn config(&self) -> &DiffusionFeaturesConfig {
        &self.config
    }

    /// The network.
    pub fn denoiser(&self) -> &D {
        &self.denoiser
    }

    /// The images and their condition.
    fn split(&self, images: &Tensor) -> Result<(Tensor, Cond)> {
        let &[_, channels, _, _] = images.dims() else {
            return Err(Error::input("images", format!("have shape {:?}, not (B, C, H, W)", images.dims())));
        };
        let given = self.config.condition_channels;
        if given == 0 {
            return Ok((images.clone(), Cond::default()));
        }
        let Some(own) = channels.checked_sub(given).filter(|own| *own > 0) else {
            let reason = format!(
                "have shape {:?}, of whose channels the last {given} are the condition: none is left for \
                 the image",
                images.dims()
            );
            return Err(Error::input("images", reason));
        };
        let condition = images.narrow(1, own, given)?.contiguous()?;
        Ok((images.narrow(1, 0, own)?.contiguous()?, Cond { image: Some(condition), ..Default::default() }))
    }

    fn extract(&self, images: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let (x0, cond) = self.split(images)?;
        let (batch, device) = (x0.dim(0)?, x0.device());
        let noise = self.config.noise.draw(&x0)?;
        let mut maps = Vec::with_capacity(self.config.timesteps.len() * self.config.map.sites.len());
        for t in &self.config.timesteps {
            let alpha_bar = self.schedule.alpha_bar(*t)?;
            let mut x_t = (&x0 * alpha_bar.sqrt())?;
            if let Some(noise) = &noise {
                x_t = (x_t + (noise * (1.0 - alpha_bar).sqrt())?)?;
            }
            let steps = Tensor::full(*t as f32, batch, device)?;
            let mut collector = self.config.map.collector(tap);
            match self.denoiser.predict(&x_t, &steps, &cond, &mut collector) {
                Err(e) if !collector.stopped => return Err(e.into()),
                _ => maps.extend(self.config.map.maps(collector.seen, batch)?),
            }
        }
        Ok(self.config.map.join(&maps)?.to_dtype(DType::F32)?)
    }
}

impl<D: Denoiser> FeatureExtractor for DiffusionFeatures<D> {
    fn features(&self, images: &Tensor, tap: &mut dyn Tap) -> xdiff_core::Result<Tensor> {
        self.extract(images, tap).map_err(Into::into)
    }

    fn identity(&self) -> String {
        let DiffusionFeaturesConfig { map, timesteps, noise, condition_channels } = &self.config;
        let times: Vec<String> = timesteps.iter().map(usize::to_string).collect();
        let noise = match noise {
            FeatureNoise::None => "no noise".to_owned(),
            FeatureNoise::Fixed { seed } => format!("one noise map of seed {seed}"),
            FeatureNoise::PerImage { seed } => format!("noise by image of seed {seed}"),
        };
        format!(
            "{}: {} at t = {}, joined at {:?}, {noise}, {condition_channels} channels of condition",
            self.name,
            map.sites.join(" + "),
            times.join(", "),
            map.grid,
        )
    }
}
