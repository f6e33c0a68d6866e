//! Distances between the patches of feature maps and vectors.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Shape, Tensor};

use super::conv::count;
use super::empty::empty;
use super::linear;
use crate::compute::use_kernel;
use crate::kernels::patches::{self as kernel, PatchShape};
use crate::kernels::slices::{contiguous, tensor, with_slices};
use crate::{Error, Result};

const OP: &str = "nearest_patch";

/// ‖f_hw − p‖² for all positions, as ‖f‖² − 2 f·p + ‖p‖², at least 0.
///
/// # Shapes
/// `features` (B, D, h, w), `vectors` (P, D) → (B, P, h, w). Differentiable.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit each other.
pub fn patch_distances(features: &Tensor, vectors: &Tensor) -> Result<Tensor> {
    let (shape, [h, w]) = shape(features, vectors)?;
    let distances = expanded(features, vectors)?.transpose(1, 2)?;
    Ok(distances.reshape((shape.batch, shape.vectors, h, w))?)
}

/// The squared distance ‖f − p‖² from each vector p to the nearest patch f of each image, and where it
/// is: row · w + column, the first of equals.
///
/// The gradient flows to that patch and to the vector. On the CPU, all distances never stand in memory,
/// and the least is summed from differences, so that it is exactly 0 for a patch that equals the vector;
/// which patch it is is decided by ‖f‖² − 2 f·p in f32. An image's result does not depend on its batch.
/// Where a patch is NaN, so is the distance.
///
/// # Shapes
/// `features` (B, D, h, w), `vectors` (P, D) → distances (B, P) and positions (B, P), u32.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit each other, or there is no position.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use xdiff_nn::layers::nearest_patch;
///
/// let features = Tensor::new(&[[[[0f32, 1., 4.], [9., 16., 25.]]]], &Device::Cpu)?;
/// let vectors = Tensor::new(&[[15f32], [0.5]], &Device::Cpu)?;
/// let (distance, position) = nearest_patch(&features, &vectors)?;
/// assert_eq!(distance.to_vec2::<f32>()?, [[1.0, 0.25]]);
/// assert_eq!(position.to_vec2::<u32>()?, [[4, 0]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn nearest_patch(features: &Tensor, vectors: &Tensor) -> Result<(Tensor, Tensor)> {
    let (shape, _) = shape(features, vectors)?;
    if shape.positions == 0 {
        return Err(Error::shape(OP, "features with at least one position", features.dims()));
    }
    let size = (shape.batch, shape.vectors);
    if shape.batch == 0 {
        let none = empty(features, &[vectors], &[0, shape.vectors])?;
        return Ok((none, Tensor::zeros(size, DType::U32, features.device())?));
    }
    if !use_kernel(&[features, vectors]) {
        let all = expanded(features, vectors)?.transpose(1, 2)?.contiguous()?;
        let positions = all.argmin_keepdim(D::Minus1)?;
        return Ok((all.gather(&positions, 2)?.squeeze(2)?, positions.squeeze(2)?));
    }
    let (features, vectors) = (features.contiguous()?, vectors.contiguous()?);
    let positions = with_slices([&features, &vectors], |[f, p]| kernel::nearest(shape, f, p))?;
    let at = Tensor::from_slice(&positions, size, features.device())?;
    let distances = features.apply_op2(&vectors, DistanceAt { shape, positions: positions.into() })?;
    Ok((distances, at))
}

/// The sizes of features (B, D, h, w) and vectors (P, D), and h and w.
fn shape(features: &Tensor, vectors: &Tensor) -> Result<(PatchShape, [usize; 2])> {
    let &[batch, width, h, w] = features.dims() else {
        return Err(Error::shape(OP, "features (batch, width, height, width)", features.dims()));
    };
    let &[count_of_vectors, own] = vectors.dims() else {
        return Err(Error::shape(OP, format!("vectors (count, {width})"), vectors.dims()));
    };
    if own != width || width == 0 || count_of_vectors == 0 {
        return Err(Error::shape(OP, format!("vectors (count, {width}), at least one"), vectors.dims()));
    }
    let positions = count(OP, &[h, w])?;
    if u32::try_from(positions).is_err() {
        return Err(Error::shape(OP, "fewer than 2³² positions", features.dims()));
    }
    Ok((PatchShape { batch, width, positions, vectors: count_of_vectors }, [h, w]))
}

/// ‖f‖² − 2 f·p + ‖p‖² (B, h·w, P), at least 0.
fn expanded(features: &Tensor, vectors: &Tensor) -> Result<Tensor> {
    let patches = features.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
    let norms = patches.sqr()?.sum_keepdim(D::Minus1)?;
    let products = linear(&patches, vectors, None)?;
    let differences = norms.broadcast_sub(&(products * 2.0)?)?;
    Ok(differences.broadcast_add(&vectors.sqr()?.sum(1)?)?.relu()?)
}

/// ‖f − p‖² at given positions.
struct DistanceAt {
    shape: PatchShape,
    positions: Arc<[u32]>,
}

