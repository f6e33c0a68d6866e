//! How much arithmetic a forward pass costs.

use super::config::{DownBlock, Resampling, TimeEmbedding, UNet2DConfig, UpBlock};

impl UNet2DConfig {
    /// Floating-point operations of one forward pass over a batch: two for each multiply-add of the
    /// convolutions, linear layers and attention products. Normalisations and activations are not
    /// counted, nor the class embedding. A training step costs about three times as much.
    ///
    /// ```
    /// use xdiff_core::unet::{DownBlock, UNet2DConfig, UpBlock};
    ///
    /// let config = UNet2DConfig {
    ///     in_channels: 1,
    ///     out_channels: 1,
    ///     block_out_channels: vec![64, 128, 256, 256],
    ///     down_block_types: vec![DownBlock::Plain, DownBlock::Plain, DownBlock::Attention, DownBlock::Attention],
    ///     up_block_types: vec![UpBlock::Attention, UpBlock::Attention, UpBlock::Plain, UpBlock::Plain],
    ///     ..Default::default()
    /// };
    /// assert_eq!(config.flops(8, 64, 64) / 1_000_000_000, 143);
    /// ```
    pub fn flops(&self, batch: usize, height: usize, width: usize) -> u64 {
        let channels = &self.block_out_channels;
        let Some((&first, &last)) = channels.first().zip(channels.last()) else {
            return 0;
        };
        let pixels = |stage: usize| ((height >> stage) * (width >> stage)) as u64;
        let mut total =
            conv(9, self.in_channels, first, pixels(0)) + conv(9, first, self.out_channels, pixels(0));
        let features = if self.time_embedding_type == TimeEmbedding::Fourier { 2 * first } else { first };
        total += conv(1, features, self.time_width(), 1) + conv(1, self.time_width(), self.time_width(), 1);

        let mut input = first;
        for (stage, (&c, kind)) in channels.iter().zip(&self.down_block_types).enumerate() {
            for _ in 0..self.layers_per_block {
                total += self.resnet(input, c, pixels(stage));
                if *kind == DownBlock::Attention {
                    total += self.attention(c, pixels(stage));
                }
                input = c;
            }
            if stage + 1 < channels.len() {
                let resnet = *kind == DownBlock::Resnet
                    || *kind == DownBlock::Attention && self.downsample_type == Resampling::Resnet;
                total += if resnet {
                    self.resnet(c, c, pixels(stage + 1))
                } else {
                    conv(9, c, c, pixels(stage + 1))
                };
            }
        }

        let bottom = pixels(channels.len() - 1);
        if self.mid_block_type.is_some() {
            total += 2 * self.resnet(last, last, bottom);
            total += if self.add_attention { self.attention(last, bottom) } else { 0 };
        }

        for (index, kind) in self.up_block_types.iter().enumerate().take(channels.len()) {
            let stage = channels.len() - 1 - index;
            let c = channels[stage];
            for j in 0..=self.layers_per_block {
                let before = if j == 0 { channels[(stage + 1).min(channels.len() - 1)] } else { c };
                let skip = if j == self.layers_per_block { channels[stage.saturating_sub(1)] } else { c };
                total += self.resnet(before + skip, c, pixels(stage));
                if *kind == UpBlock::Attention {
                    total += self.attention(c, pixels(stage));
                }
            }
            if stage > 0 {
                let resnet = *kind == UpBlock::Resnet
                    || *kind == UpBlock::Attention && self.upsample_type == Resampling::Resnet;
                total += if resnet {
                    self.resnet(c, c, pixels(stage - 1))
                } else {
                    conv(9, c, c, pixels(stage - 1))
                };
            }
        }
        total * batch as u64
    }

    fn resnet(&self, input: usize, output: usize, pixels: u64) -> u64 {
        let shortcut = if input == output { 0 } else { conv(1, input, output, pixels) };
        conv(9, input, output, pixels)
            + conv(9, output, output, pixels)
            + conv(1, self.time_width(), output, 1)
            + shortcut
    }

    fn attention(&self, channels: usize, pixels: u64) -> u64 {
        4 * conv(1, channels, channels, pixels) + 4 * pixels * pixels * channels as u64
    }
}

/// A convolution with `taps` kernel positions, or a linear layer with one.
fn conv(taps: u64, input: usize, output: usize, pixels: u64) -> u64 {
    2 * taps * input as u64 * output as u64 * pixels
}
