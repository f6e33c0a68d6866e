//! The layers of Stable Diffusion 1's networks (Rombach et al., 2022) in diffusers' arrangement.

use xdiff::nn::layers::Activation;

use super::Stack;
use crate::op::Op;

/// Groups of every group norm.
const GROUPS: usize = 32;
/// Width of the time embedding.
const TIME: usize = 1280;
/// Heads of the U-Net's attention.
const HEADS: usize = 8;
/// Numbers of an embedded word.
const WORD: usize = 768;
/// Words of a prompt.
const WORDS: usize = 77;
/// Channels of a latent image.
const LATENT: usize = 4;

impl Stack {
    /// The conditional U-Net, which predicts the noise of `batch` latent images of `size`² pixels.
    pub fn unet(batch: usize, size: usize) -> Self {
        let channels = [320, 640, 1280, 1280];
        let mut net = Builder { stack: Self::default(), batch, time: Some(TIME) };
        net.linear(1, channels[0], TIME, true);
        net.activation(vec![batch, TIME]);
        net.linear(1, TIME, TIME, true);

        let (mut width, mut side) = (channels[0], size);
        net.conv(LATENT, width, side, 3);
        let mut skips = vec![width];
        for (stage, &c) in channels.iter().enumerate() {
            for _ in 0..2 {
                net.resnet(width, c, side);
                if stage < 3 {
                    net.transformer(c, side);
                }
                width = c;
                skips.push(c);
            }
            if stage < 3 {
                net.downsample(c, side);
                side /= 2;
                skips.push(c);
            }
        }
        net.resnet(width, width, side);
        net.transformer(width, side);
        net.resnet(width, width, side);
        for (stage, &c) in channels.iter().enumerate().rev() {
            for _ in 0..3 {
                let skip = skips.pop().unwrap_or_default();
                net.add(Op::Cat { batch, channels: [width, skip], size: side });
                net.resnet(width + skip, c, side);
                if stage < 3 {
                    net.transformer(c, side);
                }
                width = c;
            }
            if stage > 0 {
                net.upsample(c, side);
                side *= 2;
            }
        }
        net.norm(width, side, true);
        net.conv(width, LATENT, side, 3);
        net.stack
    }

    /// The decoder, which makes an image of (8 · `size`)² pixels of a latent one of `size`².
    pub fn decoder(size: usize) -> Self {
        let channels = [512, 512, 256, 128];
        let (mut width, mut side) = (channels[0], size);
        let mut net = Builder { stack: Self::default(), batch: 1, time: None };
        net.conv(LATENT, LATENT, side, 1);
        net.conv(LATENT, width, side, 3);
        net.resnet(width, width, side);
        net.attention(width, side);
        net.resnet(width, width, side);
        for (stage, &c) in channels.iter().enumerate() {
            for _ in 0..3 {
                net.resnet(width, c, side);
                width = c;
            }
            if stage < 3 {
                net.upsample(c, side);
                side *= 2;
            }
        }
        net.norm(width, side, true);
        net.conv(width, 3, side, 3);
        net.stack
    }
}

/// Adds blocks to a stack. Sizes are sides of square images.
struct Builder {
    stack: Stack,
    batch: usize,
    /// Width of the time embedding that residual blocks take, if they do.
    time: Option<usize>,
}

impl Builder {
    fn add(&mut self, op: Op) {
        self.stack.add(op);
    }

    fn conv(&mut self, inputs: usize, outputs: usize, size: usize, kernel: usize) {
        self.add(Op::conv(self.batch, inputs, outputs, size, kernel));
    }

    fn downsample(&mut self, channels: usize, size: usize) {
        self.add(Op::Conv2d {
            batch: self.batch,
            in_channels: channels,
            out_channels: channels,
            size,
            kernel: 3,
            stride: 2,
            groups: 1,
            bias: true,
        });
    }

    fn upsample(&mut self, channels: usize, size: usize) {
        self.add(Op::Upsample { batch: self.batch, channels, size });
        self.conv(channels, channels, 2 * size, 3);
    }

    fn linear(&mut self, rows: usize, inputs: usize, outputs: usize, bias: bool) {
        self.add(Op::Linear { batch: self.batch, rows, inputs, outputs, bias });
    }

    fn norm(&mut self, channels: usize, size: usize, silu: bool) {
        self.add(Op::GroupNorm { batch: self.batch, channels, size, groups: GROUPS, silu });
    }

    fn activation(&mut self, shape: Vec<usize>) {
        self.add(Op::Activation { function: Activation::Silu, shape });
    }

    fn sum(&mut self, shape: [usize; 3]) {
        self.add(Op::Add { shape: shape.to_vec() });
    }

    fn resnet(&mut self, inputs: usize, outputs: usize, size: usize) {
        let batch = self.batch;
        self.norm(inputs, size, true);
        self.conv(inputs, outputs, size, 3);
        if let Some(time) = self.time {
            self.activation(vec![batch, time]);
            self.linear(1, time, outputs, true);
            self.add(Op::AddChannels { batch, channels: outputs, size });
        }
        self.norm(outputs, size, true);
        self.conv(outputs, outputs, size, 3);
        if inputs != outputs {
            self.conv(inputs, outputs, size, 1);
        }
        self.sum([batch, outputs, size * size]);
    }

    /// Self-attention, attention to the words, and a gated layer between 1×1 convolutions.
    fn transformer(&mut self, channels: usize, size: usize) {
        let (batch, rows) = (self.batch, size * size);
        self.norm(channels, size, false);
        self.conv(channels, channels, size, 1);
        for (keys, key_width) in [(rows, channels), (WORDS, WORD)] {
            self.add(Op::LayerNorm { batch, rows, width: channels });
            self.linear(rows, channels, channels, false);
            self.linear(keys, key_width, channels, false);
            self.linear(keys, key_width, channels, false);
            let width = channels / HEADS;
            self.add(Op::Attention { batch, heads: HEADS, queries: rows, keys, width, packed: true });
            self.linear(rows, channels, channels, true);
            self.sum([batch, rows, channels]);
        }
        self.add(Op::LayerNorm { batch, rows, width: channels });
        self.linear(rows, channels, 8 * channels, true);
        self.add(Op::Geglu { batch, rows, width: 4 * channels });
        self.linear(rows, 4 * channels, channels, true);
        self.sum([batch, rows, channels]);
        self.conv(channels, channels, size, 1);
        self.sum([batch, channels, rows]);
    }

    /// The decoder's attention: one head.
    fn attention(&mut self, channels: usize, size: usize) {
        let (batch, rows) = (self.batch, size * size);
        self.norm(channels, size, false);
        for _ in ["query", "key", "value"] {
            self.linear(rows, channels, channels, true);
        }
        self.add(Op::Attention { batch, heads: 1, queries: rows, keys: rows, width: channels, packed: true });
        self.linear(rows, channels, channels, true);
        self.sum([batch, channels, rows]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters are those of diffusers' UNet2DConditionModel, and of AutoencoderKL's decoder and
    /// `post_quant_conv`.
    #[test]
    fn the_stacks_have_all_layers() {
        let cases = [
            ("U-Net", Stack::unet(2, 64), 859_520_964, 1607e9),
            ("decoder", Stack::decoder(64), 49_490_179 + 20, 2515e9),
        ];
        let wrong: Vec<String> = cases
            .iter()
            .filter(|(_, stack, parameters, flops)| {
                stack.parameters() != *parameters || (stack.flops() as f64 / flops - 1.0).abs() > 1e-3
            })
            .map(|(name, stack, ..)| format!("{name}: {} {}", stack.parameters(), stack.flops()))
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
