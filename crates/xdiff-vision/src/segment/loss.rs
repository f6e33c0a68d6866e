//! The loss of a segmentation.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use xdiff_nn::layers::log_softmax;

use super::by_class;
use crate::train::{CrossEntropy, LossParts, targets};
use crate::{Error, Result};

/// A soft Dice loss and cross-entropy, each with a weight.
///
/// With the probabilities p(b, c, i) of image b, class c and pixel i, and the truth t of 0 and 1,
///
/// dice = mean over b and c of 1 − (2 Σᵢ p t + s) / (Σᵢ p + Σᵢ t + s):
///
/// MONAI's `DiceLoss` with its defaults, where s = 10⁻⁵ stands above and below. An image without the
/// class in truth has s above, so that its loss is 1 as soon as Σ p is well above s, and its gradient
/// pulls p to 0. Cross-entropy is that of [`CrossEntropy`] over all pixels of the batch.
///
/// With one logit, x, the classes are background and foreground of probabilities 1 − σ(x) and σ(x):
/// cross-entropy is the binary one, with two class weights where weights are given, and Dice is that
/// of the foreground.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_vision::segment::SegmentationLoss;
///
/// let logits = Tensor::new(&[[[[0f32, 0.0], [0.0, 0.0]]]], &Device::Cpu)?;
/// let loss = SegmentationLoss::default().parts(&logits, &[1, 1, 0, 0])?.value()?.to_scalar::<f32>()?;
/// // Dice 1 − 2·1/(2 + 2) and ln 2.
/// assert!((loss - (0.5 + 2f32.ln())).abs() < 1e-5);
/// # Ok::<(), xdiff_vision::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SegmentationLoss {
    /// The weight of the Dice loss.
    pub dice: f64,
    /// The weight of cross-entropy.
    pub cross_entropy: f64,
    /// Class weights and smoothing of cross-entropy; they do not touch the Dice loss.
    pub entropy: CrossEntropy,
    /// s, above 0.
    pub smooth: f64,
    /// Whether Σ p² + Σ t² stands below instead of Σ p + Σ t (Milletari, Navab and Ahmadi 2016).
    pub squared: bool,
    /// Whether the Dice loss looks at class 0 too; with one logit it never does.
    pub include_background: bool,
    /// A label whose pixels have no part in anything.
    pub ignore: Option<u32>,
}

impl Default for SegmentationLoss {
    /// Both with weight 1, as MONAI's `DiceCELoss`.
    fn default() -> Self {
        Self {
            dice: 1.0,
            cross_entropy: 1.0,
            entropy: CrossEntropy::default(),
            smooth: 1e-5,
            squared: false,
            include_background: true,
            ignore: None,
        }
    }
}

impl SegmentationLoss {
    /// Checks the values for a network of that many classes, which may be 1.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self, classes: usize) -> Result<()> {
        for (field, weight) in [("dice", self.dice), ("cross_entropy", self.cross_entropy)] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(Error::config(field, format!("is {weight}, must be 0 or more")));
            }
        }
        if self.dice + self.cross_entropy == 0.0 {
            return Err(Error::config("dice", "and cross_entropy are both 0, so that there is no loss"));
        }
        if !(self.smooth > 0.0 && self.smooth.is_finite()) {
            return Err(Error::config("smooth", format!("is {}, must be positive", self.smooth)));
        }
        self.entropy.validate(classes.max(2))
    }

    /// The loss as weighted means: Dice over images, cross-entropy over pixels.
    ///
    /// # Shapes
    /// `logits` (B, K, H, W); `labels` B·H·W classes in the order of the pixels.
    ///
    /// # Errors
    /// [`Error::Input`] when shapes do not fit or a label is neither a class nor ignored; those of
    /// [`validate`](Self::validate).
    pub fn parts(&self, logits: &Tensor, labels: &[u32]) -> Result<LossParts> {
        let (b, k, pixels) = match *logits.dims() {
            [b, k, h, w] if b * h * w == labels.len() && b * k * h * w > 0 => (b, k, h * w),
            _ => {
                let reason =
                    format!("shape {:?} for {} labels; must be (B, K, H, W)", logits.dims(), labels.len());
                return Err(Error::input("logits", reason));
            }
        };
        self.validate(k)?;
        let classes = k.max(2);
        let log = log_softmax(&by_class(logits)?, 1)?;
        let tensor =
            |values: Vec<f32>, channels| Tensor::from_vec(values, (b, channels, pixels), logits.device());
        let mut loss = LossParts::default();
        if self.cross_entropy > 0.0 {
            let (targets, weight) = targets(&self.entropy, labels, (classes, pixels), self.ignore)?;
            let sum = (&log * tensor(targets, classes)?)?.sum_all()?;
            loss = loss.and((sum * -self.cross_entropy)?, weight);
        }
        if self.dice > 0.0 {
            let (truth, _) = targets(&CrossEntropy::default(), labels, (classes, pixels), self.ignore)?;
            let (mut p, mut t) = (log.exp()?, tensor(truth, classes)?);
            if let Some(ignored) = self.ignore {
                let seen = labels.iter().map(|l| f32::from(u8::from(*l != ignored))).collect();
                p = p.broadcast_mul(&tensor(seen, 1)?)?;
            }
            if k == 1 || !self.include_background {
                (p, t) = (p.narrow(1, 1, classes - 1)?, t.narrow(1, 1, classes - 1)?);
            }
            let both = (&p * &t)?.sum(2)?;
            let size = if self.squared { p.sqr()?.sum(2)? } else { p.sum(2)? };
            let size = (size + t.sum(2)?)?;
            let dice = (both.affine(2.0, self.smooth)? / (size + self.smooth)?)?;
            let sum = dice.affine(-1.0, 1.0)?.mean(1)?.sum_all()?;
            loss = loss.and((sum * self.dice)?, b as f64);
        }
        Ok(loss)
    }
}
