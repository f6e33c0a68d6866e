//! From samples to one batch of tensors.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{LoaderConfig, Position};
use crate::dataset::Sample;
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

/// Channels, rows and columns.
type Size = (usize, usize, usize);

fn size(sample: &Sample) -> Size {
    (sample.image.channels(), sample.image.height(), sample.image.width())
}

/// All samples as one batch.
pub(super) fn collate(
    samples: Vec<Sample>,
    indices: &[usize],
    position: Position,
    next: Position,
    config: &LoaderConfig,
) -> Result<Batch> {
    if let Some((first, other)) = samples.first().and_then(|first| {
        let other = samples.iter().find(|s| size(s) != size(first))?;
        Some((first, other))
    }) {
        let ((c, h, w), (oc, oh, ow)) = (size(first), size(other));
        let reason = format!(
            "{} is {c}×{h}×{w} (channels × height × width) but {} is {oc}×{oh}×{ow}; set a size and colour, \
             or take the loader's groups of one size",
            first.info.id, other.info.id
        );
        return Err(refused(position, reason));
    }
    let batch = by_size(samples, indices, position, next, config)?.pop();
    batch.ok_or_else(|| refused(position, "it has no samples".into()))
}

/// The samples as a batch for each size, in the order in which sizes first occur.
pub(super) fn by_size(
    samples: Vec<Sample>,
    indices: &[usize],
    position: Position,
    next: Position,
    config: &LoaderConfig,
) -> Result<Vec<Batch>> {
    // What some have and others lack is looked for over all groups.
    let known = samples.iter().filter(|s| s.info.class.is_some()).count();
    if let Some(sample) = samples.iter().find(|s| known > 0 && s.info.class.is_none()) {
        return Err(refused(position, format!("{} has no class but others have", sample.info.id)));
    }
    let kinds: BTreeSet<MaskKind> = samples.iter().flat_map(|s| s.masks.keys().cloned()).collect();
    let mut groups: Vec<(Size, Vec<Sample>, Vec<usize>)> = Vec::new();
    for (sample, index) in samples.into_iter().zip(indices) {
        let size = size(&sample);
        match groups.iter_mut().find(|g| g.0 == size) {
            Some((_, members, places)) => {
                members.push(sample);
                places.push(*index);
            }
            None => groups.push((size, vec![sample], vec![*index])),
        }
    }
    let group = |(size, members, indices): (Size, Vec<Sample>, Vec<usize>)| {
        let classes = classes(&members)?;
        let masks = masks(&members, size, &kinds, config.missing_masks, position)?;
        let infos: Vec<_> = members.iter().map(|s| s.info.clone()).collect();
        Ok(Batch {
            images: images(members, size, config.values)?,
            masks,
            classes,
            ids: infos.iter().map(|i| i.id.clone()).collect(),
            groups: infos.into_iter().map(|i| i.group).collect(),
            indices,
            position,
            next,
        })
    };
    groups.into_iter().map(group).collect()
}

fn refused(position: Position, reason: String) -> Error {
    Error::Batch { epoch: position.epoch, batch: position.batch, reason }
}

fn images(samples: Vec<Sample>, (c, h, w): Size, values: Values) -> Result<Tensor> {
    let n = samples.len();
    let mut data = Vec::with_capacity(n * c * h * w);
    for sample in samples {
        let image = match values {
            Values::Unit => sample.image.to_unit()?,
            Values::Signed => sample.image.to_signed()?,
        };
        data.extend_from_slice(image.data());
    }
    Ok(Tensor::from_vec(data, (n, c, h, w), &Device::Cpu)?)
}

/// The classes of samples of which all or none have one.
fn classes(samples: &[Sample]) -> Result<Option<Tensor>> {
    let known: Vec<u32> = samples.iter().filter_map(|s| s.info.class).collect();
    let n = known.len();
    Ok(if n == 0 { None } else { Some(Tensor::from_vec(known, n, &Device::Cpu)?) })
}

fn masks(
    samples: &[Sample],
    (_, h, w): Size,
    kinds: &BTreeSet<MaskKind>,
    missing: MissingMasks,
    position: Position,
) -> Result<BTreeMap<MaskKind, Tensor>> {
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
                    let id = &sample.info.id;
                    let reason = format!(
                        "{id} has no `{kind}` mask but others have; set `missing_masks` to `Empty` if it is \
                         known to be empty"
                    );
                    return Err(refused(position, reason));
                }
            }
        }
        tensors.insert(kind.clone(), Tensor::from_vec(data, (samples.len(), 1, h, w), &Device::Cpu)?);
    }
    Ok(tensors)
}
