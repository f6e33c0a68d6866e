//! Adam with a rate for each part.

use candle_core::Tensor;
use xdiff_nn::ParamSet;
use xdiff_nn::optim::{AdamWConfig, Optimizer, Rule, StepAt};

use crate::Result;
use crate::stage::{Part, Parts, Rate};

/// PyTorch's `Adam` with the rate and the λ of a part. The rate of a step multiplies the part's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartRule {
    rate: Rate,
    adam: AdamWConfig,
}

impl PartRule {
    fn new(rate: Rate) -> Self {
        Self { rate, adam: AdamWConfig { lr: rate.lr, weight_decay: 0.0, ..Default::default() } }
    }

    fn at(&self, at: StepAt) -> StepAt {
        StepAt { lr: self.rate.lr * at.lr, ..at }
    }
}

impl Rule for PartRule {
    fn validate(&self) -> xdiff_nn::Result<()> {
        self.adam.validate()
    }

    fn buffers(&self) -> &'static [&'static str] {
        self.adam.buffers()
    }

    fn update_slices(&self, at: StepAt, p: &mut [f32], g: &[f32], buffers: [&mut [f32]; 2]) {
        if self.rate.l2 == 0.0 {
            return self.adam.update_slices(self.at(at), p, g, buffers);
        }
        let l2 = self.rate.l2 as f32;
        let g: Vec<f32> = g.iter().zip(p.iter()).map(|(g, p)| g + l2 * p).collect();
        self.adam.update_slices(self.at(at), p, &g, buffers);
    }

    fn update_tensors(
        &self,
        at: StepAt,
        p: &Tensor,
        g: &Tensor,
        buffers: &mut [Tensor],
    ) -> xdiff_nn::Result<Tensor> {
        let g = if self.rate.l2 == 0.0 { g.clone() } else { (g + (p * self.rate.l2)?)? };
        self.adam.update_tensors(self.at(at), p, &g, buffers)
    }
}

/// An optimiser of the parts that have a rate.
pub(super) type PartOptimizer = Optimizer<PartRule>;

/// The parameters of `params` that are trained, and their optimiser with fresh state.
pub(super) fn optimizer(params: &ParamSet, train: &Parts) -> Result<PartOptimizer> {
    let still = PartRule::new(Rate::new(0.0));
    let rule = |name: &str, _: &_, still| train.of(Part::of(name)).map_or(still, PartRule::new);
    Ok(Optimizer::with_rules(&trained(params, train), still, rule)?)
}

/// The set in which only those parameters are trainable whose part has a rate.
pub(super) fn trained(params: &ParamSet, train: &Parts) -> ParamSet {
    params.only(|name| train.of(Part::of(name)).is_some())
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use xdiff_nn::optim::backward;
    use xdiff_nn::{Init, Params};

    use super::*;

    /// `torch.optim.Adam([{"params": a, "lr": 0.1, "weight_decay": 0.5}, {"params": b, "lr": 0.01}])` on
    /// the loss Σ a² + Σ b³, three steps from 1.
    #[test]
    fn the_numbers_are_those_of_pytorchs_adam() {
        let scope = Params::fresh(0, &Device::Cpu);
        let a = scope.weight("add_on_layers.0.weight", 1, Init::ONES).unwrap();
        let b = scope.weight("prototype_vectors", 1, Init::ONES).unwrap();
        let still = scope.weight("last_layer.weight", 1, Init::ONES).unwrap();
        let params = scope.finish().unwrap();
        let train = Parts {
            add_on: Some(Rate { lr: 0.1, l2: 0.5 }),
            prototypes: Some(Rate::new(0.01)),
            ..Default::default()
        };
        let mut optimizer = optimizer(&params, &train).unwrap();
        for _ in 0..3 {
            let loss = (a.sqr().unwrap() + b.powf(3.0).unwrap()).unwrap();
            let loss = (loss + &still).unwrap().sum_all().unwrap();
            optimizer.step(&backward(&loss, &trained(&params, &train)).unwrap(), 1.0).unwrap();
        }
        let value =
            |name: &str| params.get(name).map(Var::as_detached_tensor).unwrap().to_vec1::<f32>().unwrap()[0];
        for (name, expected) in [
            ("add_on_layers.0.weight", 0.701_586_25),
            ("prototype_vectors", 0.970_021_13),
            ("last_layer.weight", 1.0),
        ] {
            assert!((f64::from(value(name)) - expected).abs() < 1e-6, "{name}: {}", value(name));
        }
    }
}
