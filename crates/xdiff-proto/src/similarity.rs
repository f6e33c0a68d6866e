//! From a distance to a similarity.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How alike a patch and a prototype are, as a function of their squared distance d ≥ 0. All fall as d
/// grows, so that the most similar patch is the nearest.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_proto::Similarity;
///
/// let distances = Tensor::new(&[0f32, 1.0, 3.0], &Device::Cpu)?;
/// let alike = Similarity::Reciprocal.of_distance(&distances)?;
/// assert_eq!(alike.to_vec1::<f32>()?, [1.0, 0.5, 0.25]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Similarity {
    /// ln((d + 1)/(d + ε)), from ln(1/ε) down to 0 (Chen et al. 2019).
    Log {
        /// ε, above 0 and below 1.
        epsilon: f64,
    },
    /// −d (Dey & Saikia 2025, Eq. 4; `linear` in ProtoPNet's code).
    Linear,
    /// The cosine of the angle between patch and prototype, in [−1, 1]: both are scaled to length 1, and
    /// d between them is 2 − 2 cos. The cosine with a vector of zeros is 0, and so is its slope.
    Cosine,
    /// 1/(1 + d), in (0, 1] (`linear` in ProtoPool's code).
    Reciprocal,
}

impl Default for Similarity {
    /// The logarithm with ε = 1e-4.
    fn default() -> Self {
        Similarity::Log { epsilon: 1e-4 }
    }
}

impl Similarity {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] for an ε outside (0, 1).
    pub fn validate(&self) -> Result<()> {
        match self {
            Similarity::Log { epsilon } if !(*epsilon > 0.0 && *epsilon < 1.0) => {
                Err(Error::config("epsilon", format!("is {epsilon}, must lie between 0 and 1")))
            }
            _ => Ok(()),
        }
    }

    /// Whether patches and prototypes are scaled to length 1 before their distance is taken.
    pub fn normalises(self) -> bool {
        self == Similarity::Cosine
    }

    /// The similarity of squared distances of any shape, of unit vectors where it
    /// [`normalises`](Self::normalises). Differentiable.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn of_distance(&self, distance: &Tensor) -> Result<Tensor> {
        Ok(match *self {
            Similarity::Log { epsilon } => ((distance + 1.0)? / (distance + epsilon)?)?.log()?,
            Similarity::Linear => distance.neg()?,
            Similarity::Cosine => distance.affine(-0.5, 1.0)?,
            Similarity::Reciprocal => (distance + 1.0)?.recip()?,
        })
    }

    /// Patches and prototypes in the space where their squared distance is taken: as they are, or,
    /// where it [`normalises`](Self::normalises), scaled to length 1 with two more channels, in which
    /// vectors of zeros become units at right angles to everything (d = 2, cosine 0).
    ///
    /// # Shapes
    /// `patches` (B, D, h, w), `prototypes` (P, D) → (B, D or D + 2, h, w), (P, D or D + 2).
    pub(crate) fn space(&self, patches: &Tensor, prototypes: &Tensor) -> Result<(Tensor, Tensor)> {
        if !self.normalises() {
            return Ok((patches.clone(), prototypes.clone()));
        }
        let (units, zero) = unit(patches)?;
        let patches = Tensor::cat(&[&units, &zero, &zero.zeros_like()?], 1)?;
        let (units, zero) = unit(prototypes)?;
        let prototypes = Tensor::cat(&[&units, &zero.zeros_like()?, &zero], 1)?;
        Ok((patches, prototypes))
    }
}

