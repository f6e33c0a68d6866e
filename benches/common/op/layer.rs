//! Operations as functions of tensors, built of the layers that models use.

use candle_core::Tensor;
use xdiff::nn::layers::{
    Activation, AttentionOptions, BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig, GroupNorm, LayerNorm,
    Linear, Mode, Pool2d, add, attention, avg_pool2d, max_pool2d, nearest_patch, softmax_last_dim,
    upsample_nearest2d,
};
use xdiff::nn::{Init, Params, Result as NnResult};
use xdiff_examples::AnyError;

use super::{Op, Pooling};

/// An operation on the tensors of [`Op::inputs`].
pub(crate) type Layer = Box<dyn Fn(&[Tensor]) -> NnResult<Tensor>>;

const EPS: f64 = 1e-5;

/// The operation with parameters from `params`.
///
/// # Errors
/// When the sizes do not fit together, or the operation is no function of tensors.
pub(crate) fn layer(op: &Op, params: &Params) -> Result<Layer, AnyError> {
    Ok(match *op {
        Op::Conv2d { in_channels, out_channels, kernel, stride, groups, bias, .. } => {
            let config = Conv2dConfig::new(in_channels, out_channels, kernel)
                .padding(kernel / 2)
                .stride(stride)
                .groups(groups)
                .bias(bias);
            let conv = Conv2d::new(config, params)?;
            Box::new(move |x| conv.forward(&x[0]))
        }
        Op::Linear { inputs, outputs, bias, .. } => {
            let linear = Linear::new(inputs, outputs, bias, params)?;
            Box::new(move |x| linear.forward(&x[0]))
        }
        Op::Attention { heads, packed: true, .. } => Box::new(move |x| packed_attention(x, heads)),
        Op::Attention { packed: false, .. } => {
            Box::new(|x| attention(&x[0], &x[1], &x[2], &AttentionOptions::default()))
        }
        Op::GroupNorm { channels, groups, silu, .. } => {
            let norm = GroupNorm::new(groups, channels, EPS, params)?;
            let after = if silu { Activation::Silu } else { Activation::Identity };
            Box::new(move |x| norm.forward_act(&x[0], after))
        }
        Op::LayerNorm { width, .. } => {
            let norm = LayerNorm::new(width, EPS, params)?;
            Box::new(move |x| norm.forward(&x[0]))
        }
        Op::BatchNorm { channels, train, .. } => {
            let norm = BatchNorm2d::new(channels, BatchNormConfig::default(), params)?;
            let mode = if train { Mode::Train } else { Mode::Eval };
            Box::new(move |x| norm.forward(&x[0], mode))
        }
        Op::Activation { function, .. } => Box::new(move |x| function.apply(&x[0])),
        Op::Geglu { width, .. } => Box::new(move |x| {
            let (value, gate) = (x[0].narrow(2, 0, width)?, x[0].narrow(2, width, width)?);
            Ok((value * Activation::Gelu.apply(&gate)?)?)
        }),
        Op::Softmax { .. } => Box::new(|x| softmax_last_dim(&x[0])),
        Op::Upsample { size, .. } => Box::new(move |x| upsample_nearest2d(&x[0], (2 * size, 2 * size))),
        Op::Pool { kind, kernel, stride, .. } => {
            let padding = (kernel - 1) / 2;
            let pool = Pool2d { padding: (padding, padding), ..Pool2d::new(kernel, stride) };
            match kind {
                Pooling::Max => Box::new(move |x| max_pool2d(&x[0], &pool)),
                Pooling::Avg => Box::new(move |x| avg_pool2d(&x[0], &pool)),
            }
        }
        Op::NearestPatch { channels, vectors, .. } => {
            let vectors = params.weight("vectors", (vectors, channels), Init::Unit)?;
            Box::new(move |x| Ok(nearest_patch(&x[0], &vectors)?.0))
        }
        Op::Add { .. } | Op::AddChannels { .. } => Box::new(|x| add(&x[0], &x[1])),
        Op::Cat { .. } => Box::new(|x| Ok(Tensor::cat(x, 1)?)),
        Op::AdamW { .. } | Op::Ema { .. } => {
            return Err(format!("`{}` is a step, not a layer", op.name()).into());
        }
    })
}

/// Attention between projections: heads are parted before and joined after.
fn packed_attention(x: &[Tensor], heads: usize) -> NnResult<Tensor> {
    let part = |t: &Tensor| -> NnResult<Tensor> {
        let (batch, rows, width) = t.dims3()?;
        Ok(t.reshape((batch, rows, heads, width / heads))?.transpose(1, 2)?)
    };
    let y = attention(&part(&x[0])?, &part(&x[1])?, &part(&x[2])?, &AttentionOptions::default())?;
    Ok(y.transpose(1, 2)?.flatten_from(2)?)
}
