//! What a network answered.

use candle_core::{Device, Tensor};

use super::config::Measure;
use super::objective::{Findings, push_names};
use crate::ranking::{argmax, softmax};
use crate::{Error, Result};

/// Logits and labels of many images, in the order in which they came: all that scores of a classifier
/// are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    classes: usize,
    logits: Vec<f32>,
    labels: Vec<u32>,
    ids: Vec<String>,
}

impl Predictions {
    /// None yet, of a network with that many classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, logits: Vec::new(), labels: Vec::new(), ids: Vec::new() }
    }

    /// Adds those of a batch. Images without a name get their number.
    ///
    /// # Shapes
    /// `logits` (B, K), `labels` B.
    ///
    /// # Errors
    /// When shapes do not fit; nothing is added then.
    pub fn push(&mut self, logits: &Tensor, labels: &[u32], ids: &[String]) -> Result<()> {
        if logits.dims() != [labels.len(), self.classes] || !(ids.is_empty() || ids.len() == labels.len()) {
            let reason = format!(
                "shape {:?} for {} labels, {} names and {} classes; must be (B, K)",
                logits.dims(),
                labels.len(),
                ids.len(),
                self.classes
            );
            return Err(Error::input("logits", reason));
        }
        let values = logits.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        push_names(&mut self.ids, ids, labels.len());
        self.logits.extend(values);
        self.labels.extend(labels);
        Ok(())
    }

    /// Adds those of another part of the data.
    ///
    /// # Errors
    /// When the number of classes differs.
    pub fn extend(&mut self, other: Self) -> Result<()> {
        if other.classes != self.classes {
            let reason = format!("{} classes beside {}", other.classes, self.classes);
            return Err(Error::input("predictions", reason));
        }
        self.logits.extend(other.logits);
        self.labels.extend(other.labels);
        self.ids.extend(other.ids);
        Ok(())
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// How many classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The logits (n, K).
    ///
    /// # Errors
    /// When the tensor engine refuses.
    pub fn logits(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.logits, (self.len(), self.classes), &Device::Cpu)?)
    }

    /// The logits of each image.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks_exact(self.classes.max(1))
    }

    /// The probabilities of each image, the softmax of its logits in f64.
    pub fn probabilities(&self) -> Vec<Vec<f64>> {
        self.rows().map(softmax).collect()
    }

    /// The true classes.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The names of the images.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The class of the greatest logit of each image; the first of equal ones.
    pub fn predicted(&self) -> Vec<u32> {
        let best = |row: &[f32]| argmax(0..row.len(), |class| row[class]).unwrap_or(0) as u32;
        self.rows().map(best).collect()
    }

    /// For each class, how many images are of it, were taken for it, and were rightly so.
    fn counts(&self) -> Vec<[f64; 3]> {
        let mut counts = vec![[0.0; 3]; self.classes];
        for (label, answer) in self.labels.iter().zip(self.predicted()) {
            counts[*label as usize][0] += 1.0;
            counts[answer as usize][1] += 1.0;
            counts[answer as usize][2] += f64::from(u8::from(*label == answer));
        }
        counts
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (n, sum) = values.fold((0, 0.0), |(n, sum), v| (n + 1, sum + v));
    (n > 0).then(|| sum / f64::from(n))
}

impl Findings for Predictions {
    fn count(&self) -> usize {
        self.len()
    }

    fn measure(&self, which: Measure) -> Option<f64> {
        let counts = self.counts();
        match which {
            Measure::Accuracy => {
                (!self.is_empty()).then(|| counts.iter().map(|c| c[2]).sum::<f64>() / self.len() as f64)
            }
            Measure::BalancedAccuracy => mean(counts.iter().filter(|c| c[0] > 0.0).map(|c| c[2] / c[0])),
            Measure::MacroF1 => {
                mean(counts.iter().filter(|c| c[0] + c[1] > 0.0).map(|c| 2.0 * c[2] / (c[0] + c[1])))
            }
            Measure::Loss | Measure::Dice => None,
        }
    }
}
