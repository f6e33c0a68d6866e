//! Two-dimensional convolution.

mod geometry;
mod op;
mod plain;
#[cfg(test)]
mod tests;

use candle_core::Tensor;

pub use geometry::{ConvGeometry, Padding};
pub(crate) use geometry::{ConvShape, count};

use crate::compute::use_kernel;
use crate::kernels::conv::KeptWeights;
use crate::params::{Init, Params};
use crate::{Error, Result};

/// What a [`Conv2d`] is made of. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Size of the window.
    pub kernel: (usize, usize),
    /// Steps between neighbouring windows.
    pub stride: (usize, usize),
    /// Zeros around the input.
    pub padding: Padding,
    /// Steps between neighbouring taps of one window.
    pub dilation: (usize, usize),
    /// Into how many independent convolutions the channels are divided.
    pub groups: usize,
    /// Whether a learnt number is added to each output channel.
    pub bias: bool,
}

impl Conv2dConfig {
    /// A square window with stride 1, no padding, one group, and a bias.
    pub const fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel: (kernel, kernel),
            stride: (1, 1),
            padding: Padding::symmetric(0, 0),
            dilation: (1, 1),
            groups: 1,
            bias: true,
        }
    }

    /// The same steps in both directions.
    pub const fn stride(mut self, stride: usize) -> Self {
        self.stride = (stride, stride);
        self
    }

    /// As many zeros on all four sides.
    pub const fn padding(mut self, padding: usize) -> Self {
        self.padding = Padding::symmetric(padding, padding);
        self
    }

    /// A window of `height` rows and `width` columns.
    pub const fn kernel_hw(mut self, height: usize, width: usize) -> Self {
        self.kernel = (height, width);
        self
    }

    /// `rows` of zeros above and below, `columns` on both sides.
    pub const fn padding_hw(mut self, rows: usize, columns: usize) -> Self {
        self.padding = Padding::symmetric(rows, columns);
        self
    }

    /// Zeros side by side.
    pub const fn pad4(mut self, top: usize, bottom: usize, left: usize, right: usize) -> Self {
        self.padding = Padding { top, bottom, left, right };
        self
    }

    /// The same distance between taps in both directions.
    pub const fn dilation(mut self, dilation: usize) -> Self {
        self.dilation = (dilation, dilation);
        self
    }

    /// The number of groups.
    pub const fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Whether there is a bias.
    pub const fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// How the window moves.
    pub const fn geometry(&self) -> ConvGeometry {
        ConvGeometry {
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
            groups: self.groups,
        }
    }

    /// Checks that all sizes are positive and that the groups divide the channels.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the field.
    pub fn validate(&self) -> Result<()> {
        self.geometry().validate()?;
        let sizes = [
            ("convolution in_channels", self.in_channels),
            ("convolution out_channels", self.out_channels),
            ("convolution kernel", self.kernel.0.min(self.kernel.1)),
        ];
        for (what, size) in sizes {
            if size == 0 {
                return Err(Error::argument(what, "must be at least 1"));
            }
        }
        for (what, channels) in &sizes[..2] {
            if channels % self.groups != 0 {
                return Err(Error::argument(
                    what,
                    format!("{channels} channels cannot be divided into {} groups", self.groups),
                ));
            }
        }
        count("conv2d", &[self.out_channels, self.in_channels, self.kernel.0, self.kernel.1])?;
        Ok(())
    }

    /// How many inputs one output value sums: input channels of a group × taps.
    pub const fn fan_in(&self) -> usize {
        self.in_channels / self.groups * self.kernel.0 * self.kernel.1
    }

    /// Output channels × taps, as PyTorch counts the outputs that one input reaches.
    pub const fn fan_out(&self) -> usize {
        self.out_channels * self.kernel.0 * self.kernel.1
    }
}

