//! How fresh weights and biases are drawn.

use xdiff_nn::Init;
use xdiff_nn::layers::Conv2dConfig;

/// Of the weight and of the bias of a layer.
pub(crate) type Inits = (Init, Init);

/// PyTorch's default for both.
pub(crate) fn torch_default(fan_in: usize) -> Inits {
    (Init::torch_default(fan_in), Init::torch_default(fan_in))
}

/// A weight with this standard deviation, or PyTorch's default without one; the bias by PyTorch's
/// default.
pub(crate) fn normal_or_default(deviation: Option<f64>, fan_in: usize) -> Inits {
    let (weight, bias) = torch_default(fan_in);
    (deviation.map_or(weight, Init::Normal), bias)
}

/// Kaiming's uniform for the weight, zeros for the bias.
pub(crate) fn kaiming_uniform(fan_in: usize) -> Inits {
    (Init::kaiming_uniform(fan_in), Init::ZEROS)
}

/// The weight of a convolution without bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ConvInit {
    /// PyTorch's default.
    Default,
    /// Normal with this standard deviation.
    Normal(f64),
    /// Kaiming's normal by the inputs.
    KaimingFanIn,
    /// Kaiming's normal by the outputs.
    KaimingFanOut,
}

impl ConvInit {
    /// For a convolution of this form.
    pub(crate) fn weight(self, config: Conv2dConfig) -> Init {
        match self {
            Self::Default => Init::torch_default(config.fan_in()),
            Self::Normal(deviation) => Init::Normal(deviation),
            Self::KaimingFanIn => Init::kaiming_normal(config.fan_in()),
            Self::KaimingFanOut => Init::kaiming_normal(config.fan_out()),
        }
    }
}
