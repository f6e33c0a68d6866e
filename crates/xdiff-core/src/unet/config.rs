//! The configuration of the pixel U-Net.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xdiff_nn::layers::Activation;

use crate::{Error, Result};

/// A stage on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks, then a strided convolution.
    #[serde(rename = "DownBlock2D")]
    Plain,
    /// Residual blocks each followed by self-attention.
    #[serde(rename = "AttnDownBlock2D")]
    Attention,
    /// Residual blocks, then a residual block that halves the size.
    #[serde(rename = "ResnetDownsampleBlock2D")]
    Resnet,
}

/// The stage between down and up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlock {
    /// Residual block, self-attention, residual block.
    #[default]
    #[serde(rename = "UNetMidBlock2D")]
    Attention,
}

/// A stage on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks, then nearest upsampling and a convolution.
    #[serde(rename = "UpBlock2D")]
    Plain,
    /// Residual blocks each followed by self-attention.
    #[serde(rename = "AttnUpBlock2D")]
    Attention,
    /// Residual blocks, then a residual block that doubles the size.
    #[serde(rename = "ResnetUpsampleBlock2D")]
    Resnet,
}

/// How the attention stages change the size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resampling {
    /// A convolution.
    #[default]
    Conv,
    /// A residual block.
    Resnet,
}

/// How a time step becomes a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeEmbedding {
    /// Sines and cosines at fixed frequencies.
    #[default]
    Positional,
    /// Sines and cosines of log t at random frequencies; the output is divided by t.
    Fourier,
    /// A table of `num_train_timesteps` rows.
    Learned,
}

/// How the time vector enters a residual block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added before the second normalisation.
    #[default]
    Default,
    /// As scale and shift after the second normalisation.
    ScaleShift,
}

/// How a class becomes a vector, where not by a table of `num_class_embeds` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassEmbedding {
    /// Embedded as a time step is.
    Timestep,
    /// Given as a vector of the width of the time embedding.
    Identity,
}

/// The configuration of [`UNet2D`](super::UNet2D): keys and defaults are those of diffusers'
/// `UNet2DModel`, so that its `config.json` can be read and ours can be read there.
///
/// ```
/// use xdiff_core::unet::UNet2DConfig;
///
/// let config = UNet2DConfig::from_diffusers(&serde_json::json!({
///     "_class_name": "UNet2DModel", "sample_size": 64, "in_channels": 2, "out_channels": 1,
///     "block_out_channels": [32, 64], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
///     "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 8,
/// }))?;
/// assert_eq!(config.time_width(), 128);
/// # Ok::<(), xdiff_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DConfig {
    /// Side, or (height, width), of the images that the model was made for; any size that the
    /// stages can halve is accepted.
    pub sample_size: Option<SampleSize>,
    /// Channels that come in, joined conditioning included.
    pub in_channels: usize,
    /// Channels that go out.
    pub out_channels: usize,
    /// Whether the input is first mapped from [0, 1] to [−1, 1].
    pub center_input_sample: bool,
    /// How a time step becomes a vector.
    pub time_embedding_type: TimeEmbedding,
    /// Width of the time vector; four times the first stage when absent.
    pub time_embedding_dim: Option<usize>,
    /// Subtracted from the number of frequencies in the exponent of the positional embedding.
    pub freq_shift: f64,
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    /// The stages on the way down.
    pub down_block_types: Vec<DownBlock>,
    /// The stage between; none when absent.
    pub mid_block_type: Option<MidBlock>,
    /// The stages on the way up.
    pub up_block_types: Vec<UpBlock>,
    /// Channels of each stage.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in each stage down; one more on the way up.
    pub layers_per_block: usize,
    /// Divisor of the sums in the middle stage.
    pub mid_block_scale_factor: f64,
    /// Padding of the strided convolutions; 0 pads the right and lower edge by one.
    pub downsample_padding: usize,
    /// How attention stages halve the size.
    pub downsample_type: Resampling,
    /// How attention stages double the size.
    pub upsample_type: Resampling,
    /// Share of activations dropped in training.
    pub dropout: f64,
    /// The activation of the residual blocks.
    pub act_fn: Activation,
    /// Width of one attention head; one head for all channels when absent.
    pub attention_head_dim: Option<usize>,
    /// Groups of the normalisations.
    pub norm_num_groups: usize,
    /// Groups of the middle attention's normalisation, where it differs.
    pub attn_norm_num_groups: Option<usize>,
    /// ε of the normalisations.
    pub norm_eps: f64,
    /// How the time vector enters a residual block.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether the middle stage attends.
    pub add_attention: bool,
    /// How a class becomes a vector, where not by a table.
    pub class_embed_type: Option<ClassEmbedding>,
    /// Rows of the class table.
    pub num_class_embeds: Option<usize>,
    /// Rows of the learned time table.
    pub num_train_timesteps: Option<usize>,
}

