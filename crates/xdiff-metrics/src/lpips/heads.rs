//! The weights that LPIPS gives to the channels.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use xdiff_nn::params::{Init, Params};

use super::LpipsNet;
use crate::error::check_finite;
use crate::{Error, Result};

/// A weight for each channel of each compared module of a network.
#[derive(Clone, Debug)]
pub struct LpipsHeads {
    net: LpipsNet,
    /// (1, C, 1, 1) each.
    weights: Vec<Tensor>,
    published: bool,
}

impl LpipsHeads {
    /// Takes the weights of one 1×1 convolution without bias a module.
    ///
    /// The published ones are zero or above. Others may lie below zero; then the result is no
    /// distance, for it can be below zero too.
    ///
    /// # Shapes
    /// (1, C, 1, 1) each, with the channels of [`LpipsNet::sites`].
    ///
    /// # Errors
    /// When there are too few or too many, or one has another shape or a value that is not finite.
    pub fn new(net: LpipsNet, weights: Vec<Tensor>) -> Result<Self> {
        let sites = net.sites();
        if weights.len() != sites.len() {
            return Err(Error::config(
                "heads",
                format!("{net} has {} heads, one a module, got {}", sites.len(), weights.len()),
            ));
        }
        let mut published = true;
        for (i, (weight, (site, channels))) in weights.iter().zip(sites).enumerate() {
            if weight.dims() != [1, *channels, 1, 1] {
                let expected = format!("a head (1, {channels}, 1, 1) for {site} of {net}");
                return Err(Error::shape("LPIPS", expected, weight.dims()));
            }
            let values: Vec<f64> = flat(weight)?;
            check_finite("LPIPS", "a head", &values)?;
            let sum: f64 = values.iter().sum();
            published &= (sum - net.published_sums()[i]).abs() < 1e-5;
        }
        let weights = weights.iter().map(|w| Ok(w.to_dtype(DType::F32)?.detach())).collect::<Result<_>>()?;
        Ok(Self { net, weights, published })
    }

    /// Reads the published file of a network (`alex.pth`, `vgg.pth` or `squeeze.pth` of
    /// `lpips/weights/v0.1`), or a safetensors file with the same keys (`lin0.model.1.weight`, …).
    ///
    /// # Errors
    /// When the file cannot be read, with one list of every key that is missing, unexpected or of
    /// another shape, or when a weight is below zero, as no published one is.
    pub fn load(net: LpipsNet, path: impl AsRef<Path>) -> Result<Self> {
        let params = Params::frozen(xdiff_nn::weights::read(path)?, &Device::Cpu);
        let mut weights = Vec::new();
        for (i, (_, channels)) in net.sites().iter().enumerate() {
            let scope = params.at(format_args!("lin{i}.model.1"));
            weights.push(scope.weight("weight", (1, *channels, 1, 1), Init::ZEROS)?);
        }
        params.finish()?;
        let heads = Self::new(net, weights)?;
        for weight in &heads.weights {
            let values = flat(weight)?;
            if let Some(index) = values.iter().position(|v| *v < 0.0) {
                let hint = "the published heads have no weight below 0: check the file";
                let value = values[index];
                return Err(Error::Value { metric: "LPIPS", what: "a head", value, index, hint });
            }
        }
        Ok(heads)
    }

    /// The network that they belong to.
    pub fn net(&self) -> LpipsNet {
        self.net
    }

    /// Whether they are those that the authors published as version 0.1, by the sum of each head.
    pub fn are_published(&self) -> bool {
        self.published
    }

    /// The weights, (1, C, 1, 1) each.
    pub fn weights(&self) -> &[Tensor] {
        &self.weights
    }

    pub(super) fn same(&self, other: &Self) -> Result<bool> {
        if self.net != other.net {
            return Ok(false);
        }
        for (a, b) in self.weights.iter().zip(&other.weights) {
            if flat(a)? != flat(b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn flat(weight: &Tensor) -> Result<Vec<f64>> {
    Ok(weight.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}
