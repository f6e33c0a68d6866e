//! Which classes a network thinks likeliest.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// A class and how likely a network thinks it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The class.
    pub class: usize,
    /// Its share of the softmax of the logits, in [0, 1].
    pub probability: f64,
}

/// The `k` likeliest classes of each sample, the likeliest first; of equally likely ones the first.
///
/// # Shapes
/// Logits (B, K) → B lists of min(k, K).
///
/// # Errors
/// [`Error::Input`] for another shape, or for logits that are not finite.
pub fn top_k(logits: &Tensor, k: usize) -> Result<Vec<Vec<Ranked>>> {
    if logits.rank() != 2 {
        return Err(Error::input("logits", format!("shape {:?}; (B, K) is needed", logits.dims())));
    }
    let rows = logits.detach().to_dtype(DType::F32)?.to_vec2::<f32>()?;
    rows.iter()
        .map(|row| {
            if row.iter().any(|v| !v.is_finite()) {
                return Err(Error::input("logits", "are not finite; look for NaN in images or weights"));
            }
            let ranked = softmax(row).into_iter().enumerate();
            let mut ranked: Vec<Ranked> =
                ranked.map(|(class, probability)| Ranked { class, probability }).collect();
            ranked.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            ranked.truncate(k);
            Ok(ranked)
        })
        .collect()
}

/// The softmax of one sample's logits, in f64.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let e: Vec<f64> = logits.iter().map(|v| (f64::from(*v) - f64::from(top)).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|v| v / sum).collect()
}

/// The class of the greatest value, the first of equal ones; `None` of no classes.
pub(crate) fn argmax(mut classes: Range<usize>, value: impl Fn(usize) -> f32) -> Option<usize> {
    let first = classes.next()?;
    Some(classes.fold(first, |best, class| if value(class) > value(best) { class } else { best }))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_likeliest_come_first() {
        let logits = Tensor::new(&[[0f32, 2.0, 1.0], [3.0, 3.0, -1.0]], &Device::Cpu).unwrap();
        let top = top_k(&logits, 2).unwrap();
        let classes: Vec<Vec<usize>> = top.iter().map(|row| row.iter().map(|r| r.class).collect()).collect();
        assert_eq!(classes, [[1, 2], [0, 1]]);
        assert!((top[0][0].probability - 0.665_240_96).abs() < 1e-8);
        assert_eq!(top_k(&logits, 9).unwrap()[0].len(), 3);
        assert!(top_k(&(&logits * f64::NAN).unwrap(), 1).is_err());
        assert!(top_k(&logits.flatten_all().unwrap(), 1).is_err());
    }

    #[test]
    fn the_greatest_is_the_first_of_equal_ones() {
        let value = |class| [1f32, 5.0, 2.0, 5.0][class];
        assert_eq!([argmax(0..4, value), argmax(2..4, value), argmax(1..1, value)], [Some(1), Some(3), None]);
        assert_eq!(softmax(&[f32::MAX, f32::MIN]), [1.0, 0.0]);
    }
}