/// A learnt two-dimensional convolution; see [`conv2d`] for what it computes.
///
/// Parameters, under PyTorch's names: `weight` (O, I/groups, kh, kw) and `bias` (O).
///
/// ```
/// use candle_core::Device;
/// use xdiff_nn::layers::{Conv2d, Conv2dConfig};
/// use xdiff_nn::{Params, Rng};
///
/// let params = Params::fresh(7, &Device::Cpu);
/// let conv = Conv2d::new(Conv2dConfig::new(3, 8, 3).stride(2).padding(1), &params.at("conv_in"))?;
/// let x = Rng::new(1).randn((2, 3, 15, 20), &Device::Cpu)?;
/// assert_eq!(conv.forward(&x)?.dims(), [2, 8, 8, 10]);
/// # Ok::<(), xdiff_nn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Conv2d {
    config: Conv2dConfig,
    weight: Tensor,
    bias: Option<Tensor>,
    kept: KeptWeights,
}

impl Conv2d {
    /// A convolution with PyTorch's default initialisation: uniform in ±1/√fan_in.
    ///
    /// # Errors
    /// When the configuration is invalid, or as [`Params::weight`].
    pub fn new(config: Conv2dConfig, params: &Params) -> Result<Self> {
        config.validate()?;
        Self::with_init(config, Init::torch_default(config.fan_in()), params)
    }

    /// A convolution whose weight is drawn as given; the bias is drawn the same way.
    ///
    /// # Errors
    /// As [`Conv2d::new`].
    pub fn with_init(config: Conv2dConfig, init: Init, params: &Params) -> Result<Self> {
        Self::with_inits(config, (init, init), params)
    }

    /// A convolution whose weight and bias are drawn as given, each in its way.
    ///
    /// # Errors
    /// As [`Conv2d::new`].
    pub fn with_inits(config: Conv2dConfig, (weight, bias): (Init, Init), params: &Params) -> Result<Self> {
        config.validate()?;
        let (kh, kw) = config.kernel;
        let shape = (config.out_channels, config.in_channels / config.groups, kh, kw);
        let weight = params.weight("weight", shape, weight)?;
        let bias = if config.bias { Some(params.weight("bias", config.out_channels, bias)?) } else { None };
        Ok(Self { config, weight, bias, kept: KeptWeights::default() })
    }

    /// The convolution of `x`.
    ///
    /// # Shapes
    /// (B, I, H, W) → (B, O, H', W').
    ///
    /// # Errors
    /// As [`conv2d`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (w, b) = (&self.weight, self.bias.as_ref());
        conv2d_with(x, w, b, &self.config.geometry(), Some(&self.kept))
    }

    /// What the layer is made of.
    pub fn config(&self) -> &Conv2dConfig {
        &self.config
    }

    /// The weight (O, I/groups, kh, kw).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias (O).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

/// Two-dimensional convolution (cross-correlation, as in PyTorch) over an input padded with zeros:
///
/// `y[b, o, i, j] = bias[o] + Σ over c, u, v of w[o, c, u, v] · x[b, c, i·s + u·d − top, j·s + v·d − left]`
///
/// with stride s and dilation d per axis and c over the channels of o's group.
///
/// # Shapes
/// `x` (B, I, H, W), `w` (O, I/groups, kh, kw), `b` (O) → (B, O, H', W') with
/// H' = ⌊(H + top + bottom − d·(kh − 1) − 1)/s⌋ + 1, W' likewise. B may be 0.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit each other or the window does not fit the padded
/// image, [`Error::Argument`] when the geometry is invalid.
pub fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, geometry: &ConvGeometry) -> Result<Tensor> {
    conv2d_with(x, w, b, geometry, None)
}

fn conv2d_with(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    geometry: &ConvGeometry,
    kept: Option<&KeptWeights>,
) -> Result<Tensor> {
    let shape = ConvShape::new(x.dims(), w.dims(), b.map(Tensor::dims), geometry)?;
    let tensors = [Some(x), Some(w), b];
    let tensors: Vec<&Tensor> = tensors.into_iter().flatten().collect();
    if use_kernel(&tensors) { op::conv2d(x, w, b, shape, kept) } else { plain::conv2d(x, w, b, &shape) }
}