/// A side or a (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SampleSize {
    /// Height and width alike.
    Square(usize),
    /// Height, width.
    Rect(usize, usize),
}

impl Default for UNet2DConfig {
    fn default() -> Self {
        use DownBlock as D;
        use UpBlock as U;
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbedding::Positional,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: vec![D::Plain, D::Attention, D::Attention, D::Attention],
            mid_block_type: Some(MidBlock::Attention),
            up_block_types: vec![U::Attention, U::Attention, U::Attention, U::Plain],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: Resampling::Conv,
            upsample_type: Resampling::Conv,
            dropout: 0.0,
            act_fn: Activation::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
        }
    }
}

impl UNet2DConfig {
    /// Reads a diffusers `config.json`, passing over keys that this model has no use for.
    ///
    /// # Errors
    /// [`Error::Config`] when a value has the wrong type, names a block that is not implemented,
    /// or does not [`validate`](Self::validate).
    pub fn from_diffusers(json: &Value) -> Result<Self> {
        let Value::Object(given) = json else {
            return Err(Error::config("config.json", "must be a JSON object"));
        };
        let Ok(Value::Object(mut known)) = serde_json::to_value(Self::default()) else {
            return Err(Error::config("config.json", "the defaults cannot be written as JSON"));
        };
        for (key, value) in &mut known {
            if let Some(v) = given.get(key) {
                *value = v.clone();
            }
        }
        let config: Self = serde_json::from_value(Value::Object(known))
            .map_err(|e| Error::config("config.json", e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Width of the time vector.
    pub fn time_width(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    /// What height and width must be multiples of.
    pub fn size_multiple(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(usize::BITS as usize - 1)
    }

    /// Checks that the values fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let stages = self.block_out_channels.len();
        if stages == 0 || stages > 16 {
            return Err(Error::config(
                "block_out_channels",
                format!("has {stages} stages, must have 1 to 16"),
            ));
        }
        if self.down_block_types.len() != stages {
            return Err(Error::config(
                "down_block_types",
                format!("has {} entries, block_out_channels has {stages}", self.down_block_types.len()),
            ));
        }
        if self.up_block_types.len() != stages {
            return Err(Error::config(
                "up_block_types",
                format!("has {} entries, block_out_channels has {stages}", self.up_block_types.len()),
            ));
        }
        for (field, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
            ("attn_norm_num_groups", self.attn_norm_num_groups.unwrap_or(1)),
            ("time_embedding_dim", self.time_width()),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1)),
        ] {
            if value == 0 || value > 1 << 20 {
                return Err(Error::config(field, format!("is {value}, must be 1 to 1048576")));
            }
        }
        for c in &self.block_out_channels {
            if *c == 0 || *c > 1 << 20 || c % self.norm_num_groups != 0 {
                let groups = self.norm_num_groups;
                return Err(Error::config(
                    "block_out_channels",
                    format!("{c} channels cannot be normalised in norm_num_groups = {groups} groups"),
                ));
            }
            if let Some(width) = self.attention_head_dim
                && (width == 0 || width > *c)
            {
                return Err(Error::config(
                    "attention_head_dim",
                    format!("is {width}, a stage has {c} channels"),
                ));
            }
        }
        let last = self.block_out_channels[stages - 1];
        if let Some(groups) = self.attn_norm_num_groups
            && !last.is_multiple_of(groups)
        {
            return Err(Error::config(
                "attn_norm_num_groups",
                format!("{groups} does not divide {last} channels"),
            ));
        }
        if self.time_embedding_type == TimeEmbedding::Positional && self.block_out_channels[0] < 2 {
            return Err(Error::config(
                "block_out_channels",
                "a positional time embedding needs at least 2 channels",
            ));
        }
        if self.time_embedding_type == TimeEmbedding::Learned && self.num_train_timesteps.unwrap_or(0) == 0 {
            return Err(Error::config("num_train_timesteps", "must be given for a learned time embedding"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::config("dropout", format!("is {}, must lie in [0, 1)", self.dropout)));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return Err(Error::config("norm_eps", format!("is {}, must be positive", self.norm_eps)));
        }
        if !(self.mid_block_scale_factor.is_finite() && self.mid_block_scale_factor != 0.0) {
            return Err(Error::config("mid_block_scale_factor", "must be a finite number other than 0"));
        }
        if self.downsample_padding > 1 {
            return Err(Error::config(
                "downsample_padding",
                format!("is {}, must be 0 or 1", self.downsample_padding),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_diffusers_and_passes_over_what_it_does_not_know() {
        let c = UNet2DConfig::from_diffusers(&json!({
            "_diffusers_version": "0.42", "attention_head_dim": null, "resnet_time_scale_shift": "scale_shift",
            "act_fn": "swish", "sample_size": [32, 48],
        }))
        .unwrap();
        assert_eq!(c.attention_head_dim, None);
        assert_eq!(c.resnet_time_scale_shift, TimeScaleShift::ScaleShift);
        assert_eq!(c.act_fn, Activation::Silu);
        assert_eq!(c.size_multiple(), 8);
    }

    #[test]
    fn our_own_configuration_is_read_strictly() {
        assert!(serde_json::from_value::<UNet2DConfig>(json!({ "in_chanels": 1 })).is_err());
        let c = UNet2DConfig::default();
        let back: UNet2DConfig = serde_json::from_value(serde_json::to_value(&c).unwrap()).unwrap();
        assert_eq!(back, c);
    }

    #[test]
    fn bad_values_name_their_field() {
        let cases = [
            (json!({ "block_out_channels": [] }), "block_out_channels"),
            (json!({ "down_block_types": ["DownBlock2D"] }), "down_block_types"),
            (json!({ "up_block_types": ["UpBlock2D"] }), "up_block_types"),
            (json!({ "in_channels": 0 }), "in_channels"),
            (json!({ "norm_num_groups": 31 }), "block_out_channels"),
            (json!({ "attention_head_dim": 0 }), "attention_head_dim"),
            (json!({ "attn_norm_num_groups": 5 }), "attn_norm_num_groups"),
            (json!({ "dropout": 1.0 }), "dropout"),
            (json!({ "norm_eps": 0.0 }), "norm_eps"),
            (json!({ "mid_block_scale_factor": 0.0 }), "mid_block_scale_factor"),
            (json!({ "downsample_padding": 2 }), "downsample_padding"),
            (json!({ "time_embedding_type": "learned" }), "num_train_timesteps"),
            (json!({ "down_block_types": ["KDownBlock2D"] }), "config.json"),
            (json!([1]), "config.json"),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(json, field)| {
                !matches!(UNet2DConfig::from_diffusers(json), Err(Error::Config { field: f, .. }) if f == *field)
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
