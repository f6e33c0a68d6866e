//! Batches of conditions.

use candle_core::Tensor;

use crate::{Cond, Error, Result};

/// A field of [`Cond`], by name.
type Field = (&'static str, fn(&Cond) -> &Option<Tensor>, fn(&mut Cond) -> &mut Option<Tensor>);

const FIELDS: [Field; 3] = [
    ("cond.image", |c| &c.image, |c| &mut c.image),
    ("cond.class", |c| &c.class, |c| &mut c.class),
    ("cond.text", |c| &c.text, |c| &mut c.text),
];

impl Cond {
    /// Refuses a condition whose fields are not for `batch` samples.
    ///
    /// # Errors
    /// [`Error::Input`] that names the field.
    pub fn check_batch(&self, batch: usize) -> Result<()> {
        for (name, get, _) in FIELDS {
            if let Some(x) = get(self)
                && x.dims().first() != Some(&batch)
            {
                let reason = format!("has shape {:?}, but there are {batch} samples", x.dims());
                return Err(Error::input(name, reason));
            }
        }
        Ok(())
    }

    /// The condition of `len` samples from `start` on.
    ///
    /// # Errors
    /// When there are not that many.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let mut part = Self::default();
        for (_, get, get_mut) in FIELDS {
            if let Some(x) = get(self) {
                *get_mut(&mut part) = Some(x.narrow(0, start, len)?);
            }
        }
        Ok(part)
    }

    /// This condition with `first` put before it along the batch, for `batch` samples each. A
    /// field of `first` that is for one sample is repeated; a field that `first` lacks is taken
    /// from this condition.
    ///
    /// # Errors
    /// [`Error::Input`] when `first` has a field that this condition lacks, or shapes differ.
    pub(crate) fn after(&self, first: &Self, batch: usize) -> Result<Self> {
        self.check_batch(batch)?;
        let mut both = Self::default();
        for (name, get, get_mut) in FIELDS {
            *get_mut(&mut both) = match (get(first), get(self)) {
                (None, None) => None,
                (None, Some(x)) => Some(Tensor::cat(&[x, x], 0)?),
                (Some(_), None) => {
                    let reason = "is given without condition only; give it with the condition too";
                    return Err(Error::input(name, reason));
                }
                (Some(a), Some(b)) => {
                    let same_rest = a.dims().get(1..) == b.dims().get(1..);
                    let a = match a.dims().first() {
                        Some(1) if same_rest => a.broadcast_as(b.shape())?.contiguous()?,
                        Some(n) if *n == batch && same_rest => a.clone(),
                        _ => {
                            let reason = format!(
                                "has shape {:?} with and {:?} without the condition; the latter must be the \
                                 same, or that of one sample",
                                b.dims(),
                                a.dims()
                            );
                            return Err(Error::input(name, reason));
                        }
                    };
                    Some(Tensor::cat(&[&a, b], 0)?)
                }
            };
        }
        Ok(both)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn zeros(shape: impl Into<candle_core::Shape>) -> Option<Tensor> {
        Some(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
    }

    #[test]
    fn one_unconditional_sample_serves_all() {
        let cond = Cond { text: zeros((3, 2, 4)), image: zeros((3, 1, 2, 2)), class: None };
        let both = cond.after(&Cond { text: zeros((1, 2, 4)), ..Default::default() }, 3).unwrap();
        assert_eq!(both.text.unwrap().dims(), [6, 2, 4]);
        assert_eq!(both.image.unwrap().dims(), [6, 1, 2, 2]);
        assert_eq!(cond.narrow(1, 2).unwrap().text.unwrap().dims(), [2, 2, 4]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cond = Cond { text: zeros((3, 2, 4)), ..Default::default() };
        let cases = [
            (cond.after(&Cond { text: zeros((1, 3, 4)), ..Default::default() }, 3), "cond.text"),
            (cond.after(&Cond { text: zeros((2, 2, 4)), ..Default::default() }, 3), "cond.text"),
            (cond.after(&Cond { image: zeros((1, 2, 4)), ..Default::default() }, 3), "cond.image"),
            (cond.after(&Cond::default(), 4), "cond.text"),
        ];
        for (result, want) in cases {
            assert!(matches!(result, Err(Error::Input { what, .. }) if what == want));
        }
    }
}
