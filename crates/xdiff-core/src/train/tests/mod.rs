//! A training whose numbers can be followed by hand.

mod checkpoint;
mod loss;
mod trainer;

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use xdiff_nn::{Init, Params, Rng, Tap};

use super::*;
use crate::schedule::{NoiseSchedule, ScheduleConfig};
use crate::{Cond, Denoiser, Prediction, Result};

/// What the network was given at a call.
#[derive(Clone, Debug)]
struct Seen {
    x_t: Tensor,
    t: Tensor,
    cond: Cond,
}

/// A network of two weights: its prediction is w + gain · x_t.
#[derive(Clone, Debug)]
struct Toy {
    w: Tensor,
    gain: Tensor,
    prediction: Prediction,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl Denoiser for Toy {
    fn predict(&self, x_t: &Tensor, t: &Tensor, cond: &Cond, _: &mut dyn Tap) -> Result<Tensor> {
        self.seen.borrow_mut().push(Seen { x_t: x_t.clone(), t: t.clone(), cond: cond.clone() });
        Ok(x_t.broadcast_mul(&self.gain)?.broadcast_add(&self.w)?)
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }
}

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(&ScheduleConfig::default()).unwrap()
}

/// A training of [`Toy`], whose weights start at 0.5 and 0.25.
fn toy(prediction: Prediction, config: TrainConfig, description: Value) -> Result<Trainer<Toy>> {
    let scope = Params::fresh(0, &Device::Cpu);
    let shape = (1, 1, 1, 1);
    let model = Toy {
        w: scope.weight("w", shape, Init::Const(0.5))?,
        gain: scope.weight("gain", shape, Init::Const(0.25))?,
        prediction,
        seen: Rc::default(),
    };
    Trainer::new(model, scope.finish()?, schedule(), config, description)
}

/// Images of one channel and 4 × 4 pixels.
fn images(seed: u64, count: usize) -> Tensor {
    Rng::new(seed).randn((count, 1, 4, 4), &Device::Cpu).unwrap().tanh().unwrap()
}

/// The batches of a training from batch `first` on, without end.
fn batches(first: usize) -> impl Iterator<Item = Result<TrainBatch>> {
    (first as u64..).map(|i| Ok(TrainBatch { images: images(i, 3), cond: Cond::default() }))
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// All that a training holds, as text that differs when a bit does.
fn state(trainer: &Trainer<Toy>) -> String {
    let c = trainer.checkpoint().unwrap();
    let bits = |map: &std::collections::BTreeMap<String, Tensor>| -> Vec<(String, Vec<u64>)> {
        let exact = |t: &Tensor| t.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap();
        map.iter()
            .map(|(n, t)| {
                (n.clone(), exact(t).to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect())
            })
            .collect()
    };
    let history: Vec<u32> = c.history.iter().map(|l| l.to_bits()).collect();
    format!(
        "{} {:?} {:?} {:?} {history:?}",
        c.step,
        bits(&c.weights),
        c.ema.as_ref().map(bits),
        bits(&c.optimizer)
    )
}

fn about() -> Value {
    json!({ "data": "toy" })
}
