//! Learning to tell classes apart.

use std::error::Error as StdError;

use candle_core::Tensor;

use super::config::Measure;
use super::cross_entropy::{CrossEntropy, check_label};
use super::objective::{LossParts, Objective, check_finite};
use super::predictions::Predictions;
use crate::{Backbone, Error, Network, Output, Pass, Result};

/// Images of one size with their classes.
#[derive(Clone, Debug)]
pub struct Labelled {
    images: Tensor,
    labels: Vec<u32>,
    ids: Vec<String>,
}

impl Labelled {
    /// `ids` are the names of the images, or none.
    ///
    /// # Shapes
    /// `images` (B, C, H, W), `labels` B.
    ///
    /// # Errors
    /// [`Error::Input`] when the counts differ or are 0.
    pub fn new(images: Tensor, labels: Vec<u32>, ids: Vec<String>) -> Result<Self> {
        let n = labels.len();
        if images.rank() == 4 && images.dim(0)? == n && n > 0 && (ids.is_empty() || ids.len() == n) {
            return Ok(Self { images, labels, ids });
        }
        let reason = format!(
            "shape {:?} for {n} labels and {} names; must be (B, C, H, W) with B labels",
            images.dims(),
            ids.len()
        );
        Err(Error::input("images", reason))
    }

    /// Single images (C, H, W) with label and name, put together by size: a batch of as many groups
    /// as there are sizes, in the order in which they first occur.
    ///
    /// # Errors
    /// When an image is not (C, H, W).
    pub fn by_size(samples: impl IntoIterator<Item = (Tensor, u32, String)>) -> Result<Vec<Self>> {
        let mut groups: Vec<(Vec<Tensor>, Vec<u32>, Vec<String>)> = Vec::new();
        for (image, label, id) in samples {
            if image.rank() != 3 {
                let reason = format!("shape {:?} of `{id}`, must be (C, H, W)", image.dims());
                return Err(Error::input("images", reason));
            }
            let place = groups.iter().position(|(images, ..)| images[0].dims() == image.dims());
            let place = place.unwrap_or_else(|| {
                groups.push(Default::default());
                groups.len() - 1
            });
            let (images, labels, ids) = &mut groups[place];
            images.push(image);
            labels.push(label);
            ids.push(id);
        }
        let whole =
            |(images, labels, ids): (Vec<Tensor>, _, _)| Self::new(Tensor::stack(&images, 0)?, labels, ids);
        groups.into_iter().map(whole).collect()
    }

    /// The images (B, C, H, W).
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// Their classes.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }
}

/// A network that learns classes by [`CrossEntropy`].
///
/// The loss of a batch of several groups is that of all their images together. A batch norm sees one
/// group at a time, as it can only see images of one size: its statistics are those of the group, and
/// its running ones move once for each group.
#[derive(Debug)]
pub struct Classification {
    network: Box<dyn Backbone>,
    loss: CrossEntropy,
    auxiliary: f64,
}

impl Classification {
    /// The weight of auxiliary classifiers with which GoogLeNet was trained (Szegedy et al. 2014).
    pub const GOOGLENET: f64 = 0.3;
    /// The weight of the auxiliary classifier with which torchvision's reference trains Inception v3.
    pub const INCEPTION: f64 = 0.4;

    /// Auxiliary classifiers, where the network has them, count 0.3.
    ///
    /// # Errors
    /// [`Error::Config`] when the loss does not fit the network.
    pub fn new(network: impl Backbone + 'static, loss: CrossEntropy) -> Result<Self> {
        Self::from_box(Box::new(network), loss)
    }

    /// As [`new`](Self::new).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_box(network: Box<dyn Backbone>, loss: CrossEntropy) -> Result<Self> {
        loss.validate(network.describe().classes)?;
        Ok(Self { network, loss, auxiliary: Self::GOOGLENET })
    }

    /// With another weight of auxiliary classifiers.
    ///
    /// # Errors
    /// [`Error::Config`] when it is negative or not finite.
    pub fn auxiliary(self, weight: f64) -> Result<Self> {
        if weight >= 0.0 && weight.is_finite() {
            return Ok(Self { auxiliary: weight, ..self });
        }
        Err(Error::config("auxiliary", format!("is {weight}, must be 0 or more")))
    }

    /// The network.
    pub fn network(&self) -> &dyn Backbone {
        self.network.as_ref()
    }

    /// The network behind the traits of `xdiff-core`; `weights` says what it was trained on.
    pub fn into_network(self, weights: impl Into<String>) -> Network {
        Network::from_box(self.network, weights)
    }
}

/// What a network gives for a group that fits it.
fn forward(network: &dyn Backbone, group: &Labelled, pass: &mut Pass<'_>) -> Result<Output> {
    let classes = network.describe().classes;
    group.labels.iter().try_for_each(|label| check_label(*label, classes))?;
    check_finite(&group.images, &group.ids)?;
    network.forward(&group.images, pass)
}

/// Adds what a network answers to a group outside of training; the logits.
fn answer(network: &dyn Backbone, group: &Labelled, predictions: &mut Predictions) -> Result<Tensor> {
    let logits = forward(network, group, &mut Pass::eval(&mut ()))?.logits.detach();
    predictions.push(&logits, &group.labels, &group.ids)?;
    Ok(logits)
}

impl Objective for Classification {
    type Group = Labelled;
    type Findings = Predictions;

    fn loss(&self, group: &Labelled, pass: &mut Pass<'_>) -> Result<LossParts> {
        let output = forward(self.network.as_ref(), group, pass)?;
        let mut loss = self.loss.parts(&output.logits, &group.labels)?;
        for logits in &output.auxiliary {
            let (sum, weight) = self.loss.parts(logits, &group.labels)?.single()?;
            loss = loss.and((sum * self.auxiliary)?, weight);
        }
        Ok(loss)
    }

    fn findings(&self) -> Predictions {
        Predictions::new(self.network.describe().classes)
    }

    fn observe(&self, group: &Labelled, findings: &mut Predictions) -> Result<LossParts> {
        self.loss.parts(&answer(self.network.as_ref(), group, findings)?, &group.labels)
    }

    fn measures(&self) -> &'static [Measure] {
        &[Measure::Loss, Measure::Accuracy, Measure::BalancedAccuracy, Measure::MacroF1]
    }
}

/// What a network answers to all images, one batch at a time: of each batch only logits, labels and
/// names are kept.
///
/// # Errors
/// [`Error::Data`] when the batches fail, [`Error::Input`] when there are none or one does not fit the
/// network.
pub fn predict<E: Into<Box<dyn StdError + Send + Sync>>>(
    network: &dyn Backbone,
    batches: impl IntoIterator<Item = std::result::Result<Vec<Labelled>, E>>,
) -> Result<Predictions> {
    let mut all = Predictions::new(network.describe().classes);
    for batch in batches {
        for group in batch.map_err(|e| Error::Data(e.into()))? {
            answer(network, &group, &mut all)?;
        }
    }
    if all.is_empty() {
        return Err(Error::input("batches", "there are none"));
    }
    Ok(all)
}
