//! ResNet-18 (He et al., 2016) for 1000 classes, trained.

use candle_core::{DType, Device, Tensor};
use xdiff::nn::layers::{
    Activation, BatchNorm2d, BatchNormConfig, Conv2d, Conv2dConfig, Linear, Mode, Pool2d,
    adaptive_avg_pool2d, add, max_pool2d,
};
use xdiff::nn::optim::{AdamW, AdamWConfig, backward};
use xdiff::nn::{Params, Result, Rng};
use xdiff_examples::AnyError;

use crate::op::{Op, Pass};
use crate::workload::{Prepared, Runner, timed};

const CLASSES: usize = 1000;
/// Channels after the first convolution.
const STEM: usize = 64;
/// (inputs, outputs, stride) of the residual blocks.
const BLOCKS: [(usize, usize, usize); 8] = [
    (64, 64, 1),
    (64, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 512, 2),
    (512, 512, 1),
];

/// Floating-point operations of a prediction.
pub(crate) fn flops(batch: usize, size: usize) -> u64 {
    let mut total = 0;
    let mut conv = |in_channels, out_channels, size, kernel, stride| {
        let op =
            Op::Conv2d { batch, in_channels, out_channels, size, kernel, stride, groups: 1, bias: false };
        total += op.flops(Pass::Forward);
        op.output()[2]
    };
    let mut side = conv(3, STEM, size, 7, 2).div_ceil(2);
    for (inputs, outputs, stride) in BLOCKS {
        let half = conv(inputs, outputs, side, 3, stride);
        conv(outputs, outputs, half, 3, 1);
        if stride > 1 {
            conv(inputs, outputs, side, 1, stride);
        }
        side = half;
    }
    total + Op::linear(batch, 1, BLOCKS[7].1, CLASSES).flops(Pass::Forward)
}

/// A training step: cross-entropy with AdamW.
///
/// # Errors
/// When the memory does not suffice.
pub(crate) fn prepare(batch: usize, size: usize) -> std::result::Result<Prepared, AnyError> {
    let params = Params::fresh(0, &Device::Cpu);
    let net = ResNet18::new(&params)?;
    let params = params.finish()?;
    let parameters = params.count();
    let mut rng = Rng::new(1);
    let x = rng.randn((batch, 3, size, size), &Device::Cpu)?;
    let classes: Vec<u32> = (0..batch).map(|_| rng.below(CLASSES) as u32).collect();
    let labels = one_hot(&classes)?;
    let config = AdamWConfig::default();
    let mut optimizer = AdamW::new(&params, config)?;
    let run: Runner = Box::new(move || {
        timed(|| {
            let loss = cross_entropy(&net.forward(&x)?, &labels)?;
            Ok(optimizer.step(&backward(&loss, &params)?, config.lr)?)
        })
    });
    Ok(Prepared { run, parameters })
}

fn one_hot(classes: &[u32]) -> Result<Tensor> {
    let classes = Tensor::new(classes, &Device::Cpu)?.unsqueeze(1)?;
    let all = Tensor::arange(0, CLASSES as u32, &Device::Cpu)?.unsqueeze(0)?;
    Ok(classes.broadcast_eq(&all)?.to_dtype(DType::F32)?)
}

/// The mean over the batch of log Σ exp(logits) minus the logit of the right class.
fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let right = (logits * labels)?.sum(1)?;
    Ok((logits.log_sum_exp(1)? - right)?.mean_all()?)
}

struct ResNet18 {
    stem: Normed,
    blocks: Vec<Block>,
    head: Linear,
}

impl ResNet18 {
    fn new(params: &Params) -> Result<Self> {
        let blocks = BLOCKS.iter().enumerate().map(|(i, (inputs, outputs, stride))| {
            Block::new(*inputs, *outputs, *stride, &params.at("blocks").at(i))
        });
        let stem = Conv2dConfig::new(3, STEM, 7).stride(2);
        Ok(Self {
            stem: Normed::new(stem, &params.at("stem"))?,
            blocks: blocks.collect::<Result<_>>()?,
            head: Linear::new(BLOCKS[7].1, CLASSES, true, &params.at("head"))?,
        })
    }

    /// x (B, 3, H, W) → (B, 1000).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.stem.forward(x, Activation::Relu)?;
        let mut x = max_pool2d(&x, &Pool2d { padding: (1, 1), ..Pool2d::new(3, 2) })?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.head.forward(&adaptive_avg_pool2d(&x, (1, 1))?.flatten_from(1)?)
    }
}

/// A convolution without bias, and batch norm.
struct Normed {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl Normed {
    fn new(config: Conv2dConfig, params: &Params) -> Result<Self> {
        let config = config.padding(config.kernel.0 / 2).bias(false);
        Ok(Self {
            conv: Conv2d::new(config, &params.at("conv"))?,
            norm: BatchNorm2d::new(config.out_channels, BatchNormConfig::default(), &params.at("norm"))?,
        })
    }

    fn forward(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        self.norm.forward_act(&self.conv.forward(x)?, Mode::Train, act)
    }
}

/// Two convolutions and a way past them.
struct Block {
    first: Normed,
    second: Normed,
    shortcut: Option<Normed>,
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, params: &Params) -> Result<Self> {
        let conv = |name: &str, inputs: usize, kernel: usize, stride: usize| {
            Normed::new(Conv2dConfig::new(inputs, outputs, kernel).stride(stride), &params.at(name))
        };
        Ok(Self {
            first: conv("first", inputs, 3, stride)?,
            second: conv("second", outputs, 3, 1)?,
            shortcut: if stride > 1 { Some(conv("shortcut", inputs, 1, stride)?) } else { None },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.first.forward(x, Activation::Relu)?;
        let y = self.second.forward(&y, Activation::Identity)?;
        let past = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, Activation::Identity)?,
            None => x.clone(),
        };
        Activation::Relu.apply(&add(&y, &past)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torchvision's `resnet18` has as many parameters, and states 1.814 billion multiply-adds.
    #[test]
    fn the_network_has_its_size() {
        let prepared = prepare(1, 32).unwrap();
        assert_eq!(prepared.parameters, 11_689_512);
        assert!((flops(1, 224) as f64 / 3.628e9 - 1.0).abs() < 1e-3, "{}", flops(1, 224));
    }

    #[test]
    fn a_step_lowers_the_loss() {
        let params = Params::fresh(0, &Device::Cpu);
        let net = ResNet18::new(&params).unwrap();
        let params = params.finish().unwrap();
        let x = Rng::new(1).randn((2, 3, 64, 64), &Device::Cpu).unwrap();
        let labels = one_hot(&[3, 999]).unwrap();
        let loss = || cross_entropy(&net.forward(&x).unwrap(), &labels).unwrap();
        let before = loss();
        let mut optimizer = AdamW::new(&params, AdamWConfig::default()).unwrap();
        optimizer.step(&backward(&before, &params).unwrap(), 1e-4).unwrap();
        let [before, after] = [before, loss()].map(|l| l.to_scalar::<f32>().unwrap());
        assert!(after < before, "{before} {after}");
    }
}
