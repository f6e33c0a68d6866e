//! U-Nets with the configuration and weight names of diffusers.

mod attention;
mod block;
mod config;
mod embedding;
mod flops;
mod layer;
mod pixel;
mod resnet;
#[cfg(test)]
mod tests;

pub use config::{
    ClassEmbedding, DownBlock, MidBlock, Resampling, TimeEmbedding, TimeScaleShift, UNet2DConfig, UpBlock,
};
pub use pixel::UNet2D;
