//! All workloads, in the order of their tables.

use xdiff::metrics::SsimPreset;
use xdiff::nn::layers::Activation;
use xdiff::vision::Architecture;
use xdiff_examples::mri::preset::Preset;

use crate::metric::Metric;
use crate::op::{Op, Pass, Pooling};
use crate::push::Push;
use crate::stack::Stack;
use crate::unet::{Unet, UnetRun, reference};
use crate::vision::{Vision, VisionRun};
use crate::workload::Workload;

const STEPS: usize = 10;

/// All workloads.
pub fn all() -> Vec<Workload> {
    [models(), convolutions(), operations(), bf16(), vision(), metrics(), prototypes()].concat()
}

/// Networks, and the layers of larger ones.
pub fn models() -> Vec<Workload> {
    let runs = [UnetRun::Forward, UnetRun::Train, UnetRun::Sample { steps: STEPS }];
    let mut all = Vec::new();
    for preset in [Preset::quickstart(), Preset::small()] {
        all.extend(runs.map(|run| {
            let unet = Unet { unet: preset.unet.clone(), batch: preset.batch, size: preset.size, run };
            Workload::unet(&preset.name, unet)
        }));
    }
    all.extend(runs[..2].iter().map(|run| reference_unet(*run)));
    let large = Unet { unet: reference(), batch: 1, size: 256, run: UnetRun::Forward };
    all.push(Workload::unet("reference_256", large));
    all.push(Workload::stack("sd_unet_layers", Stack::unet(2, 64)));
    all.push(Workload::stack("sd_decoder_layers", Stack::decoder(64)));
    all
}

fn reference_unet(run: UnetRun) -> Workload {
    Workload::unet("reference", Unet { unet: reference(), batch: 8, size: 64, run })
}

/// The 3×3 convolutions of U-Nets and autoencoders by which kernels are compared.
fn usual_convolutions() -> Vec<Op> {
    let sizes = [
        (1, 64, 256),
        (1, 128, 128),
        (8, 128, 32),
        (8, 64, 64),
        (4, 320, 32),
        (1, 512, 64),
        (2, 1280, 8),
        (2, 640, 16),
    ];
    sizes.map(|(batch, channels, size)| Op::conv(batch, channels, channels, size, 3)).to_vec()
}

/// Convolutions, forward and backward.
pub fn convolutions() -> Vec<Workload> {
    let mut ops = usual_convolutions();
    ops.extend([
        Op::conv(8, 512, 512, 8, 3),
        Op::conv(8, 3, 64, 64, 3),
        Op::conv(8, 64, 3, 64, 3),
        Op::conv(8, 1, 64, 64, 3),
        Op::conv(8, 256, 128, 32, 1),
        Op::conv(2, 640, 640, 16, 1),
    ]);
    let others = [
        // (batch, inputs, outputs, size, window, stride, groups)
        (8, 64, 64, 64, 3, 2, 1),
        (4, 320, 320, 32, 3, 2, 1),
        (8, 3, 64, 224, 7, 2, 1),
        (8, 144, 144, 56, 3, 1, 144),
        (8, 256, 256, 32, 3, 1, 32),
    ];
    ops.extend(others.map(|(batch, in_channels, out_channels, size, kernel, stride, groups)| Op::Conv2d {
        batch,
        in_channels,
        out_channels,
        size,
        kernel,
        stride,
        groups,
        bias: true,
    }));
    both_passes(ops)
}

