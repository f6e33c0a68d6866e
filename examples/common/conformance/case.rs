//! One case file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;
use xdiff::nn::Params;
use xdiff::nn::weights::read_safetensors_with_metadata;

use crate::AnyError;

/// Inputs, configuration, and the outputs of a reference.
#[derive(Debug)]
pub struct Case {
    /// What is computed.
    pub op: String,
    /// With which settings.
    pub config: Value,
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
    synthetic: bool,
    tensors: BTreeMap<String, Tensor>,
}

impl Case {
    /// Reads a case.
    ///
    /// # Errors
    /// When the file is no safetensors file or lacks a field.
    pub fn read(path: &Path) -> Result<Self, AnyError> {
        let (tensors, metadata) = read_safetensors_with_metadata(path)?;
        let field = |name: &str| metadata.get(name).ok_or_else(|| format!("metadata lacks `{name}`"));
        Ok(Self {
            op: field("op")?.clone(),
            config: serde_json::from_str(field("config")?)?,
            rtol: field("rtol")?.parse()?,
            atol: field("atol")?.parse()?,
            synthetic: metadata.get("weights").is_some_and(|w| w == "synthetic"),
            tensors,
        })
    }

    /// The input of that name.
    ///
    /// # Errors
    /// When the case lacks it.
    pub fn input(&self, name: &str) -> Result<&Tensor, AnyError> {
        self.tensors.get(&format!("in.{name}")).ok_or_else(|| format!("the case lacks in.{name}").into())
    }

    /// The input of that name as f32.
    ///
    /// # Errors
    /// When the case lacks it.
    pub fn input_f32(&self, name: &str) -> Result<Tensor, AnyError> {
        Ok(self.input(name)?.to_dtype(DType::F32)?)
    }

    /// The input of that name as f32, if the case has it.
    ///
    /// # Errors
    /// When it cannot be read as f32.
    pub fn optional_f32(&self, name: &str) -> Result<Option<Tensor>, AnyError> {
        Ok(self.tensors.get(&format!("in.{name}")).map(|t| t.to_dtype(DType::F32)).transpose()?)
    }

    /// The expected outputs by name.
    pub fn expected(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().filter_map(|(n, t)| n.strip_prefix("out.").map(|n| (n, t)))
    }

    /// A setting, if the case has it and it is not null.
    ///
    /// # Errors
    /// When it has another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, AnyError> {
        match self.config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => {
                Ok(Some(serde_json::from_value(v.clone()).map_err(|e| format!("config `{key}`: {e}"))?))
            }
        }
    }

    /// A setting that the op cannot do without.
    ///
    /// # Errors
    /// When it is missing or has another type.
    pub fn need<T: DeserializeOwned>(&self, key: &str) -> Result<T, AnyError> {
        self.get(key)?.ok_or_else(|| format!("config lacks `{key}`").into())
    }

    /// The weight of that name that the case holds.
    ///
    /// # Errors
    /// When the case lacks it.
    pub fn weight(&self, name: &str) -> Result<&Tensor, AnyError> {
        self.tensors.get(&format!("w.{name}")).ok_or_else(|| format!("the case lacks w.{name}").into())
    }

    /// Where a model takes its weights from: the synthetic rule or the case's own tensors.
    pub fn params(&self) -> Params {
        if self.synthetic {
            return Params::synthetic(&Device::Cpu);
        }
        let weights = self
            .tensors
            .iter()
            .filter_map(|(n, t)| n.strip_prefix("w.").map(|n| (n.to_owned(), t.clone())))
            .collect();
        Params::trainable(weights, &Device::Cpu)
    }
}