/// Vectors along dimension 1 scaled to length 1, and 1 where a vector is zeros (which it stays, with
/// gradient 0) or else 0.
pub(crate) fn unit(x: &Tensor) -> Result<(Tensor, Tensor)> {
    // Scaled by the largest number first, which cancels out: squares neither overflow nor vanish.
    let largest = x.detach().abs()?.max_keepdim(1)?;
    let zero = largest.eq(0.0)?.to_dtype(DType::F32)?;
    let x = x.broadcast_div(&(&largest + &zero)?)?;
    let length = (x.sqr()?.sum_keepdim(1)? + &zero)?.sqrt()?;
    // Zeros would be divided by 1 and pass gradients on; the product with 0 stops those.
    let units = x.broadcast_div(&length)?.broadcast_mul(&(1.0 - &zero)?)?;
    Ok((units, zero))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use xdiff_nn::Rng;
    use xdiff_nn::gradcheck::{Options, check};

    use super::*;

    const ALL: [Similarity; 4] =
        [Similarity::Log { epsilon: 1e-4 }, Similarity::Linear, Similarity::Cosine, Similarity::Reciprocal];

    fn numbers(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn values_are_those_of_the_formulas() {
        let distances = [0.0f64, 1e-6, 0.5, 2.0, 1e3, 1e8];
        let d = Tensor::new(&distances, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        for similarity in ALL {
            let got = numbers(&similarity.of_distance(&d).unwrap());
            for (d, got) in distances.into_iter().zip(got) {
                let wanted = match similarity {
                    Similarity::Log { epsilon } => ((d + 1.0) / (d + epsilon)).ln(),
                    Similarity::Linear => -d,
                    Similarity::Cosine => 1.0 - d / 2.0,
                    Similarity::Reciprocal => 1.0 / (1.0 + d),
                };
                assert!(
                    (f64::from(got) - wanted).abs() <= 2e-7 * wanted.abs().max(1.0),
                    "{similarity:?} of {d}"
                );
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        let d = Rng::new(1).rand(0.05, 3.0, (3, 5), &Device::Cpu).unwrap();
        for similarity in ALL {
            let f = |x: &[Tensor]| similarity.of_distance(&x[0]).map_err(as_nn);
            check(f, std::slice::from_ref(&d), Options { step: 2e-3, ..Default::default() }).unwrap();
        }
        let x = Rng::new(2).randn((2, 3, 2, 2), &Device::Cpu).unwrap();
        check(|x| unit(&x[0]).map(|(u, _)| u).map_err(as_nn), &[x], Options::default()).unwrap();
    }

    fn as_nn(e: Error) -> xdiff_nn::Error {
        xdiff_nn::Error::argument("similarity", e.to_string())
    }

    #[test]
    fn the_cosine_with_zeros_is_0_with_slope_0() {
        let patches =
            Tensor::new(&[[[[3f32, 0.0, 1e-30, 1e30]], [[4.0, 0.0, 0.0, 0.0]]]], &Device::Cpu).unwrap();
        let patches = Var::from_tensor(&patches).unwrap();
        let prototypes = Var::new(&[[6f32, 8.0], [0.0, 0.0], [-1.0, 0.0]], &Device::Cpu).unwrap();
        let (f, p) = Similarity::Cosine.space(&patches, &prototypes).unwrap();
        let d = crate::squared_distances(&f, &p).unwrap();
        let cosine = Similarity::Cosine.of_distance(&d).unwrap();
        let wanted = [[1f32, 0.0, 0.6, 0.6], [0.0; 4], [-0.6, 0.0, -1.0, -1.0]].concat();
        for (got, wanted) in numbers(&cosine).into_iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-6, "{got}, expected {wanted}");
        }
        let grads = cosine.sum_all().unwrap().backward().unwrap();
        let patches = numbers(grads.get(&patches).unwrap());
        let prototypes = numbers(grads.get(&prototypes).unwrap());
        assert_eq!([patches[1], patches[5]], [0.0; 2]);
        assert_eq!([prototypes[2], prototypes[3]], [0.0; 2]);
        assert!(patches.iter().chain(&prototypes).all(|g| g.is_finite()), "{patches:?} {prototypes:?}");
    }

    #[test]
    fn an_epsilon_outside_its_range_is_an_error() {
        for epsilon in [0.0, -1e-4, 1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(Similarity::Log { epsilon }.validate(), Err(Error::Config { .. })), "{epsilon}");
        }
        assert!(ALL.iter().all(|s| s.validate().is_ok()));
    }
}
