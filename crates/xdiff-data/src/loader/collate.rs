//! From samples to one batch of tensors.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{LoaderConfig, Position};
use crate::dataset::Sample;
use crate::image::Image;
use crate::mask::MaskKind;
use crate::{Error, Result};

/// The range of a batch's image values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// 0 to 1, what metrics and classifiers take.
    Unit,
    /// −1 to 1, what diffusion models take.
    #[default]
    Signed,
}

/// What to do when some samples of a batch have a mask that others lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingMasks {
    /// Refuse the batch: a missing mask is not known to be empty.
    #[default]
    Refuse,
    /// Take a missing mask for an empty one.
    Empty,
}

/// Samples side by side, as CPU tensors.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images, (B, C, H, W), f32.
    pub images: Tensor,
    /// The masks by kind, (B, 1, H, W), f32 holding the labels.
    pub masks: BTreeMap<MaskKind, Tensor>,
    /// The classes, (B), u32; `None` when the samples have none.
    pub classes: Option<Tensor>,
    /// The samples' names.
    pub ids: Vec<String>,
    /// The samples' patients or other groups.
    pub groups: Vec<Option<String>>,
    /// The samples' indices in the dataset.
    pub indices: Vec<usize>,
    /// Where this batch stands.
    pub position: Position,
    /// Where the next one stands: what a checkpoint taken after this batch should keep.
    pub next: Position,
}

impl Batch {
    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has none; no loader gives such a batch.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The same batch with its tensors on another device.
    ///
    /// # Errors
    /// When the device cannot hold them.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let masks = self.masks.iter().map(|(kind, mask)| Ok((kind.clone(), mask.to_device(device)?)));
        Ok(Self {
            images: self.images.to_device(device)?,
            masks: masks.collect::<Result<_>>()?,
            classes: self.classes.as_ref().map(|c| c.to_device(device)).transpose()?,
            ..self.clone()
        })
    }

    /// The mask of a kind.
    ///
    /// # Errors
    /// When the batch has no such mask.
    pub fn mask(&self, kind: &MaskKind) -> Result<&Tensor> {
        self.masks.get(kind).ok_or_else(|| {
            let known: Vec<String> = self.masks.keys().map(ToString::to_string).collect();
            Error::argument("mask", format!("the batch has no `{kind}` mask; it has [{}]", known.join(", ")))
        })
    }
}

pub(super) fn collate(
    samples: Vec<Sample>,
    indices: &[usize],
    position: Position,
    next: Position,
    config: &LoaderConfig,
) -> Result<Batch> {
    let refuse = |reason: String| Error::Batch { epoch: position.epoch, batch: position.batch, reason };
    let shape = |i: &Image| (i.channels(), i.height(), i.width());
    let Some(first) = samples.first() else { return Err(refuse("it has no samples".into())) };
    let (c, h, w) = shape(&first.image);
    if let Some(other) = samples.iter().find(|s| shape(&s.image) != (c, h, w)) {
        let (oc, oh, ow) = shape(&other.image);
        return Err(refuse(format!(
            "{} is {c}×{h}×{w} (channels × height × width) but {} is {oc}×{oh}×{ow}; set a size and colour",
            first.info.id, other.info.id
        )));
    }
    let classes = classes(&samples).map_err(refuse)?;
    let masks = masks(&samples, (h, w), config.missing_masks, refuse)?;
    let infos: Vec<_> = samples.iter().map(|s| s.info.clone()).collect();
    let mut data = Vec::with_capacity(samples.len() * c * h * w);
    for sample in samples {
        let image = match config.values {
            Values::Unit => sample.image.to_unit()?,
            Values::Signed => sample.image.to_signed()?,
        };
        data.extend_from_slice(image.data());
    }
    Ok(Batch {
        images: Tensor::from_vec(data, (infos.len(), c, h, w), &Device::Cpu)?,
        masks,
        classes,
        ids: infos.iter().map(|i| i.id.clone()).collect(),
        groups: infos.into_iter().map(|i| i.group).collect(),
        indices: indices.to_vec(),
        position,
        next,
    })
}

fn classes(samples: &[Sample]) -> std::result::Result<Option<Tensor>, String> {
    let known: Vec<u32> = samples.iter().filter_map(|s| s.info.class).collect();
    match (known.len(), samples.iter().find(|s| s.info.class.is_none())) {
        (0, _) => Ok(None),
        (_, Some(s)) => Err(format!("{} has no class but others have", s.info.id)),
        (n, None) => Tensor::from_vec(known, n, &Device::Cpu).map(Some).map_err(|e| e.to_string()),
    }
}

fn masks(
    samples: &[Sample],
    (h, w): (usize, usize),
    missing: MissingMasks,
    refuse: impl Fn(String) -> Error,
) -> Result<BTreeMap<MaskKind, Tensor>> {
    let kinds: BTreeSet<&MaskKind> = samples.iter().flat_map(|s| s.masks.keys()).collect();
    let mut tensors = BTreeMap::new();
    for kind in kinds {
        let mut data: Vec<f32> = Vec::with_capacity(samples.len() * h * w);
        for sample in samples {
            match (sample.masks.get(kind), missing) {
                (Some(m), _) if (m.height(), m.width()) == (h, w) => {
                    data.extend(m.data().iter().map(|v| f32::from(*v)));
                }
                (Some(m), _) => {
                    return Err(Error::MaskSize {
                        image: sample.info.id.clone(),
                        height: h,
                        width: w,
                        mask: kind.to_string(),
                        mask_height: m.height(),
                        mask_width: m.width(),
                    });
                }
                (None, MissingMasks::Empty) => data.resize(data.len() + h * w, 0.0),
                (None, MissingMasks::Refuse) => {
                    return Err(refuse(format!(
                        "{} has no `{kind}` mask but others have; set `missing_masks` to `Empty` if it is known to be empty",
                        sample.info.id
                    )));
                }
            }
        }
        tensors.insert(kind.clone(), Tensor::from_vec(data, (samples.len(), 1, h, w), &Device::Cpu)?);
    }
    Ok(tensors)
}
