//! What is not tracked costs no gradient.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor, Var};

use super::compare::randn;
use super::*;
use crate::{Init, Params, Result, Rng};

type Layer = fn(&Params, &Tensor) -> Result<Tensor>;

/// Every layer, on images (2, 4, 6, 6).
const LAYERS: [(&str, Layer); 21] = [
    ("convolution", |p, x| Conv2d::new(Conv2dConfig::new(4, 3, 3).padding(1), p)?.forward(x)),
    ("pointwise convolution", |p, x| Conv2d::new(Conv2dConfig::new(4, 3, 1), p)?.forward(x)),
    ("convolution without bias", |p, x| {
        Conv2d::new(Conv2dConfig::new(4, 3, 3).stride(2).bias(false), p)?.forward(x)
    }),
    ("convolution in groups", |p, x| Conv2d::new(Conv2dConfig::new(4, 4, 3).groups(4), p)?.forward(x)),
    ("linear", |p, x| Linear::new(6, 5, true, p)?.forward(x)),
    ("linear without bias", |p, x| Linear::new(6, 5, false, p)?.forward(x)),
    ("group norm", |p, x| GroupNorm::new(2, 4, 1e-5, p)?.forward_act(x, Activation::Silu)),
    ("group norm, other activation", |p, x| GroupNorm::new(2, 4, 1e-5, p)?.forward_act(x, Activation::Mish)),
    ("layer norm", |p, x| LayerNorm::new(6, 1e-5, p)?.forward(x)),
    ("batch norm, training", |p, x| {
        BatchNorm2d::new(4, BatchNormConfig::default(), p)?.forward(x, Mode::Train)
    }),
    ("batch norm", |p, x| BatchNorm2d::new(4, BatchNormConfig::default(), p)?.forward(x, Mode::Eval)),
    ("attention to learnt keys and values", |p, x| {
        let learnt = |name| p.weight(name, (2, 4, 3, 6), Init::Normal(1.0));
        attention(x, &learnt("k")?, &learnt("v")?, &AttentionOptions::default())
    }),
    ("attention of learnt queries", |p, x| {
        attention(&p.weight("q", (2, 4, 3, 6), Init::Normal(1.0))?, x, x, &AttentionOptions::default())
    }),
    ("activation", |_, x| Activation::Gelu.apply(x)),
    ("softmax", |_, x| softmax(x, 1)),
    ("largest", |_, x| max_pool2d(x, &Pool2d::new(2, 2))),
    ("mean", |_, x| avg_pool2d(x, &Pool2d::new(3, 2))),
    ("nearest", |_, x| upsample_nearest2d(x, (9, 12))),
    ("bilinear", |_, x| upsample_bilinear2d(x, (9, 4), true)),
    ("bicubic", |_, x| upsample_bicubic2d(x, (9, 4), false)),
    ("dropout", |_, x| dropout(x, 0.3, &mut Rng::new(1))),
];

/// What a backward pass of the layer leaves gradients for, and what it should: candle keeps those of
/// variables and any that an operation made in vain.
fn gradients(layer: Layer, frozen: bool) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let scope = Params::fresh(1, &Device::Cpu).freeze(move |_| frozen);
    let x = randn(2, &[2, 4, 6, 6]);
    let x = if frozen { Var::from_tensor(&x)?.into_inner() } else { x };
    let y = layer(&scope, &x)?;
    let params = scope.finish()?;
    let mut expected: BTreeSet<String> = params.trainable().map(|(_, v)| format!("{:?}", v.id())).collect();
    if frozen {
        expected.insert(format!("{:?}", x.id()));
    }
    if expected.is_empty() {
        assert!(!y.track_op());
        return Ok(Default::default());
    }
    let store = y.sum_all()?.backward()?;
    Ok((store.get_ids().map(|id| format!("{id:?}")).collect(), expected))
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    let mut wrong = Vec::new();
    for (name, layer) in LAYERS {
        for frozen in [true, false] {
            match gradients(layer, frozen) {
                Ok((found, expected)) if found == expected => {}
                other => wrong.push(format!("{name}, frozen {frozen}: {other:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_frozen_table_has_no_graph() {
    let ids = Tensor::new(&[0u32, 2], &Device::Cpu).unwrap();
    for frozen in [true, false] {
        let scope = Params::fresh(1, &Device::Cpu).freeze(move |_| frozen);
        let y = Embedding::new(3, 4, &scope).unwrap().forward(&ids).unwrap();
        assert_eq!(y.track_op(), !frozen);
    }
}