/// Operations other than convolutions: layers forward and backward, joins forward only (backward
/// they hand gradients on), and steps.
pub fn operations() -> Vec<Workload> {
    let mut ops = vec![
        Op::linear(2, 4096, 320, 320),
        Op::linear(2, 4096, 320, 2560),
        Op::linear(2, 256, 1280, 1280),
        Op::linear(2, 77, 768, 320),
        Op::linear(2, 1, 1280, 1280),
        Op::linear(8, 1, 512, 1000),
    ];
    let attentions = [
        // (batch, heads, queries, keys, width)
        (2, 8, 4096, 4096, 40),
        (2, 8, 1024, 1024, 80),
        (2, 8, 256, 256, 160),
        (2, 8, 4096, 77, 40),
        (8, 32, 256, 256, 8),
        (8, 4, 256, 256, 32),
        (1, 1, 4096, 4096, 512),
    ];
    ops.extend(attentions.map(|(batch, heads, queries, keys, width)| Op::Attention {
        batch,
        heads,
        queries,
        keys,
        width,
        packed: false,
    }));
    let group_norms =
        [(8, 64, 64, true), (8, 128, 32, true), (1, 64, 256, true), (1, 512, 64, true), (2, 320, 64, false)];
    ops.extend(group_norms.map(|(batch, channels, size, silu)| Op::GroupNorm {
        batch,
        channels,
        size,
        groups: 32,
        silu,
    }));
    ops.extend([(2, 4096, 320), (2, 256, 1280)].map(|(batch, rows, width)| Op::LayerNorm {
        batch,
        rows,
        width,
    }));
    ops.extend([false, true].map(|train| Op::BatchNorm { batch: 8, channels: 64, size: 56, train }));
    use Activation as A;
    ops.extend(
        [A::Silu, A::Gelu, A::GeluTanh, A::Relu, A::Mish]
            .map(|function| Op::Activation { function, shape: vec![8, 64, 64, 64] }),
    );
    ops.push(Op::Geglu { batch: 2, rows: 4096, width: 1280 });
    ops.push(Op::Softmax { shape: vec![16, 1024, 1024] });
    ops.push(Op::Upsample { batch: 8, channels: 128, size: 32 });
    ops.extend([(Pooling::Max, 64, 112, 3), (Pooling::Avg, 128, 64, 2)].map(
        |(kind, channels, size, kernel)| Op::Pool { kind, batch: 8, channels, size, kernel, stride: 2 },
    ));
    let mut all = both_passes(ops);
    let joins = [
        Op::Add { shape: vec![8, 64, 64, 64] },
        Op::AddChannels { batch: 8, channels: 64, size: 64 },
        Op::Cat { batch: 8, channels: [128, 64], size: 64 },
    ];
    all.extend(joins.map(|op| Workload::op(op, Pass::Forward)));
    // As many parameters as the reference U-Net has, in as many tensors.
    let (tensors, values) = (300, 88_576);
    all.extend(
        [Op::AdamW { tensors, values }, Op::Ema { tensors, values }].map(|op| Workload::op(op, Pass::Step)),
    );
    all
}

fn both_passes(ops: Vec<Op>) -> Vec<Workload> {
    ops.into_iter()
        .flat_map(|op| [Pass::Forward, Pass::Backward].map(|pass| Workload::op(op.clone(), pass)))
        .collect()
}

/// A U-Net and the usual convolutions in bf16, forward.
pub fn bf16() -> Vec<Workload> {
    let convolutions = usual_convolutions().into_iter().map(|op| Workload::op(op, Pass::Forward));
    std::iter::once(reference_unet(UnetRun::Forward)).chain(convolutions).map(Workload::bf16).collect()
}

/// Networks for classification, forward and a step of training.
pub fn vision() -> Vec<Workload> {
    use Architecture as A;
    let networks = [
        (A::ResNet18, 224),
        (A::ResNet50, 224),
        (A::Vgg16, 224),
        (A::AlexNet, 224),
        (A::DenseNet121, 224),
        (A::MobileNetV2, 224),
        (A::GoogLeNet, 224),
        (A::InceptionV3, 299),
        (A::SqueezeNet1_1, 224),
    ];
    let runs = |(architecture, size)| {
        [VisionRun::Forward, VisionRun::Train]
            .map(|run| Workload::vision(Vision { architecture, run, batch: 8, size }))
    };
    networks.into_iter().flat_map(runs).collect()
}

/// Metrics over images and features.
pub fn metrics() -> Vec<Workload> {
    let presets = [SsimPreset::Wang, SsimPreset::SkimageDefault, SsimPreset::Torchmetrics];
    let (vectors, dim) = (4096, 2048);
    let mut all = presets.map(|preset| Metric::Ssim { preset, images: 100, size: 512 }).to_vec();
    all.extend([Metric::Moments { vectors, dim }, Metric::Frechet { vectors, dim }]);
    all.into_iter().map(Workload::metric).collect()
}

/// Nearest patches and a projection, at the sizes of networks for 200 classes with 10 prototypes each.
pub fn prototypes() -> Vec<Workload> {
    let (channels, vectors) = (128, 2000);
    let mut all = both_passes(vec![
        Op::NearestPatch { batch: 80, channels, size: 7, vectors },
        Op::NearestPatch { batch: 8, channels, size: 14, vectors: 200 },
    ]);
    all.push(Workload::push(Push { images: 1000, at_once: 80, channels, size: 7, prototypes: vectors }));
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_names_are_the_same() {
        let all = all();
        let names: BTreeSet<&str> = all.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn every_workload_has_a_cost() {
        let free: Vec<String> =
            all().into_iter().filter(|w| w.flops == 0 && w.bytes == 0).map(|w| w.name).collect();
        assert!(free.is_empty(), "{free:?}");
    }

    #[test]
    fn the_reference_network_has_the_arithmetic_it_is_known_for() {
        let flops = reference_unet(UnetRun::Forward).flops as f64;
        assert!((flops / 143.8e9 - 1.0).abs() < 2e-3, "{flops}");
    }
}
