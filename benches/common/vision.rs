//! Networks for classification, predicting and learning.

use candle_core::Device;
use serde::{Serialize, Serializer};
use xdiff::nn::Rng;
use xdiff::nn::optim::{AdamW, AdamWConfig, backward};
use xdiff::nn::{ParamSet, Params};
use xdiff::vision::train::{Classification, CrossEntropy, Labelled, Objective};
use xdiff::vision::{Architecture, Pass};
use xdiff_examples::AnyError;

use crate::workload::{Prepared, Runner, timed};

const CLASSES: usize = 1000;

/// A network for 1000 classes and what is done with it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Vision {
    /// The network.
    #[serde(serialize_with = "name")]
    pub architecture: Architecture,
    /// What is done.
    pub run: VisionRun,
    /// Images at once.
    pub batch: usize,
    /// Their side.
    pub size: usize,
}

/// What is done with a network for classification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VisionRun {
    /// A prediction without gradients.
    Forward,
    /// A training step: cross-entropy, backward, AdamW.
    Train,
}

fn name<S: Serializer>(architecture: &Architecture, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(architecture.name())
}

impl Vision {
    /// The name of the workload.
    pub(crate) fn name(self) -> String {
        let run = match self.run {
            VisionRun::Forward => "forward",
            VisionRun::Train => "train",
        };
        format!("{}/{run}", self.architecture)
    }

    /// Floating-point operations.
    pub(crate) fn flops(self) -> u64 {
        let (multiply_adds, side) = multiply_adds(self.architecture);
        let pixels = (self.size as f64 / side).powi(2);
        let passes = if self.run == VisionRun::Train { 3.0 } else { 1.0 };
        (2e9 * passes * multiply_adds * pixels * self.batch as f64) as u64
    }

    /// Draws weights, images and labels.
    ///
    /// # Errors
    /// When the memory does not suffice.
    pub(crate) fn prepare(self) -> Result<Prepared, AnyError> {
        let mut rng = Rng::new(1);
        let images = rng.randn((self.batch, 3, self.size, self.size), &Device::Cpu)?;
        let params = Params::fresh(0, &Device::Cpu);
        if self.run == VisionRun::Forward {
            let params = params.freeze(|_| true);
            let network = self.architecture.build(3, CLASSES, &params)?;
            let parameters = params.finish()?.count();
            let run: Runner =
                Box::new(move || timed(|| Ok(network.forward(&images, &mut Pass::eval(&mut ()))?)));
            return Ok(Prepared { run, parameters });
        }
        let network = self.architecture.build(3, CLASSES, &params)?;
        let params: ParamSet = params.finish()?;
        let parameters = params.count();
        let labels = (0..self.batch).map(|_| rng.below(CLASSES) as u32).collect();
        let group = Labelled::new(images, labels, Vec::new())?;
        let objective = Classification::from_box(network, CrossEntropy::default())?;
        let config = AdamWConfig::default();
        let mut optimizer = AdamW::new(&params, config)?;
        let run: Runner = Box::new(move || {
            timed(|| {
                let loss = objective.loss(&group, &mut Pass::train(&mut ()).with_dropout(&rng))?.value()?;
                Ok(optimizer.step(&backward(&loss, &params)?, config.lr)?)
            })
        });
        Ok(Prepared { run, parameters })
    }
}

/// Billions of multiply-adds of a prediction, and the side of the image, as torchvision states them for
/// its weights.
fn multiply_adds(architecture: Architecture) -> (f64, f64) {
    use Architecture as A;
    match architecture {
        A::ResNet18 => (1.814, 224.0),
        A::ResNet34 => (3.664, 224.0),
        A::ResNet50 => (4.089, 224.0),
        A::Vgg16 | A::Vgg16Bn => (15.47, 224.0),
        A::Vgg19 | A::Vgg19Bn => (19.632, 224.0),
        A::AlexNet => (0.714, 224.0),
        A::SqueezeNet1_0 => (0.819, 224.0),
        A::SqueezeNet1_1 => (0.349, 224.0),
        A::DenseNet121 => (2.834, 224.0),
        A::MobileNetV2 => (0.301, 224.0),
        A::GoogLeNet => (1.498, 224.0),
        A::InceptionV3 => (5.713, 299.0),
        _ => (0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_training_can_be_timed() {
        let run = VisionRun::Train;
        let mut prepared =
            Vision { architecture: Architecture::SqueezeNet1_1, run, batch: 1, size: 64 }.prepare().unwrap();
        assert_eq!(prepared.parameters, 1_235_496);
        assert!((prepared.run)().unwrap().as_nanos() > 0);
    }
}
