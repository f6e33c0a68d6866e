//! From losses to changed weights: what every training does at each step.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use xdiff_nn::ParamSet;
use xdiff_nn::optim::{AdamW, AdamWConfig, Ema, EmaConfig, Gradients, backward};

use super::archive::{Tensors, checkpoint_error};
use crate::{Error, Result};

/// Which parameters weight decay shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// All of them, as PyTorch's AdamW does unless told otherwise.
    #[default]
    All,
    /// Matrices and kernels alone: biases, scales and shifts of norms are left out, for which a pull
    /// towards zero has no reason.
    Matrices,
}

/// How weights are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateConfig {
    /// The optimiser.
    pub adamw: AdamWConfig,
    /// What its weight decay reaches.
    pub decay: Decay,
    /// Longest gradient; a longer one is scaled down.
    pub clip_norm: Option<f64>,
    /// The exponential moving average of the weights; none without.
    pub ema: Option<EmaConfig>,
}

impl UpdateConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field, or that of the optimiser.
    pub fn validate(&self) -> Result<()> {
        xdiff_nn::optim::Rule::validate(&self.adamw)?;
        if let Some(norm) = self.clip_norm
            && !(norm > 0.0 && norm.is_finite())
        {
            let reason = format!("is {norm}, must be positive and finite; leave it out for no limit");
            return Err(Error::config("clip_norm", reason));
        }
        if let Some(ema) = &self.ema {
            ema.validate()?;
        }
        Ok(())
    }
}

/// The gradients and losses of the batches of one step.
#[derive(Debug, Default)]
pub struct Accumulated {
    gradients: Option<Gradients>,
    loss: f64,
    batches: usize,
}

impl Accumulated {
    /// Adds the gradient of a batch's loss (one number). `step` is named by an error.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the loss is not finite; those of [`backward`].
    pub fn add(&mut self, loss: &Tensor, params: &ParamSet, step: usize) -> Result<()> {
        let value = loss.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return Err(Error::NonFinite {
                what: "the loss",
                step,
                hint: "lower the learning rate, clip the gradient, and check the images for NaN",
            });
        }
        let gradients = backward(loss, params)?;
        match &mut self.gradients {
            None => self.gradients = Some(gradients),
            Some(sum) => sum.add(&gradients)?,
        }
        self.loss += value;
        self.batches += 1;
        Ok(())
    }
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Updated {
    /// The loss, averaged over the batches.
    pub loss: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
}

/// What a training needs to go on: all weights and what hangs on them.
#[derive(Clone, Debug)]
pub struct State {
    /// The weights.
    pub weights: Tensors,
    /// The state of their moving average, where one is kept.
    pub ema: Option<Tensors>,
    /// The optimiser's state.
    pub optimizer: Tensors,
}

/// The weights that are being trained, their optimiser and their moving average.
#[derive(Debug)]
pub struct Updater {
    params: ParamSet,
    config: UpdateConfig,
    optimizer: AdamW,
    ema: Option<Ema>,
}

impl Updater {
    /// An optimiser with fresh state.
    ///
    /// # Errors
    /// When the configuration does not validate or there is nothing to train.
    pub fn new(params: ParamSet, config: UpdateConfig) -> Result<Self> {
        config.validate()?;
        if params.trainable().next().is_none() {
            return Err(Error::input(
                "parameters",
                "none is trainable: build the model from Params::fresh or Params::trainable, and leave \
                 something that is not frozen",
            ));
        }
        let optimizer = optimizer(&params, &config)?;
        let ema = config.ema.map(|ema| Ema::new(&params, ema)).transpose()?;
        Ok(Self { params, config, optimizer, ema })
    }

    /// The weights.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// The weights, without what trained them.
    pub fn into_params(self) -> ParamSet {
        self.params
    }

    /// The values of the moving average, or, without one, of the weights.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn averaged(&self) -> Result<Tensors> {
        Ok(match &self.ema {
            Some(ema) => ema.tensors()?,
            None => self.params.tensors()?,
        })
    }

    /// Averages the gradients over the batches, clips them, and changes the weights. `step` is named
    /// by an error.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when the gradient is not finite, [`Error::Config`] when there is none;
    /// no weight has changed then.
    pub fn apply(&mut self, batches: Accumulated, lr: f64, step: usize) -> Result<Updated> {
        let (Some(mut gradients), n) = (batches.gradients, batches.batches) else {
            return Err(Error::config("accumulate", "is 0, must be at least 1"));
        };
        if n > 1 {
            gradients.scale(1.0 / n as f64)?;
        }
        let grad_norm = match self.config.clip_norm {
            Some(longest) => gradients.clip_norm(longest)?,
            None => gradients.global_norm()?,
        };
        if !grad_norm.is_finite() {
            return Err(Error::NonFinite {
                what: "the gradient",
                step,
                hint: "lower the learning rate and check the images for NaN",
            });
        }
        self.optimizer.step(&gradients, lr)?;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.params)?;
        }
        Ok(Updated { loss: batches.loss / n as f64, grad_norm })
    }

    /// Copies of everything.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn state(&self) -> Result<State> {
        Ok(State {
            weights: self.params.tensors()?,
            ema: self.ema.as_ref().map(Ema::state).transpose()?,
            optimizer: self.optimizer.state()?,
        })
    }

    /// Puts back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// When it is of another model or lacks the moving average; nothing has changed then.
    pub fn load_state(&mut self, state: &State) -> Result<()> {
        // Everything that may fail comes before the first change.
        let mut optimizer = optimizer(&self.params, &self.config)?;
        optimizer.load_state(&state.optimizer)?;
        let ema = match (self.config.ema, &state.ema) {
            (None, _) => None,
            (Some(_), None) => {
                let hint = "give the file that the training wrote, or start anew in another folder";
                return Err(checkpoint_error(None, "it lacks the moving average", hint));
            }
            (Some(config), Some(state)) => {
                let mut ema = Ema::new(&self.params, config)?;
                ema.load_state(state)?;
                Some(ema)
            }
        };
        self.params.load(&state.weights)?;
        (self.optimizer, self.ema) = (optimizer, ema);
        Ok(())
    }
}

fn optimizer(params: &ParamSet, config: &UpdateConfig) -> Result<AdamW> {
    let decay = config.decay;
    Ok(AdamW::with_rules(params, config.adamw, |_, var, rule| match decay {
        Decay::Matrices if var.rank() < 2 => AdamWConfig { weight_decay: 0.0, ..rule },
        _ => rule,
    })?)
}
