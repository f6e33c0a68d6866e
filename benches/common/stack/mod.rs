//! All layers of a network without the network: what each kind costs, how often it occurs, and a
//! run of them all, one after another.
//!
//! A stack times networks that are too large or too varied to be held here as models. Each layer
//! has weights of its own, so that they are read from memory as in the network; inputs are random
//! and shared by all layers that take the same shape. Copies between layers, such as a change of
//! layout, are not part of it.

mod stable_diffusion;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::Serialize;
use xdiff::nn::{Params, Rng};
use xdiff_examples::AnyError;

use crate::op::{Layer, Op, Pass, layer};
use crate::workload::{Prepared, Runner, timed};

/// The layers of a network.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stack {
    /// Each kind of layer once, in the order in which they first occur.
    pub layers: Vec<Repeated>,
}

/// A layer and how often a network has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repeated {
    /// The layer.
    pub op: Op,
    /// How often.
    pub count: usize,
}

impl Stack {
    /// One more of this layer.
    pub fn add(&mut self, op: Op) {
        match self.layers.iter_mut().find(|l| l.op == op) {
            Some(layer) => layer.count += 1,
            None => self.layers.push(Repeated { op, count: 1 }),
        }
    }

    /// Floating-point operations of all layers, forward.
    pub fn flops(&self) -> u64 {
        self.layers.iter().map(|l| l.count as u64 * l.op.flops(Pass::Forward)).sum()
    }

    /// How many numbers all layers learn.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|l| l.count * l.op.parameters()).sum()
    }

    /// # Errors
    /// When the memory does not suffice.
    pub(crate) fn prepare(&self) -> Result<Prepared, AnyError> {
        let params = Params::fresh(0, &Device::Cpu).freeze(|_| true);
        let mut inputs = Inputs { rng: Rng::new(1), made: BTreeMap::new() };
        let mut built: Vec<(Layer, Vec<Tensor>)> = Vec::new();
        for (kind, Repeated { op, count }) in self.layers.iter().enumerate() {
            for index in 0..*count {
                let params = params.at(format!("{kind}.{index}"));
                built.push((layer(op, &params)?, inputs.of(op)?));
            }
        }
        let run: Runner = Box::new(move || {
            timed(|| {
                for (layer, inputs) in &built {
                    layer(inputs)?;
                }
                Ok(())
            })
        });
        Ok(Prepared { run, parameters: params.finish()?.count() })
    }
}

/// Random tensors, made once for each shape and place among the inputs of a layer.
struct Inputs {
    rng: Rng,
    made: BTreeMap<(usize, Vec<usize>), Tensor>,
}

impl Inputs {
    fn of(&mut self, op: &Op) -> Result<Vec<Tensor>, AnyError> {
        let mut inputs = Vec::new();
        for key in op.inputs().into_iter().enumerate() {
            let tensor = match self.made.get(&key) {
                Some(tensor) => tensor.clone(),
                None => {
                    let tensor = self.rng.randn(key.1.clone(), &Device::Cpu)?;
                    self.made.insert(key, tensor.clone());
                    tensor
                }
            };
            inputs.push(tensor);
        }
        Ok(inputs)
    }
}
