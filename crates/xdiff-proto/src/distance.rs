//! Squared distances between patches and prototypes.

use candle_core::Tensor;
use xdiff_nn::layers::{nearest_patch, patch_distances};

use crate::{Error, Result};

/// The nearest patch of each image to each prototype.
#[derive(Clone, Debug)]
pub struct Nearest {
    /// The least squared distance (B, P); differentiable.
    pub distance: Tensor,
    /// Where it is (B, P), u32: row · w + column. The first of equals.
    pub position: Tensor,
}

/// ‖f_hw − p‖² for all positions.
///
/// # Shapes
/// `features` (B, D, h, w), `prototypes` (P, D) → (B, P, h, w), at least 0. Differentiable.
///
/// # Errors
/// [`Error::Input`] when shapes do not fit.
pub fn squared_distances(features: &Tensor, prototypes: &Tensor) -> Result<Tensor> {
    check(features, prototypes)?;
    Ok(patch_distances(features, prototypes)?)
}

/// The nearest patch of each image to each prototype, without forming all distances
/// ([`nearest_patch`]).
///
/// # Shapes
/// `features` (B, D, h, w), `prototypes` (P, D).
///
/// # Errors
/// As [`squared_distances`]; [`Error::Input`] when there is no position.
pub fn nearest(features: &Tensor, prototypes: &Tensor) -> Result<Nearest> {
    let (h, w) = check(features, prototypes)?;
    if h == 0 || w == 0 {
        return Err(Error::input("features", format!("have shape {:?}: no position", features.dims())));
    }
    let (distance, position) = nearest_patch(features, prototypes)?;
    Ok(Nearest { distance, position })
}

/// Checks that the widths agree; the height and width of the maps.
fn check(features: &Tensor, prototypes: &Tensor) -> Result<(usize, usize)> {
    let &[_, d, h, w] = features.dims() else {
        return Err(Error::input("features", format!("have shape {:?}, not (B, D, h, w)", features.dims())));
    };
    match *prototypes.dims() {
        [p, width] if p > 0 && width == d && d > 0 => Ok((h, w)),
        _ => {
            let reason = format!("have shape {:?}, features of width {d} were given", prototypes.dims());
            Err(Error::input("prototypes", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use xdiff_nn::Rng;

    use super::*;

    #[test]
    fn the_nearest_is_the_least_of_all() {
        let draw = |seed, dims: &[usize]| Rng::new(seed).randn(dims, &candle_core::Device::Cpu).unwrap();
        let (features, prototypes) = (draw(1, &[3, 5, 4, 7]), draw(2, &[9, 5]));
        let near = nearest(&features, &prototypes).unwrap();
        let all = squared_distances(&features, &prototypes).unwrap();
        assert_eq!(all.dims(), [3, 9, 4, 7]);
        let all = all.flatten_from(2).unwrap();
        let least = all.min(2).unwrap();
        let off = (&least - &near.distance).unwrap().abs().unwrap().max_all().unwrap();
        assert!(off.to_scalar::<f32>().unwrap() < 1e-5);
        let at = all.argmin(2).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(near.position.to_vec2::<u32>().unwrap(), at);
    }

    #[test]
    fn misfits_are_typed_errors() {
        let zeros =
            |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        for (features, prototypes) in [
            (&[2, 3, 4][..], &[5, 3][..]),
            (&[2, 3, 4, 4], &[5, 4]),
            (&[2, 3, 4, 4], &[3]),
            (&[2, 3, 0, 4], &[5, 3]),
        ] {
            let refused = nearest(&zeros(features), &zeros(prototypes));
            assert!(matches!(refused, Err(Error::Input { .. })), "{features:?} {prototypes:?}");
        }
    }
}
