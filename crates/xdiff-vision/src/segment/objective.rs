//! Learning to segment.

use candle_core::{DType, Device, Tensor};

use super::Segmenter;
use super::loss::SegmentationLoss;
use super::predict::{Decision, decide};
use crate::train::{Findings, LossParts, Measure, Objective, check_finite, push_names};
use crate::{Error, Pass, Result};

/// Images of one size with their masks.
#[derive(Clone, Debug)]
pub struct Masked {
    images: Tensor,
    labels: Vec<u32>,
    ids: Vec<String>,
}

impl Masked {
    /// `ids` are the names of the images, or none.
    ///
    /// # Shapes
    /// `images` (B, C, H, W); `masks` (B, H, W) or (B, 1, H, W) of any type, holding a class a pixel.
    ///
    /// # Errors
    /// [`Error::Input`] when shapes do not fit or a mask holds anything but whole numbers from 0 on.
    pub fn new(images: Tensor, masks: &Tensor, ids: Vec<String>) -> Result<Self> {
        let fits = match (images.dims(), masks.dims()) {
            ([b, _, h, w], [mb, mh, mw] | [mb, 1, mh, mw]) => {
                (b, h, w) == (mb, mh, mw) && *b > 0 && (ids.is_empty() || ids.len() == *b)
            }
            _ => false,
        };
        if !fits {
            let reason = format!(
                "shape {:?} for images of shape {:?} and {} names; must be (B, H, W) for (B, C, H, W)",
                masks.dims(),
                images.dims(),
                ids.len()
            );
            return Err(Error::input("masks", reason));
        }
        let values = masks.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let label = |v: &f64| {
            let whole = v.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(v);
            whole.then_some(*v as u32).ok_or_else(|| {
                Error::input("masks", format!("hold {v}; must hold a class a pixel, 0 for background"))
            })
        };
        let labels = values.iter().map(label).collect::<Result<_>>()?;
        Ok(Self { images, labels, ids })
    }

    /// The images (B, C, H, W).
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// The classes of all pixels, image by image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }
}

/// The Dice coefficients of single images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlaps {
    dice: Vec<Vec<f64>>,
    ids: Vec<String>,
}

impl Overlaps {
    /// 2 |A ∩ B| / (|A| + |B|) of each image, one for each class but the background; 1 where neither
    /// truth nor answer has the class.
    pub fn dice(&self) -> &[Vec<f64>] {
        &self.dice
    }

    /// The names of the images.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }
}

impl Findings for Overlaps {
    fn count(&self) -> usize {
        self.dice.len()
    }

    fn measure(&self, which: Measure) -> Option<f64> {
        let n = self.dice.iter().map(Vec::len).sum::<usize>();
        (which == Measure::Dice && n > 0).then(|| self.dice.iter().flatten().sum::<f64>() / n as f64)
    }
}

/// A network that learns masks by a [`SegmentationLoss`].
///
/// The loss of a batch of several groups is that of all their images together: Dice over images,
/// cross-entropy over pixels. A batch norm sees one group at a time.
#[derive(Debug)]
pub struct Segmentation<M> {
    network: M,
    loss: SegmentationLoss,
}

impl<M: Segmenter> Segmentation<M> {
    /// A network and the loss by which it learns.
    ///
    /// # Errors
    /// [`Error::Config`] when the loss does not fit the network.
    pub fn new(network: M, loss: SegmentationLoss) -> Result<Self> {
        loss.validate(network.classes())?;
        Ok(Self { network, loss })
    }

    /// The network.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// The network, without its loss.
    pub fn into_network(self) -> M {
        self.network
    }
}

impl<M: Segmenter> Objective for Segmentation<M> {
    type Group = Masked;
    type Findings = Overlaps;

    fn loss(&self, group: &Masked, pass: &mut Pass<'_>) -> Result<LossParts> {
        check_finite(&group.images, &group.ids)?;
        self.loss.parts(&self.network.logits(&group.images, pass)?, &group.labels)
    }

    fn findings(&self) -> Overlaps {
        Overlaps::default()
    }

    fn observe(&self, group: &Masked, findings: &mut Overlaps) -> Result<LossParts> {
        check_finite(&group.images, &group.ids)?;
        let logits = self.network.logits(&group.images, &mut Pass::eval(&mut ()))?.detach();
        let loss = self.loss.parts(&logits, &group.labels)?;
        let answers = decide(&logits, Decision::MostProbable)?;
        let classes = self.network.classes().max(2);
        let pixels = answers.len() / group.images.dim(0)?;
        for (answer, truth) in answers.chunks_exact(pixels).zip(group.labels.chunks_exact(pixels)) {
            // Of each class: in both, in one, in the other.
            let mut counts = vec![[0f64; 3]; classes];
            for (answer, truth) in answer.iter().zip(truth).filter(|(_, t)| self.loss.ignore != Some(**t)) {
                let (a, t) = (usize::from(*answer), *truth as usize);
                counts[a][1] += 1.0;
                counts[t][2] += 1.0;
                counts[a][0] += f64::from(u8::from(a == t));
            }
            let dice = |[both, a, t]: &[f64; 3]| if a + t > 0.0 { 2.0 * both / (a + t) } else { 1.0 };
            findings.dice.push(counts[1..].iter().map(dice).collect());
        }
        push_names(&mut findings.ids, &group.ids, answers.len() / pixels);
        Ok(loss)
    }

    fn measures(&self) -> &'static [Measure] {
        &[Measure::Loss, Measure::Dice]
    }
}
