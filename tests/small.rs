//! A network and a training that take moments, and tensors as bits.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use xdiff::core::schedule::{NoiseSchedule, ScheduleConfig};
use xdiff::core::train::{TrainBatch, TrainConfig, Trainer};
use xdiff::core::unet::{DownBlock, UNet2D, UNet2DConfig, UpBlock};
use xdiff::core::{Cond, Prediction, Result};
use xdiff::nn::{Params, Rng};

/// A U-Net of three stages for one image channel and one of condition, with attention, and with
/// enough channels for every kind of convolution kernel at 32 × 32.
pub fn config() -> UNet2DConfig {
    UNet2DConfig {
        in_channels: 2,
        out_channels: 1,
        block_out_channels: vec![16, 32, 32],
        down_block_types: vec![DownBlock::Plain, DownBlock::Attention, DownBlock::Plain],
        up_block_types: vec![UpBlock::Plain, UpBlock::Attention, UpBlock::Plain],
        layers_per_block: 1,
        norm_num_groups: 8,
        ..Default::default()
    }
}

/// The network of [`config`], predicting velocity, with random weights.
///
/// # Errors
/// When it cannot be built.
pub fn unet() -> Result<UNet2D> {
    let params = Params::fresh(5, &Device::Cpu);
    let unet = UNet2D::new(&config(), &params)?.predicting(Prediction::Velocity);
    params.finish()?;
    Ok(unet)
}

/// Random conditioning images of 32 × 32, the one of index i the same in every batch.
///
/// # Errors
/// When memory is short.
pub fn condition(first: u64, count: usize) -> Result<Cond> {
    let images = (first..first + count as u64)
        .map(|i| Rng::new(77).sample(i).randn((1, 1, 32, 32), &Device::Cpu))
        .collect::<xdiff::nn::Result<Vec<_>>>()?;
    Ok(Cond { image: Some(Tensor::cat(&images, 0)?), ..Default::default() })
}

/// A training of the network of [`config`].
///
/// # Errors
/// When the configuration cannot be used.
pub fn trainer(config: TrainConfig) -> Result<Trainer<UNet2D>> {
    let params = Params::fresh(config.seed, &Device::Cpu);
    let unet = UNet2D::new(&self::config(), &params)?.predicting(Prediction::Velocity);
    let schedule = NoiseSchedule::new(&ScheduleConfig::default())?;
    Trainer::new(unet, params.finish()?, schedule, config, serde_json::json!({ "data": "random" }))
}

/// The batches of a training from batch `first` on, without end.
pub fn batches(first: usize, size: usize) -> impl Iterator<Item = Result<TrainBatch>> {
    (first as u64..).map(move |batch| {
        let images = Rng::new(11).sample(batch).randn((size, 1, 32, 32), &Device::Cpu)?;
        Ok(TrainBatch { images: images.tanh()?, cond: condition(batch * size as u64, size)? })
    })
}

/// The bits of a tensor of f32.
///
/// # Errors
/// When it is not of f32.
pub fn bits(x: &Tensor) -> Result<Vec<u32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

/// The names of the tensors of which the two lists do not hold the same bits.
///
/// # Errors
/// When a tensor cannot be read.
pub fn differing(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> Result<Vec<String>> {
    let exact = |t: &Tensor| -> Result<(DType, Vec<usize>, Vec<u64>)> {
        let values = t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok((t.dtype(), t.dims().to_vec(), values.into_iter().map(f64::to_bits).collect()))
    };
    let mut names: Vec<String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).cloned().collect();
    names.sort();
    let mut differ = Vec::new();
    for name in names {
        match (a.get(&name), b.get(&name)) {
            (Some(a), Some(b)) if exact(a)? == exact(b)? => {}
            _ => differ.push(name),
        }
    }
    Ok(differ)
}
