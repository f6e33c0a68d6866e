//! Dropout.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::compute::use_kernel;
use crate::kernels::slices::{contiguous, tensor, with_slices};
use crate::{Error, Result, Rng};

/// Sets each number to 0 with probability `p` and multiplies the others by 1/(1 − p)
/// (Srivastava et al., 2014). A `p` of 0 draws nothing and returns the tensor itself.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use xdiff_nn::Rng;
/// use xdiff_nn::layers::dropout;
///
/// let x = Tensor::ones(1000, DType::F32, &Device::Cpu)?;
/// let y = dropout(&x, 0.25, &mut Rng::new(1))?.to_vec1::<f32>()?;
/// assert!(y.iter().all(|v| *v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Shapes
/// Any shape; the result has the same.
///
/// # Errors
/// [`Error::Argument`] when `p` is not in 0..=1.
pub fn dropout(x: &Tensor, p: f64, rng: &mut Rng) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&p) {
        return Err(Error::argument("dropout", format!("the probability must lie in 0..=1, got {p}")));
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    let kept = if p < 1.0 { (1.0 / (1.0 - p)) as f32 } else { 0.0 };
    let mask: Vec<f32> = (0..x.elem_count()).map(|_| if rng.chance(p) { 0.0 } else { kept }).collect();
    if use_kernel(&[x]) {
        return Ok(x.contiguous()?.apply_op1(Masked(mask))?);
    }
    let mask = Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?;
    Ok((x * mask)?)
}

/// A product with constants. A product of tensors would compute a gradient of the mask too.
struct Masked(Vec<f32>);

impl Masked {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        x.iter().zip(&self.0).map(|(x, mask)| x * mask).collect()
    }
}

impl CustomOp1 for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(contiguous(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(tensor(with_slices([grad], |[grad]| Ok(self.apply(grad)))?, x.shape())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::gradcheck::{Options, check};
    use crate::layers::compare::{Case, compare};

    #[test]
    fn one_seed_gives_one_mask_of_the_right_share() {
        let x = Rng::new(1).randn(20_000, &Device::Cpu).unwrap();
        let run = |seed| dropout(&x, 0.3, &mut Rng::new(seed)).unwrap().to_vec1::<f32>().unwrap();
        let (a, b) = (run(1), run(2));
        assert!(a == run(1) && a != b);
        let share = a.iter().filter(|v| **v == 0.0).count() as f64 / 20_000.0;
        assert!((share - 0.3).abs() < 0.015, "{share}");
    }

    #[test]
    fn the_gradient_passes_what_was_kept() {
        let x = Rng::new(1).randn((3, 5), &Device::Cpu).unwrap();
        check(|x| dropout(&x[0], 0.4, &mut Rng::new(2)), &[x], Options::default()).unwrap();
    }

    #[test]
    fn the_kernel_and_the_plain_path_agree() {
        let x = Rng::new(1).randn((6, 5), &Device::Cpu).unwrap();
        let run = |x: &[Tensor]| dropout(&x[0], 0.4, &mut Rng::new(2));
        let turned = Case::new("transposed", vec![x.t().unwrap()], run);
        compare(&[Case::new("contiguous", vec![x], run), turned], 0.0);
    }

    #[test]
    fn the_ends_of_the_range_and_beyond() {
        let x = Rng::new(1).randn(5, &Device::Cpu).unwrap();
        let mut rng = Rng::new(4);
        let same = dropout(&x, 0.0, &mut rng).unwrap();
        assert_eq!((same.id(), rng), (x.id(), Rng::new(4)));
        assert_eq!(dropout(&x, 1.0, &mut Rng::new(4)).unwrap().to_vec1::<f32>().unwrap(), [0.0; 5]);
        for p in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(dropout(&x, p, &mut Rng::new(4)), Err(Error::Argument { .. })));
        }
    }
}
