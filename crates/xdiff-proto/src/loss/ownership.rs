//! Which prototypes belong to which class.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// Which prototypes, or columns of a head, belong to which class. A prototype may belong to several
/// classes, or to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    classes: usize,
    /// Row by row, (classes, prototypes).
    own: Vec<bool>,
}

impl Ownership {
    /// One class for each prototype.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no prototype or a class is not below `classes`.
    pub fn fixed(class_of: &[usize], classes: usize) -> Result<Self> {
        if class_of.is_empty() {
            return Err(Error::config("class_of", "is empty; give one class for each prototype"));
        }
        if let Some(wrong) = class_of.iter().find(|c| **c >= classes) {
            let reason = format!("holds {wrong}, must be below the number of classes, {classes}");
            return Err(Error::config("class_of", reason));
        }
        let own = (0..classes).flat_map(|class| class_of.iter().map(move |c| *c == class)).collect();
        Ok(Self { classes, own })
    }

    /// The `count` prototypes of each class with the greatest share in its slots, summed over the slots;
    /// the first of equals. So ProtoPool's released code tells own prototypes from others.
    ///
    /// # Shapes
    /// `shares` (classes, prototypes, slots).
    ///
    /// # Errors
    /// [`Error::Input`] for another shape, shares that are not finite, or a `count` of 0 or above the
    /// number of prototypes.
    pub fn strongest(shares: &Tensor, count: usize) -> Result<Self> {
        let &[classes, prototypes, slots] = shares.dims() else {
            let reason = format!("have shape {:?}, not (classes, prototypes, slots)", shares.dims());
            return Err(Error::input("shares", reason));
        };
        if count == 0 || count > prototypes || slots == 0 {
            let reason = format!("{count} of {prototypes} prototypes in {slots} slots cannot be taken");
            return Err(Error::input("shares", reason));
        }
        let sums = shares.detach().to_dtype(DType::F64)?.sum(2)?.to_device(&Device::Cpu)?;
        let mut own = vec![false; classes * prototypes];
        for (class, row) in sums.to_vec2::<f64>()?.into_iter().enumerate() {
            if row.iter().any(|v| !v.is_finite()) {
                let reason = format!("those of class {class} are not all finite");
                return Err(Error::input("shares", reason));
            }
            let mut order: Vec<usize> = (0..prototypes).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            order.iter().take(count).for_each(|p| own[class * prototypes + p] = true);
        }
        Ok(Self { classes, own })
    }

    /// How many classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many prototypes, or columns.
    pub fn prototypes(&self) -> usize {
        self.own.len() / self.classes.max(1)
    }

    /// Whether the prototype belongs to the class; `false` for numbers beyond.
    pub fn owns(&self, class: usize, prototype: usize) -> bool {
        let inside = class < self.classes && prototype < self.prototypes();
        inside && self.own[class * self.prototypes() + prototype]
    }

    /// The prototypes of a class.
    pub fn of_class(&self, class: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.prototypes()).filter(move |p| self.owns(class, *p))
    }

    /// For each label, 1 where [`owns`](Self::owns) is `wanted`: (B, P), u8.
    ///
    /// # Errors
    /// [`Error::Input`] for a label that is no class, [`Error::EmptyClass`] when a row would be empty.
    pub(super) fn mask(&self, labels: &[u32], wanted: bool, device: &Device) -> Result<Tensor> {
        let prototypes = self.prototypes();
        let mut mask = Vec::with_capacity(labels.len() * prototypes);
        for label in labels {
            let class = check_label(*label, self.classes)?;
            let row = &self.own[class * prototypes..][..prototypes];
            if !row.contains(&wanted) {
                let (what, hint) = if wanted {
                    ("prototype", "give each class at least one, or leave the cluster loss out")
                } else {
                    (
                        "prototype of another class",
                        "use two classes or more, or leave the separation loss out",
                    )
                };
                return Err(Error::EmptyClass { class, what, hint });
            }
            mask.extend(row.iter().map(|own| u8::from(*own == wanted)));
        }
        Ok(Tensor::from_vec(mask, (labels.len(), prototypes), device)?)
    }

    /// 1 where a column does not belong to the class of its row: (classes, columns), f32.
    pub(super) fn wrong(&self, device: &Device) -> Result<Tensor> {
        let wrong: Vec<f32> = self.own.iter().map(|own| f32::from(u8::from(!own))).collect();
        Ok(Tensor::from_vec(wrong, (self.classes, self.prototypes()), device)?)
    }
}

/// The label as an index below `classes`.
pub(super) fn check_label(label: u32, classes: usize) -> Result<usize> {
    if (label as usize) < classes {
        return Ok(label as usize);
    }
    Err(Error::input("labels", format!("hold {label}, the classes are 0 to {}", classes.saturating_sub(1))))
}
