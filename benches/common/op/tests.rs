use xdiff::nn::layers::Activation;

use super::*;

/// A small one of every kind.
fn small() -> Vec<Op> {
    let attention = |packed| Op::Attention { batch: 1, heads: 2, queries: 5, keys: 3, width: 4, packed };
    let pool = |kind, kernel| Op::Pool { kind, batch: 1, channels: 2, size: 6, kernel, stride: 2 };
    let conv = |stride, groups, bias| Op::Conv2d {
        batch: 2,
        in_channels: 4,
        out_channels: 8,
        size: 6,
        kernel: 3,
        stride,
        groups,
        bias,
    };
    vec![
        conv(1, 1, true),
        conv(2, 1, true),
        conv(1, 4, false),
        Op::linear(2, 3, 4, 5),
        Op::Linear { batch: 2, rows: 1, inputs: 4, outputs: 5, bias: false },
        attention(false),
        attention(true),
        Op::GroupNorm { batch: 1, channels: 4, size: 3, groups: 2, silu: true },
        Op::GroupNorm { batch: 1, channels: 4, size: 3, groups: 2, silu: false },
        Op::LayerNorm { batch: 1, rows: 2, width: 5 },
        Op::BatchNorm { batch: 2, channels: 3, size: 3, train: true },
        Op::BatchNorm { batch: 2, channels: 3, size: 3, train: false },
        Op::Activation { function: Activation::GeluTanh, shape: vec![2, 3] },
        Op::Geglu { batch: 2, rows: 3, width: 4 },
        Op::Softmax { shape: vec![2, 3] },
        Op::Upsample { batch: 1, channels: 2, size: 3 },
        pool(Pooling::Max, 3),
        pool(Pooling::Avg, 2),
        Op::NearestPatch { batch: 2, channels: 3, size: 4, vectors: 5 },
        Op::Add { shape: vec![2, 3] },
        Op::AddChannels { batch: 2, channels: 3, size: 2 },
        Op::Cat { batch: 1, channels: [2, 3], size: 2 },
        Op::AdamW { tensors: 3, values: 4 },
        Op::Ema { tensors: 3, values: 4 },
    ]
}

fn is_step(op: &Op) -> bool {
    matches!(op, Op::AdamW { .. } | Op::Ema { .. })
}

#[test]
fn every_operation_runs() {
    let mut failed = Vec::new();
    for op in small() {
        let passes: &[Pass] = if is_step(&op) { &[Pass::Step] } else { &[Pass::Forward, Pass::Backward] };
        for pass in passes {
            let ran = prepare(&op, *pass).and_then(|mut prepared| {
                (prepared.run)()?;
                (prepared.run)()?;
                Ok(prepared.parameters)
            });
            match ran {
                Ok(parameters) if parameters == op.parameters() => {}
                Ok(parameters) => {
                    failed.push(format!("{}: {parameters}, not {} parameters", op.name(), op.parameters()));
                }
                Err(error) => failed.push(format!("{}/{}: {error}", op.name(), pass.name())),
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn results_have_the_shape_that_is_counted() {
    use candle_core::{DType, Device, Tensor};
    use xdiff::nn::Params;

    let mut wrong = Vec::new();
    for op in small().into_iter().filter(|op| !is_step(op)) {
        let layer = layer(&op, &Params::fresh(0, &Device::Cpu)).unwrap();
        let inputs: Vec<Tensor> = op
            .inputs()
            .iter()
            .map(|s| Tensor::ones(s.as_slice(), DType::F32, &Device::Cpu).unwrap())
            .collect();
        let y = layer(&inputs).unwrap();
        if y.dims() != op.output() {
            wrong.push(format!("{}: {:?}, not {:?}", op.name(), y.dims(), op.output()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_pass_that_an_operation_lacks_is_an_error() {
    let (step, layer) = (Op::Ema { tensors: 1, values: 1 }, Op::Softmax { shape: vec![1] });
    for (op, pass) in [(&step, Pass::Forward), (&step, Pass::Backward), (&layer, Pass::Step)] {
        let error = prepare(op, pass).unwrap_err().to_string();
        assert!(error.contains(pass.name()), "{error}");
    }
}

#[test]
fn costs_are_those_counted_by_hand() {
    // 2 · 4 · 5² outputs of 3 · 3² products each, for 9² pixels and stride 2.
    let conv = Op::Conv2d {
        batch: 2,
        in_channels: 6,
        out_channels: 4,
        size: 9,
        kernel: 3,
        stride: 2,
        groups: 2,
        bias: true,
    };
    assert_eq!(conv.output(), [2, 4, 5, 5]);
    assert_eq!(conv.flops(Pass::Forward), 2 * 200 * 27);
    assert_eq!(conv.flops(Pass::Backward), 4 * 200 * 27);
    assert_eq!(conv.parameters(), 4 * 27 + 4);
    assert_eq!(conv.bytes(Pass::Forward), 4 * (2 * 6 * 81 + 112 + 200));
    assert_eq!(conv.name(), "conv2d/2x6-4x9^2_3x3_s2_g2");
    // Two products of 5 × 4 × 3 for each of two heads.
    let attention = Op::Attention { batch: 1, heads: 2, queries: 5, keys: 3, width: 4, packed: false };
    assert_eq!(attention.flops(Pass::Forward), 2 * 2 * 2 * 60);
    // 2 · 7 distances to 5² patches, of 3 products each.
    let nearest = Op::NearestPatch { batch: 2, channels: 3, size: 5, vectors: 7 };
    assert_eq!((nearest.flops(Pass::Forward), nearest.flops(Pass::Backward)), (2 * 14 * 25 * 3, 0));
    let silu = Op::Activation { function: Activation::Silu, shape: vec![3, 5] };
    assert_eq!((silu.flops(Pass::Forward), silu.bytes(Pass::Forward)), (0, 4 * 30));
    assert_eq!(silu.bytes(Pass::Backward), 4 * 45);
}
