//! Masks: which pixels belong to what.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::{Image, Scale};
use crate::{Error, Result};

/// What a mask marks.
///
/// In configurations it is written as its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum MaskKind {
    /// The body against the air.
    Body,
    /// The head against the air.
    Head,
    /// The brain inside the skull.
    Brain,
    /// The breasts, ahead of the chest wall.
    Breast,
    /// Fibroglandular tissue of the breast.
    Gland,
    /// Both lungs.
    Lungs,
    /// The lung on the image's left, which is the patient's right.
    LungImageLeft,
    /// The lung on the image's right, which is the patient's left.
    LungImageRight,
    /// The heart's outline.
    Heart,
    /// A blood cell.
    Cell,
    /// A cell's nucleus.
    Nucleus,
    /// What disease changed: tumour, opacity, fibrosis, an abnormal cell.
    Lesion,
    /// Letters or tags burnt into the image.
    Marker,
    /// Anything else, by name.
    Other(String),
}

impl MaskKind {
    /// The kind of that name; a name of none of them gives [`MaskKind::Other`].
    pub fn from_name(name: &str) -> Self {
        match name {
            "body" => Self::Body,
            "head" => Self::Head,
            "brain" => Self::Brain,
            "breast" => Self::Breast,
            "gland" => Self::Gland,
            "lungs" => Self::Lungs,
            "lung_image_left" => Self::LungImageLeft,
            "lung_image_right" => Self::LungImageRight,
            "heart" => Self::Heart,
            "cell" => Self::Cell,
            "nucleus" => Self::Nucleus,
            "lesion" => Self::Lesion,
            "marker" => Self::Marker,
            other => Self::Other(other.to_string()),
        }
    }

    /// The kind after a flip from left to right: the lungs change sides.
    pub fn mirrored(self) -> Self {
        match self {
            Self::LungImageLeft => Self::LungImageRight,
            Self::LungImageRight => Self::LungImageLeft,
            other => other,
        }
    }
}

impl From<String> for MaskKind {
    fn from(name: String) -> Self {
        Self::from_name(&name)
    }
}

impl From<MaskKind> for String {
    fn from(kind: MaskKind) -> Self {
        kind.to_string()
    }
}

impl fmt::Display for MaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body => "body",
            Self::Head => "head",
            Self::Brain => "brain",
            Self::Breast => "breast",
            Self::Gland => "gland",
            Self::Lungs => "lungs",
            Self::LungImageLeft => "lung_image_left",
            Self::LungImageRight => "lung_image_right",
            Self::Heart => "heart",
            Self::Cell => "cell",
            Self::Nucleus => "nucleus",
            Self::Lesion => "lesion",
            Self::Marker => "marker",
            Self::Other(name) => name,
        })
    }
}

/// How the stored values of a mask file become labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskRule {
    /// 1 where the stored value is greater than this, else 0. For 0/255 files any of 0..255 will do;
    /// for 0/1 files 0.
    Above(f32),
    /// The stored value is the label, 0 for background; whole numbers of 0 to 255.
    Labels,
}

/// A label per pixel, row by row; 0 is background. A binary mask has the labels 0 and 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    height: usize,
    width: usize,
    data: Vec<u8>,
}

impl Mask {
    /// A mask of given labels.
    ///
    /// # Shapes
    /// `data` is (height, width) in row-major order.
    ///
    /// # Errors
    /// When a side is 0 or the length does not fit.
    pub fn new(height: usize, width: usize, data: Vec<u8>) -> Result<Self> {
        if height == 0 || width == 0 || height.checked_mul(width) != Some(data.len()) {
            return Err(Error::argument(
                "data",
                format!("{} labels cannot be a mask of {height}×{width}", data.len()),
            ));
        }
        Ok(Self { height, width, data })
    }

    /// A mask of zeros.
    ///
    /// # Errors
    /// When a side is 0.
    pub fn empty(height: usize, width: usize) -> Result<Self> {
        Self::new(height, width, vec![0; height.saturating_mul(width)])
    }

    /// The mask in an image of stored values.
    ///
    /// # Errors
    /// When the image is not grey (an RGB file whose channels agree counts as grey) or not in stored
    /// values, when the threshold is not finite, or when labels are asked for and a value is none.
    pub fn from_image(image: &Image, rule: MaskRule) -> Result<Self> {
        if image.scale != Scale::Stored {
            return Err(Error::argument(
                "mask",
                format!("{} is scaled; a mask needs stored values", image.name()),
            ));
        }
        if (1..image.channels()).any(|c| image.plane(c) != image.plane(0)) {
            return Err(Error::Channels {
                name: image.name(),
                got: "the mask is coloured".into(),
                expected: "grey",
                hint: "write one grey mask a kind, or labels of 0 to 255",
            });
        }
        let plane = image.plane(0);
        let data = match rule {
            MaskRule::Above(t) if t.is_finite() => plane.iter().map(|v| u8::from(*v > t)).collect(),
            MaskRule::Above(t) => return Err(Error::argument("threshold", format!("{t} is not finite"))),
            MaskRule::Labels => plane
                .iter()
                .map(|v| if (0.0..=255.0).contains(v) && v.fract() == 0.0 { Ok(*v as u8) } else { Err(*v) })
                .collect::<std::result::Result<_, f32>>()
                .map_err(|v| {
                    Error::argument(
                        "mask",
                        format!("{} holds {v}, which is no label of 0 to 255", image.name()),
                    )
                })?,
        };
        Self::new(image.height(), image.width(), data)
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The labels, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many pixels have a label other than 0.
    pub fn area(&self) -> usize {
        self.data.iter().filter(|v| **v != 0).count()
    }

    /// The labels that occur, in order, without 0.
    pub fn labels(&self) -> Vec<u8> {
        let mut seen = [false; 256];
        self.data.iter().for_each(|v| seen[usize::from(*v)] = true);
        (1..=255).filter(|v| seen[usize::from(*v)]).collect()
    }

    /// The binary mask of one label.
    pub fn select(&self, label: u8) -> Self {
        let data = self.data.iter().map(|v| u8::from(*v == label)).collect();
        Self { data, ..*self }
    }

    /// Whether every pixel of this mask lies in the other.
    ///
    /// # Errors
    /// When the sizes differ.
    pub fn is_within(&self, other: &Self) -> Result<bool> {
        if (self.height, self.width) != (other.height, other.width) {
            return Err(Error::argument(
                "mask",
                format!("{}×{} against {}×{}", self.height, self.width, other.height, other.width),
            ));
        }
        Ok(self.data.iter().zip(&other.data).all(|(a, b)| *a == 0 || *b != 0))
    }

    /// The same mask with its labels laid out anew, for a size of `height` by `width`.
    pub(crate) fn map_plane(&self, height: usize, width: usize, f: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        Self { height, width, data: f(&self.data) }
    }
}
