//! How much each prototype weighs in an image.

use candle_core::{D, DType, Device, Tensor};

use crate::host::finite_rows;
use crate::{Error, Result};

/// The normalised influence scores NIS_j(x) = exp g_j(x) / Σ_k exp g_k(x) of Dey & Saikia 2025, Eq. 7,
/// from similarities g of any kind, in f64 and without overflow. Each row is positive or zero and sums
/// to 1.
///
/// The scores depend on the scale of g: twice the similarities give a sharper distribution, and squared
/// distances in many dimensions give nearly all of it to one prototype. [`effective_number`] says how
/// far that went.
///
/// # Shapes
/// `similarity` (B, P) → B rows of P.
///
/// # Errors
/// [`Error::Input`] for another shape or no prototype, [`Error::NonFinite`] naming the image and the
/// prototype when a similarity is NaN or infinite.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_proto::influence::{effective_number, normalised_influence};
///
/// let g = Tensor::new(&[[0f32, 0., 0., 0.], [1000., -1000., 1000., -1000.]], &Device::Cpu)?;
/// let nis = normalised_influence(&g)?;
/// assert_eq!(nis[0], [0.25; 4]);
/// assert_eq!(nis[1], [0.5, 0.0, 0.5, 0.0]);
/// assert!((effective_number(&nis[1]) - 2.0).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn normalised_influence(similarity: &Tensor) -> Result<Vec<Vec<f64>>> {
    let rows = finite_rows("similarity", similarity)?;
    // Finite numbers always have a softmax.
    Ok(rows.iter().filter_map(|row| softmax(row)).collect())
}

/// The influence of the prototypes of a soft codebook (Eq. 9 of Dey & Saikia 2025), for which Eq. 7 is
/// not defined: the mean over positions i of the assignment weights α_ij, which sums to 1 as well.
///
/// # Shapes
/// `alpha` (B, P, h, w) or (B, P, positions), with weights that sum to 1 over P → B rows of P.
///
/// # Errors
/// [`Error::Input`] for another shape or weights that are negative or do not sum to 1,
/// [`Error::NonFinite`] naming the image and the prototype.
pub fn mean_assignment(alpha: &Tensor) -> Result<Vec<Vec<f64>>> {
    if !matches!(alpha.rank(), 3 | 4) || alpha.elem_count() == 0 {
        return Err(Error::input("alpha", format!("has shape {:?}, not (B, P, h, w)", alpha.dims())));
    }
    let alpha = alpha.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_from(2)?;
    let least = alpha.flatten_all()?.min(0)?.to_scalar::<f64>()?;
    let rows = finite_rows("assignment weight", &alpha.mean(D::Minus1)?)?;
    for (image, row) in rows.iter().enumerate() {
        let sum: f64 = row.iter().sum();
        if (sum - 1.0).abs() > 1e-3 || least < 0.0 {
            let reason = format!("sums to {sum} over the prototypes in image {image}, least {least}");
            return Err(Error::input("alpha", reason + "; give weights of at least 0 that sum to 1"));
        }
    }
    Ok(rows)
}

/// The effective number of prototypes exp(−Σ_j NIS_j ln NIS_j): 1 when one prototype has all influence,
/// m when all m have the same. NaN when a score is negative or NaN.
pub fn effective_number(influence: &[f64]) -> f64 {
    influence.iter().filter(|p| **p != 0.0).map(|p| -p * p.ln()).sum::<f64>().exp()
}

/// The mean influence of each prototype over images.
pub fn mean_influence(influence: &[Vec<f64>]) -> Vec<f64> {
    let prototypes = influence.first().map_or(0, Vec::len);
    let of = |j: usize| influence.iter().filter_map(|row| row.get(j)).sum::<f64>() / influence.len() as f64;
    (0..prototypes).map(of).collect()
}

/// The softmax of scores below infinity; `None` when there is none above −∞.
pub(crate) fn softmax(scores: &[f64]) -> Option<Vec<f64>> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return None;
    }
    let exponentials: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    Some(exponentials.into_iter().map(|e| e / sum).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor(values: &[f64], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_number_that_is_not_finite_is_named() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let g = tensor(&[0.0, 1.0, 2.0, 3.0, bad, 5.0], (2, 3));
            let error = normalised_influence(&g).unwrap_err();
            assert!(matches!(error, Error::NonFinite { .. }), "{error}");
            assert!(error.to_string().contains("image 1, prototype 1"), "{error}");
        }
        let shapes = [tensor(&[], (0, 3)), tensor(&[], (2, 0)), Tensor::new(1f32, &Device::Cpu).unwrap()];
        for g in shapes {
            assert!(matches!(normalised_influence(&g), Err(Error::Input { .. })), "{g:?}");
        }
    }

    #[test]
    fn assignments_are_averaged_over_positions() {
        let alpha = Tensor::new(&[[[[0.75f32, 0.25], [1.0, 0.0]], [[0.25, 0.75], [0.0, 1.0]]]], &Device::Cpu);
        assert_eq!(mean_assignment(&alpha.unwrap()).unwrap(), [[0.5, 0.5]]);
        for bad in [[0.5f32, 0.6], [-0.5, 1.5], [f32::NAN, 0.5]] {
            let alpha = Tensor::new(&[[[bad[0]], [bad[1]]]], &Device::Cpu).unwrap();
            assert!(mean_assignment(&alpha).is_err(), "{bad:?}");
        }
        assert!(mean_assignment(&tensor(&[0.5, 0.5], (1, 2))).is_err());
    }

    #[test]
    fn the_effective_number_counts_prototypes() {
        assert!((effective_number(&[0.2; 5]) - 5.0).abs() < 1e-12);
        assert_eq!(effective_number(&[0.0, 1.0, 0.0]), 1.0);
        assert!(effective_number(&[1.5, -0.5]).is_nan() && effective_number(&[f64::NAN, 1.0]).is_nan());
    }

    proptest! {
        #[test]
        fn scores_sum_to_one_and_ignore_a_shift(
            g in prop::collection::vec(-1e4f64..1e4, 1..30),
            shift in -1e6f64..1e6,
        ) {
            let m = g.len();
            let nis = normalised_influence(&tensor(&g, (1, m))).unwrap().remove(0);
            let moved: Vec<f64> = g.iter().map(|v| v + shift).collect();
            let moved = normalised_influence(&tensor(&moved, (1, m))).unwrap().remove(0);
            prop_assert!((nis.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for (a, b) in nis.iter().zip(&moved) {
                prop_assert!((a - b).abs() < 1e-8, "{a} {b}");
            }
            let n = effective_number(&nis);
            prop_assert!(n > 1.0 - 1e-9 && n < m as f64 + 1e-9, "{n} of {m}");
        }
    }
}
