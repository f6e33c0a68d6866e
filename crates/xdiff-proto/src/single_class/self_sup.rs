//! Two views of an image as positives.

use candle_core::{DType, Device, Tensor};
use xdiff_core::cancel::CancelToken;
use xdiff_core::train::{Accumulated, Decay, UpdateConfig, Updater};
use xdiff_nn::ParamSet;
use xdiff_nn::layers::log_softmax;
use xdiff_nn::optim::AdamWConfig;

use super::bank::{FeatureBank, Reader};
use super::config::SingleClassConfig;
use crate::loss::LossInputs;
use crate::train::History;
use crate::{Error, PrototypeNetwork, Result};

/// The features of the same images, seen twice.
pub(super) struct Views<'b, 'a> {
    pub(super) first: &'b FeatureBank<'a>,
    pub(super) second: &'b FeatureBank<'a>,
}

/// Trains until the last epoch; the prototypes (m, D) and the loss of each step.
pub(super) fn train(
    views: &Views<'_, '_>,
    (network, params): (PrototypeNetwork<Reader<'_>>, ParamSet),
    config: &SingleClassConfig,
    agreement: f64,
    cancel: &CancelToken,
) -> Result<(Tensor, History)> {
    if !(views.first.is_kept() && views.second.is_kept()) {
        let reason = "of both views do not fit the budget; give more memory, or fewer images";
        return Err(Error::input("features", reason));
    }
    if views.first.width() != views.second.width() {
        let reason = format!("has {} channels, the first {}", views.second.width(), views.first.width());
        return Err(Error::input("the second view", reason));
    }
    let adamw = AdamWConfig { lr: config.lr, weight_decay: 0.0, ..AdamWConfig::default() };
    let update = UpdateConfig { adamw, decay: Decay::All, clip_norm: None, ema: None };
    let mut updater = Updater::new(params, update)?;
    let losses = config.training.losses(config.prototypes);
    let labels = vec![0; views.first.images()];
    let mut history = History::default();
    for epoch in 0..config.epochs as u64 {
        for number in 0..views.first.steps(config.images_per_step) {
            let step = history.losses.len();
            if cancel.is_cancelled() {
                return Err(xdiff_core::Error::Cancelled { step }.into());
            }
            let batch = |bank: &FeatureBank<'_>| {
                bank.step(config.images_per_step, config.seed, epoch, number, &labels)
            };
            let (a, b) = (batch(views.first)?, batch(views.second)?);
            let (a, b) = (network.read(a.images())?, network.read(b.images())?);
            let rest = losses.compute(&LossInputs {
                labels: &[],
                distance: &a.nearest.distance,
                prototypes: network.prototypes().vectors(),
                logits: None,
                ownership: None,
                head: None,
                slots: None,
            })?;
            let total = (rest.total + (disagreement(&a.similarity, &b.similarity)? * agreement)?)?;
            let mut gradients = Accumulated::default();
            gradients.add(&total, updater.params(), step)?;
            updater.apply(gradients, config.lr, step)?;
            let loss = total.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            history.losses.push(loss);
        }
    }
    Ok((network.prototypes().vectors().detach().copy()?, history))
}

/// mean over the images of −ln Σⱼ qⱼ(a) qⱼ(b), q the softmax of the similarities: 0 when both views give
/// all influence to one and the same prototype.
///
/// # Shapes
/// Two (B, P) → one number, at least 0. Differentiable.
pub(super) fn disagreement(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    // ln Σ exp(x) without overflow; the greatest is a constant of its own.
    let both = (log_softmax(a, 1)? + log_softmax(b, 1)?)?;
    let greatest = both.detach().max_keepdim(1)?;
    let sum = both.broadcast_sub(&greatest)?.exp()?.sum_keepdim(1)?.log()?;
    Ok((sum + greatest)?.mean_all()?.neg()?)
}