impl CustomOp2 for DistanceAt {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        features: &CpuStorage,
        features_layout: &Layout,
        vectors: &CpuStorage,
        vectors_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (f, p) = (contiguous(features, features_layout)?, contiguous(vectors, vectors_layout)?);
        let distances = kernel::distances(self.shape, f, p, &self.positions);
        Ok((CpuStorage::F32(distances), (self.shape.batch, self.shape.vectors).into()))
    }

    fn bwd(
        &self,
        features: &Tensor,
        vectors: &Tensor,
        _distances: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (s, at) = (self.shape, &*self.positions);
        with_slices([features, vectors, grad], |[f, p, g]| {
            let of_features = features.track_op().then(|| kernel::features_grad(s, (f, p), at, g));
            let of_vectors = vectors.track_op().then(|| kernel::vectors_grad(s, (f, p), at, g));
            Ok((
                of_features.map(|g| tensor(g, features.shape())).transpose()?,
                of_vectors.map(|g| tensor(g, vectors.shape())).transpose()?,
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare, randn};

    const SIZES: [([usize; 4], usize); 8] = [
        ([1, 1, 1, 1], 1),
        ([2, 5, 7, 7], 3),
        ([3, 128, 7, 7], 50),
        ([2, 33, 3, 5], 100),
        ([1, 7, 20, 21], 9),
        ([5, 16, 1, 2], 17),
        ([2, 200, 4, 4], 900),
        ([0, 4, 3, 3], 2),
    ];

    #[test]
    fn the_kernel_agrees_with_plain_operations() {
        let mut cases = Vec::new();
        for (dims, vectors) in SIZES {
            let tensors = || vec![randn(1, &dims), randn(2, &[vectors, dims[1]])];
            let name = format!("{dims:?} to {vectors}");
            cases.push(Case::new(name.clone(), tensors(), |t| Ok(nearest_patch(&t[0], &t[1])?.0)));
            let positions = |t: &[Tensor]| {
                let (distance, position) = nearest_patch(&t[0], &t[1])?;
                // Plus a difference of 0, so that there is a gradient to compare.
                let nothing = (&distance - distance.detach())?;
                Ok((position.to_dtype(DType::F32)? + nothing)?)
            };
            cases.push(Case::new(format!("{name}, positions"), tensors(), positions));
        }
        let strided = vec![randn(1, &[3, 9, 4, 5]), randn(2, &[9, 6])];
        cases.push(Case::new("strided", strided, |t| {
            Ok(nearest_patch(&t[0].transpose(2, 3)?, &t[1].t()?)?.0)
        }));
        compare(&cases, 1e-5);
    }

    #[test]
    fn gradients_match_differences() {
        let inputs = [randn(1, &[3, 5, 3, 4]), randn(2, &[7, 5])];
        let options = Options { step: 1e-3, ..Default::default() };
        check(|t| Ok(nearest_patch(&t[0], &t[1])?.0), &inputs, options).unwrap();
        check(|t| patch_distances(&t[0], &t[1]), &inputs, Options::default()).unwrap();
    }

    #[test]
    fn results_depend_on_neither_batch_nor_threads() {
        let (x, p) = (randn(1, &[5, 40, 17, 18]), randn(2, &[70, 40]));
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let run = |threads: usize, x: &Tensor| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| flat(&nearest_patch(x, &p).unwrap().0))
        };
        let all = run(3, &x);
        assert!(all == run(1, &x), "threads");
        for (i, one) in all.chunks(70).enumerate() {
            assert_eq!(one, run(2, &x.narrow(0, i, 1).unwrap()), "image {i}");
        }
    }

    #[test]
    fn a_patch_as_vector_has_no_distance_and_no_gradient() {
        let x = candle_core::Var::from_tensor(&(randn(1, &[2, 130, 5, 5]) * 30.0).unwrap()).unwrap();
        let p = x.flatten_from(2).unwrap().get(1).unwrap().t().unwrap().contiguous().unwrap().detach();
        let (distance, position) = nearest_patch(&x, &p).unwrap();
        let own: Vec<u32> = (0..25).collect();
        assert_eq!(distance.get(1).unwrap().to_vec1::<f32>().unwrap(), [0.0; 25]);
        assert_eq!(position.get(1).unwrap().to_vec1::<u32>().unwrap(), own);
        let grads = distance.get(1).unwrap().sum_all().unwrap().backward().unwrap();
        let largest = grads.get(&x).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(largest, 0.0);
    }

    #[test]
    fn misfits_are_typed_errors() {
        let (x, p) = (randn(1, &[2, 3, 4, 4]), randn(2, &[5, 3]));
        for (x, p) in [
            (&randn(1, &[2, 3, 4]), &p),
            (&x, &randn(2, &[5, 4])),
            (&x, &randn(2, &[3])),
            (&x, &randn(2, &[0, 3])),
            (&randn(1, &[2, 3, 0, 4]), &p),
        ] {
            let refused = nearest_patch(x, p);
            assert!(matches!(refused, Err(Error::Shape { .. })), "{:?} {:?}", x.dims(), p.dims());
        }
        assert!(matches!(patch_distances(&x, &randn(2, &[5, 4])), Err(Error::Shape { .. })));
    }
}
