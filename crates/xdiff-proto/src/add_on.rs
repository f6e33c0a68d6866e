//! The layers between the features of a backbone and the prototypes.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_nn::layers::{Activation, Conv2d, Conv2dConfig};
use xdiff_nn::tap::visit;
use xdiff_nn::{Init, Params, Tap};

use crate::{Error, Result};

/// Which 1×1 convolutions turn features into the space of the prototypes. All but
/// [`None`](AddOn::None) end in a sigmoid, so that patches lie in (0, 1) and squared distances below
/// the width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddOn {
    /// None: prototypes live among the features themselves, whose width is theirs.
    None,
    /// One convolution and a sigmoid, as in ProtoPool's released code.
    Single,
    /// A convolution to the width of the prototypes, ReLU, another one, sigmoid: ProtoPNet's
    /// `regular` layers, which its released settings ask for.
    #[default]
    Regular,
    /// Pairs of convolutions that halve the width until it is that of the prototypes, with ReLU
    /// between and a sigmoid at the end: ProtoPNet's `bottleneck` layers.
    Bottleneck,
}

impl AddOn {
    /// The channels into and out of each convolution, first to last.
    pub fn widths(self, channels: usize, width: usize) -> Vec<(usize, usize)> {
        match self {
            AddOn::None => Vec::new(),
            AddOn::Single => vec![(channels, width)],
            AddOn::Regular => vec![(channels, width), (width, width)],
            AddOn::Bottleneck => {
                let mut widths = Vec::new();
                let mut current = channels;
                while current > width || widths.is_empty() {
                    let next = width.max(current / 2);
                    widths.extend([(current, next), (next, next)]);
                    current /= 2;
                }
                widths
            }
        }
    }

    /// Checks that the widths fit.
    ///
    /// # Errors
    /// [`Error::Config`] for a width of 0, and for prototypes of another width than the features'
    /// where no layer lies between.
    pub fn validate(self, channels: usize, width: usize) -> Result<()> {
        if channels == 0 {
            return Err(Error::config("channels", "is 0, must be that of the features"));
        }
        if width == 0 {
            return Err(Error::config("width", "is 0, must be at least 1"));
        }
        if self == AddOn::None && channels != width {
            let reason =
                format!("is {width}, but without add-on layers it is that of the features, {channels}");
            return Err(Error::config("width", reason));
        }
        Ok(())
    }
}

/// The add-on layers with their parameters: `0.weight`, `0.bias`, `2.weight` and so on, as in the
/// published files. Sites: `add_on_layers.0`, `add_on_layers.1` …
#[derive(Clone, Debug)]
pub(crate) struct AddOnLayers {
    layers: Vec<AddOnLayer>,
}

#[derive(Clone, Debug)]
struct AddOnLayer {
    conv: Conv2d,
    conv_site: String,
    activation_site: String,
}

impl AddOnLayers {
    /// Fresh weights are Kaiming normal over the outputs, biases 0, as published.
    pub(crate) fn new(kind: AddOn, channels: usize, width: usize, params: &Params) -> Result<Self> {
        kind.validate(channels, width)?;
        let layer = |(i, (inputs, outputs)): (usize, (usize, usize))| -> Result<AddOnLayer> {
            let scope = params.at(2 * i);
            let inits = (Init::kaiming_normal(outputs), Init::ZEROS);
            let conv = Conv2d::with_inits(Conv2dConfig::new(inputs, outputs, 1), inits, &scope)?;
            let conv_site = scope.path().to_owned();
            Ok(AddOnLayer { conv, conv_site, activation_site: params.full(2 * i + 1) })
        };
        let layers =
            kind.widths(channels, width).into_iter().enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// (B, channels, h, w) → (B, width, h, w).
    pub(crate) fn forward(&self, features: &Tensor, tap: &mut dyn Tap) -> Result<Tensor> {
        let mut x = features.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = visit(tap, &layer.conv_site, layer.conv.forward(&x)?)?;
            x = if i + 1 == self.layers.len() { sigmoid(&x)? } else { Activation::Relu.apply(&x)? };
            x = visit(tap, &layer.activation_site, x)?;
        }
        Ok(x)
    }
}

/// 1/(1 + e⁻ˣ), as (1 + tanh(x/2))/2: neither it nor its slope overflows.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x * 0.5)?.tanh()?.affine(0.5, 0.5)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn widths_are_those_of_the_published_code() {
        let cases: [(_, _, _, &[(usize, usize)]); 8] = [
            (AddOn::None, 64, 64, &[]),
            (AddOn::Single, 2048, 256, &[(2048, 256)]),
            (AddOn::Regular, 512, 128, &[(512, 128), (128, 128)]),
            (AddOn::Bottleneck, 512, 512, &[(512, 512), (512, 512)]),
            (AddOn::Bottleneck, 64, 128, &[(64, 128), (128, 128)]),
            (AddOn::Bottleneck, 512, 128, &[(512, 256), (256, 256), (256, 128), (128, 128)]),
            (AddOn::Bottleneck, 300, 128, &[(300, 150), (150, 150), (150, 128), (128, 128)]),
            (AddOn::Bottleneck, 2, 1, &[(2, 1), (1, 1)]),
        ];
        for (kind, channels, width, wanted) in cases {
            assert_eq!(kind.widths(channels, width), wanted, "{kind:?} {channels} {width}");
        }
    }

    #[test]
    fn widths_that_do_not_fit_are_errors() {
        for (kind, channels, width) in [(AddOn::None, 4, 3), (AddOn::Regular, 0, 3), (AddOn::Single, 3, 0)] {
            assert!(matches!(kind.validate(channels, width), Err(Error::Config { .. })), "{kind:?}");
        }
    }

    #[test]
    fn the_sigmoid_and_its_slope_are_finite_everywhere() {
        let x = Var::new(&[-1e30f32, -200.0, -1.0, 0.0, 2.0, 1e30], &Device::Cpu).unwrap();
        let y = sigmoid(&x).unwrap();
        let slope = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec1::<f32>().unwrap();
        let y = y.to_vec1::<f32>().unwrap();
        for (i, x) in [-1e30f64, -200.0, -1.0, 0.0, 2.0, 1e30].into_iter().enumerate() {
            let s = 1.0 / (1.0 + (-x).exp());
            assert!((f64::from(y[i]) - s).abs() < 1e-7, "{x}: {}", y[i]);
            assert!((f64::from(slope[i]) - s * (1.0 - s)).abs() < 1e-7, "{x}: slope {}", slope[i]);
        }
    }
}
