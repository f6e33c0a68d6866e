//! Tests of training, on networks and images small enough for seconds.

mod cross;
mod files;
mod fit;
mod losses;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use xdiff_core::cancel::CancelToken;
use xdiff_nn::layers::{Activation, BatchNormConfig, Conv2d, Conv2dConfig, Linear};
use xdiff_nn::optim::{AdamWConfig, EmaConfig};
use xdiff_nn::{ParamSet, Params, Rng};

use super::*;
use crate::parts::NormSite;
use crate::{Backbone, Description, Head, Maps, Pass, Result};

/// A convolution, batch norm, ReLU, the mean over all pixels, dropout and a linear layer; perhaps an
/// auxiliary classifier.
#[derive(Debug)]
pub(super) struct Tiny {
    conv: Conv2d,
    norm: NormSite,
    fc: Linear,
    aux: Option<Linear>,
    dropout: f64,
}

pub(super) const CLASSES: usize = 3;

impl Tiny {
    pub(super) fn new(params: &Params, aux: bool, dropout: f64) -> Result<Self> {
        Ok(Self {
            conv: Conv2d::new(Conv2dConfig::new(1, 6, 3).padding(1).bias(false), &params.at("stem.1"))?,
            norm: NormSite::new(6, BatchNormConfig::default(), &params.at("stem.10"))?,
            fc: Linear::new(6, CLASSES, true, &params.at("fc"))?,
            aux: aux.then(|| Linear::new(6, CLASSES, true, &params.at("aux"))).transpose()?,
            dropout,
        })
    }
}

impl Backbone for Tiny {
    fn describe(&self) -> Description {
        Description {
            name: "tiny".to_owned(),
            in_channels: 1,
            classes: CLASSES,
            least_side: 3,
            classifier: "fc".to_owned(),
            auxiliary_classifiers: Vec::new(),
            stem: "stem.1".to_owned(),
        }
    }

    fn maps(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Maps> {
        let maps = self.norm.forward(&self.conv.forward(images)?, Activation::Relu, pass)?;
        let auxiliary = match &self.aux {
            Some(aux) if pass.is_training() => vec![aux.forward(&maps.mean((2, 3))?)?],
            _ => Vec::new(),
        };
        Ok(Maps { maps, auxiliary })
    }

    fn head(&self, maps: &Tensor, pass: &mut Pass<'_>) -> Result<Head> {
        let features = pass.dropout("fc", maps.mean((2, 3))?, self.dropout)?;
        Ok(Head { logits: self.fc.forward(&features)?, features })
    }
}

/// Noise with a square (class 0), a row of stripes (1) or nothing (2).
pub(super) fn picture(index: usize, side: usize) -> (Vec<f32>, u32) {
    let mut rng = Rng::new(77).sample(index as u64);
    let label = (index % CLASSES) as u32;
    let pixel = |y: usize, x: usize| match label {
        0 => y > 1 && y + 2 < side && x > 1 && x + 2 < side,
        1 => y.is_multiple_of(2),
        _ => false,
    };
    let at = |i: usize| f32::from(u8::from(pixel(i / side, i % side)));
    ((0..side * side).map(|i| at(i) + 0.1 * rng.normal() as f32).collect(), label)
}

pub(super) fn group(indices: &[usize], side: usize) -> Labelled {
    let (values, labels): (Vec<_>, Vec<_>) = indices.iter().map(|i| picture(*i, side)).unzip();
    let images = Tensor::from_vec(values.concat(), (indices.len(), 1, side, side), &Device::Cpu).unwrap();
    Labelled::new(images, labels, indices.iter().map(|i| format!("image {i}")).collect()).unwrap()
}

/// Batches of three images of one size and two of another, in an order that depends on the epoch.
pub(super) fn mixed(batches: usize) -> Feed<'static, Labelled> {
    Feed::new(batches, move |epoch, first| {
        (first..batches).map(move |b| -> Result<Vec<Labelled>> {
            let from = (b + epoch as usize) % batches * 5;
            Ok(vec![group(&[from, from + 1, from + 2], 6), group(&[from + 3, from + 4], 5)])
        })
    })
}

pub(super) fn data() -> FitData<'static, Labelled> {
    FitData::new(mixed(3))
        .validated_on(Feed::fixed(vec![vec![group(&[20, 21, 22, 23], 6)], vec![group(&[24], 5)]]))
}

/// Everything that a resumed training must get right.
pub(super) fn full() -> FitConfig {
    FitConfig {
        epochs: 3,
        adamw: AdamWConfig { lr: 0.02, ..Default::default() },
        schedule: Schedule::WarmupCosine { warmup: 0.5 },
        accumulate: 2,
        ema: Some(EmaConfig { max_decay: 0.6 }),
        monitor: Measure::MacroF1,
        checkpoint_every: 1,
        seed: 5,
        ..Default::default()
    }
}

pub(super) fn tiny(config: FitConfig, dropout: f64) -> Result<Fit<Classification>> {
    let params = Params::fresh(3, &Device::Cpu);
    let network = Tiny::new(&params, false, dropout)?;
    let loss = CrossEntropy { class_weights: Some(vec![1.0, 2.0, 0.5]), label_smoothing: 0.1 };
    Fit::new(Classification::new(network, loss)?, params.finish()?, config, serde_json::json!("tiny"))
}

pub(super) fn bits(tensors: &BTreeMap<String, Tensor>) -> Vec<(String, Vec<u64>)> {
    let exact = |t: &Tensor| -> Vec<u64> {
        let values = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        values.into_iter().map(f64::to_bits).collect()
    };
    tensors.iter().map(|(name, t)| (name.clone(), exact(t))).collect()
}

pub(super) fn weights(params: &ParamSet) -> Vec<(String, Vec<u64>)> {
    bits(&params.tensors().unwrap())
}

/// All that stands in the file of a training, to the last bit.
pub(super) fn state<O: Objective>(fit: &Fit<O>) -> Vec<(String, Vec<u64>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(LAST);
    fit.write(&path).unwrap();
    bits(&xdiff_nn::weights::read_safetensors(&path).unwrap())
}

/// Raises a token, or fails, after some steps.
pub(super) struct StopAfter {
    pub(super) step: usize,
    pub(super) cancel: Option<CancelToken>,
}

impl TrainObserver for StopAfter {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        match &self.cancel {
            _ if report.step != self.step => {}
            Some(token) => token.cancel(),
            None => return Err(crate::Error::input("observer", "the power is gone")),
        }
        Ok(())
    }
}

impl FitObserver for StopAfter {}
